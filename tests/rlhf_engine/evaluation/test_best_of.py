"""Best of n: against brute force over all subsets, enumerated distributions, and samples drawn at random; with ties."""

import itertools
import math
import random

import numpy as np
import pytest

from rlhf_engine.evaluation.best_of import (
    best_of_kl,
    best_of_weights,
    estimate_kl,
    expected_best,
    kl_bound,
    win_rate,
    win_rate_bound,
)

CASES = [
    ([0.3, -1.0, 2.0, 0.7, 5.0, 0.1], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    ([1.0, 1.0, 0.0, 0.0, 1.0, 0.0], [3.0, 5.0, -1.0, 2.0, 0.5, 0.0]),  # a yes/no rule
    ([2.0] * 6, [3.0, 5.0, -1.0, 2.0, 0.5, 0.0]),
    ([1.0, 2.0, 2.0, 3.0, 3.0, 3.0], [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]),
    ([4.0], [7.0]),
]


def brute_force(proxy, gold, n) -> float:
    """The mean over all subsets of the mean gold of those that are best."""
    means = []
    for subset in itertools.combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in subset)
        best = [gold[i] for i in subset if proxy[i] == top]
        means.append(sum(best) / len(best))
    return sum(means) / len(means)


def brute_force_wins(proxy, gold, n) -> float:
    rates = []
    for subset in itertools.combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in subset)
        best = [gold[i] for i in subset if proxy[i] == top]
        for other in set(range(len(proxy))) - set(subset):
            rates.append(sum((g > gold[other]) + 0.5 * (g == gold[other]) for g in best) / len(best))
    return sum(rates) / len(rates)


def enumerated_kl(p, reward, n) -> float:
    """The KL of best-of-n over outcomes, from all n-tuples of outcomes, with ties broken at random."""
    q = [0.0] * len(p)
    for drawn in itertools.product(range(len(p)), repeat=n):
        chance = math.prod(p[i] for i in drawn)
        top = max(reward[i] for i in drawn)
        best = [i for i in drawn if reward[i] == top]
        for i in best:
            q[i] += chance / len(best)
    return sum(a * math.log(a / b) for a, b in zip(q, p) if a)


def level_shares(p, reward) -> list[float]:
    return [sum(a for a, r in zip(p, reward) if r == level) for level in sorted(set(reward))]


@pytest.mark.parametrize(("proxy", "gold"), CASES)
def test_the_expectation_is_that_over_all_subsets(proxy, gold):
    for n in range(1, len(proxy) + 1):
        assert expected_best(proxy, gold, n) == pytest.approx(brute_force(proxy, gold, n), rel=1e-12, abs=1e-12)
        assert best_of_weights(proxy, n).sum() == pytest.approx(1)
    assert expected_best(proxy, gold, 1) == pytest.approx(sum(gold) / len(gold))
    with pytest.raises(ValueError, match="needs at least"):
        expected_best(proxy, gold, len(proxy) + 1)


@pytest.mark.parametrize(("proxy", "gold"), CASES[:-1])
def test_the_win_rate_is_that_over_all_subsets_and_never_above_its_bound(proxy, gold):
    for n in range(1, len(proxy)):
        rate = win_rate(proxy, gold, n)
        assert rate == pytest.approx(brute_force_wins(proxy, gold, n), rel=1e-12)
        assert rate <= win_rate_bound(n) + 1e-12
    assert win_rate(proxy, gold, 1) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="one other"):
        win_rate(proxy, gold, len(proxy))


def test_without_ties_the_proxy_wins_n_of_n_plus_1():
    proxy = random.Random(0).sample(range(100), 9)
    for n in range(1, 9):
        assert win_rate(proxy, proxy, n) == pytest.approx(n / (n + 1))


def test_the_expectation_is_unbiased():
    """Over many sets of N samples from a distribution with ties, the estimate has the mean of best-of-n itself."""
    rng = random.Random(1)
    levels, gold = [0, 0, 1, 1, 1, 2], [0.0, 4.0, 1.0, 2.0, 3.0, 9.0]
    truth = brute_force_expectation(levels, gold, 3)
    found = []
    for _ in range(4000):
        drawn = rng.choices(range(6), k=6)
        found.append(expected_best([levels[i] for i in drawn], [gold[i] for i in drawn], 3))
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found) - truth) < 4 * error and error < 0.05


def brute_force_expectation(levels, gold, n) -> float:
    total = 0.0
    for drawn in itertools.product(range(len(levels)), repeat=n):
        top = max(levels[i] for i in drawn)
        best = [gold[i] for i in drawn if levels[i] == top]
        total += sum(best) / len(best)
    return total / len(levels) ** n


@pytest.mark.parametrize(("p", "reward"), [
    ([0.5, 0.3, 0.2], [1, 2, 3]), ([0.5, 0.3, 0.2], [1, 1, 2]), ([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]), ([0.97, 0.03], [0, 1]),
    ([0.97, 0.03], [1, 0]), ([0.25] * 4, [5, 5, 5, 5])])
def test_the_kl_is_that_of_enumerated_outcomes(p, reward):
    for n in range(1, 6):
        exact = float(best_of_kl(level_shares(p, reward), n))
        assert exact == pytest.approx(enumerated_kl(p, reward, n), rel=1e-9, abs=1e-12)
        assert exact <= kl_bound(n) + 1e-12


def test_the_bound_is_reached_without_ties_and_far_off_for_a_yes_no_rule():
    assert float(best_of_kl(np.ones(100_000), 16)) == pytest.approx(kl_bound(16), rel=1e-6)
    assert kl_bound(1) == 0.0 and kl_bound(4) == pytest.approx(math.log(4) - 0.75)
    assert float(best_of_kl([0.5, 0.5], 64)) == pytest.approx(math.log(2)), "to answer yes always"
    assert kl_bound(64) > 4 * float(best_of_kl([0.5, 0.5], 64))


def test_the_kl_keeps_its_digits():
    """Tiny shares and large n, against whole numbers of any size."""
    from fractions import Fraction
    shares, n = [Fraction(1, 10**9), Fraction(10**9 - 2, 10**9), Fraction(1, 10**9)], 500
    upto, expected = Fraction(0), 0.0
    for share in shares:
        q = (upto + share) ** n - upto ** n
        upto += share
        expected += float(q) * math.log(q / share) if float(q) else 0.0
    assert float(best_of_kl([float(share) for share in shares], n)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [0.97, 0.03], [0.1] * 10, [0.5, 0.25, 0.125, 0.0625, 0.0625]])
def test_the_estimate_from_samples_is_nearly_unbiased(shares):
    rng = np.random.default_rng(0)
    for count, n, bias in ((16, 16, 0.07), (32, 16, 0.035), (32, 4, 0.05)):
        truth = float(best_of_kl(shares, n))
        found = [estimate_kl(rng.choice(len(shares), size=count, p=shares), n) for _ in range(400)]
        error = np.std(found) / len(found) ** 0.5
        assert abs(np.mean(found) - truth) < bias * truth + 3 * error
        assert all(0 <= each <= kl_bound(n) for each in found)


def test_the_estimate_without_ties_is_the_bound():
    for n in (1, 2, 8, 16):
        assert estimate_kl(random.Random(n).sample(range(1000), 16), n) == pytest.approx(kl_bound(n), abs=1e-9)
    assert estimate_kl([3.0] * 8, 4) == 0.0


def test_many_samples_are_no_trouble():
    scores = list(range(1000))
    assert expected_best(scores, scores, 500) == pytest.approx(500 * 1001 / 501 - 1)  # the mean of a maximum
    assert win_rate(scores[:200], scores[:200], 100) == pytest.approx(100 / 101)
