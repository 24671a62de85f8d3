"""DPO while people vote: the policy learns from the votes themselves, all of them at every step (Rafailov et al. 2023).

The live reward takes no part in the update; it only chooses the questions. Each vote gives the pairs of the better
response with those it beat. They are read as they were sampled, some steps ago; that the policy has moved since then
does not matter to DPO. A step also samples a rollout, so that KL, wins and text are measured as for other learners.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rlhf_engine import measures
from rlhf_engine.config import TeachConfig
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.feedback.events import Event
from rlhf_engine.losses.dpo import PAIR_LOSSES
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.prefix_packing import read_sums
from rlhf_engine.rollout.reward_functions import RewardFunction
from rlhf_engine.rollout.rollout import Batch, Rollout, as_sampled
from rlhf_engine.trainers.base import adam, add_up
from rlhf_engine.trainers.online import OnlineTrainer, Targets


@dataclass(frozen=True)
class VotedPairs:
    """What one vote says: responses to a prompt, and which of them beats which."""

    rows: list[tuple[list[int], list[int]]]
    """Token ids of prompt and response, for each response."""
    better: list[int]
    """For each pair, the index of the better response."""
    worse: list[int]
    reference_sums: torch.Tensor
    """Log-probability of each response under the reference, in nats per sequence."""

    @property
    def tokens(self) -> int:
        """Tokens of all rows, padding included."""
        return len(self.rows) * max(len(prompt) + len(response) for prompt, response in self.rows)


class VoteDPO(OnlineTrainer[TeachConfig]):
    """A learner of `teach` whose update is DPO on `votes()`, the feedback so far.

    A step takes `ppo_epochs` optimiser steps, each on as many votes as a batch has room for. In minibatches it would
    learn the texts of a few votes by heart (benchmarks/README.md). A vote that puts no response above another (a tie, a
    thumb) teaches nothing. While the KL is above `kl_target` the policy rests: the loss has a price on KL, but nothing
    in it stops at one.

    Args:
        reward: scores the rollouts, for the metrics alone.
        votes: the feedback so far, without what was taken back.
        options: those of `PolicyTrainer`.
    """

    roles = ("policy", "reference")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], reward: RewardFunction,
                 votes: Callable[[], list[Event]], config: TeachConfig, **options):
        super().__init__(backbone, prompts, reward, config, **options)
        self.votes = votes
        self.pairs_of: dict[str, VotedPairs | None] = {}
        """By the id of an event: its pairs. They are read once, each event alone, so a resumed run reads the same."""
        self._make_policy()
        backbone.train("policy")
        self.optimizer = adam(backbone.parameters("policy"))

    def targets(self, rollout: Rollout, scores: torch.Tensor, token_scores: torch.Tensor | None) -> Targets:
        return Targets(torch.zeros_like(rollout.mask))  # no response of the rollout is learned from

    def update(self, rollout: Rollout, targets: Targets) -> dict[str, float]:
        config = self.config
        learned = [pairs for event in self.votes() if (pairs := self._pairs(event))]
        rate = self.set_learning_rates(*self.learning_rates())
        metrics = {measures.LEARNING_RATE: rate, measures.UPDATES: 0}
        if not learned or (self.kl_target and rollout.kl().mean().item() > self.kl_target):
            return metrics
        size = max(1, config.batch_size // config.choices)
        sums: dict[str, float] = {}
        for _ in range(config.ppo_epochs):
            order = torch.randperm(len(learned), generator=self.generator).tolist()[:size]
            batch = sorted((learned[i] for i in order), key=lambda pairs: pairs.tokens)
            add_up(sums, self._learn(batch))
            metrics[measures.UPDATES] += 1
        means = {name: total / metrics[measures.UPDATES] for name, total in sums.items()}
        return {**metrics, **means}

    def backward(self, batch: Batch, rollout: Rollout, targets: Targets, rows: list[int]) -> dict[str, torch.Tensor]:
        raise NotImplementedError("VoteDPO learns from votes, not from its rollout")

    # -- votes ---------------------------------------------------------------------------------------------------------

    def _pairs(self, event: Event) -> VotedPairs | None:
        """The pairs of an event; None if it has none."""
        if event.id not in self.pairs_of:
            self.pairs_of[event.id] = self._read_pairs(event)
        return self.pairs_of[event.id]

    def _read_pairs(self, event: Event) -> VotedPairs | None:
        preferences = event.rules.preferences(event)
        if not preferences:
            return None
        texts = list(dict.fromkeys(text for pair in preferences for text in pair))
        rows = [as_sampled(self.backbone, event.prompt, text, event.sampling, self.max_tokens) for text in texts]
        kept = [(better, worse) for better, worse in preferences
                if rows[texts.index(better)] != rows[texts.index(worse)]]  # the cut may have left the same tokens
        if not kept:
            return None
        with torch.no_grad(), self.backbone.use("reference"):
            sums = read_sums(self.backbone, rows, self.config.temperature)
        return VotedPairs(rows, [texts.index(better) for better, _ in kept], [texts.index(worse) for _, worse in kept],
                          sums)

    # -- the loss ------------------------------------------------------------------------------------------------------

    def _learn(self, batch: list[VotedPairs]) -> dict[str, float]:
        """One optimiser step on some votes, each of the same weight. Returns its statistics."""
        def backward(part: list[int]) -> dict[str, float]:
            with self.backbone.use("policy"):
                loss, stats = self._loss([batch[i] for i in part])
                (loss / len(batch)).backward()
            return {name: value / len(batch) for name, value in stats.items()}

        with self.backbone.checkpointing(self.config.gradient_checkpointing):
            stats = self.accumulate(list(range(len(batch))), backward, row_length=lambda i: batch[i].tokens)
        stats[measures.GRADIENT_NORM] = self.clip_gradients()
        self.update_weights()
        return stats

    def _loss(self, votes: list[VotedPairs]) -> tuple[torch.Tensor, dict[str, float]]:
        """(sum over votes of the mean loss of their pairs, the same sums of its statistics)."""
        rows = [row for pairs in votes for row in pairs.rows]
        all_sums = read_sums(self.backbone, rows, self.config.temperature)
        losses, stats = [], {}
        for pairs, sums in zip(votes, all_sums.split([len(pairs.rows) for pairs in votes])):
            log_ratios = sums - pairs.reference_sums
            chosen, rejected = log_ratios[pairs.better], log_ratios[pairs.worse]
            smoothing = torch.zeros(len(chosen), device=chosen.device)
            losses.append(PAIR_LOSSES["sigmoid"](chosen - rejected, self.config.dpo_beta, smoothing).mean())
            difference = (chosen - rejected).detach()
            right = (difference > 0).float() + 0.5 * (difference == 0).float()
            add_up(stats, {measures.LOSS_POLICY: losses[-1].item(), measures.ACCURACY_TRAIN: right.mean().item(),
                           measures.MARGIN: self.config.dpo_beta * difference.mean().item(),
                           measures.CHOSEN: chosen.mean().item(), measures.REJECTED: rejected.mean().item()})
        return torch.stack(losses).sum(), stats
