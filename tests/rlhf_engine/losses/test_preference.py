"""Reward-model losses against hand values and plain loops, never against a copy of the code."""

import itertools
import math
import random

import pytest
import torch

from rlhf_engine.losses.preference import calibration_error, centring_loss, comparison_loss, ranked_pairs


def close(a, b, atol=1e-5, rtol=1e-5):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=rtol, check_dtype=False)


def pairwise_loss(chosen, rejected, margin=0.0):
    """The mean loss of pairs without a tie."""
    margin = margin if torch.is_tensor(margin) else torch.full_like(chosen, margin)
    return comparison_loss(chosen, rejected, torch.zeros(len(chosen), dtype=torch.bool), margin, torch.full_like(chosen, 1 / len(chosen)))


def test_pairwise_loss_sign_and_values():
    zero, two = torch.zeros(3), torch.full((3,), 2.0)
    close(pairwise_loss(zero, zero), math.log(2))
    close(pairwise_loss(two, zero), math.log(1 + math.exp(-2)))
    close(pairwise_loss(zero, two), math.log(1 + math.exp(2)))
    assert pairwise_loss(two, zero) < pairwise_loss(zero, zero) < pairwise_loss(zero, two)
    close(pairwise_loss(two, zero, margin=2.0), math.log(2))
    close(pairwise_loss(two, zero, torch.tensor([2.0, 2, 0])), (2 * math.log(2) + math.log(1 + math.exp(-2))) / 3)
    close(pairwise_loss(torch.tensor([-500.0]), torch.tensor([500.0])), 1000.0)  # no overflow


def test_pairwise_gradient_lifts_the_chosen():
    chosen, rejected = torch.tensor([0.3, -1.0], requires_grad=True), torch.tensor([0.5, 2.0], requires_grad=True)
    pairwise_loss(chosen, rejected).backward()
    expected = [-1 / (1 + math.exp(c - r)) / 2 for c, r in ((0.3, 0.5), (-1.0, 2.0))]  # -sigmoid(r - c) / n
    close(chosen.grad, expected)
    close(rejected.grad, [-e for e in expected])


def test_pairwise_loss_casts_and_refuses_broadcasting():
    assert pairwise_loss(torch.ones(3).bfloat16(), torch.zeros(3).bfloat16()).dtype == torch.float32
    for other, margin in ((torch.zeros(3, 1), 0.0), (torch.zeros(3), torch.zeros(3, 1))):
        with pytest.raises(ValueError, match="shapes"):
            pairwise_loss(torch.zeros(3), other, margin)


@pytest.mark.parametrize("k", range(2, 10))
def test_a_ranking_of_k_is_all_its_pairs(k):
    ranks = random.Random(k).sample(range(1, k + 1), k)
    pairs = ranked_pairs(ranks)
    assert len(pairs) == math.comb(k, 2) and {frozenset(p[:2]) for p in pairs} == {frozenset(p) for p in itertools.combinations(range(k), 2)}
    assert all(ranks[better] < ranks[worse] and not tied for better, worse, tied in pairs)


def test_equal_ranks_are_ties():
    assert ranked_pairs([2, 1, 2]) == [(1, 0, False), (0, 2, True), (1, 2, False)]
    assert ranked_pairs([1]) == []


def comparison(scores, ranks, margin=0.0):
    """The loss of one ranking, as the trainer composes it."""
    pairs = ranked_pairs(ranks)
    better, worse = scores[[p[0] for p in pairs]], scores[[p[1] for p in pairs]]
    return comparison_loss(better, worse, torch.tensor([p[2] for p in pairs]), torch.full_like(better, margin),
                           torch.full_like(better, 1 / len(pairs)))


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_two_ranked_responses_are_a_pair(margin):
    scores = torch.tensor([0.3, -1.1], requires_grad=True)
    (ranked,) = torch.autograd.grad(comparison(scores, [2, 1], margin), scores)
    (paired,) = torch.autograd.grad(pairwise_loss(scores[1:], scores[:1], margin), scores)
    close(ranked, paired, atol=0, rtol=0)


def test_k_wise_loss_by_a_plain_loop():
    scores, ranks = [0.5, -0.2, 1.3, 0.1], [2, 4, 1, 3]
    terms = [math.log(1 + math.exp(-(scores[i] - scores[j]))) for i in range(4) for j in range(4) if ranks[i] < ranks[j]]
    close(comparison(torch.tensor(scores), ranks), sum(terms) / 6)


def test_a_ranking_is_likeliest_under_scores_in_its_order():
    ranks, best = [3, 1, 2], torch.tensor([0.0, 2.0, 1.0])
    losses = {order: comparison(best[list(order)], ranks).item() for order in itertools.permutations(range(3))}
    assert min(losses, key=losses.get) == (0, 1, 2)


def test_a_tie_wants_equal_scores_and_gives_no_side_a_push():
    for gap in (0.0, 0.5, 3.0):
        scores = torch.tensor([gap, 0.0], requires_grad=True)
        loss = comparison(scores, [1, 1], margin=5.0)  # a margin says how much better; nothing is better here
        close(loss, 0.5 * math.log(1 + math.exp(gap)) + 0.5 * math.log(1 + math.exp(-gap)))
        (gradient,) = torch.autograd.grad(loss, scores)
        close(gradient[0], 1 / (1 + math.exp(-gap)) - 0.5)
        close(gradient.sum(), 0.0)


def test_centring_by_hand():
    close(centring_loss(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 4.0])), (0 + 36) / 2)
    with pytest.raises(ValueError, match="shapes"):
        centring_loss(torch.zeros(2), torch.zeros(2, 1))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_calibration_error_by_hand():
    # Ten pairs at 0.8, eight of them right: calibrated. Ten at 0.95, five right: off by 0.45.
    good = [logit(0.8)] * 8 + [-logit(0.8)] * 2
    bad = [logit(0.95)] * 5 + [-logit(0.95)] * 5
    assert calibration_error(torch.tensor(good)) == pytest.approx(0, abs=1e-6)
    assert calibration_error(torch.tensor(bad)) == pytest.approx(0.45, abs=1e-6)
    assert calibration_error(torch.tensor(good + bad)) == pytest.approx(0.225, abs=1e-6)
    assert calibration_error(torch.zeros(4)) == 0 and math.isnan(calibration_error(torch.zeros(0)))
    assert calibration_error(torch.tensor([100.0, -100.0])) == pytest.approx(0.5)


def test_calibrated_scores_have_a_small_calibration_error_and_overconfident_ones_a_large_one():
    generator = torch.Generator().manual_seed(0)
    size = torch.rand(20_000, generator=generator) * 3
    right = torch.rand(20_000, generator=generator) < size.sigmoid()
    differences = torch.where(right, size, -size)
    assert calibration_error(differences) < 0.02 < 0.1 < calibration_error(4 * differences)
