"""The numbers of PPO as pure functions on tensors: KL, rewards, advantages, and the two losses.

Shapes: B responses, padded on the right to T tokens. `mask` is [B, T], bool or 0/1, one where a response has a token.
Every function computes in fp32, and values where the mask is zero, NaN included, change neither a result nor a
gradient.
"""

import math

import torch
import torch.nn.functional as F

from rlhf_engine.losses.masked import check_prefixes, check_shapes, zero_masked

MAX_LOG_RATIO = 20.0
"""Bound on a log-ratio before exp: e^20 = 4.9e8 is beyond anything meaningful, and far from the fp32 overflow at
e^88."""


ROUNDING = 1e-6
"""Largest relative difference between two scores that may be the rounding of 32 bits."""


class AllAlike(ValueError):
    """Scores that are all the same, which no gain can spread."""


# -- KL and rewards ----------------------------------------------------------------------------------------------------

def kl_estimates(logprobs: torch.Tensor,
                 ref_logprobs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per-token estimates k1, k2, k3 of KL(policy || reference), for tokens drawn from the policy.

    With d = logp - ref (Schulman 2020, "Approximating KL Divergence"):
    k1 = d is unbiased and signed; k2 = d^2 / 2 is biased, but its gradient is the KL's;
    k3 = exp(-d) - 1 + d is unbiased and never negative. (exp(d) - 1 - d would estimate the KL of the other direction.)

    Args:
        logprobs: [...], log-probabilities of the tokens under the policy, in nats.
        ref_logprobs: the same shape, under the reference.

    Returns:
        Three tensors of that shape, in nats per token. There is no mask here: average them with one.
    """
    check_shapes(logprobs, ref_logprobs)
    d = logprobs.float() - ref_logprobs.float()
    # expm1, because exp(-d) - 1 has lost all digits of d^2 / 2 at d = 1e-4. Below -20 both terms stop together, so k3
    # stays finite and positive. Above, exp(-d) is harmless and k3 = d - 1 needs no bound.
    bounded = d.clamp(min=-MAX_LOG_RATIO)
    return d, 0.5 * d**2, torch.expm1(-bounded) + bounded


def shaped_rewards(scores: torch.Tensor, logprobs: torch.Tensor, ref_logprobs: torch.Tensor, mask: torch.Tensor,
                   kl_coef: float, token_scores: torch.Tensor | None = None) -> torch.Tensor:
    """Per-token rewards: the KL penalty at every token, and the score of a response at its last token.

    Ziegler et al. 2019, eq. 2, spread over the tokens: -kl_coef * (logp - ref), plus the score. The penalty is the
    signed k1. Clamped at zero it would be biased, and it would never pay back a token that the policy made less likely.

    Args:
        scores: [B], in normalised reward.
        logprobs: [B, T], in nats.
        ref_logprobs: [B, T], in nats.
        mask: [B, T]; each row has at least one token.
        kl_coef: weight of the penalty, in normalised reward per nat.
        token_scores: [B, T], what each token adds to the score, if that is known. The last token then gets what is
            missing to the score.

    Returns:
        [B, T], 0 where masked out.
    """
    check_prefixes(mask)
    lengths = mask.bool().sum(1)
    check_shapes(scores, lengths)
    if (lengths == 0).any():
        raise ValueError("a response without tokens has no place for its score")
    rewards = -kl_coef * (zero_masked(logprobs, mask) - zero_masked(ref_logprobs, mask))
    # The last token follows from the length, never from the pad id: where pad equals the end token, a search for the
    # first pad ends one token early.
    is_last = torch.arange(mask.shape[1], device=mask.device) == lengths[:, None] - 1
    if token_scores is not None:
        token_scores = zero_masked(token_scores, mask)
        rewards = rewards + token_scores
        scores = scores - token_scores.sum(1)
    return rewards + torch.where(is_last, scores.float()[:, None], 0.0)


def missing_end_scores(scores: torch.Tensor, ended: torch.Tensor, *, mode: str, penalty: float) -> torch.Tensor:
    """Scores after the penalty for responses that were cut off.

    Args:
        scores: [B].
        ended: [B], true where the response ends with a stop token.
        mode: "replace" puts `penalty` in place of the score (Ziegler et al. 2019 and Huang et al. 2024 use -1);
            "subtract" takes abs(penalty) off it, so that either sign of the setting punishes; "none" changes nothing.
        penalty: in normalised reward.

    Returns:
        [B].
    """
    check_shapes(scores, ended)
    scores = scores.float()
    if mode == "none":
        return scores
    if mode == "replace":
        return torch.where(ended.bool(), scores, float(penalty))
    if mode == "subtract":
        return torch.where(ended.bool(), scores, scores - abs(penalty))
    raise ValueError(f'mode must be "replace", "subtract" or "none", not {mode!r}')


def gain_and_bias(scores: torch.Tensor, *, mean: float = 0.0, std: float = 1.0) -> tuple[float, float]:
    """The numbers (gain, bias) for which gain * scores + bias has this mean and this (biased) standard deviation.

    Ziegler et al. 2019 fit them before and after the training of the reward model, so that one KL coefficient means the
    same for every reward model.

    Args:
        scores: any shape, of responses by the reference policy.
        mean: to have afterwards.
        std: to have afterwards.

    Raises ValueError for fewer than two scores, for scores that are not finite, and `AllAlike` for scores that are all
    the same. Differences of a millionth of the scores are rounding: enlarged, they would be a reward that is noise.
    """
    scores = scores.detach().cpu().double().flatten()
    if scores.numel() < 2:
        raise ValueError(f"normalising the reward needs at least 2 reference samples, got {scores.numel()}")
    if not scores.isfinite().all():
        raise ValueError("a reference sample has a score that is not finite (NaN or infinite)")
    spread = scores.std(correction=0).item()
    if spread <= ROUNDING * scores.abs().max().item():
        raise AllAlike(f"all reference samples score the same ({scores[0].item():.6g}): nothing to learn from")
    gain = std / spread
    return gain, mean - gain * scores.mean().item()


# -- advantages --------------------------------------------------------------------------------------------------------

def gae(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float,
        lam: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimates, and the returns that the value function learns.

    Schulman et al. 2016, eq. 16: delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lam * A_{t+1}, with
    nothing after the last token. The returns A + V are taken here, before anyone whitens A.

    Args:
        rewards: [B, T].
        values: [B, T], the value of the state before each token.
        mask: [B, T].
        gamma: discount per token.
        lam: lambda of the estimator: 1 is unbiased, 0 has the least variance.

    Returns:
        (advantages, returns), both [B, T], 0 where masked out.
    """
    check_prefixes(mask)
    rewards, values = zero_masked(rewards, mask), zero_masked(values, mask)
    next_values = F.pad(values[:, 1:], (0, 1))  # pads hold zeros, so the value after the last token of each row is 0
    deltas = rewards + gamma * next_values - values
    advantage = torch.zeros_like(deltas[:, 0])
    backwards = []
    for delta in reversed(deltas.unbind(1)):
        advantage = delta + gamma * lam * advantage
        backwards.append(advantage)
    advantages = torch.stack(backwards[::-1], dim=1)
    return advantages, advantages + values


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 - mean((R - V)^2) / var(R) over the unmasked entries: a scalar, NaN if the returns do not vary.

    Args:
        values: [B, T].
        returns: [B, T].
        mask: [B, T].
    """
    check_shapes(values, returns, mask)
    values, returns = values.float()[mask.bool()], returns.float()[mask.bool()]
    # Shifted by one of them, equal returns have a variance of exactly 0. Their rounded mean would leave a remainder.
    shifted = returns - returns[:1]
    variance = (shifted - shifted.mean()).square().mean()
    return torch.where(variance > 0, 1 - (returns - values).square().mean() / variance, math.nan)


# -- losses ------------------------------------------------------------------------------------------------------------

def policy_loss(logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, *,
                clip: float, tokens: float, dual_clip: float = 0.0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7, negated).

    max(-A * ratio, -A * clamp(ratio, 1 - clip, 1 + clip)), summed over this micro-batch and divided by the tokens of
    the whole optimiser step. So micro-batches add up to exactly the loss and the gradient of the whole step, which a
    mean of means over responses of unequal lengths does not.

    Args:
        logprobs: [B, T], in nats, with gradients.
        old_logprobs: [B, T], of the policy that sampled; constants.
        advantages: [B, T]; constants.
        mask: [B, T].
        clip: range of the ratio around 1 within which the policy learns.
        tokens: unmasked tokens of the whole optimiser step.
        dual_clip: c > 1 bounds the loss of a token with A < 0 at -c * A (Ye et al. 2020, eq. 5); 0 does not.

    Returns:
        (loss, stats): a scalar; and scalars that add up in the same way: "approxkl" (0.5 * (logp - old)^2, in nats per
        token), "clipfrac" (share of clipped tokens), "ratio" (mean ratio, 1 before the first step).
    """
    losses, stats = clipped_surrogate(logprobs, old_logprobs, advantages, mask, low=clip, high=clip,
                                      dual_clip=dual_clip)
    return losses.sum() / tokens, {name: total / tokens for name, total in stats.items()}


def clipped_surrogate(logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor,
                      *, low: float, high: float, dual_clip: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The clipped loss of each token: max(-A * ratio, -A * clamp(ratio, 1 - low, 1 + high)).

    Arguments are those of `policy_loss`, with a range for each side of 1.

    Returns:
        (losses [B, T], 0 where masked out; sums over the tokens of "approxkl", "clipfrac" and "ratio").
    """
    difference = zero_masked(logprobs, mask) - zero_masked(old_logprobs, mask)
    advantages = zero_masked(advantages, mask)
    ratio = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high)
    stats = {"approxkl": 0.5 * difference**2, "clipfrac": clipped > unclipped, "ratio": ratio}
    losses = torch.maximum(unclipped, clipped)
    if dual_clip:
        losses = torch.where(advantages < 0, torch.minimum(losses, -dual_clip * advantages), losses)
    return losses, {name: zero_masked(x.detach(), mask).sum() for name, x in stats.items()}


def value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, *,
               clip: float, tokens: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Clipped squared error of the value function, as in the code of Ziegler et al. 2019.

    0.5 * max((V - R)^2, (clamp(V, V_old - clip, V_old + clip) - R)^2), summed and divided as in `policy_loss`.

    Args:
        values: [B, T], with gradients.
        old_values: [B, T], when the rollout was sampled; constants.
        returns: [B, T]; constants.
        mask: [B, T].
        clip: range around the old value; math.inf turns the clipping off.
        tokens: unmasked tokens of the whole optimiser step.

    Returns:
        (loss, stats): a scalar; and "clipfrac", a scalar that adds up in the same way.
    """
    values, old_values = zero_masked(values, mask), zero_masked(old_values, mask)
    returns = zero_masked(returns, mask)
    # Not old + clamp(V - old): that rounds, and values inside the range would count as clipped.
    near = values.clamp(old_values - clip, old_values + clip)
    unclipped, clipped = (values - returns) ** 2, (near - returns) ** 2
    stats = {"clipfrac": (clipped > unclipped).float().sum() / tokens}
    return 0.5 * torch.maximum(unclipped, clipped).sum() / tokens, stats
