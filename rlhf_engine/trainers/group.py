"""Learners that compare the responses to a prompt with one another: GRPO, RLOO and REINFORCE++. No value function.

Groups stay together: in sampling, in the passes that measure them and in the update, where the responses to a prompt
share its reading if that pays.
"""

import random
from collections.abc import Callable, Sequence

import torch

from rlhf_engine import measures
from rlhf_engine.config import GroupConfig, TeachConfig
from rlhf_engine.data.batches import batch_of
from rlhf_engine.data.formats import Demonstration
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import noop
from rlhf_engine.losses import group as losses
from rlhf_engine.losses.ppo import shaped_rewards
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.reward_functions import RewardFunction
from rlhf_engine.rollout.rollout import Batch, Rollout, join, select
from rlhf_engine.trainers.base import adam
from rlhf_engine.trainers.online import OnlineTrainer, Targets
from rlhf_engine.trainers.policy import Scores

ATTEMPTS = 3
"""Times that dead groups are resampled in a step."""


class GroupLearner(OnlineTrainer[GroupConfig | TeachConfig]):
    """Trains `policy` on what beats the other responses to its prompt. Arguments are those of `PolicyTrainer`.

    A step samples `group_size` responses to each of `batch_size / group_size` prompts. A group whose scores are all the
    same is dead: it says nothing about the policy (`dead_groups`).
    """

    roles = ("policy", "reference", "reward")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], reward: RewardFunction,
                 config: GroupConfig | TeachConfig | None = None, *, ptx: Sequence[Demonstration] = (),
                 on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, prompts, reward, config or GroupConfig(), ptx=ptx, on_microbatch=on_microbatch)
        self.dead_share = 0.0
        """Share of dead groups among those that were sampled for this step."""
        self._make_policy()
        self.backbone.train("policy")
        self.optimizer = adam(self.backbone.parameters("policy"))

    # -- sampling ----------------------------------------------------------------------------------------------------

    def sample_batch(self) -> Rollout:
        """The rollout of this step: `group_size` responses to each of its prompts, side by side."""
        lengths = [len(row.ids) for row in self.encoded]
        groups = self.config.batch_size // self.config.group_size
        return self._sample_groups(batch_of(self.step, lengths, groups, self.config.seed))

    def score_batch(self, rollout: Rollout) -> tuple[Rollout, Scores]:
        """The rollout with its raw scores. With `dead_groups: resample` other prompts take the places of dead groups.

        They are a function of seed, step and attempt, so a resumed run draws the same.
        """
        rollout, raw = super().score_batch(rollout)
        dead = self._dead(rollout, raw)
        sampled, found_dead = len(dead), int(dead.sum())
        attempts = ATTEMPTS if self.config.dead_groups == "resample" else 0
        for attempt in range(1, attempts + 1):
            if not dead.any():
                break
            rng = random.Random(f"{self.config.seed} resample {self.step} {attempt}")
            fresh = self._sample_groups(rng.choices(range(len(self.encoded)), k=int(dead.sum())))
            fresh_raw = self.score_responses(fresh)
            rollout, raw = self._replace(dead, rollout, raw, fresh, fresh_raw)
            sampled += int(dead.sum())
            found_dead += int(self._dead(fresh, fresh_raw).sum())
            dead = self._dead(rollout, raw)
        self.dead_share = found_dead / sampled
        return rollout, raw

    def _reference_prompts(self) -> list[int]:
        """Whole groups, as in a step: the guard compares the variety of texts to few prompts with that of such
        texts."""
        size = self.config.group_size
        chosen = super()._reference_prompts()[:max(1, self.config.reference_samples // size)]
        return [i for i in chosen for _ in range(size)]

    def _sample_groups(self, chosen: list[int]) -> Rollout:
        size = self.config.group_size
        rollout = self.rollout([i for i in chosen for _ in range(size)], self.generator)
        rollout.group_size = size
        return rollout

    def _replace(self, dead: torch.Tensor, rollout: Rollout, raw: Scores, fresh: Rollout,
                 fresh_raw: Scores) -> tuple[Rollout, Scores]:
        """The live groups of a rollout, and the fresh ones behind them."""
        kept = self._rows(~dead)
        if not kept:
            return fresh, fresh_raw
        total = torch.cat([raw.total[kept], fresh_raw.total])
        return join(select(rollout, kept), fresh), Scores(total, None)  # whole responses are compared, not tokens

    def _dead(self, rollout: Rollout, raw: Scores) -> torch.Tensor:
        """[P] bool: which groups are dead."""
        return self._dead_in(self.shape_scores(raw.total, rollout))

    def _dead_in(self, scores: torch.Tensor) -> torch.Tensor:
        """The same, from shaped scores [B]."""
        reference_std = self.reward_gain * self.score_std * self.config.reward_scale
        return losses.dead_groups(self._groups(scores), reference_std)

    def _groups(self, rows: torch.Tensor) -> torch.Tensor:
        """[B] as [P, G]."""
        return rows.reshape(-1, self.config.group_size)

    def _rows(self, groups: torch.Tensor) -> list[int]:
        """The rows of the groups where a mask [P] is true."""
        return groups.repeat_interleave(self.config.group_size).nonzero()[:, 0].tolist()

    # -- what a step learns from -------------------------------------------------------------------------------------

    def shape_scores(self, raw: torch.Tensor, rollout: Rollout) -> torch.Tensor:
        penalty = losses.overlong_penalty(rollout.mask.sum(1), self.config.max_new_tokens, self.config.overlong_tokens)
        return super().shape_scores(raw, rollout) + penalty

    def targets(self, rollout: Rollout, scores: torch.Tensor, token_scores: torch.Tensor | None) -> Targets:
        dead = self._dead_in(scores)
        targets = self._compare(rollout, scores, dead)
        if self.config.dead_groups != "keep" and self.config.estimator != "reinforce++":
            targets.rows = self._rows(~dead)
            if not targets.rows:
                self.events.append({"event": "warning", "step": self.step, "kind": "dead_step", "text":
                                    f"in each of the {len(rollout) // self.config.group_size} groups all responses "
                                    "have the same reward: this step learns nothing. A reward with more levels, larger "
                                    "groups or a higher temperature help."})
        return targets

    def penalty_targets(self, rollout: Rollout) -> Targets:
        groups = len(rollout) // self.config.group_size
        return self._compare(rollout, torch.zeros(len(rollout)), torch.ones(groups, dtype=torch.bool))

    def _compare(self, rollout: Rollout, scores: torch.Tensor, dead: torch.Tensor) -> Targets:
        """The advantages of all responses, whose shaped scores [B] are given."""
        config = self.config
        coef = self.controller.coef if config.kl_in == "reward" else 0.0
        if config.estimator == "reinforce++":
            rewards = shaped_rewards(scores, rollout.logprobs, rollout.ref_logprobs, rollout.mask, coef)
            return Targets(losses.batch_advantages(rewards, rollout.mask))
        rewards = self._groups(scores - coef * rollout.kl())
        advantages = losses.group_advantages(rewards, dead, leave_one_out=config.estimator == "rloo", scale=self.scales)
        return Targets(advantages.reshape(-1, 1) * rollout.mask)

    @property
    def scales(self) -> bool:
        """Whether advantages are divided by the standard deviation of their group."""
        config = self.config
        if config.scale == "auto":
            return config.estimator == "grpo" and config.loss_normaliser != "dr_grpo"
        return config.scale == "std"

    def rollout_metrics(self, rollout: Rollout, scores: torch.Tensor, targets: Targets, kl: float) -> dict[str, float]:
        return {**super().rollout_metrics(rollout, scores, targets, kl), measures.DEAD_GROUPS: self.dead_share}

    # -- the update --------------------------------------------------------------------------------------------------

    def minibatches(self, rollout: Rollout, targets: Targets) -> list[list[int]]:
        """The minibatches of all passes. Each pass splits the groups anew, at random, into parts as equal as
        possible."""
        size = self.config.group_size
        rows = range(len(rollout)) if targets.rows is None else targets.rows
        groups = [rows[i:i + size] for i in range(0, len(rows), size)]
        count = min(self.config.minibatches, len(groups))
        parts = []
        for _ in range(self.config.ppo_epochs):
            order = torch.randperm(len(groups), generator=self.generator).tolist()
            for i in range(count):
                parts.append([row for group in order[i::count] for row in groups[group]])
        return parts

    def backward(self, batch: Batch, rollout: Rollout, targets: Targets, rows: list[int]) -> dict[str, torch.Tensor]:
        config, lengths = self.config, rollout.mask.sum(1)
        tokens = lengths[rows].sum().item()
        weights = torch.zeros(len(rollout))
        weights[rows] = losses.row_weights(lengths[rows], config.loss_normaliser, config.max_new_tokens)
        weights = weights[batch.rows].to(batch.mask.device)
        old_logprobs = batch.trim(rollout.logprobs)
        with self.backbone.use("policy"):
            reading = batch.read(config.temperature, entropy=config.entropy_coef > 0)
            logprobs = batch.grid(reading.logprobs)
            loss, sums = losses.group_loss(logprobs, old_logprobs, batch.trim(targets.advantages), batch.mask, weights,
                                           clip=config.clip, clip_high=config.clip_high or config.clip,
                                           dual_clip=config.dual_clip)
            stats = {measures.LOSS_POLICY: loss.detach(), measures.APPROX_KL: sums["approxkl"] / tokens,
                     measures.CLIP_FRACTION: sums["clipfrac"] / tokens, measures.RATIO: sums["ratio"] / tokens}
            if config.kl_in != "reward":
                kl = losses.kl_loss(logprobs, old_logprobs, batch.trim(rollout.ref_logprobs), batch.mask, weights,
                                    corrected=config.kl_in == "corrected")
                stats[measures.LOSS_KL] = kl.detach()
                loss = loss + self.controller.coef * kl
            if config.entropy_coef:
                entropy = reading.total_entropy() / tokens
                stats[measures.POLICY_ENTROPY] = entropy.detach()
                loss = loss - config.entropy_coef * entropy
            loss.backward()
        return stats
