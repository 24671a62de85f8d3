"""Wins at equal length: against statsmodels and refits, where the data cannot tell, and how often the interval holds."""

import warnings

import numpy as np
import pytest

from rlhf_engine.evaluation.length_control import control_length, fit_line, fit_logistic, is_separated


@pytest.fixture(autouse=True)
def no_warnings():
    """A division by 0 or an overflow is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def simulate(rng, prompts=100, per_prompt=2, theta=0.4, phi=1.0, ties=0.3):
    """(wins, differences, prompts) of verdicts that follow the model, with ties."""
    groups = np.repeat(np.arange(prompts), per_prompt)
    d = np.round(rng.normal(10, 30, len(groups)))
    wins = (rng.random(len(groups)) < 1 / (1 + np.exp(-(theta + phi * np.tanh(d / 30))))).astype(float)
    wins[rng.random(len(groups)) < ties] = 0.5
    return wins, d, groups


def test_the_coefficients_are_those_of_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    wins, d, groups = simulate(np.random.default_rng(0))
    x = sm.add_constant(np.tanh(d / d.std(ddof=1)))
    theirs = sm.GLM(wins, x, family=sm.families.Binomial()).fit(cov_type="cluster", cov_kwds={"groups": groups})
    ours = control_length(wins, d, groups)
    assert ours.win_rate == pytest.approx(1 / (1 + np.exp(-theirs.params[0])), abs=1e-6)
    assert ours.slope == pytest.approx(theirs.params[1], abs=1e-6)
    assert (ours.slope_high - ours.slope_low) / 2 / 1.984 == pytest.approx(theirs.bse[1], rel=0.03)  # t of 99 degrees
    line = sm.OLS(wins, sm.add_constant(d / d.std(ddof=1))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert ours.share == pytest.approx(line.params[1], abs=1e-9)
    assert (ours.share_high - ours.share_low) / 2 / 1.984 == pytest.approx(line.bse[1], rel=0.03)


def test_the_errors_are_those_of_refits_without_each_prompt():
    wins, d, groups = simulate(np.random.default_rng(1), prompts=25)
    x = d / 30
    for fit, tolerance in ((fit_line, 1e-9), (fit_logistic, 0.05)):
        refits = np.array([fit(x[groups != g], wins[groups != g], np.unique(groups[groups != g], return_inverse=True)[1])[0]
                           for g in range(25)])
        errors = np.sqrt(24 / 25 * ((refits - refits.mean(0)) ** 2).sum(0))
        assert fit(x, wins, groups)[1] == pytest.approx(errors, rel=tolerance)


@pytest.mark.parametrize("theta", [-1.2, 0.0, 1.2])
def test_the_interval_holds(theta):
    rng = np.random.default_rng(2)
    truth = control_length(*simulate(rng, 20_000, 1, theta)).win_rate
    covered = 0
    for _ in range(200):
        control = control_length(*simulate(rng, 100, 2, theta))
        covered += control.win_rate_low <= truth <= control.win_rate_high
    assert 0.91 <= covered / 200 <= 0.985


def test_a_judge_that_follows_length_alone_is_even_at_equal_length():
    rng = np.random.default_rng(3)
    _, d, groups = simulate(rng, 150, 2)
    wins = (rng.random(len(d)) < 1 / (1 + np.exp(-d / 15))).astype(float)
    control = control_length(wins, d, groups)
    assert wins.mean() > 0.58 and control.win_rate_low < 0.5 < control.win_rate_high and control.slope_low > 1


D = np.round(np.random.default_rng(4).normal(0, 30, 40)) + 0.5
G = np.arange(40)
MIXED = np.arange(40) % 2.0


@pytest.mark.parametrize("wins, differences, rate, note", [
    (np.ones(40), D, (0.9, 1.0), "every pair is won"),
    (np.zeros(40), D, (0.0, 0.1), "every pair is lost"),
    (D > 0, D, (0.2, 0.8), "wins exactly where it is longer by enough, so length alone explains every verdict"),
    (D < 0, D, (0.2, 0.8), "wins exactly where it is shorter by enough"),
    (MIXED, np.zeros(40), (0.5, 0.5), "same length in every pair"),
    (MIXED, np.full(40, 7.0), None, "7 characters longer in every pair"),
    (MIXED, np.full(40, -7.0), None, "7 characters shorter in every pair"),
    (MIXED, np.abs(D) + 1, (0.2, 0.8), "longer in every pair, so the win rate at equal length lies outside"),
    (np.ones(40), np.abs(D) + 1, (0.6, 1.0), "every pair is won"),
    (np.r_[1.0, MIXED[1:]], np.r_[50.0, np.zeros(39)], (0.4, 0.6), "no interval for what length does"),
    (np.full(40, 0.5), D, (0.5, 0.5), "every pair is a tie")])
def test_what_the_data_cannot_tell_is_said(wins, differences, rate, note):
    control = control_length(np.asarray(wins, float), differences, G)
    assert note in " ".join(control.notes)
    if rate is None:
        assert control.win_rate is control.win_rate_low is control.slope is None
    else:
        assert rate[0] <= control.win_rate <= rate[1]
        assert 0 <= control.win_rate_low < control.win_rate < control.win_rate_high <= 1
    for value in control.to_dict().values():
        assert value is None or isinstance(value, list | str) or np.isfinite(value)


def test_few_prompts_and_lists_that_do_not_match():
    control = control_length([1, 0, 1, 1], [3, 4, -1, 2], [0, 0, 1, 1])
    assert control.win_rate is None and "needs 3 prompts, and there are 2" in control.notes[0]
    for lists in (([], [], []), ([1], [2, 3], [0])):
        with pytest.raises(ValueError, match="do not go together"):
            control_length(*lists)


def test_separation():
    assert is_separated(np.array([1, 1, 0]), np.array([3, 2, 1])) and is_separated(np.array([1.0, 1.0]), np.array([1, 2]))
    assert is_separated(np.array([1, 0.5, 0]), np.array([3, 2, 1]))  # the tie alone has a rate
    assert not is_separated(np.array([1, 0, 1]), np.array([3, 2, 1]))
    assert not is_separated(np.array([0.5, 0.5]), np.array([1, 2]))


def test_the_scale_of_lengths_does_not_matter():
    wins, d, groups = simulate(np.random.default_rng(5), 30)
    one, other = control_length(wins, d, groups), control_length(wins, d * 1e9, groups)
    assert one.win_rate == pytest.approx(other.win_rate) and one.slope == pytest.approx(other.slope)
