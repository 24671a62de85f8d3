"""The numbers of RLHF as pure functions on tensors: KL, rewards, GAE, whitening, the losses, the KL controller.

Shapes: B responses, padded on the right to T tokens. `mask` is [B, T], bool or 0/1, one where a token belongs to the
response. Every function computes in fp32 whatever it is given (bf16 keeps 8 bits, and a KL is a small difference of
large numbers), and whatever lies where the mask is zero, NaN included, changes neither a result nor a gradient.
"""

import math

import torch
import torch.nn.functional as F

MAX_LOG_RATIO = 20.0  # e^20 = 4.9e8 is beyond anything meaningful and still far from the fp32 overflow at e^88


def _check_shapes(*tensors):
    # [B] against [B, 1] or [B, T] would broadcast without a word into a wrong but plausible number.
    if len({tuple(t.shape) for t in tensors}) > 1:
        raise ValueError(f"shapes must be equal, got {[list(t.shape) for t in tensors]}")


def _check_prefixes(mask):
    if (mask[:, 1:].bool() & ~mask[:, :-1].bool()).any():
        raise ValueError("every mask row must be ones followed by zeros: one response, padded on the right")


def _kept(x, mask):
    """x in fp32 with zeros where masked out. `where`, not a product: NaN * 0 is NaN, in the backward pass too."""
    _check_shapes(x, mask)
    return torch.where(mask.bool(), x.float(), 0.0)


# -----------------------------------------------------------------------------
# masked statistics


def masked_mean(x, mask):
    """Mean of x [...] over the unmasked entries, a scalar; NaN if there are none."""
    return _kept(x, mask).sum() / mask.bool().sum()


def masked_var(x, mask):
    """Biased variance (divided by n) of x [...] over the unmasked entries, a scalar; NaN if there are none."""
    x = _kept(x, mask)
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(x, mask, *, shift_mean=True):
    """x [...] scaled to variance 1 over the unmasked entries; 0 where masked out.

    (x - mean) * rsqrt(var + 1e-8) with the biased variance, as in the code of Ziegler et al. 2019. The mean is added
    back iff shift_mean is False: advantages are centred, rewards only scaled.
    """
    if mask.bool().sum() < 2:
        raise ValueError("whitening needs at least two unmasked entries")
    x, mean = _kept(x, mask), masked_mean(x, mask)
    white = (x - mean) * torch.rsqrt(masked_var(x, mask) + 1e-8)
    return _kept(white if shift_mean else white + mean, mask)


def explained_variance(values, returns, mask):
    """1 - mean((R - V)^2) / var(R) over the unmasked entries of two [B, T]: a scalar, NaN if returns do not vary."""
    _check_shapes(values, returns, mask)
    values, returns = values.float()[mask.bool()], returns.float()[mask.bool()]
    # Shifted by one of them, equal returns have a variance of exactly 0; their rounded mean would leave some dust.
    var = ((returns - returns[:1]) - (returns - returns[:1]).mean()).square().mean()
    return torch.where(var > 0, 1 - (returns - values).square().mean() / var, math.nan)


# -----------------------------------------------------------------------------
# KL and rewards


def kl_estimates(logprobs, ref_logprobs):
    """Per-token estimates (k1, k2, k3) of KL(policy || reference), in nats, for tokens drawn from the policy.

    logprobs, ref_logprobs: the same shape, log-probabilities of the drawn tokens. With d = logp - ref (Schulman 2020,
    "Approximating KL Divergence"): k1 = d is unbiased and signed; k2 = d^2 / 2 is biased but its gradient is the KL's;
    k3 = exp(-d) - 1 + d is unbiased and never negative. k3 has exp(-d): exp(d) - 1 - d is the estimate for the wrong
    direction. No mask here: average the results with one.
    """
    _check_shapes(logprobs, ref_logprobs)
    d = logprobs.float() - ref_logprobs.float()
    # expm1, since exp(-d) - 1 has lost all digits of d^2 / 2 at d = 1e-4. Below -20 both terms stop together, so k3
    # stays finite and positive; above, exp(-d) is harmless and k3 = d - 1 needs no bound.
    bounded = d.clamp(min=-MAX_LOG_RATIO)
    return d, 0.5 * d**2, torch.expm1(-bounded) + bounded


def shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef, token_scores=None):
    """Rewards [B, T]: -kl_coef * (logp - ref) at every token, plus scores[b] at the last token of row b.

    scores [B]; the others [B, T]. Where it is known what each token adds to a score, `token_scores` has it, and the last token gets what
    is missing to the score. Ziegler et al. 2019, eq. 2, spread over the tokens. The penalty is the signed k1:
    clamped at zero it would be biased and would never pay back a token that the policy made less likely.
    """
    _check_prefixes(mask)
    lengths = mask.bool().sum(1)
    _check_shapes(scores, lengths)
    if (lengths == 0).any():
        raise ValueError("a response without tokens has no place for its score")
    rewards = -kl_coef * (_kept(logprobs, mask) - _kept(ref_logprobs, mask))
    # From the length, never from the pad id: with pad == eos that search ends one token early.
    last = torch.arange(mask.shape[1], device=mask.device) == lengths[:, None] - 1
    if token_scores is not None:
        rewards, scores = rewards + _kept(token_scores, mask), scores - _kept(token_scores, mask).sum(1)
    return rewards + torch.where(last, scores.float()[:, None], 0.0)


def missing_end_scores(scores, ended, *, mode, penalty):
    """Scores [B] after the penalty for responses that were cut off; ended [B] is true where a stop token came.

    "replace" puts `penalty` in the place of the score (Ziegler et al. 2019 and Huang et al. 2024 use -1), "subtract"
    takes abs(penalty) off it, so that either sign of the setting punishes, and "none" leaves the scores alone.
    """
    _check_shapes(scores, ended)
    scores = scores.float()
    if mode == "none":
        return scores
    if mode == "replace":
        return torch.where(ended.bool(), scores, float(penalty))
    if mode == "subtract":
        return torch.where(ended.bool(), scores, scores - abs(penalty))
    raise ValueError(f'mode must be "replace", "subtract" or "none", not {mode!r}')


def gain_and_bias(scores, *, mean=0.0, std=1.0):
    """Floats (gain, bias) such that gain * scores + bias has this mean and this (biased) standard deviation.

    scores: any shape, of responses by the reference policy (Ziegler et al. 2019 fit on those, before and after training
    the reward model), so that one KL coefficient means the same for every reward model.
    """
    scores = scores.detach().cpu().double().flatten()
    if scores.numel() < 2:
        raise ValueError(f"normalising the reward needs at least 2 reference samples, got {scores.numel()}")
    if not scores.isfinite().all():
        raise ValueError("a reference sample has a score that is not finite (NaN or infinite)")
    spread = scores.std(correction=0).item()
    if spread < 1e-8:
        raise ValueError(f"all reference samples score the same ({scores[0].item():.6g}): nothing to learn from")
    gain = std / spread
    return gain, mean - gain * scores.mean().item()


# -----------------------------------------------------------------------------
# advantages


def gae(rewards, values, mask, *, gamma, lam):
    """Generalised advantage estimates: (advantages, returns), both [B, T], 0 where masked out.

    Schulman et al. 2016, eq. 16: delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lam * A_{t+1}, with
    nothing after the last token. returns = A + V are the targets of the value head, so they are taken here, before
    anyone whitens A.
    """
    _check_prefixes(mask)
    rewards, values = _kept(rewards, mask), _kept(values, mask)
    next_values = F.pad(values[:, 1:], (0, 1))  # pads hold zeros, so the value after the last token of each row is 0
    deltas = rewards + gamma * next_values - values
    advantage, advantages = torch.zeros_like(deltas[:, 0]), []
    for delta in reversed(deltas.unbind(1)):
        advantage = delta + gamma * lam * advantage
        advantages.append(advantage)
    advantages = torch.stack(advantages[::-1], dim=1)
    return advantages, advantages + values


# -----------------------------------------------------------------------------
# losses


def policy_loss(logprobs, old_logprobs, advantages, mask, *, clip, tokens, dual_clip=0.0):
    """PPO's clipped surrogate: (loss, stats). Tensors [B, T]; old_logprobs and advantages are constants.

    Schulman et al. 2017, eq. 7, negated: max(-A * ratio, -A * clamp(ratio, 1 - clip, 1 + clip)) summed over this
    micro-batch and divided by `tokens`, the unmasked tokens of the whole optimiser step: micro-batches then add up to
    exactly the loss and the gradient of the whole, which a mean of means over ragged responses does not. The stats add
    up likewise: "approxkl" (0.5 * (logp - old)^2, nats per token), "clipfrac" and "ratio" (1 before the first step).
    dual_clip c > 1 bounds what a token with A < 0 can cost at -c * A (Ye et al. 2020, eq. 5); 0 does not.
    """
    difference = _kept(logprobs, mask) - _kept(old_logprobs, mask)
    advantages = _kept(advantages, mask)
    ratio = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    stats = {"approxkl": 0.5 * difference**2, "clipfrac": clipped > unclipped, "ratio": ratio}
    stats = {name: _kept(x.detach(), mask).sum() / tokens for name, x in stats.items()}
    loss = torch.maximum(unclipped, clipped)
    if dual_clip:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return loss.sum() / tokens, stats


def value_loss(values, old_values, returns, mask, *, clip, tokens):
    """Clipped squared error of the value head: (loss, stats). Tensors [B, T]; old_values and returns are constants.

    0.5 * max((V - R)^2, (clamp(V, V_old - clip, V_old + clip) - R)^2), as in the code of Ziegler et al. 2019, summed
    and divided by `tokens` as in policy_loss. stats: "clipfrac". clip=math.inf turns the clipping off.
    """
    values, old_values, returns = _kept(values, mask), _kept(old_values, mask), _kept(returns, mask)
    # Not old + clamp(V - old): that rounds, and values inside the range would count as clipped.
    near = values.clamp(old_values - clip, old_values + clip)
    unclipped, clipped = (values - returns) ** 2, (near - returns) ** 2
    stats = {"clipfrac": (clipped > unclipped).float().sum() / tokens}
    return 0.5 * torch.maximum(unclipped, clipped).sum() / tokens, stats


# -----------------------------------------------------------------------------
# KL controller


SMOOTHING = 0.3
"""Share of the newest difference in the trend of the KL."""


class KLController:
    """Moves the KL coefficient so that the measured KL stays near a target (Ziegler et al. 2019, section 2.2).

    target: nats per SEQUENCE (sum over the tokens, mean over the batch). horizon: episodes over which the coefficient
    can change by about a fifth; None or inf keeps it fixed. Update once per rollout batch, not per minibatch.

    lookahead: updates to look ahead. The paper's rule (0) lowers the coefficient for as long as the KL is below its target, however
    fast it rises, and in a short run brakes when it is far beyond. With a lookahead the rule is fed what the KL will be by
    then, by its smoothed trend.

    floor: the coefficient is never lowered beneath it. With one the target is a limit more than an aim: a policy that has found what it
    was looking for at half of the KL is not driven on.
    """

    def __init__(self, coef, target, horizon, lookahead=0.0, kl=None, trend=0.0, floor=0.0):
        self.coef, self.lookahead, self.floor = float(coef), float(lookahead), float(floor)
        self.kl, self.trend = kl, trend
        """The last KL, and by how much it has lately risen per update."""
        self.aim(target, horizon)

    def aim(self, target, horizon):
        """Another target or horizon from now on."""
        self.target, self.horizon = float(target), math.inf if horizon is None else float(horizon)
        coef, lookahead = self.coef, self.lookahead
        if not (0 <= coef < math.inf and self.target > 0 and self.horizon > 0 and 0 <= lookahead < math.inf):
            raise ValueError(f"need coef >= 0, target > 0, horizon > 0, lookahead >= 0, got {coef}, {target}, {horizon}, {lookahead}")

    def update(self, kl, episodes):
        """The new coefficient after `episodes` responses whose mean KL was `kl` nats per sequence."""
        kl = float(kl)
        if math.isnan(kl):
            raise ValueError("the measured KL is NaN")  # min() and max() would quietly take it for a large one
        self.trend += SMOOTHING * ((0.0 if self.kl is None else kl - self.kl) - self.trend)
        self.kl = kl
        error = min(max((kl + self.lookahead * self.trend) / self.target - 1, -0.2), 0.2)
        # The paper's horizon of 10,000 never comes near these bounds. One fitted to a short run does: from
        # episodes / horizon = 5 on the factor can reach zero or below, and the penalty is gone, or a bonus, for good.
        coef = self.coef * min(max(1 + error * episodes / self.horizon, 0.5), 2.0)
        self.coef = max(coef, min(self.coef, self.floor))
        return self.coef

    def state_dict(self):
        return {"coef": self.coef, "target": self.target, "horizon": self.horizon, "lookahead": self.lookahead, "kl": self.kl,
                "trend": self.trend, "floor": self.floor}

    def load_state_dict(self, state):
        self.__init__(**state)
