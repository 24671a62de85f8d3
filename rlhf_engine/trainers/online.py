"""The step of all learners that sample their own responses: sample, score, measure, compare, update, log.

A learner says what a step learns from (`targets`) and what a minibatch of it costs (`backward`). Padding never matters:
rows are padded on the right in every forward pass of training, and per-token tensors are [B, R] grids of response
tokens with a mask from their lengths.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from rlhf_engine import measures
from rlhf_engine.config import PolicyConfig
from rlhf_engine.losses.ppo import kl_estimates
from rlhf_engine.model.logprobs import TokenReadings
from rlhf_engine.rollout.rollout import Batch, Rollout, measure
from rlhf_engine.trainers.base import GradientSource, add_up, check_numbers
from rlhf_engine.trainers.policy import PolicyTrainer, Scores

OnlineConfigT = TypeVar("OnlineConfigT", bound=PolicyConfig)


@dataclass
class Targets:
    """What a step learns from a rollout of B responses with at most R tokens."""

    advantages: torch.Tensor
    """[B, R]: how much better than expected things went after each token."""
    returns: torch.Tensor | None = None
    """[B, R]: what a value function learns."""
    rows: list[int] | None = None
    """The responses to learn from; None is all of them."""


class OnlineTrainer(PolicyTrainer[OnlineConfigT]):
    """Base of PPO and the group learners. A subclass makes the optimiser, and writes `targets` and `backward`."""

    sampled_scores: torch.Tensor
    value_role = ""
    """The role whose head is the value function; "" where none is a network."""

    # -- one step ----------------------------------------------------------------------------------------------------

    def train_step(self) -> dict[str, Any]:
        started = time.perf_counter()
        rollout = self.sample_batch()

        sampled = time.perf_counter()
        rollout, raw = self.score_batch(rollout)
        self.measure(rollout)
        text_measures = self.check_text(rollout)
        scores = self.shape_scores(raw.total, rollout)
        kl = rollout.kl().mean().item()
        check_numbers({measures.KL: kl})
        if self.above_kl_stop(kl):
            targets = self.penalty_targets(rollout)
        else:
            targets = self.targets(rollout, scores, raw.per_token)
        metrics = self.rollout_metrics(rollout, scores, targets, kl)
        metrics[measures.SCORES] = self.sampled_scores.mean().item()

        scored = time.perf_counter()
        update_metrics = self.update(rollout, targets)
        self.controller.update(kl, len(rollout))
        self.log_samples(rollout, raw.total)
        times = {measures.TIME_ROLLOUT: sampled - started, measures.TIME_SCORE: scored - sampled,
                 measures.TIME_UPDATE: time.perf_counter() - scored}
        return {**metrics, **text_measures, **update_metrics, **times}

    def score_batch(self, rollout: Rollout) -> tuple[Rollout, Scores]:
        """The rollout that the step learns from, with its raw scores.

        It sets `sampled_scores` [B], those of all that was sampled first: what a step learns from may be a choice.
        """
        raw = self.score_responses(rollout)
        self.sampled_scores = raw.total
        return rollout, raw

    def measure(self, rollout: Rollout) -> None:
        """Fill in log-probabilities, values and entropy; in smaller micro-batches where memory runs out."""
        def work() -> None:
            measure(self.backbone, rollout, self.value_role, temperature=self.config.temperature,
                    micro_batch=self.micro_batch, pass_tokens=self.pass_tokens, on_microbatch=self.on_microbatch,
                    further=self.measure_further)

        self.retry_on_oom(len(rollout), work)

    def measure_further(self, batch: Batch, reading: TokenReadings) -> None:
        """Measure what else a learner needs of a micro-batch, about which the policy says `reading`."""

    def targets(self, rollout: Rollout, scores: torch.Tensor, token_scores: torch.Tensor | None) -> Targets:
        """What the step learns from a measured rollout.

        Args:
            rollout: measured.
            scores: [B], what the policy learns from (`shape_scores`).
            token_scores: [B, R], what each token adds to the raw score, where that is known.
        """
        raise NotImplementedError(f"{type(self).__name__} has no targets")

    def penalty_targets(self, rollout: Rollout) -> Targets:
        """What the step learns from where the KL is above its hard stop: the KL penalty alone."""
        return self.targets(rollout, torch.zeros(len(rollout)), None)

    def rollout_metrics(self, rollout: Rollout, scores: torch.Tensor, targets: Targets, kl: float) -> dict[str, float]:
        """Metrics of a measured rollout, before the update. scores [B] are shaped."""
        mask, coef = rollout.mask, self.controller.coef
        _, k2, k3 = kl_estimates(rollout.logprobs, rollout.ref_logprobs)
        return {
            measures.KL: kl,
            measures.KL_PER_TOKEN: kl * len(rollout) / mask.sum().item(),
            measures.KL_K2: (k2 * mask).sum(1).mean().item(),
            measures.KL_K3: (k3 * mask).sum(1).mean().item(),
            measures.KL_COEF: coef,
            measures.SCORES_NORMALISED: scores.mean().item(),
            measures.RETURN: scores.mean().item() - coef * kl,
            measures.ENTROPY: rollout.entropy,
            measures.LENGTH: mask.sum(1).mean().item(),
            measures.ENDED: rollout.ended.float().mean().item(),
        }

    # -- the update --------------------------------------------------------------------------------------------------

    def update(self, rollout: Rollout, targets: Targets) -> dict[str, float]:
        """`ppo_epochs` passes of `minibatches` optimiser steps over the rollout. Returns their mean statistics.

        With `update_stop` the passes end before a minibatch on which the policy has moved further than that.
        """
        rate = self.set_learning_rates(*self.learning_rates())
        sums: dict[str, float] = {}
        updates = 0
        for rows in self.minibatches(rollout, targets):
            texts = self.mix.rows_at(self.step, updates) if self.mix else []
            stats = self._optimise(rollout, targets, rows, texts)
            if stats is None:
                break
            add_up(sums, stats)
            updates += 1
        means = {name: total / updates for name, total in sums.items()}
        return {measures.LEARNING_RATE: rate, measures.UPDATES: updates, **means}

    def learning_rates(self) -> list[float]:
        """The peak rate of each parameter group of the optimiser, the policy's first."""
        return [self.peak_lr * self.guard.lr_factor if self.config.guard else self.peak_lr]

    def minibatches(self, rollout: Rollout, targets: Targets) -> list[list[int]]:
        """The minibatches of all passes. Each pass splits the rows anew, at random, into parts as equal as possible."""
        rows = range(len(rollout)) if targets.rows is None else targets.rows
        count = min(self.config.minibatches, len(rows))
        parts = []
        for _ in range(self.config.ppo_epochs):
            order = torch.randperm(len(rows), generator=self.generator).tolist()
            parts += [[rows[j] for j in order[i::self.config.minibatches]] for i in range(count)]
        return parts

    def _optimise(self, rollout: Rollout, targets: Targets, rows: list[int],
                  texts: list[int]) -> dict[str, float] | None:
        """One optimiser step on `rows` of the rollout and `texts` of the pretraining mix. Returns its statistics.

        Returns None, and leaves the weights alone, if the policy has moved further than `update_stop`.
        """
        def backward(part: list[int]) -> dict[str, float]:
            stats = self.backward(Batch(self.backbone, rollout, part), rollout, targets, rows)
            return {name: value.item() for name, value in stats.items()}

        also = []
        if self.mix and texts:
            text_backward = partial(self.mix.backward, tokens=self.mix.tokens(texts))
            also.append(GradientSource(texts, text_backward, self.mix.row_length))
        with self.backbone.checkpointing(self.config.gradient_checkpointing):
            stats = self.accumulate(rollout.by_length(rows), backward, row_length=rollout.row_length, also=also)
        if self.config.update_stop and stats[measures.APPROX_KL] > self.config.update_stop:
            self.optimizer.zero_grad()
            return None
        stats[measures.GRADIENT_NORM] = self.clip_gradients()
        self.update_weights()
        return stats

    def backward(self, batch: Batch, rollout: Rollout, targets: Targets, rows: list[int]) -> dict[str, torch.Tensor]:
        """Add the gradients of one micro-batch of the optimiser step over `rows`.

        Each loss is divided by a count of the whole step. Returns what the micro-batch adds to the statistics of the
        step, as scalars.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")
