"""Rejection-sampling fine-tuning, round after round (Touvron et al. 2023, section 3.2.3).

In a round the policy answers prompts several times, the best answers are kept, and the *starting checkpoint* is
fine-tuned on them: a policy that is trained on its own answers again and again drifts away from what it knew. A step is
either a batch of samples or one update, so a run can pause, be watched and be killed in the middle of a round.
"""

import math
import random
import time
from collections.abc import Callable
from typing import Any

import torch

from rlhf_engine import measures
from rlhf_engine.config import RFTConfig
from rlhf_engine.data.batches import batch_of, split_held_out, step_count
from rlhf_engine.data.tokenization import Encoded, Prompt, encode_prompts
from rlhf_engine.errors import UserError, noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, prompt_room, seeded_generator
from rlhf_engine.model.logprobs import nll
from rlhf_engine.rollout.on_policy import LOGGED_SAMPLES, OnPolicyProbe
from rlhf_engine.rollout.reward_functions import RewardFunction, RewardModel, raw_scores
from rlhf_engine.rollout.rollout import Rollout
from rlhf_engine.trainers.base import Trainer, adam, schedule
from rlhf_engine.trainers.rft.responses import DistinctResponses, sample_distinct
from rlhf_engine.trainers.rft.selection import ScoredSample, choose, pack_samples, unpack_samples, worth_keeping


class RFT(Trainer[RFTConfig]):
    """Trains the role `policy` on the best of its own responses to `prompts`, by `reward`.

    The policy starts as it is in the backbone, or fresh. The reference is a frozen copy of it, or the bare base if it
    starts fresh. Each round's updates begin with these weights and with a new Adam; the samples come from the policy of
    the round before.

    Metrics of a step: `round`; of a batch of samples `samples/score` (mean raw score) and `samples/best` (mean over
    prompts of the best one), `time/rollout`, `time/score`; of an update `loss/train` (nats per token), `lr`,
    `grad_norm`, `time/update`. With the first step and with the last of each round, of fresh responses to held-out
    prompts: `objective/scores`, `objective/kl` to the start (nats per sequence), length, and the measures of the text.

    Args:
        backbone: the base model, with the role `policy` or without.
        prompts: the prompts to sample responses to. A share of them is held out.
        reward: scores a rollout: [B] or [B, R].
        config: the settings.
        on_microbatch: called between micro-batches and after each sampled token.

    Raises UserError if there are no prompts, or no room for a response.
    """

    roles = ("policy", "reference", "reward")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], reward: RewardFunction,
                 config: RFTConfig | None = None, *, on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, config or RFTConfig(), on_microbatch=on_microbatch)
        config = self.config
        if not prompts:
            raise UserError("there are no prompts to train on")
        self.reward = reward
        unique = list({str(prompt): prompt for prompt in prompts}.values())
        self.prompts, held_out = split_held_out(unique, config.held_out, config.seed)
        room = prompt_room(backbone, config.max_new_tokens, config.max_tokens)
        self.encoded, self.data_notes = encode_prompts(backbone, self.prompts, room)
        if len(unique) < len(prompts):
            self.data_notes.append(f"{len(prompts) - len(unique):,} prompts repeat others; each is answered once a "
                                   "round")
        self.round = 1
        self.sampled = 0
        """Batches of prompts that are answered in this round."""
        self.collected: list[ScoredSample] = []
        """The samples of this round, until some of them are kept."""
        self.kept: list[ScoredSample] = []
        """What the newest updates learn from."""
        self.updates = 0
        """Updates of this round; 0 as long as it samples."""
        self.updated = 0
        """Updates that are done."""
        self.steps_before = 0
        """Steps of the rounds before this one."""
        self.ended_only = config.missing_end == "drop"
        """Whether responses that were cut off are dropped. The first round decides for `missing_end: auto`."""
        self.lowest = math.inf
        """Lowest score of all samples so far. What scores as low is never kept."""
        self.last_measures: dict[str, float] = {}
        """Of the fresh responses of the newest policy."""
        self.apply_config()
        self._make_policy()
        self.optimizer = adam(backbone.parameters("policy"))
        self.probe = OnPolicyProbe(backbone, held_out or self.prompts, config, reward)
        self.held_out = len(held_out)

    # -- the plan ----------------------------------------------------------------------------------------------------

    def apply_config(self) -> None:
        """Count the steps. How many updates a round takes is known when it has chosen what it keeps."""
        batches = len(self.batches())
        expected = self.updates or self._update_count(self._prompt_count())
        left = max(self.config.rounds - self.round, 0)
        self.total_steps = self.steps_before + (1 + left) * (batches + expected)

    def batches(self) -> list[list[int]]:
        """The prompts of this round by index, in batches that are sampled together: a function of seed and round."""
        config = self.config
        rng = random.Random(f"{config.seed} round {self.round}")
        chosen = rng.sample(range(len(self.encoded)), self._prompt_count())
        chosen.sort(key=lambda i: len(self.encoded[i].ids))  # little is padded; a stable sort of a random order
        size = max(1, config.sample_batch // config.samples)
        parts = [chosen[start:start + size] for start in range(0, len(chosen), size)]
        return rng.sample(parts, len(parts))

    def _prompt_count(self) -> int:
        return min(self.config.round_prompts or len(self.encoded), len(self.encoded))

    def _update_count(self, rows: int) -> int:
        return step_count(rows, self.config.batch_size, self.config.epochs, 0)

    def largest_row(self) -> tuple[int, int]:
        longest = max(max(len(row.ids) for row in self.encoded) + self.config.max_new_tokens, self.probe.longest)
        return longest, longest

    def choose_passes(self) -> None:
        super().choose_passes()
        if isinstance(self.reward, RewardModel):
            self.reward.pass_tokens = self.pass_tokens

    # -- steps -------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Measure the policy as it starts."""
        self.last_measures, self.samples = self.probe.start(self.micro_batch, self.pass_tokens, self.on_microbatch)
        scores = self.probe.scores
        if len(set(scores)) == 1:
            text = (f"All {len(scores)} measured responses of the starting policy score the same ({scores[0]:.6g}). "
                    "The first round looks for one that scores otherwise; the run ends if there is none.")
            self.events.append({"event": "warning", "step": 1, "kind": "scores_alike", "text": text})

    def train_step(self) -> dict[str, Any]:
        if self.updates and self.updated == self.updates:
            self._begin_round()
        metrics = {measures.ROUND: self.round}
        if self.step == 1:
            metrics.update(self.last_measures)
        metrics.update(self.update_step() if self.updates else self.sample_step())
        self.apply_config()
        return metrics

    def sample_step(self) -> dict[str, Any]:
        """Sample and score responses to one batch of prompts. The last batch of a round ends with the choice."""
        started = time.perf_counter()
        batches = self.batches()
        rollout, owners, counts = self.sample_responses(batches[self.sampled])

        sampled = time.perf_counter()
        scores = raw_scores(self.reward, rollout)
        found = [ScoredSample(owner, tuple(ids), score, ended) for owner, ids, score, ended
                 in zip(owners, rollout.response_ids, scores.tolist(), rollout.ended.tolist())]
        self.collected += found
        self.sampled += 1
        best = {}
        for one in found:
            best[one.prompt] = max(one.score, best.get(one.prompt, one.score))
        metrics = {measures.SAMPLES_SCORE: (scores * counts).sum().item() / counts.sum().item(),
                   measures.SAMPLES_BEST: sum(best.values()) / len(best)}
        if self.step > 1:
            self._log_samples(rollout, found, best)
        if self.sampled == len(batches):
            self._choose()
        return {**metrics, measures.TIME_ROLLOUT: sampled - started, measures.TIME_SCORE: time.perf_counter() - sampled}

    def sample_responses(self, chosen: list[int]) -> DistinctResponses:
        """Different responses of the policy to prompts given by index.

        The random numbers follow from the seed, the round and the batch: a step that is repeated gives the same.
        """
        config = self.config
        rng = random.Random(f"{config.seed} round {self.round} batch {self.sampled}")
        return sample_distinct(self.backbone, self.prompts, self.encoded, chosen, config.samples,
                               Sampling(config.max_new_tokens, config.temperature),
                               seeded_generator(rng.getrandbits(63)), on_microbatch=self.on_microbatch)

    def update_step(self) -> dict[str, Any]:
        """One optimiser step on kept responses, as SFT takes it. The last of a round ends with a measurement."""
        started = time.perf_counter()
        config = self.config
        rows = [Encoded(self.encoded[one.prompt].ids, list(one.ids)) for one in self.kept]
        batch = batch_of(self.updated + 1, [len(row.ids) for row in rows], config.batch_size,
                         config.seed + (self.round << 64))
        # The loss is divided by the tokens of the whole step, so that micro-batches add up exactly.
        tokens = sum(len(rows[i].completion_ids) for i in batch)

        def backward(part: list[int]) -> dict[str, float]:
            loss = nll(self.backbone, [rows[i] for i in part]) / tokens
            loss.backward()
            return {"loss": loss.item()}

        rate = self.peak_lr * schedule(self.updated + 1, self.updates, config.warmup, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        row_length = (lambda i: len(rows[i].ids)) if self.pass_tokens else None
        with self.backbone.use("policy"), self.backbone.checkpointing(config.gradient_checkpointing):
            sums = self.accumulate(batch, backward, row_length=row_length)
        metrics = {measures.LOSS_TRAIN: sums["loss"], measures.LEARNING_RATE: rate,
                   measures.GRADIENT_NORM: self.clip_gradients()}
        self.update_weights()
        self.updated += 1
        metrics[measures.TIME_UPDATE] = time.perf_counter() - started
        if self.updated == self.updates:
            measured = time.perf_counter()
            metrics.update(self._measure())
            metrics[measures.TIME_ROLLOUT] = time.perf_counter() - measured
        return metrics

    def report(self) -> dict[str, Any]:
        done = self.round if self.updates and self.updated == self.updates else self.round - 1
        report: dict[str, Any] = {"stage": self.config.stage, "rounds": done, "prompts": len(self.prompts),
                                  "held_out_prompts": self.held_out, "kept": len(self.kept)}
        for name, value in self.last_measures.items():
            report[name.rpartition("/")[2] if name.startswith("objective/") else name.replace("/", "_")] = value
        return report

    # -- rounds ------------------------------------------------------------------------------------------------------

    def _begin_round(self) -> None:
        self.steps_before = self.step - 1
        self.round += 1
        self.sampled = self.updates = self.updated = 0

    def _choose(self) -> None:
        """Keep the best of the round's samples, and put the policy back to its start, with a new Adam."""
        config, samples = self.config, self.collected
        if self.round == 1 and config.missing_end == "auto":
            self.ended_only = sum(one.ended for one in samples) > 0.5 * len(samples)
        scores = [one.score for one in samples]
        self.lowest = min(self.lowest, *scores)
        candidates = worth_keeping(samples, self.lowest, ended_only=self.ended_only)
        if not candidates:
            self._explain_nothing_kept(scores)
        before = self.kept if config.all_rounds or not candidates else []
        kept = choose(candidates, before, keep=config.keep, count=math.ceil(config.top_share * len(samples)))
        self.events.append({"event": "kept", "step": self.step, "round": self.round, "samples": len(samples),
                            "kept": len(kept), "earlier": len(set(kept) & set(self.kept)),
                            "ended_only": self.ended_only, "score_mean": sum(scores) / len(scores),
                            "kept_score_mean": sum(one.score for one in kept) / len(kept)})
        self.kept, self.collected = kept, []
        self.updates, self.updated = self._update_count(len(kept)), 0
        self._restore_start()

    def _explain_nothing_kept(self, scores: list[float]) -> None:
        """Warn of a round that has nothing to keep. Raises UserError if nothing was kept before."""
        config = self.config
        if min(scores) == max(scores):
            what = f"all {len(scores)} different samples of round {self.round} score the same ({scores[0]:.6g})"
        else:
            what = (f"no sample of round {self.round} both ends in time and scores above the lowest score "
                    f"({self.lowest:.6g})")
        if not self.kept:
            raise UserError(
                f"there is nothing to learn from: {what}; what helps: prompts that ask for what is rewarded, a reward "
                "that also gives part of the score for coming near it, longer responses (--max-new-tokens is "
                f"{config.max_new_tokens}), or more --samples")
        self.events.append({"event": "warning", "step": self.step, "kind": "nothing_kept",
                            "text": f"{what[:1].upper()}{what[1:]}: the updates learn from what was kept before."})

    @torch.no_grad()
    def _restore_start(self) -> None:
        """The policy as it began. Its weights at the start are the reference's, or those of a fresh adapter."""
        start = self.fresh or self.backbone.named_parameters("reference")
        for name, parameter in self.backbone.named_parameters("policy").items():
            parameter.copy_(start[name])
        self.optimizer = adam(self.backbone.parameters("policy"))

    def _measure(self) -> dict[str, float]:
        """The policy as it is, on fresh responses to held-out prompts."""
        self.last_measures, self.samples, warnings = self.probe.measure(self.step, self.micro_batch, self.pass_tokens,
                                                                        self.on_microbatch)
        for warning in warnings:
            self.events.append({"event": "warning", "step": self.step, "kind": warning.kind, "text": warning.text})
        return self.last_measures

    def _log_samples(self, rollout: Rollout, found: list[ScoredSample], best: dict[int, float]) -> None:
        """The best response to each of the first prompts of a batch, for samples.jsonl."""
        shown: dict[int, dict[str, Any]] = {}
        for one, text in zip(found, rollout.responses):
            if one.score == best[one.prompt] and one.prompt not in shown and len(shown) < LOGGED_SAMPLES:
                shown[one.prompt] = {"step": self.step, "prompt": self.prompts[one.prompt], "response": text,
                                     "score": one.score, "ended": one.ended}
        self.samples = list(shown.values())

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "round": self.round, "sampled": self.sampled, "updates": self.updates,
                "updated": self.updated, "steps_before": self.steps_before, "ended_only": self.ended_only,
                "lowest": self.lowest,
                "collected": pack_samples(self.collected), "kept": pack_samples(self.kept),
                "measured": self.last_measures, "probe": self.probe.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.round, self.sampled = state["round"], state["sampled"]
        self.updates, self.updated = state["updates"], state["updated"]
        self.steps_before, self.ended_only = state["steps_before"], state["ended_only"]
        self.lowest = state["lowest"]
        self.collected, self.kept = unpack_samples(state["collected"]), unpack_samples(state["kept"])
        self.last_measures = state["measured"]
        self.probe.load_state_dict(state["probe"])
        super().load_state_dict(state)  # changes settings, from which the number of steps follows

    # -- inside ------------------------------------------------------------------------------------------------------

    def _make_policy(self) -> None:
        """The roles `policy` and `reference`; a fresh policy's weights are kept, because it has no reference."""
        began_fresh = "policy" not in self.backbone.roles
        super()._make_policy()
        self.fresh: dict[str, torch.Tensor] = {}
        if began_fresh:
            weights = self.backbone.named_parameters("policy")
            self.fresh = {name: parameter.detach().clone() for name, parameter in weights.items()}
        self.backbone.train("policy")
