"""The laws of over-optimisation: closed forms, numpy's least squares, scipy's quantiles, and coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from rlhf_engine.studies.power_laws import (
    PowerLaw,
    distance_of,
    fit,
    fit_interval,
    peaks,
    seeds_interval,
    student_interval,
    t_quantile,
    terms,
)

DISTANCES = np.linspace(0.0, 6.0, 13)


def noise(shape, seed: int = 0, size: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * size


@pytest.mark.parametrize("kind", ["best_of", "rl"])
def test_a_fit_gives_back_the_law_that_made_the_points(kind):
    law = PowerLaw(kind, 1.3, 0.4)
    assert fit(DISTANCES, law.gain(DISTANCES), kind) == PowerLaw(kind, pytest.approx(1.3), pytest.approx(0.4))


def test_the_law_has_the_values_of_the_paper_at_hand_picked_distances():
    assert PowerLaw("best_of", 2.0, 0.5).gain(2.0) == pytest.approx(2 * (2 - 0.5 * 2))
    assert PowerLaw("rl", 2.0, 0.5).gain(math.e) == pytest.approx(math.e * (2 - 0.5))
    assert PowerLaw("rl", 2.0, 0.5).gain(0.0) == 0.0


@pytest.mark.parametrize("kind", ["best_of", "rl"])
def test_a_noisy_fit_is_that_of_numpy_lstsq(kind):
    gains = PowerLaw(kind, 0.9, 0.2).gain(DISTANCES) + noise(13, size=0.3)
    design = np.stack(terms(DISTANCES, kind), 1)
    expected = np.linalg.lstsq(design, gains, rcond=None)[0]
    found = fit(DISTANCES, gains, kind)
    assert [found.a, found.b] == pytest.approx(list(expected))


@pytest.mark.parametrize("kind", ["best_of", "rl"])
@pytest.mark.parametrize("a, b", [(1.0, 0.3), (0.4, 0.5), (2.0, 1.0)])
def test_the_peak_is_where_a_search_finds_it(kind, a, b):
    law = PowerLaw(kind, a, b)
    found = optimize.minimize_scalar(lambda d: -law.gain(d), bounds=(1e-9, 50), method="bounded", options={"xatol": 1e-9})
    assert law.peak == pytest.approx(found.x, rel=1e-4)


def test_a_law_without_a_peak_says_so():
    assert PowerLaw("best_of", 1.0, 0.0).peak == math.inf and PowerLaw("rl", 1.0, -0.2).peak == math.inf
    assert PowerLaw("best_of", -1.0, 0.5).peak == 0.0 and PowerLaw("best_of", -1.0, 0.0).peak == 0.0
    assert peaks(np.array([1e6]), np.array([1e-6]), "rl")[0] > 1e100, "no overflow"


def test_a_fit_needs_two_distances():
    for distances in ([0.0, 0.0, 2.0], [1.0, 1.0], []):
        with pytest.raises(ValueError, match="two distances"):
            fit(distances, [0.0] * len(distances), "rl")


def test_an_estimate_of_the_kl_below_zero_counts_as_zero():
    assert distance_of(np.array([-0.3, 0.0, 4.0])).tolist() == [0.0, 0.0, 2.0]


# -- intervals ---------------------------------------------------------------------------------------------------------

def test_student_quantiles_are_those_of_scipy():
    for degrees in range(1, 200):
        assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-4)


def test_a_students_interval_is_that_of_scipy():
    values = [1.0, 1.6, 0.7, 1.1]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert student_interval(values) == pytest.approx(expected, rel=1e-5)


def a_run(kind, prompts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """KL and gold [13, prompts] of a law with a = 1.2, b = 0.5: prompts differ in level and in what they gain."""
    law, rng = PowerLaw(kind, 1.2, 0.5), np.random.default_rng(seed)
    kl = DISTANCES[:, None] ** 2 * rng.gamma(4.0, 0.25, size=prompts)
    gold = law.gain(DISTANCES)[:, None] * rng.normal(1.0, 0.4, size=prompts) + rng.normal(0, 1, size=prompts)
    return kl, gold + rng.normal(0, 0.8, size=(13, prompts))


@pytest.mark.parametrize("kind", ["best_of", "rl"])
def test_an_interval_over_prompts_holds_the_truth_as_often_as_it_says(kind):
    """The truth is what very many prompts give: a mean of noisy KLs has its own d."""
    many = fit_interval(*a_run(kind, 20_000, 999), kind, draws=2)
    held = {"a": 0, "b": 0, "peak_kl": 0}
    for seed in range(200):
        found = fit_interval(*a_run(kind, 100, seed), kind, seed=seed, draws=300)
        for name in held:
            held[name] += found[f"{name}_low"] <= many[name] <= found[f"{name}_high"]
    assert all(0.90 <= count / 200 <= 0.99 for count in held.values()), held


def test_gold_that_only_rises_has_no_peak_and_no_upper_end():
    kl = np.repeat(DISTANCES[:, None] ** 2, 50, axis=1)
    rises = fit_interval(kl, DISTANCES[:, None] * 0.5 + DISTANCES[:, None] ** 2 * 0.02 + noise((13, 50), size=0.05), "best_of")
    assert rises["peak_d"] is None and rises["peak_kl_high"] is None and rises["over"] == "prompts"


def test_the_same_seed_gives_the_same_interval():
    run = a_run("rl", 30, 1)
    assert fit_interval(*run, "rl", seed=3, draws=50) == fit_interval(*run, "rl", seed=3, draws=50)


def test_an_interval_over_seeds_is_students_t_of_the_seeds():
    laws = [PowerLaw("rl", a, b) for a, b in ((1.0, 0.4), (1.3, 0.5), (1.1, 0.45))]
    kl = np.stack([DISTANCES**2] * 3)
    found = seeds_interval(laws, kl, np.stack([law.gain(DISTANCES) for law in laws]))
    low, high = stats.t.interval(0.95, 2, loc=np.mean([1.0, 1.3, 1.1]), scale=stats.sem([1.0, 1.3, 1.1]))
    assert (found["a"], found["a_low"], found["a_high"]) == pytest.approx((3.4 / 3, low, high), rel=1e-5)
    assert found["peak_d"] == pytest.approx(np.mean([law.peak for law in laws]))
    assert found["seeds_with_peak"] == 3 and found["over"] == "seeds" and found["residual"] > 0


def test_a_seed_without_a_peak_leaves_the_mean_peak_unknown():
    laws = [PowerLaw("rl", 1.0, 0.4), PowerLaw("rl", 1.0, -0.1)]
    found = seeds_interval(laws, np.stack([DISTANCES**2] * 2), np.stack([law.gain(DISTANCES) for law in laws]))
    assert found["peak_kl"] is None and found["peak_kl_high"] is None and found["seeds_with_peak"] == 1
