"""PPO for language models: sample, score, advantages, clipped updates, with a per-token KL penalty to the reference.

The recipe is that of Ziegler et al. 2019 and Ouyang et al. 2022. Padding never matters: rows are padded on the right in
every forward pass of training, and per-token tensors are [B, R] grids of response tokens with a mask from their
lengths.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from rlhf_engine import measures
from rlhf_engine.config import PolicyConfig
from rlhf_engine.data.formats import Demonstration
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import noop
from rlhf_engine.losses import ppo as losses
from rlhf_engine.losses.masked import masked_mean, whiten
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import TokenReadings
from rlhf_engine.rollout.fitted_value import FittedValue
from rlhf_engine.rollout.reward_functions import RewardFunction
from rlhf_engine.rollout.rollout import Batch, Rollout, measure
from rlhf_engine.trainers.base import GradientSource, adam, add_up, check_numbers
from rlhf_engine.trainers.policy import PolicyTrainer

VALUE_ROLES = {"adapter": "value", "head": "policy", "fitted": ""}
"""The role that has the head of each kind of value function."""


class PPO(PolicyTrainer):
    """Trains `policy` and a value function on `prompts` against `reward(rollout) -> scores` (`RewardFunction`).

    With `value: adapter` the value function is the role `value`: a copy of the role `reward`, head included, if there
    is one (Ouyang et al. 2022), else a copy of the policy with a head that starts at 0. With `value: head` it is a
    head that starts at 0 on the policy's own adapter, read from the same forward pass. With `value: fitted` it is no
    network (`FittedValue`). Metrics have the names of the run folder's contract. Arguments are those of
    `PolicyTrainer`.
    """

    roles = ("policy", "reference", "reward", "value")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], reward: RewardFunction,
                 config: PolicyConfig | None = None, *, ptx: Sequence[Demonstration] = (),
                 on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, prompts, reward, config, ptx=ptx, on_microbatch=on_microbatch)
        self.value_role = VALUE_ROLES[self.config.value]
        """The role whose head is the value function; "" if it is `fitted`."""
        self.fitted = None if self.value_role else FittedValue(self.config.max_new_tokens)
        self._make_policy()
        if self.value_role:
            self._make_value()
        self.backbone.train("policy", *filter(None, [self.value_role]))
        self.optimizer = adam(*self._parameter_groups())

    # -- one step ----------------------------------------------------------------------------------------------------

    def train_step(self) -> dict[str, Any]:
        started = time.perf_counter()
        rollout = self.sample_batch()

        sampled = time.perf_counter()
        self.measure(rollout)
        text_measures = self.check_text(rollout)
        raw = self.score_responses(rollout)
        scores = self.shape_scores(raw.total, rollout)
        kl = rollout.kl().mean().item()
        check_numbers({measures.KL: kl})
        if self.above_kl_stop(kl):
            advantages, returns = self.advantages(rollout, torch.zeros_like(scores))
        else:
            advantages, returns = self.advantages(rollout, scores, raw.per_token)
        metrics = self.rollout_metrics(rollout, scores, returns, kl)
        metrics[measures.SCORES] = raw.total.mean().item()

        scored = time.perf_counter()
        update_metrics = self.update(rollout, advantages, returns)
        self.controller.update(kl, len(rollout))
        self.log_samples(rollout, raw.total)
        times = {measures.TIME_ROLLOUT: sampled - started, measures.TIME_SCORE: scored - sampled,
                 measures.TIME_UPDATE: time.perf_counter() - scored}
        return {**metrics, **text_measures, **update_metrics, **times}

    def measure(self, rollout: Rollout) -> None:
        """Fill in log-probabilities, values and entropy; in smaller micro-batches where memory runs out."""
        def work() -> None:
            measure(self.backbone, rollout, self.value_role, temperature=self.config.temperature,
                    micro_batch=self.micro_batch, pass_tokens=self.pass_tokens, on_microbatch=self.on_microbatch)

        self.retry_on_oom(len(rollout), work)

    def advantages(self, rollout: Rollout, scores: torch.Tensor,
                   token_scores: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Whitened advantages and returns, both [B, R].

        Args:
            rollout: measured.
            scores: [B], what the policy learns from (`shape_scores`).
            token_scores: [B, R], what each token adds to the raw score; None puts all of it on the last token.
        """
        config, mask = self.config, rollout.mask
        if token_scores is not None:
            token_scores = self.reward_gain * config.reward_scale * token_scores
        rewards = losses.shaped_rewards(scores, rollout.logprobs, rollout.ref_logprobs, mask, self.controller.coef,
                                        token_scores)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        if self.fitted:
            rollout.values = self.fitted.update(rewards, mask, token_scores)
        advantages, returns = losses.gae(rewards, rollout.values, mask, gamma=config.gamma, lam=config.gae_lambda)
        return whiten(advantages, mask), returns

    def rollout_metrics(self, rollout: Rollout, scores: torch.Tensor, returns: torch.Tensor,
                        kl: float) -> dict[str, float]:
        """Metrics of a measured rollout, before the update. scores [B] are shaped, returns are [B, R]."""
        mask, coef = rollout.mask, self.controller.coef
        fit = {}
        if self.fitted:  # a network's loss is measured in the update
            fit[measures.LOSS_VALUE] = 0.5 * masked_mean((returns - rollout.values).square(), mask).item()
        _, k2, k3 = losses.kl_estimates(rollout.logprobs, rollout.ref_logprobs)
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
            measures.EXPLAINED_VARIANCE: losses.explained_variance(rollout.values, returns, mask).item(),
            **fit,
        }

    # -- the update --------------------------------------------------------------------------------------------------

    def update(self, rollout: Rollout, advantages: torch.Tensor, returns: torch.Tensor) -> dict[str, float]:
        """`ppo_epochs` passes of `minibatches` optimiser steps over the rollout. Returns their mean statistics.

        With `update_stop` the passes end before a minibatch on which the policy has moved further than that.
        """
        config = self.config
        policy_rate = self.peak_lr * self.guard.lr_factor if config.guard else self.peak_lr
        rate = self.set_learning_rates(policy_rate, config.value_learning_rate or 2 * self.peak_lr)
        sums: dict[str, float] = {}
        updates = 0
        for rows in self._minibatches(rollout):
            texts = self.mix.rows_at(self.step, updates) if self.mix else []
            stats = self._optimise(rollout, advantages, returns, rows, texts)
            if stats is None:
                break
            add_up(sums, stats)
            updates += 1
        means = {name: total / updates for name, total in sums.items()}
        return {measures.LEARNING_RATE: rate, measures.UPDATES: updates, **means}

    def _minibatches(self, rollout: Rollout) -> list[list[int]]:
        """The minibatches of all passes. Each pass splits the rows anew, at random, into parts as equal as possible."""
        count = min(self.config.minibatches, len(rollout))
        parts = []
        for _ in range(self.config.ppo_epochs):
            order = torch.randperm(len(rollout), generator=self.generator).tolist()
            parts += [order[i::self.config.minibatches] for i in range(count)]
        return parts

    def _optimise(self, rollout: Rollout, advantages: torch.Tensor, returns: torch.Tensor, rows: list[int],
                  texts: list[int]) -> dict[str, float] | None:
        """One optimiser step on `rows` of the rollout and `texts` of the pretraining mix. Returns its statistics.

        Each loss is divided by its number of tokens in the whole step. Returns None, and leaves the weights alone, if
        the policy has moved further than `update_stop`.
        """
        tokens = rollout.mask[rows].sum().item()

        def backward(part: list[int]) -> dict[str, float]:
            return self._backward(Batch(self.backbone, rollout, part), rollout, advantages, returns, tokens)

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

    def _backward(self, batch: Batch, rollout: Rollout, advantages: torch.Tensor, returns: torch.Tensor,
                  tokens: float) -> dict[str, float]:
        """Add the gradients of policy and value function on one micro-batch of an optimiser step of `tokens` tokens.

        Returns what the micro-batch adds to the statistics of the step.
        """
        with self.backbone.use("policy"):
            reading = batch.read(self.config.temperature, entropy=self.config.entropy_coef > 0)
            loss, stats = self._policy_loss(batch, reading, rollout, advantages, tokens)
            if self.value_role == "policy":
                value_loss, value_stats = self._value_loss(batch, batch.values(reading), rollout, returns, tokens)
                loss = loss + value_loss
                stats.update(value_stats)
            loss.backward()
        if self.value_role == "value":
            with self.backbone.use("value"):
                value_loss, value_stats = self._value_loss(batch, batch.values(), rollout, returns, tokens)
                value_loss.backward()
            stats.update(value_stats)
        return {name: value.item() for name, value in stats.items()}

    def _policy_loss(self, batch: Batch, reading: TokenReadings, rollout: Rollout, advantages: torch.Tensor,
                     tokens: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(loss, statistics) of the policy on a micro-batch, the entropy bonus included."""
        config = self.config
        loss, stats = losses.policy_loss(batch.grid(reading.logprobs), batch.trim(rollout.logprobs),
                                         batch.trim(advantages), batch.mask, clip=config.clip, tokens=tokens,
                                         dual_clip=config.dual_clip)
        metrics = {measures.LOSS_POLICY: loss.detach(), measures.APPROX_KL: stats["approxkl"],
                   measures.CLIP_FRACTION: stats["clipfrac"], measures.RATIO: stats["ratio"]}
        if config.entropy_coef:
            entropy = reading.total_entropy() / tokens
            metrics[measures.POLICY_ENTROPY] = entropy.detach()
            loss = loss - config.entropy_coef * entropy
        return loss, metrics

    def _value_loss(self, batch: Batch, values: torch.Tensor, rollout: Rollout, returns: torch.Tensor,
                    tokens: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(`value_coef` times the loss, statistics) of the value function on a micro-batch with `values` [N]."""
        loss, stats = losses.value_loss(batch.grid(values), batch.trim(rollout.values), batch.trim(returns), batch.mask,
                                        clip=self.config.value_clip, tokens=tokens)
        metrics = {measures.LOSS_VALUE: loss.detach(), measures.VALUE_CLIP_FRACTION: stats["clipfrac"]}
        return self.config.value_coef * loss, metrics

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, "value": self.fitted.state_dict()} if self.fitted else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.fitted:
            self.fitted.load_state_dict(state["value"])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _make_value(self) -> None:
        """The value function: the role `value`, or a head on the policy."""
        backbone = self.backbone
        if self.value_role == "value" and "reward" in backbone.roles:
            backbone.copy_role("value", "reward")
            return
        if self.value_role == "value":
            backbone.copy_role("value", "policy")
        backbone.new_head(self.value_role, zero=True)

    def _parameter_groups(self) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
        """(parameters of the policy's adapter, parameters that belong to the value function alone)."""
        policy = self.backbone.named_parameters("policy")
        if self.value_role == "value":
            return list(policy.values()), self.backbone.parameters("value")
        adapter = [p for name, p in policy.items() if not name.startswith("head.")]
        head = [p for name, p in policy.items() if name.startswith("head.")]
        return adapter, head
