"""PPO for language models: a value function, advantages, clipped updates, with a per-token KL penalty to the reference.

The recipe is that of Ziegler et al. 2019 and Ouyang et al. 2022. The step itself is in `online.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rlhf_engine import measures
from rlhf_engine.config import ActorCriticConfig, PPOConfig
from rlhf_engine.data.formats import Demonstration
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import noop
from rlhf_engine.losses import ppo as losses
from rlhf_engine.losses.masked import masked_mean, whiten
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import TokenReadings
from rlhf_engine.rollout.fitted_value import FittedValue
from rlhf_engine.rollout.reward_functions import RewardFunction
from rlhf_engine.rollout.rollout import Batch, Rollout
from rlhf_engine.trainers.base import adam
from rlhf_engine.trainers.online import OnlineTrainer, Targets

VALUE_ROLES = {"adapter": "value", "head": "policy", "fitted": ""}
"""The role that has the head of each kind of value function."""


class PPO(OnlineTrainer[ActorCriticConfig]):
    """Trains `policy` and a value function on `prompts` against `reward(rollout) -> scores` (`RewardFunction`).

    With `value: adapter` the value function is the role `value`: a copy of the role `reward`, head included, if there
    is one (Ouyang et al. 2022), else a copy of the policy with a head that starts at 0. With `value: head` it is a
    head that starts at 0 on the policy's own adapter, read from the same forward pass. With `value: fitted` it is no
    network (`FittedValue`). Metrics have the names of the run folder's contract. Arguments are those of
    `PolicyTrainer`.
    """

    roles = ("policy", "reference", "reward", "value")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], reward: RewardFunction,
                 config: ActorCriticConfig | None = None, *, ptx: Sequence[Demonstration] = (),
                 on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, prompts, reward, config or PPOConfig(), ptx=ptx, on_microbatch=on_microbatch)
        self.value_role = VALUE_ROLES[self.config.value]
        """The role whose head is the value function; "" if it is `fitted`."""
        self.fitted = None if self.value_role else FittedValue(self.config.max_new_tokens)
        self._make_policy()
        if self.value_role:
            self._make_value()
        self.backbone.train("policy", *filter(None, [self.value_role]))
        self.optimizer = adam(*self._parameter_groups())

    # -- what a step learns from ---------------------------------------------------------------------------------------

    def targets(self, rollout: Rollout, scores: torch.Tensor, token_scores: torch.Tensor | None) -> Targets:
        advantages, returns = self.advantages(rollout, scores, token_scores)
        return Targets(advantages, returns)

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

    def rollout_metrics(self, rollout: Rollout, scores: torch.Tensor, targets: Targets, kl: float) -> dict[str, float]:
        metrics = super().rollout_metrics(rollout, scores, targets, kl)
        assert targets.returns is not None
        metrics[measures.EXPLAINED_VARIANCE] = losses.explained_variance(rollout.values, targets.returns,
                                                                         rollout.mask).item()
        if self.fitted:  # a network's loss is measured in the update
            errors = (targets.returns - rollout.values).square()
            metrics[measures.LOSS_VALUE] = 0.5 * masked_mean(errors, rollout.mask).item()
        return metrics

    # -- the update --------------------------------------------------------------------------------------------------

    def learning_rates(self) -> list[float]:
        return [*super().learning_rates(), self.config.value_learning_rate or 2 * self.peak_lr]

    def backward(self, batch: Batch, rollout: Rollout, targets: Targets, rows: list[int]) -> dict[str, torch.Tensor]:
        """Add the gradients of policy and value function. Both losses are divided by the tokens of the whole step."""
        tokens = rollout.mask[rows].sum().item()
        assert targets.returns is not None
        with self.backbone.use("policy"):
            reading = self.read_policy(batch)
            loss, stats = self._policy_loss(batch, reading, rollout, targets.advantages, tokens)
            if self.value_role == "policy":
                values = batch.values(reading)
                value_loss, value_stats = self._value_loss(batch, values, rollout, targets.returns, tokens)
                loss = loss + value_loss
                stats.update(value_stats)
            loss.backward()
        if self.value_role == "value":
            with self.backbone.use("value"):
                values = batch.values()
                value_loss, value_stats = self._value_loss(batch, values, rollout, targets.returns, tokens)
                value_loss.backward()
            stats.update(value_stats)
        return stats

    def read_policy(self, batch: Batch) -> TokenReadings:
        """What the policy, which is in use, says about the tokens of a micro-batch."""
        return batch.read(self.config.temperature, entropy=self.config.entropy_coef > 0)

    def old_logprobs(self, rollout: Rollout) -> torch.Tensor:
        """[B, R]: log-probabilities under the policy that sampled, over which the ratio is taken."""
        return rollout.logprobs

    def _policy_loss(self, batch: Batch, reading: TokenReadings, rollout: Rollout, advantages: torch.Tensor,
                     tokens: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(loss, statistics) of the policy on a micro-batch, the entropy bonus included."""
        config = self.config
        loss, stats = losses.policy_loss(batch.grid(reading.logprobs), batch.trim(self.old_logprobs(rollout)),
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
