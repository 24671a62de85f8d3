"""NLPO (Ramamurthy et al. 2022): PPO whose policy chooses only among the likely tokens of an older copy of itself.

The mask, and how it is sampled and read with, is in `rollout/action_mask.py`.
"""

from collections.abc import Callable, Sequence

import torch

from rlhf_engine import measures
from rlhf_engine.config import NLPOConfig
from rlhf_engine.data.formats import Demonstration
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError, noop
from rlhf_engine.losses.masked import masked_mean, zero_masked
from rlhf_engine.losses.ppo import kl_estimates
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.decoders import Decoder
from rlhf_engine.model.logprobs import TokenReadings
from rlhf_engine.rollout.action_mask import (
    ROLE,
    ActionMask,
    MaskedDecoder,
    MaskReadings,
    default_tokens_kept,
    special_tokens,
)
from rlhf_engine.rollout.reward_functions import RewardFunction
from rlhf_engine.rollout.rollout import Batch, Rollout
from rlhf_engine.trainers.online import Targets
from rlhf_engine.trainers.ppo import PPO


class NLPO(PPO):
    """PPO in which sampling and the probability ratio use masked probabilities. Arguments are those of `PPO`.

    The mask policy is the role `mask`: a copy of the policy, renewed before the rollout of every `mask_refresh`-th
    step. The mask of a rollout is also that of its update. The KL penalty and every KL that is logged use the
    probabilities without a mask; so do the entropy and the measures of the text. An entropy bonus counts the choice
    among the allowed tokens. The responses of the reference are sampled under the mask, too: they are what the run
    starts from. With `top_p` 1 this is PPO, to the bit, and there is no mask policy.

    Raises UserError for a `mask_tokens_kept` of the whole vocabulary.
    """

    roles = (*PPO.roles, ROLE)
    config: NLPOConfig

    def __init__(self, backbone: Backbone, prompts: list[Prompt], reward: RewardFunction,
                 config: NLPOConfig | None = None, *, ptx: Sequence[Demonstration] = (),
                 on_microbatch: Callable[[], None] = noop):
        config = config or NLPOConfig()
        if config.masks and config.mask_tokens_kept >= backbone.vocabulary:
            raise UserError(f"--mask-tokens-kept is {config.mask_tokens_kept}, but the model has {backbone.vocabulary} "
                            "tokens, so the mask would leave none out; give fewer, or --top-p 1 for no mask")
        super().__init__(backbone, prompts, reward, config, ptx=ptx, on_microbatch=on_microbatch)
        self.masked: MaskReadings | None = None
        """The mask of the rollout that is being learned from; None without one."""

    def _make_policy(self) -> None:
        super()._make_policy()
        if self.config.masks:
            self.backbone.copy_role(ROLE, "policy")

    def action_mask(self) -> ActionMask:
        """The rule of this step."""
        config, vocabulary = self.config, self.backbone.vocabulary
        least = config.mask_tokens_kept or default_tokens_kept(vocabulary)
        return ActionMask(config.top_p, config.temperature, least, tuple(special_tokens(self.backbone)))

    # -- one step ----------------------------------------------------------------------------------------------------

    def sample_batch(self) -> Rollout:
        if self.config.masks and self.step > 1 and (self.step - 1) % self.config.mask_refresh == 0:
            self.backbone.copy_weights(ROLE, "policy")
        return super().sample_batch()

    def make_decoder(self, backbone: Backbone, rows: int, longest: int) -> Decoder:
        if not self.config.masks:
            return super().make_decoder(backbone, rows, longest)
        return MaskedDecoder(backbone, self.action_mask(), rows, longest)

    def measure(self, rollout: Rollout) -> None:
        self.masked = MaskReadings(self.action_mask(), rollout) if self.config.masks else None
        super().measure(rollout)

    def measure_further(self, batch: Batch, reading: TokenReadings) -> None:
        if self.masked:
            self.masked.measure(batch, reading.hidden)

    def rollout_metrics(self, rollout: Rollout, scores: torch.Tensor, targets: Targets, kl: float) -> dict[str, float]:
        metrics = super().rollout_metrics(rollout, scores, targets, kl)
        if self.masked:
            metrics[measures.MASK_KEPT] = masked_mean(self.masked.kept, rollout.mask).item()
            metrics[measures.MASK_ADDED] = masked_mean(self.masked.added, rollout.mask).item()
        return metrics

    # -- the update --------------------------------------------------------------------------------------------------

    def update(self, rollout: Rollout, targets: Targets) -> dict[str, float]:
        metrics = super().update(rollout, targets)
        self.masked = None
        return metrics

    def read_policy(self, batch: Batch) -> TokenReadings:
        if self.masked is None:
            return super().read_policy(batch)
        return self.masked.read(batch, entropy=self.config.entropy_coef > 0)

    def old_logprobs(self, rollout: Rollout) -> torch.Tensor:
        return super().old_logprobs(rollout) if self.masked is None else self.masked.logprobs

    def _policy_loss(self, batch: Batch, reading: TokenReadings, rollout: Rollout, advantages: torch.Tensor,
                     tokens: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, metrics = super()._policy_loss(batch, reading, rollout, advantages, tokens)
        if reading.log_kept is not None:
            unmasked = batch.grid(reading.logprobs.detach() + reading.log_kept)
            _, change, _ = kl_estimates(unmasked, batch.trim(rollout.logprobs))
            metrics[measures.APPROX_KL] = zero_masked(change, batch.mask).sum() / tokens
        return loss, metrics
