"""The reward model: one scalar per response, learned from preferences, normalised on samples of the reference."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rlhf_engine import measures
from rlhf_engine.config import RewardConfig
from rlhf_engine.data.batches import batch_of, split_held_out, step_count
from rlhf_engine.data.readers import Preference, Ranking
from rlhf_engine.data.tokenization import encode_examples, encode_prompts
from rlhf_engine.errors import UserError, noop
from rlhf_engine.losses.ppo import gain_and_bias
from rlhf_engine.losses.preference import calibration_error, centring_loss, comparison_loss, ranked_pairs
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches
from rlhf_engine.model.generation import Sampling, prompt_room, sample
from rlhf_engine.rollout.reward_functions import member_scores, score_members
from rlhf_engine.trainers.base import Trainer, adam

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Group:
    """One prompt as a batch element: its responses as whole token rows, and all pairs among them."""

    rows: list[list[int]]
    pairs: list[tuple[int, int, bool, float]]
    """(better, worse, tied, margin): places in `rows`."""
    weights: list[float]
    """What the prompt counts for each member of an ensemble; 1 for a single one."""


class RewardTrainer(Trainer):
    """Trains the role `reward` (adapter and head) on pairs and rankings of responses: Bradley-Terry on all pairs of a prompt.

    A prompt is one batch element whether two of its responses were compared or nine were ranked (Ouyang et al. 2022). The
    adapter starts as a copy of the role `policy` if there is one (the SFT model, as in InstructGPT), else fresh. The
    head starts with standard deviation 1/sqrt(d+1). Before the first step and after the last, gain and shift are fitted
    so that responses of the starting policy score 0 on average with standard deviation 1 (Ziegler et al. 2019).

    Of an `ensemble` each member is a head with a start, a normalisation and a weighting of the data of its own (a Bayesian
    bootstrap: each prompt weighs Exponential(1)); their spread says where the data leave the reward open.

    Metrics per step: `loss/train` (nats per pair, mean over prompts), `accuracy/train` (of pairs without a tie), `margin`; and every
    `evaluate_every` steps and at the end `loss/held_out`, `accuracy/held_out`, `calibration/held_out` (expected calibration
    error) and for an ensemble `spread/held_out` (standard deviation between members).
    """

    roles = ("reward",)

    def __init__(self, backbone: Backbone, preferences: list[Preference | Ranking], config: RewardConfig | None = None, *,
                 on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, config or RewardConfig(), on_microbatch=on_microbatch)
        config = self.config
        if not preferences:
            raise UserError("there are no preferences to train on")
        groups, self.data_notes = self._groups(preferences)
        kept, held_out = split_held_out(list(zip(preferences, groups)), config.held_out, config.seed, key=lambda row: str(row[0].prompt))
        self.groups, self.held_out = ([group for _, group in rows] for rows in (kept, held_out))
        self.apply_config()
        if "policy" in backbone.roles:
            backbone.copy_role("reward", "policy")
        else:
            backbone.new_role("reward", rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        backbone.new_head("reward", members=config.ensemble, seed=config.seed)
        backbone.train("reward")
        self.optimizer = adam(backbone.parameters("reward"))
        self.prompts, _ = encode_prompts(backbone, [p.prompt for p in preferences],
                                         prompt_room(backbone, config.max_new_tokens, config.max_tokens))
        self.anchors: list[list[int]] = []
        self.measured: dict[str, float] = {}
        """The last `evaluate()`, made before the scores were normalised for the last time."""
        self.scale: list[torch.Tensor] = []
        """Gain and shift that it was trained with, once it is over and normalised; a run that is made longer goes on with these."""

    def apply_config(self) -> None:
        self.total_steps = step_count(len(self.groups), self.config.batch_size, self.config.epochs, self.config.steps)

    def prepare(self) -> None:
        """Sample the anchors (whole rows: prompts of the data answered by the starting policy) and normalise on them."""
        config = self.config
        asked = [self.prompts[i % len(self.prompts)].ids for i in range(config.reference_samples)]
        generator = torch.Generator().manual_seed(config.seed)
        with self.backbone.use("policy" if "policy" in self.backbone.roles else None):
            answers = sample(self.backbone, asked, Sampling(config.max_new_tokens), generator, batch=32, on_microbatch=self.on_microbatch)
        self.anchors = [prompt + answer for prompt, answer in zip(asked, answers)]
        self.normalise()

    def train_step(self) -> dict:
        start, config, head = time.perf_counter(), self.config, self.backbone.heads["reward"]
        if self.scale:
            head.gain.copy_(self.scale[0])
            head.shift.copy_(self.scale[1])
            self.scale = []
        lengths = [sum(map(len, group.rows)) for group in self.groups]
        batch = batch_of(self.step, lengths, config.batch_size, config.seed)
        rate = self.set_learning_rates(self.peak_lr)

        def backward(part: list[int]) -> dict:
            loss, differences, _ = self._losses([self.groups[i] for i in part], of=len(batch))
            loss.backward()
            return {"loss": loss.item(), "right": right(differences).sum().item(), "margin": differences.sum().item(),
                    "apart": len(differences)}

        with self.backbone.use("reward"), self.backbone.checkpointing(config.gradient_checkpointing):
            sums = self.accumulate(batch, backward)
        metrics = {measures.LOSS_TRAIN: sums["loss"], measures.LEARNING_RATE: rate, measures.GRADIENT_NORM: self.clip_gradients()}
        if sums["apart"]:
            metrics |= {measures.ACCURACY_TRAIN: sums["right"] / sums["apart"], measures.MARGIN: sums["margin"] / sums["apart"]}
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.held_out and (self.step % config.evaluate_every == 0 or self.step == self.total_steps):
            self.measured = self.evaluate()
            metrics |= self.measured
        if self.step == self.total_steps:
            self.scale = [head.gain.clone(), head.shift.clone()]
            self.normalise()
        return metrics | {measures.TIME_UPDATE: time.perf_counter() - start}

    @torch.no_grad()
    def evaluate(self) -> dict:
        """Loss (nats per pair), accuracy and calibration on the held-out prompts, on the scale that is being trained."""
        loss, differences, spread = 0.0, [], []
        with self.backbone.use("reward"):
            for micro in micro_batches(self.held_out, self.micro_batch or self.config.batch_size):
                part, found, scores = self._losses(micro, of=len(self.held_out), bootstrap=False)
                loss += part.item()
                differences.append(found)
                spread.append(scores.std(-1, correction=0))
                self.on_microbatch()
        differences = torch.cat(differences)
        measured = {measures.LOSS_HELD_OUT: loss}
        if len(differences):
            measured |= {measures.ACCURACY_HELD_OUT: right(differences).mean().item(), measures.CALIBRATION_HELD_OUT: calibration_error(differences)}
        return measured | ({measures.SPREAD_HELD_OUT: torch.cat(spread).mean().item()} if self.config.ensemble > 1 else {})

    def normalise(self) -> None:
        """Fit each member's gain and shift on the anchors, and say so in the journal."""
        head = self.backbone.heads["reward"]
        scores = score_members(self.backbone, self.anchors, batch=self.config.batch_size, on_microbatch=self.on_microbatch)
        raw = (scores.to(head.shift.device) - head.shift) / head.gain
        fitted = [gain_and_bias(raw[:, i]) for i in range(raw.shape[1])]
        head.gain.copy_(torch.tensor([gain for gain, _ in fitted]))
        head.shift.copy_(torch.tensor([bias for _, bias in fitted]))
        gain, bias = (fitted[0] if len(fitted) == 1 else [list(values) for values in zip(*fitted)])
        self.events.append({"event": "normalised", "step": self.step, "gain": gain, "bias": bias, "samples": len(self.anchors)})

    def report(self) -> dict:
        pairs, held_out = (sum(len(group.pairs) for group in groups) for groups in (self.groups, self.held_out))
        return {"stage": self.config.stage, "pairs": pairs, "held_out_pairs": held_out,
                **{name.replace("/", "_"): value for name, value in self.measured.items()}}

    def state_dict(self) -> dict:
        return super().state_dict() | {"anchors": self.anchors, "measured": self.measured, "scale": self.scale}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.anchors, self.measured, self.scale = state["anchors"], state["measured"], state.get("scale", [])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _groups(self, preferences: list[Preference | Ranking]) -> tuple[list[Group], list[str]]:
        """A batch element for each row of the data, and remarks on what was cut."""
        ranked = [compared(p) for p in preferences]
        encoded, notes = encode_examples(self.backbone, [(p.prompt, text) for p, (texts, _) in zip(preferences, ranked) for text in texts],
                                         self.max_tokens)
        rng, rows, groups = random.Random(f"{self.config.seed} bootstrap"), iter(encoded), []
        for preference, (texts, pairs) in zip(preferences, ranked):
            weights = [rng.expovariate(1.0) if self.config.ensemble > 1 else 1.0 for _ in range(self.config.ensemble)]
            groups.append(Group([next(rows).ids for _ in texts], [self._with_margin(preference, *pair) for pair in pairs], weights))
        return groups, notes

    def _with_margin(self, preference: Preference | Ranking, better: int, worse: int, tied: bool) -> tuple[int, int, bool, float]:
        if isinstance(preference, Preference):
            return better, worse, tied, preference.margin
        apart = preference.ratings[better] - preference.ratings[worse] if preference.ratings else 0.0
        return better, worse, tied, self.config.rating_margin * apart

    def _losses(self, groups: list[Group], *, of: int, bootstrap: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(loss, differences, scores) of a micro-batch of a step of `of` prompts: a scalar that adds up over micro-batches; the
        ensemble's differences better - worse of all pairs without a tie; scores [rows, members]."""
        scores = member_scores(self.backbone, [row for group in groups for row in group.rows])
        places, first = [], 0
        for group in groups:
            weights = group.weights if bootstrap else [1.0] * len(group.weights)
            places += [(first + better, first + worse, tied, margin, 1 / len(group.pairs) / of, weights)
                       for better, worse, tied, margin in group.pairs]
            first += len(group.rows)
        better, worse, tied, margin, share, weights = (list(column) for column in zip(*places))
        tied = torch.tensor(tied, device=scores.device)
        margin, share, weights = (torch.tensor(x, device=scores.device, dtype=torch.float32) for x in (margin, share, weights))
        loss = sum(comparison_loss(scores[better, i], scores[worse, i], tied, margin, share * weights[:, i])
                   for i in range(scores.shape[1])) / scores.shape[1]
        mean = scores.mean(-1)
        if self.config.centring:
            loss = loss + self.config.centring * centring_loss(mean[better], mean[worse]) * len(groups) / of
        return loss, (mean[better] - mean[worse])[~tied], scores


def compared(preference: Preference | Ranking) -> tuple[tuple[str, ...], list[tuple[int, int, bool]]]:
    """The responses of a row, and all pairs among them as (better, worse, tied)."""
    if isinstance(preference, Preference):
        return (preference.chosen, preference.rejected), [(0, 1, False)]
    return preference.responses, ranked_pairs(preference.ranks)


def right(differences: torch.Tensor) -> torch.Tensor:
    """[P]: 1 where the better response scores higher, 1/2 where both score the same."""
    return (differences > 0).float() + 0.5 * (differences == 0).float()
