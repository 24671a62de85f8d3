"""The numbers of the group learners (GRPO, RLOO, REINFORCE++) as pure functions: advantages, normalisers, losses.

Shapes: P prompts with G responses each make B = P * G rows, the responses to a prompt side by side; a response has at
most T tokens. `mask` is [B, T], one where a response has a token. Every function computes in fp32, and values where the
mask is zero, NaN included, change neither a result nor a gradient.
"""

from typing import Literal

import torch

from rlhf_engine.losses.masked import check_shapes, whiten, zero_masked
from rlhf_engine.losses.ppo import MAX_LOG_RATIO, clipped_surrogate, kl_estimates

Normaliser = Literal["grpo", "dapo", "dr_grpo"]
STD_EPSILON = 1e-4
"""Added to the standard deviation of a group (as in TRL; DeepSeekMath has none)."""
DEAD_SPREAD = 1e-3
"""Rewards of a group whose standard deviation is below this share of the reference's are all the same: the rest is
rounding noise, which a division by it would make as large as a real difference."""


# -- advantages --------------------------------------------------------------------------------------------------------

def dead_groups(scores: torch.Tensor, reference_std: float) -> torch.Tensor:
    """[P] bool: the groups whose scores are all the same, so that they say nothing about the policy.

    Args:
        scores: [P, G].
        reference_std: standard deviation of the scores of the starting policy's responses.
    """
    if scores.shape[1] < 2:
        return torch.zeros(len(scores), dtype=torch.bool)
    return scores.float().std(1, correction=0) <= DEAD_SPREAD * reference_std


def group_advantages(rewards: torch.Tensor, dead: torch.Tensor, *, leave_one_out: bool, scale: bool) -> torch.Tensor:
    """The advantages [P, G] of whole responses within their groups.

    GRPO (DeepSeekMath 2024, section 4.1): (r - mean) / (std + 1e-4), with the unbiased standard deviation of the group.
    RLOO (Ahmadian et al. 2024, eq. 6): r - mean of the others = (r - mean) G / (G - 1). A dead group is never divided
    by its standard deviation: what its rewards differ by is the KL penalty alone.

    Args:
        rewards: [P, G], the KL penalty included where it stands in the reward. G is at least 2.
        dead: [P] bool (`dead_groups`).
        leave_one_out: compare a response with the others of its group, without itself.
        scale: divide by the standard deviation of the group.
    """
    rewards = rewards.float()
    size = rewards.shape[1]
    if size < 2:
        raise ValueError("a group of one response has nothing to be compared with")
    advantages = rewards - rewards.mean(1, keepdim=True)
    if leave_one_out:
        advantages = advantages * (size / (size - 1))
    if scale:
        std = rewards.std(1, keepdim=True)
        advantages = torch.where(dead[:, None], advantages, advantages / (std + STD_EPSILON))
    return advantages


def batch_advantages(token_rewards: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The advantages [B, T] of REINFORCE++ (Hu 2025, eq. 8): what is earned from a token on, whitened over all tokens.

    Args:
        token_rewards: [B, T]: the KL penalty at each token, and the score at the last one.
        mask: [B, T].
    """
    rewards = zero_masked(token_rewards, mask)
    to_come = rewards.flip(1).cumsum(1).flip(1)
    return whiten(to_come, mask)


def overlong_penalty(lengths: torch.Tensor, longest: int, margin: int) -> torch.Tensor:
    """What a response loses for its length: [B], between -1 and 0 (DAPO, Yu et al. 2025, eq. 13).

    Nothing up to `longest` - `margin` tokens, then it falls in a straight line to -1 at `longest`.

    Args:
        lengths: [B], in tokens.
        longest: most tokens of a response.
        margin: how many tokens before that the penalty begins; 0 takes nothing off.
    """
    if not margin:
        return torch.zeros(lengths.shape)
    return ((longest - margin - lengths.float()) / margin).clamp(-1.0, 0.0)


# -- the loss ----------------------------------------------------------------------------------------------------------

def row_weights(lengths: torch.Tensor, normaliser: Normaliser, longest: int) -> torch.Tensor:
    """[B]: what each token of a row counts in the loss of an optimiser step over these rows.

    - `grpo`: 1 / (B |y|), the mean over responses of the mean over their tokens;
    - `dapo`: 1 / (tokens of all rows) (Yu et al. 2025, eq. 12);
    - `dr_grpo`: 1 / (B longest), a constant (Liu et al. 2025).

    Args:
        lengths: [B], in tokens.
        normaliser: one of these.
        longest: most tokens that a response may have.
    """
    lengths = lengths.float()
    if normaliser == "grpo":
        return 1 / (len(lengths) * lengths)
    if normaliser == "dapo":
        return torch.full_like(lengths, 1 / lengths.sum().item())
    if normaliser == "dr_grpo":
        return torch.full_like(lengths, 1 / (len(lengths) * longest))
    raise ValueError(f"there is no normaliser {normaliser!r}")


def group_loss(logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor,
               weights: torch.Tensor, *, clip: float, clip_high: float,
               dual_clip: float = 0.0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """PPO's clipped surrogate with a weight for each row: (loss, statistics).

    The sum of -min(rho A, clamp(rho, 1 - clip, 1 + clip_high) A) times the weight of the row. Micro-batches of an
    optimiser step add up to its loss and its gradient.

    Args:
        logprobs: [B, T], in nats, with gradients.
        old_logprobs: [B, T], of the policy that sampled; constants.
        advantages: [B, T]; constants.
        mask: [B, T].
        weights: [B] (`row_weights`).
        clip: range of the ratio below 1 within which the policy learns.
        clip_high: the same above 1.
        dual_clip: c > 1 bounds the loss of a token with A < 0 at -c * A; 0 does not.

    Returns:
        The loss, and sums over the tokens of this micro-batch: "approxkl" (0.5 * (logp - old)^2), "clipfrac", "ratio".
    """
    losses, sums = clipped_surrogate(logprobs, old_logprobs, advantages, mask, low=clip, high=clip_high,
                                     dual_clip=dual_clip)
    return (losses.sum(1) * weights).sum(), sums


def kl_loss(logprobs: torch.Tensor, old_logprobs: torch.Tensor, ref_logprobs: torch.Tensor, mask: torch.Tensor,
            weights: torch.Tensor, *, corrected: bool) -> torch.Tensor:
    """The KL to the reference as a loss, in nats, with a weight for each row: estimator k3 of each token.

    k3 itself is unbiased, but its gradient (1 - e^-d) grad log pi, with d = log(pi / reference), is not that of the KL.
    With `corrected` k3 is multiplied by the differentiable ratio rho = pi / pi_old. The gradient is then
    rho d grad log pi: that of the KL in expectation, also where rho is 1.

    Args:
        logprobs: [B, T], in nats, with gradients.
        old_logprobs: [B, T], of the policy that sampled; constants.
        ref_logprobs: [B, T], of the reference; constants.
        mask: [B, T].
        weights: [B] (`row_weights`).
        corrected: multiply by the ratio.
    """
    check_shapes(logprobs, old_logprobs, ref_logprobs, mask)
    logprobs = zero_masked(logprobs, mask)
    _, _, k3 = kl_estimates(logprobs, zero_masked(ref_logprobs, mask))
    if corrected:
        difference = logprobs - zero_masked(old_logprobs, mask)
        k3 = k3 * difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return (zero_masked(k3, mask).sum(1) * weights).sum()
