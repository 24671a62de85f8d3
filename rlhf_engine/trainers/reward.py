"""The reward model: a scalar per response, learned from preferences and normalised on samples of the starting
policy."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from rlhf_engine import measures
from rlhf_engine.config import RewardConfig
from rlhf_engine.data.batches import split_held_out
from rlhf_engine.data.readers import Preference, Ranking
from rlhf_engine.data.tokenization import encode_prompts
from rlhf_engine.errors import NotFinite, UserError, noop
from rlhf_engine.losses.ppo import AllAlike, gain_and_bias
from rlhf_engine.losses.preference import calibration_error, centring_loss, comparison_loss
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import passes_within
from rlhf_engine.model.generation import Sampling, prompt_room, sample, seeded_generator
from rlhf_engine.rollout.reward_functions import member_scores, score_members
from rlhf_engine.trainers.base import adam
from rlhf_engine.trainers.preferences.comparison_trainer import ComparisonTrainer
from rlhf_engine.trainers.preferences.comparisons import Group, count_pairs, make_groups, padded_tokens, shuffle_labels

ANCHOR_BATCH = 32
"""Rows that are decoded together when the anchors are sampled."""


class Losses(NamedTuple):
    """What the reward makes of a micro-batch of groups: P pairs without a tie, N responses, M members."""

    loss: torch.Tensor
    """A scalar that adds up over the micro-batches of a step, in nats per pair."""
    differences: torch.Tensor
    """[P]: score of the better response less that of the worse one, of the ensemble's mean."""
    scores: torch.Tensor
    """[N, M]."""


class RewardTrainer(ComparisonTrainer[RewardConfig]):
    """Trains the role `reward` (adapter and head) with Bradley-Terry on all pairs of a prompt (Ouyang et al. 2022, eq.
    1).

    A prompt is one batch element, whether two of its responses were compared or nine were ranked. The adapter starts
    as a copy of the role `policy` if there is one (the SFT model, as in InstructGPT), else fresh. The head starts with
    standard deviation 1/sqrt(d+1). Before the first step and after the last, gain and shift are fitted so that
    responses of the starting policy score 0 on average with standard deviation 1 (Ziegler et al. 2019).

    In an `ensemble` each member is a head with its own start, normalisation and weighting of the data (a Bayesian
    bootstrap: each prompt weighs Exponential(1)). Where the members differ, the data leave the reward open.

    Metrics of a step: `loss/train` (nats per pair, mean over prompts), `accuracy/train` (of pairs without a tie),
    `margin` (mean difference of their scores), `lr`, `grad_norm`, `time/update`. Every `evaluate_every` steps and at
    the end also `loss/held_out`, `accuracy/held_out`, `calibration/held_out` (expected calibration error), and of an
    ensemble `spread/held_out` (standard deviation between members).

    Args:
        backbone: the base model, with the role `policy` or without.
        preferences: compared or ranked responses. A share of their prompts is held out.
        config: the settings.
        on_microbatch: called between micro-batches.

    Raises UserError if there are no preferences.
    """

    roles = ("reward",)

    def __init__(self, backbone: Backbone, preferences: list[Preference | Ranking], config: RewardConfig | None = None,
                 *, on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, config or RewardConfig(), on_microbatch=on_microbatch)
        config = self.config
        if not preferences:
            raise UserError("there are no preferences to train on")
        groups, self.data_notes = make_groups(backbone, preferences, self.max_tokens, config.rating_margin)
        rng = random.Random(f"{config.seed} bootstrap")
        weights = [[self._bootstrap_weight(rng) for _ in range(config.ensemble)] for _ in groups]
        prompts = [row.prompt for row in preferences]
        pairs = [replace(group, weights=weight) for group, weight in zip(groups, weights) if group.pairs]
        if not pairs:
            raise UserError(f"there is nothing to learn from: {self.data_notes[-1]}; raise --max-tokens, or choose "
                            "other data")
        self.groups, self.held_out = split_held_out(pairs, config.held_out, config.seed,
                                                    key=lambda group: str(group.prompt))
        if config.shuffle_labels:
            shuffle = random.Random(f"{config.seed} shuffled labels")
            self.groups = [shuffle_labels(group, shuffle) for group in self.groups]
            self.data_notes.append("--shuffle-labels is on: the labels of the training pairs are drawn at random")
        self.apply_config()
        self._make_role()
        self.optimizer = adam(backbone.parameters("reward"))
        room = prompt_room(backbone, config.max_new_tokens, config.max_tokens)
        self.prompts, _ = encode_prompts(backbone, prompts, room)
        self.anchors: list[list[int]] = []
        """Token rows on which the scores are normalised: prompts of the data with responses of the starting policy."""
        self.last_evaluation: dict[str, float] = {}
        """The last result of `evaluate()`, made before the scores were normalised for the last time."""
        self.training_scale: list[torch.Tensor] = []
        """Gain and shift of the head as they were while it was trained. They are set once the run is over and its
        scores are normalised; a run that is made longer goes on with them."""

    def largest_row(self) -> tuple[int, int]:
        longest, largest = self.largest_group()
        anchors = max(len(row.ids) for row in self.prompts) + self.config.max_new_tokens
        return max(longest, min(anchors, self.max_tokens)), largest

    # -- steps -------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Sample the anchors and normalise the untrained scores on them."""
        config = self.config
        prompts = [self.prompts[i % len(self.prompts)].ids for i in range(config.reference_samples)]
        generator = seeded_generator(config.seed)
        with self.backbone.use("policy" if "policy" in self.backbone.roles else None):
            responses = sample(self.backbone, prompts, Sampling(config.max_new_tokens), generator, batch=ANCHOR_BATCH,
                               on_microbatch=self.on_microbatch)
        self.anchors = [prompt + response for prompt, response in zip(prompts, responses)]
        self.normalise()

    def train_step(self) -> dict[str, Any]:
        started = time.perf_counter()
        config = self.config
        self._restore_training_scale()
        batch, row_length = self.step_batch()

        def backward(part: list[int]) -> dict[str, float]:
            loss, differences, _ = self._losses([self.groups[i] for i in part], prompts=len(batch))
            loss.backward()
            return {"loss": loss.item(), "correct": correct(differences).sum().item(),
                    "margins": differences.sum().item(), "pairs": len(differences)}

        rate = self.set_learning_rates(self.peak_lr)
        with self.backbone.use("reward"), self.backbone.checkpointing(config.gradient_checkpointing):
            sums = self.accumulate(batch, backward, row_length=row_length)
        metrics = {measures.LOSS_TRAIN: sums["loss"], measures.LEARNING_RATE: rate,
                   measures.GRADIENT_NORM: self.clip_gradients()}
        if sums["pairs"]:
            metrics[measures.ACCURACY_TRAIN] = sums["correct"] / sums["pairs"]
            metrics[measures.MARGIN] = sums["margins"] / sums["pairs"]
        self.update_weights()
        if self.held_out and (self.step % config.evaluate_every == 0 or self.step == self.total_steps):
            self.last_evaluation = self.evaluate()
            metrics.update(self.last_evaluation)
        if self.step == self.total_steps:
            head = self.backbone.heads["reward"]
            self.training_scale = [head.gain.clone(), head.shift.clone()]
            self.normalise()
        metrics[measures.TIME_UPDATE] = time.perf_counter() - started
        return metrics

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss (nats per pair), accuracy and calibration on the held-out prompts, on the scale of the training."""
        loss = 0.0
        differences, spreads = [], []
        with self.backbone.use("reward"):
            held_out = sorted(self.held_out, key=padded_tokens) if self.pass_tokens else self.held_out
            for part in passes_within(held_out, self.micro_batch or self.config.batch_size, padded_tokens,
                                      self.pass_tokens):
                losses = self._losses(part, prompts=len(self.held_out), bootstrap=False)
                loss += losses.loss.item()
                differences.append(losses.differences)
                spreads.append(losses.scores.std(-1, correction=0))
                self.on_microbatch()
        metrics = {measures.LOSS_HELD_OUT: loss}
        apart = torch.cat(differences)
        if len(apart):
            metrics[measures.ACCURACY_HELD_OUT] = correct(apart).mean().item()
            metrics[measures.CALIBRATION_HELD_OUT] = calibration_error(apart)
        if self.config.ensemble > 1:
            metrics[measures.SPREAD_HELD_OUT] = torch.cat(spreads).mean().item()
        return metrics

    def normalise(self) -> None:
        """Fit gain and shift of each member on the anchors, and note the result for the journal.

        A member to which all anchors are alike is only shifted, which is a warning: the pairs may still tell apart what
        the starting policy never says. Raises NotFinite for scores that are NaN or infinite.
        """
        head = self.backbone.heads["reward"]
        scores = score_members(self.backbone, self.anchors, batch=self.config.batch_size, tokens=self.pass_tokens,
                               on_microbatch=self.on_microbatch)
        raw = (scores.to(head.shift.device) - head.shift) / head.gain
        if not raw.isfinite().all():
            raise NotFinite("a score of the reward model has become NaN or infinite")
        fits = [self._fit_scale(raw[:, member]) for member in range(raw.shape[1])]
        gains = [gain for gain, _ in fits]
        shifts = [bias for _, bias in fits]
        head.gain.copy_(torch.tensor(gains))
        head.shift.copy_(torch.tensor(shifts))
        single = len(fits) == 1
        self.events.append({"event": "normalised", "step": self.step, "gain": gains[0] if single else gains,
                            "bias": shifts[0] if single else shifts, "samples": len(self.anchors)})

    def _fit_scale(self, raw: torch.Tensor) -> tuple[float, float]:
        """(gain, shift) for the scores [N] that a member gives to the anchors; gain 1 where they are all alike."""
        try:
            return gain_and_bias(raw)
        except AllAlike:
            if self.step:  # before the first step it may still learn
                self.events.append({"event": "warning", "step": self.step, "kind": "anchors_alike", "text":
                                    f"All {len(self.anchors)} responses of the starting policy score the same, so the "
                                    "reward has no scale: PPO would learn nothing from it. Train on more pairs, with "
                                    "a lower learning rate, or on pairs of responses that differ."})
            return 1.0, -raw.mean().item()

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = {"stage": self.config.stage, "pairs": count_pairs(self.groups),
                                  "held_out_pairs": count_pairs(self.held_out)}
        for name, value in self.last_evaluation.items():
            report[name.replace("/", "_")] = value
        return report

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "anchors": self.anchors, "measured": self.last_evaluation,
                "scale": self.training_scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.anchors = state["anchors"]
        self.last_evaluation = state["measured"]
        self.training_scale = state.get("scale", [])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _make_role(self) -> None:
        backbone, config = self.backbone, self.config
        if "policy" in backbone.roles:
            backbone.copy_role("reward", "policy")
        else:
            backbone.new_role("reward", rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        backbone.new_head("reward", members=config.ensemble, seed=config.seed)
        backbone.train("reward")

    def _bootstrap_weight(self, rng: random.Random) -> float:
        return rng.expovariate(1.0) if self.config.ensemble > 1 else 1.0

    def _restore_training_scale(self) -> None:
        if self.training_scale:
            head = self.backbone.heads["reward"]
            gain, shift = self.training_scale
            head.gain.copy_(gain)
            head.shift.copy_(shift)
            self.training_scale = []

    def _losses(self, groups: list[Group], *, prompts: int, bootstrap: bool = True) -> Losses:
        """Loss and scores of a micro-batch of a step of `prompts` prompts, each of which weighs 1 / `prompts`.

        Without `bootstrap` all prompts weigh the same for all members.
        """
        scores = member_scores(self.backbone, [row for group in groups for row in group.rows])
        better, worse, tied, margins, shares, weights = [], [], [], [], [], []
        first = 0  # index of the group's first response in `scores`
        for group in groups:
            for pair in group.pairs:
                better.append(first + pair.better)
                worse.append(first + pair.worse)
                tied.append(pair.tied)
                margins.append(pair.margin)
                shares.append(1 / len(group.pairs) / prompts)
                weights.append(group.weights if bootstrap else [1.0] * len(group.weights))
            first += len(group.rows)
        tied = torch.tensor(tied, device=scores.device)
        margins = torch.tensor(margins, device=scores.device, dtype=torch.float32)
        weights = torch.tensor(weights, device=scores.device, dtype=torch.float32)
        weights = torch.tensor(shares, device=scores.device, dtype=torch.float32)[:, None] * weights
        loss = torch.zeros((), device=scores.device)
        for member in range(scores.shape[1]):
            loss = loss + comparison_loss(scores[better, member], scores[worse, member], tied, margins,
                                          weights[:, member])
        loss = loss / scores.shape[1]
        mean = scores.mean(-1)
        if self.config.centring:
            loss = loss + self.config.centring * centring_loss(mean[better], mean[worse]) * len(groups) / prompts
        return Losses(loss, (mean[better] - mean[worse])[~tied], scores)


def correct(differences: torch.Tensor) -> torch.Tensor:
    """[P]: 1 where the better response scores higher, 1/2 where both score the same, else 0."""
    return (differences > 0).float() + 0.5 * (differences == 0).float()
