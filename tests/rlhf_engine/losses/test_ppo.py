"""Every number against an independent formula or a value worked out by hand, never against a copy of the code."""

import math

import pytest
import torch

from rlhf_engine.losses.masked import masked_mean, masked_var, whiten
from rlhf_engine.losses.ppo import (
    explained_variance,
    gae,
    gain_and_bias,
    kl_estimates,
    missing_end_scores,
    policy_loss,
    shaped_rewards,
    value_loss,
)

LENGTH_FIELDS = [5, 2, 7, 1, 3, 7, 4, 6]


def ragged(lengths=LENGTH_FIELDS, width=None):
    return torch.arange(width or max(lengths)) < torch.tensor(lengths)[:, None]


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, atol=1e-5, rtol=1e-5):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=rtol, check_dtype=False)


# -----------------------------------------------------------------------------
# every function with a mask: pads are ignored, shapes must agree, bf16 is computed in fp32

# name -> (function of (three [B, T] tensors, mask), how many of the tensors it uses); all results as one flat tuple
MASKED = {
    "masked_mean": (lambda x, y, z, m: (masked_mean(x, m),), 1),
    "masked_var": (lambda x, y, z, m: (masked_var(x, m),), 1),
    "whiten": (lambda x, y, z, m: (whiten(x, m),), 1),
    "whiten_unshifted": (lambda x, y, z, m: (whiten(x, m, shift_mean=False),), 1),
    "explained_variance": (lambda x, y, z, m: (explained_variance(x, y, m),), 2),
    "shaped_rewards": (lambda x, y, z, m: (shaped_rewards(torch.arange(8.0), x, y, m, 0.3),), 2),
    "gae": (lambda x, y, z, m: gae(x, y, m, gamma=0.9, lam=0.8), 2),
    "policy_loss": (lambda x, y, z, m: flat(policy_loss(x, y, z, m, clip=0.2, tokens=35)), 3),
    "value_loss": (lambda x, y, z, m: flat(value_loss(x, y, z, m, clip=0.2, tokens=35)), 3),
}


def flat(loss_and_stats):
    loss, stats = loss_and_stats
    return (loss, *stats.values())


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e38])
def test_garbage_in_pads_changes_neither_results_nor_gradients(name, garbage):
    function, used = MASKED[name]
    mask = ragged()
    results, gradients = [], []
    for fill in (0.0, garbage):
        inputs = [torch.where(mask, normal(8, 7, seed=i), fill).requires_grad_() for i in range(3)]
        outputs = function(*inputs, mask)
        sum((out * normal(*out.shape, seed=9)).sum() for out in outputs if out.requires_grad).backward()
        results.append(outputs)
        gradients.append([x.grad for x in inputs[:used]])
    for clean, dirty in zip(*results):
        assert dirty.isfinite().all() and torch.equal(clean, dirty)
    for clean, dirty in zip(*gradients):
        assert dirty.isfinite().all() and torch.equal(clean, dirty) and not dirty[~mask].any()
    assert gradients[0][0].any()


@pytest.mark.parametrize("name", MASKED)
def test_more_padding_changes_nothing(name):
    function, _ = MASKED[name]
    inputs = [normal(8, 10, seed=i) for i in range(3)]
    narrow, wide = function(*(x[:, :7] for x in inputs), ragged()), function(*inputs, ragged(width=10))
    for a, b in zip(narrow, wide):
        close(a, b[:, :7] if b.dim() else b)
        assert not b.dim() or not b[:, 7:].any()


@pytest.mark.parametrize("name", MASKED)
def test_shapes_that_would_broadcast_are_refused(name):
    function, used = MASKED[name]
    for i in range(used):
        inputs = [normal(8, 7, seed=j) for j in range(3)]
        inputs[i] = inputs[i][:, :1]
        with pytest.raises(ValueError, match="shapes"):
            function(*inputs, ragged())


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.long, torch.float32, torch.bfloat16])
def test_bf16_is_computed_in_fp32_and_any_mask_dtype_works(name, mask_dtype):
    function, _ = MASKED[name]
    inputs = [normal(8, 7, seed=i).bfloat16() for i in range(3)]
    outputs = function(*inputs, ragged().to(mask_dtype))
    for out, expected in zip(outputs, function(*(x.float() for x in inputs), ragged())):
        assert out.dtype == torch.float32 and torch.equal(out, expected)


@pytest.mark.parametrize("function", [
    lambda x, m: shaped_rewards(torch.zeros(2), x, x, m, 0.1), lambda x, m: gae(x, x, m, gamma=1, lam=1)])
def test_masks_with_holes_or_left_pads_are_refused(function):
    for row in ([0, 1, 1], [1, 0, 1]):
        with pytest.raises(ValueError, match="mask row"):
            function(torch.zeros(2, 3), torch.tensor([[1, 1, 1], row]))


# -----------------------------------------------------------------------------
# statistics


def test_masked_mean_and_biased_variance_by_hand():
    x, mask = torch.tensor([[1.0, 2, 50], [6, 50, 50]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert masked_mean(x, mask) == 3
    close(masked_var(x, mask), 14 / 3)  # (4 + 1 + 9) / 3; unbiased it would be 7


def test_statistics_of_nothing_are_nan():
    x, noop = torch.ones(2, 3), torch.zeros(2, 3)
    assert masked_mean(x, noop).isnan() and masked_var(x, noop).isnan()
    assert explained_variance(x, x, noop).isnan()


def test_whiten_by_hand():
    x, mask = torch.tensor([[1.0, 3, 99]]), torch.tensor([[1, 1, 0]])  # mean 2, biased standard deviation 1
    close(whiten(x, mask), [[-1.0, 1, 0]])
    close(whiten(x, mask, shift_mean=False), [[1.0, 3, 0]])


def test_whiten_centres_unless_asked_not_to():
    mask = ragged()
    x = torch.where(mask, 3 + normal(8, 7, scale=5.0), 1000.0)
    n, kept = sum(LENGTH_FIELDS), x[mask].double()
    for shift_mean, mean in ((True, 0.0), (False, kept.mean().item())):
        white = whiten(x, mask, shift_mean=shift_mean)
        assert not white[~mask].any()
        white = white[mask].double()
        close(white.mean(), mean)
        close(((white - white.mean()) ** 2).sum() / n, 1.0)
    assert abs(kept.mean()) > 1  # else the two cases could not be told apart
    close(whiten(x, mask), whiten(x, mask, shift_mean=False) - kept.mean() * mask, atol=1e-4)


def test_whiten_needs_two_entries_and_survives_equal_ones():
    for mask in ([[0, 0, 0]], [[1, 0, 0]]):
        with pytest.raises(ValueError, match="two"):
            whiten(torch.ones(1, 3), torch.tensor(mask))
    close(whiten(torch.full((4, 5), 0.1), torch.ones(4, 5)), torch.zeros(4, 5), atol=1e-3)


def test_explained_variance_by_hand():
    returns, mask = torch.tensor([[0.0, 2, 4, 9]]), torch.tensor([[1, 1, 1, 0]])
    close(explained_variance(returns, returns, mask), 1.0)
    close(explained_variance(torch.full((1, 4), 2.0), returns, mask), 0.0)  # the mean explains nothing
    close(explained_variance(torch.tensor([[1.0, 2, 3, 9]]), returns, mask), 0.75)  # 1 - (2 / 3) / (8 / 3)
    close(explained_variance(-returns, returns, mask), 1 - (80 / 3) / (8 / 3))  # worse than nothing is negative
    for constant in (2.0, 0.1, 1234.567):  # the mean of many 0.1 is not exactly 0.1 in fp32
        returns = torch.full((7, 13), constant)
        assert explained_variance(normal(7, 13), returns, torch.ones(7, 13)).isnan()


# -----------------------------------------------------------------------------
# KL estimates


def test_kl_estimates_of_two_gaussians():
    # policy N(0, 1), reference N(0.3, 0.8^2): narrower, so that exp(-d) has no heavy tail
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    mu, sigma = 0.3, 0.8
    policy = -0.5 * x**2
    reference = -0.5 * ((x - mu) / sigma) ** 2 - math.log(sigma)
    analytic = math.log(sigma) + (1 + mu**2) / (2 * sigma**2) - 0.5  # KL(policy || reference)
    reverse = -math.log(sigma) + (sigma**2 + mu**2) / 2 - 0.5
    k1, k2, k3 = kl_estimates(policy, reference)
    for k in (k1, k3):
        assert abs(k.double().mean() - analytic) < 5 * k.double().std() / len(x) ** 0.5
    assert abs(k3.mean() - reverse) > 0.1 * analytic  # the other direction is far outside the tolerance
    assert (k3 >= 0).all() and (k1 < 0).any()
    # k2 of equal widths: d = mu^2/2 - mu x, so E[d^2] / 2 = mu^2/2 + mu^4/8, biased by mu^4/8
    _, k2, _ = kl_estimates(-0.5 * x**2, -0.5 * (x - 1) ** 2)
    close(k2.double().mean(), 0.5 + 1 / 8, atol=0.01)


def test_kl_estimates_in_exact_expectation_over_a_softmax():
    p, q = (normal(7, seed=s).double().log_softmax(0) for s in (2, 3))
    kl, reverse = (sum(a.exp() * (a - b)).item() for a, b in ((p, q), (q, p)))
    k1, k2, k3 = kl_estimates(p, q)
    close((p.exp() * k1).sum(), kl)
    close((p.exp() * k3).sum(), kl)
    close((p.exp() * k2).sum(), sum(math.exp(a) * (a - b) ** 2 / 2 for a, b in zip(p.tolist(), q.tolist())))
    assert abs(kl - reverse) > 0.01
    # the wrong direction, exp(d) - 1 - d, is not the KL of anything here
    assert abs((p.exp() * ((p - q).exp() - 1 - (p - q))).sum() - kl) > 0.01


def test_k2_has_the_gradient_of_the_kl():
    logits = normal(6, seed=4).requires_grad_()
    ref = normal(6, seed=5).log_softmax(0)
    logp = logits.log_softmax(0)
    true = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits, retain_graph=True)[0]
    weights = logp.detach().exp()  # samples are drawn, not differentiated
    _, k2, k3 = kl_estimates(logp, ref)
    close(torch.autograd.grad((weights * k2).sum(), logits, retain_graph=True)[0], true)
    assert (torch.autograd.grad((weights * k3).sum(), logits)[0] - true).abs().max() > 0.01


def test_k3_by_hand_and_its_direction():
    d = torch.tensor([1.0, -1.0, 0.0])
    _, _, k3 = kl_estimates(d - 3, torch.full((3,), -3.0))
    close(k3, [math.exp(-1), math.e - 2, 0.0])  # .368 and .718: a token the reference likes more costs more
    assert k3[1] > k3[0]


def test_k3_keeps_its_digits_near_zero():
    d = torch.cat([torch.logspace(-4, -1, 50), -torch.logspace(-4, -1, 50)])
    _, _, k3 = kl_estimates(d, torch.zeros_like(d))
    exact = torch.special.expm1(-d.double()) + d.double()
    assert ((k3 - exact) / exact).abs().max() < 2e-3
    assert ((((-d).exp() - 1 + d) - exact) / exact).abs().max() > 1  # the plain formula has not one digit left
    tiny = torch.logspace(-12, -4, 200)
    for d in (tiny, -tiny):
        assert (kl_estimates(d, torch.zeros_like(d))[2] >= 0).all()


def test_k3_is_finite_and_never_negative_far_out():
    d = torch.tensor([-1e30, -1e9, -100.0, -21.0, 21.0, 100.0, 1e9], requires_grad=True)
    _, _, k3 = kl_estimates(d, torch.zeros(7))
    assert k3.isfinite().all() and (k3 >= 0).all()
    close(k3[4:].detach(), [20.0, 99.0, 1e9 - 1])
    close(k3[:4].detach(), [math.exp(20) - 21] * 4)
    k3.sum().backward()
    assert d.grad.isfinite().all()


def test_kl_estimates_cast_and_refuse_broadcasting():
    a, b = normal(4, 5).bfloat16(), normal(4, 5, seed=1).bfloat16()
    for out, expected in zip(kl_estimates(a, b), kl_estimates(a.float(), b.float())):
        assert out.dtype == torch.float32 and torch.equal(out, expected)
    with pytest.raises(ValueError, match="shapes"):
        kl_estimates(a, b[:, :1])


# -----------------------------------------------------------------------------
# rewards


def test_shaped_rewards_by_hand():
    logprobs = torch.tensor([[-1.0, -2, -3], [-1, -5, -5]])
    ref = torch.tensor([[-2.0, -1, -3], [-3, -1, -1]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    rewards = shaped_rewards(torch.tensor([10.0, 20]), logprobs, ref, mask, 0.5)
    close(rewards, [[-0.5, 0.5, 10.0], [19.0, 0, 0]])  # the second token, now less likely, is paid


def test_score_sits_on_the_last_kept_token_and_nowhere_else():
    mask = ragged()
    scores = 1 + torch.arange(8.0)
    rewards = shaped_rewards(scores, torch.zeros(8, 7), torch.zeros(8, 7), mask, 0.1)
    for b, length in enumerate(LENGTH_FIELDS):
        assert rewards[b].tolist() == [scores[b].item() if t == length - 1 else 0 for t in range(7)]


def test_token_scores_by_hand():
    """Each at its token, and the last token gets what they leave of the score; nothing of what stands behind the mask."""
    mask, zeros = torch.tensor([[1, 1, 1], [1, 1, 0]]), torch.zeros(2, 3)
    rewards = shaped_rewards(torch.tensor([10.0, 2.0]), zeros, zeros, mask, 0.5, torch.tensor([[1.0, 4.0, 2.0], [-1.0, 3.0, 99.0]]))
    torch.testing.assert_close(rewards, torch.tensor([[1.0, 4.0, 5.0], [-1.0, 3.0, 0.0]]))


def test_the_sum_of_shaped_rewards_is_score_minus_kl():
    mask, logp, ref = ragged(), normal(8, 7), normal(8, 7, seed=1)
    scores = normal(8, seed=2)
    rewards = shaped_rewards(scores, logp, ref, mask, 0.2)
    for b, length in enumerate(LENGTH_FIELDS):
        kl = sum((logp[b, t] - ref[b, t]).item() for t in range(length))
        close(rewards[b].sum(), scores[b].item() - 0.2 * kl)


def test_shaped_rewards_refuses_an_empty_response_and_scores_of_another_shape():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="without tokens"):
        shaped_rewards(torch.zeros(2), x, x, torch.tensor([[1, 1, 0], [0, 0, 0]]), 0.1)
    for scores in (torch.zeros(2, 1), torch.zeros(1), torch.zeros(3)):
        with pytest.raises(ValueError, match="shapes"):
            shaped_rewards(scores, x, x, torch.ones(2, 3), 0.1)


def test_missing_end_modes():
    scores, ended = torch.tensor([2.0, 3, -4]), torch.tensor([True, False, False])
    assert missing_end_scores(scores, ended, mode="replace", penalty=-1.0).tolist() == [2, -1, -1]
    assert missing_end_scores(scores, ended, mode="none", penalty=-1.0).tolist() == [2, 3, -4]
    for penalty in (1.5, -1.5):  # either sign punishes
        assert missing_end_scores(scores, ended, mode="subtract", penalty=penalty).tolist() == [2, 1.5, -5.5]
    assert scores.tolist() == [2, 3, -4]
    with pytest.raises(ValueError, match="replace"):
        missing_end_scores(scores, ended, mode="clip", penalty=1.0)
    with pytest.raises(ValueError, match="shapes"):
        missing_end_scores(scores, ended[:1], mode="replace", penalty=1.0)


def test_missing_end_replaces_nan_and_keeps_fp32():
    out = missing_end_scores(torch.tensor([math.nan, 1.0]).bfloat16(), torch.tensor([0, 1]), mode="replace", penalty=-1)
    assert out.dtype == torch.float32 and out.tolist() == [-1, 1]


def test_gain_and_bias_by_hand_and_in_general():
    close(gain_and_bias(torch.tensor([1.0, 5])), (0.5, -1.5))  # mean 3, biased standard deviation 2
    scores = normal(256, seed=6, scale=3.0) - 40
    for mean, std in ((0.0, 1.0), (2.0, 0.5)):
        gain, bias = gain_and_bias(scores, mean=mean, std=std)
        assert type(gain) is float and type(bias) is float
        new = [gain * s + bias for s in scores.tolist()]
        average = sum(new) / 256
        close(average, mean)
        close(math.sqrt(sum((s - average) ** 2 for s in new) / 256), std)
        assert new[0] < new[1] if scores[0] < scores[1] else new[0] >= new[1]


@pytest.mark.parametrize("scores, message", [
    ([1.0], "at least 2"), ([], "at least 2"), ([1.0, math.nan], "not finite"), ([1.0, math.inf], "not finite"),
    ([0.1] * 100, "all reference samples score the same"), ([1.0, 1.0 + 1e-9], "all reference samples score the same")])
def test_gain_and_bias_refuses(scores, message):
    with pytest.raises(ValueError, match=message):
        gain_and_bias(torch.tensor(scores, dtype=torch.double))


# -----------------------------------------------------------------------------
# advantages


def test_gae_by_hand():
    rewards, values = torch.tensor([[0.0, 1, 7]]), torch.tensor([[0.5, 0.25, 7]])
    advantages, returns = gae(rewards, values, torch.tensor([[1, 1, 0]]), gamma=1.0, lam=0.95)
    # delta_1 = 1 - .25 = .75, delta_0 = 0 + .25 - .5 = -.25, A_0 = -.25 + .95 * .75
    close(advantages, [[0.4625, 0.75, 0]])
    close(returns, [[0.9625, 1.0, 0]])


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.7), (0.99, 0.0), (0.8, 1.0), (1.0, 1.0)])
def test_gae_is_the_discounted_sum_of_deltas(gamma, lam):
    rewards, values = normal(8, 7), normal(8, 7, seed=1)
    advantages, returns = gae(rewards, values, ragged(), gamma=gamma, lam=lam)
    for b, length in enumerate(LENGTH_FIELDS):
        r, v = rewards[b, :length].double().tolist(), values[b, :length].double().tolist() + [0.0]
        for t in range(length):
            expected = sum((gamma * lam) ** (s - t) * (r[s] + gamma * v[s + 1] - v[s]) for s in range(t, length))
            close(advantages[b, t], expected)
            close(returns[b, t], expected + v[t])
            if lam == 1:  # telescopes: the discounted rewards to come
                close(returns[b, t], sum(gamma ** (s - t) * r[s] for s in range(t, length)))
        assert not advantages[b, length:].any() and not returns[b, length:].any()


def test_gae_of_an_empty_row_is_zero():
    advantages, returns = gae(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([[0, 0, 0], [1, 0, 0]]), gamma=1, lam=1)
    assert not advantages.any() and returns.tolist() == [[0, 0, 0], [1, 0, 0]]


# -----------------------------------------------------------------------------
# losses


def test_policy_loss_against_a_plain_loop():
    mask, tokens = ragged(), sum(LENGTH_FIELDS)
    logp, old, adv = (normal(8, 7, seed=s, scale=0.4) for s in (0, 1, 2))
    loss, stats = policy_loss(logp, old, adv, mask, clip=0.2, tokens=tokens)
    total = clipped = approxkl = ratios = 0.0
    for b, length in enumerate(LENGTH_FIELDS):
        for t in range(length):
            a, d = adv[b, t].item(), logp[b, t].item() - old[b, t].item()
            ratio = math.exp(d)
            surrogate = min(a * ratio, a * min(max(ratio, 0.8), 1.2))
            total, ratios, approxkl = total - surrogate, ratios + ratio, approxkl + d * d / 2
            clipped += (a > 0 and ratio > 1.2) or (a < 0 and ratio < 0.8)
    close(loss, total / tokens)
    close(stats["ratio"], ratios / tokens)
    close(stats["approxkl"], approxkl / tokens)
    close(stats["clipfrac"], clipped / tokens)
    assert 5 < clipped < tokens - 5
    assert set(stats) == {"approxkl", "clipfrac", "ratio"}


def test_policy_loss_at_ratio_one_is_the_vanilla_policy_gradient():
    mask, tokens = ragged(), sum(LENGTH_FIELDS)
    logits, adv = normal(8, 7, 11).requires_grad_(), normal(8, 7, seed=1)
    actions = torch.randint(11, (8, 7, 1), generator=torch.Generator().manual_seed(2))
    logp = logits.log_softmax(-1).gather(-1, actions)[..., 0]
    loss, stats = policy_loss(logp, logp.detach(), adv, mask, clip=0.2, tokens=tokens)
    assert stats["ratio"] == 1 and stats["clipfrac"] == 0 and stats["approxkl"] == 0
    close(loss.detach(), -adv[mask].mean())
    gradient = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    # d log softmax / d logits = onehot - p, worked out by hand
    score = torch.zeros(8, 7, 11).scatter(-1, actions, 1.0) - logits.detach().softmax(-1)
    close(gradient, -adv[..., None] * score * mask[..., None] / tokens, atol=1e-7)
    assert gradient.any()


@pytest.mark.parametrize("ratio, advantage, gradient, clipped", [
    (1.5, 2.0, 0.0, 1), (0.5, 2.0, -1.0, 0), (1.5, -2.0, 3.0, 0), (0.5, -2.0, 0.0, 1), (1.1, 2.0, -2.2, 0),
    (0.9, -2.0, 1.8, 0), (1.0, 2.0, -2.0, 0)])
def test_clipping_stops_the_gradient_only_where_it_would_go_further(ratio, advantage, gradient, clipped):
    logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
    mask = torch.ones(1, 1)
    loss, stats = policy_loss(logp, torch.zeros(1, 1), torch.tensor([[advantage]]), mask, clip=0.2, tokens=1)
    loss.backward()
    close(logp.grad, [[gradient]])
    assert stats["clipfrac"] == clipped


def test_dual_clip_by_hand():
    """Ratios 10 and 1.1 with advantages -2, -2, +2: only the first costs more than three times its advantage."""
    mask, advantages = torch.ones(1, 3), torch.tensor([[-2.0, -2.0, 2.0]])
    logprobs = torch.log(torch.tensor([[10.0, 1.1, 10.0]])).requires_grad_()
    loss, _ = policy_loss(logprobs, torch.zeros(1, 3), advantages, mask, clip=0.2, tokens=1, dual_clip=3.0)
    close(loss, 6.0 + 2.2 - 2.4)
    loss.backward()
    close(logprobs.grad, [[0.0, 2.2, 0.0]])  # what is bounded pushes no further
    close(policy_loss(logprobs, torch.zeros(1, 3), advantages, mask, clip=0.2, tokens=1)[0], 20.0 + 2.2 - 2.4)


def test_policy_loss_survives_a_huge_ratio():
    logp = torch.tensor([[200.0, -200.0]], requires_grad=True)
    zero, advantages = torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]])
    loss, stats = policy_loss(logp, zero, advantages, torch.ones(1, 2), clip=0.2, tokens=2)
    loss.backward()
    close(loss.detach(), math.exp(20) / 2)
    close(stats["approxkl"], 20_000.0)
    assert stats["ratio"].isfinite() and logp.grad.isfinite().all()


def test_value_loss_by_hand():
    values = torch.tensor([[1.0, 1.0, 1.0, 0.1, 3.0, 9.0]], requires_grad=True)
    old = torch.tensor([[0.0, 0.0, 0.0, 0.0, 3.1, 0.0]])
    returns = torch.tensor([[2.0, 3.0, 0.5, 0.0, 0.0, 9.0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    loss, stats = value_loss(values, old, returns, mask, clip=0.2, tokens=5)
    # clamped .2, .2, .2, .1, 3: max(1, 3.24), max(4, 7.84), max(.25, .09), .01, 9
    close(loss.detach(), 0.5 * (3.24 + 7.84 + 0.25 + 0.01 + 9) / 5)
    close(stats["clipfrac"], 0.4)
    assert set(stats) == {"clipfrac"}
    loss.backward()
    close(values.grad, [[0.0, 0.0, 0.5 / 5, 0.1 / 5, 3 / 5, 0]])  # no gradient where the clamped error is the larger
    plain, stats = value_loss(values, old, returns, mask, clip=math.inf, tokens=5)
    close(plain.detach(), 0.5 * (1 + 4 + 0.25 + 0.01 + 9) / 5)
    assert stats["clipfrac"] == 0


def test_values_inside_the_range_never_count_as_clipped():
    old, values = normal(64, 64), normal(64, 64, seed=1)  # old + (value - old) is not always the value
    _, stats = value_loss(values, old, torch.zeros(64, 64), torch.ones(64, 64), clip=100.0, tokens=64 * 64)
    assert stats["clipfrac"] == 0


@pytest.mark.parametrize("loss_function", [policy_loss, value_loss])
def test_microbatches_add_up_to_the_whole_batch(loss_function):
    mask, tokens = ragged(), sum(LENGTH_FIELDS)
    x, old, target = (normal(8, 7, seed=s, scale=0.4) for s in (0, 1, 2))

    def run(size, trim=False, own_count=False):
        weight = torch.ones(7, requires_grad=True)  # a parameter that all rows share
        total, totals = 0.0, {}
        for i in range(0, 8, size):
            rows, width = slice(i, i + size), max(LENGTH_FIELDS[i:i + size]) if trim else 7
            inputs = [y[rows, :width] for y in (x * weight, old, target, mask)]
            count = int(inputs[-1].sum()) * 8 / size if own_count else tokens
            loss, stats = loss_function(*inputs, clip=0.2, tokens=count)
            loss.backward()
            total += loss.item()
            totals = {k: totals.get(k, 0) + v.item() for k, v in stats.items()}
        return total, weight.grad, totals

    whole = run(8)
    for micro in (run(2), run(2, trim=True), run(1)):
        close(micro[0], whole[0], atol=1e-6)
        close(micro[1], whole[1], atol=1e-6)
        assert micro[2] == pytest.approx(whole[2], rel=1e-5)
    mean_of_means = run(2, own_count=True)  # what the token count guards against
    assert (mean_of_means[1] - whole[1]).abs().max() > 1e-3


def test_stats_carry_no_graph():
    x = normal(8, 7).requires_grad_()
    for loss_function in (policy_loss, value_loss):
        loss, stats = loss_function(x, x * 0.9, x * 0.5, ragged(), clip=0.2, tokens=35)
        assert loss.requires_grad and not any(v.requires_grad for v in stats.values())


# -----------------------------------------------------------------------------
# the numbers of TRL 1.12.0, as benchmarks/parity.py reads them from a step of its PPOTrainer (two responses of four tokens,
# lambda .95, KL coefficient and clip ranges .2)

TRL = {name: torch.tensor(grid) for name, grid in {
    "logprobs": [[-3.891421, -5.588768, -6.202711, -5.154346], [-7.314097, -9.851553, -3.850247, -6.234995]],
    "ref_logprobs": [[-4.39022, -6.733683, -6.160932, -5.860075], [-7.391595, -10.3941, -5.200541, -7.088691]],
    "values": [[-0.465011, 0.123289, -0.762612, 0.42794], [0.253323, 0.507992, 0.123028, -0.020663]],
    "scores": [-0.230787, -1.451944],
    "rewards": [[-0.09976, -0.228983, 0.008356, -0.371933], [-0.0155, -0.108509, -0.270059, -1.622683]],
    "returns": [[-0.639387, -0.574518, -0.323583, -0.371933], [-1.723248, -1.824366, -1.812641, -1.622683]],
    "advantages": [[0.981491, 0.446665, 1.608249, 0.342378], [-0.859937, -1.22347, -0.818144, -0.477232]],
    "new_logprobs": [[-4.3796, -5.73541, -7.77432, -5.47074], [-5.520568, -11.461601, -3.965883, -7.240671]],
    "new_values": [[-0.306054, 0.296979, -0.634879, 0.505455], [0.348022, 0.12645, 0.132451, -0.135486]]}.items()}


def test_a_step_has_the_numbers_of_trl():
    mask = torch.ones(2, 4)
    rewards = shaped_rewards(TRL["scores"], TRL["logprobs"], TRL["ref_logprobs"], mask, 0.2)
    close(rewards, TRL["rewards"])
    advantages, returns = gae(rewards, TRL["values"], mask, gamma=1.0, lam=0.95)
    close(returns, TRL["returns"])
    close(whiten(advantages, mask) * math.sqrt(7 / 8), TRL["advantages"])  # its variance is divided by n - 1, ours by n
    loss, stats = policy_loss(TRL["new_logprobs"], TRL["logprobs"], TRL["advantages"], mask, clip=0.2, tokens=8)
    close([loss, stats["clipfrac"], stats["approxkl"], stats["ratio"]], [0.710804, 0.25, 0.603977, 1.235116])
    loss, stats = value_loss(TRL["new_values"], TRL["values"], TRL["returns"], mask, clip=0.2, tokens=8)
    close([loss, stats["clipfrac"]], [1.035599, 0.125])


def test_a_score_one_place_after_the_end_token_is_the_same_at_lambda_one_only():
    """TRL puts it there, on a pad with a value of its own; ours is on the end token. At lambda 1 the deltas telescope."""
    rewards, values, scores = normal(8, 8), normal(8, 8, seed=1), normal(8, seed=2)
    ends = torch.arange(8), torch.tensor(LENGTH_FIELDS) - 1
    ours, theirs = rewards.clone(), rewards.clone()
    ours[ends] += scores
    theirs[ends[0], ends[1] + 1] = scores
    for lam, same in ((1.0, True), (0.95, False)):
        a, _ = gae(ours, values, ragged(width=8), gamma=1.0, lam=lam)
        b, _ = gae(theirs, values, ragged([n + 1 for n in LENGTH_FIELDS]), gamma=1.0, lam=lam)
        assert torch.allclose(a, b * ragged(width=8), atol=1e-5) == same
