"""Intervals against scipy and hand values, and what they must not claim."""

import math

import numpy as np
import pytest
from scipy import stats

from rlhf_engine.evaluation import intervals
from rlhf_engine.evaluation.intervals import (
    correlation_interval,
    jackknife_interval,
    mean_interval,
    paired_interval,
    rate_interval,
    ratio_interval,
    share_interval,
    t_quantile,
    too_few,
    wilson,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("freedom", [1, 2, 3.5, 30, 499, 100_000, 1e8])
def test_student_quantiles_are_scipys(confidence, freedom):
    assert t_quantile(confidence, freedom) == pytest.approx(stats.t.ppf(0.5 + confidence / 2, freedom), rel=1e-6)


@pytest.mark.parametrize(("wins", "count"), [(0, 1), (0, 20), (3, 7), (50, 100), (99, 100), (100, 100), (12345, 54321)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_is_scipys(wins, count, confidence):
    theirs = stats.binomtest(wins, count).proportion_ci(confidence, method="wilson")
    assert wilson(wins, count, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_knows_nothing_without_trials_and_refuses_what_is_none():
    assert wilson(0, 0) == (0, 1)
    for wins, count in ((-1, 5), (6, 5), (1, 0), (math.nan, 5)):
        with pytest.raises(ValueError, match="wins"):
            wilson(wins, count)
    for confidence in (0, 1, 95):
        with pytest.raises(ValueError, match="confidence"):
            wilson(1, 2, confidence)


@pytest.mark.parametrize("count", [1, 2, 20, 100])
def test_no_variance_is_no_certainty(count):
    """A percentile bootstrap says (1, 1), (0, 0) and (.5, .5) here."""
    low, high = rate_interval([1.0] * count)
    assert (low, high) == pytest.approx(wilson(count, count)) and low < 1 == high
    low, high = rate_interval([0.0] * count)
    assert (low, high) == pytest.approx(wilson(0, count)) and low == 0 < high
    low, high = rate_interval([0.5] * count)
    assert low < 0.5 < high and high - 0.5 == pytest.approx(0.5 - low)
    low, high = paired_interval([1.0] * count, [1.0] * count, low=0, high=1)
    assert low < 0 < high
    assert mean_interval([3.0] * count) == ratio_interval([2.0] * count, [1.0] * count) == (-math.inf, math.inf)
    assert mean_interval([3.0] * count, low=0) == (0, math.inf)


def test_no_data_knows_nothing():
    assert rate_interval([]) == share_interval([], []) == share_interval([0.0], [0.0]) == (0, 1)
    assert mean_interval([]) == mean_interval([2.0]) == (-math.inf, math.inf)
    assert correlation_interval([1.0], [2.0])[1:] == (-1, 1)
    assert jackknife_interval(lambda weights: 1.0, 1, low=-1, high=1) == (-1, 1)


@pytest.mark.parametrize("wins", [1, 20, 50, 93])
def test_without_ties_a_rate_has_nearly_wilsons_interval(wins):
    """n - 1 of the variance and Student's quantile are the difference."""
    low, high = rate_interval([1.0] * wins + [0.0] * (100 - wins))
    assert (low, high) == pytest.approx(wilson(wins, 100), abs=0.004)
    assert low < wilson(wins, 100)[0] and wilson(wins, 100)[1] < high


def test_the_samples_of_a_prompt_are_not_independent():
    """Eight equal samples of each prompt say what one of each says; eight prompts of one sample say more."""
    wins = (RNG.random(60) < 0.4).astype(float)
    one = rate_interval(wins)
    assert share_interval(8 * wins, np.full(60, 8)) == pytest.approx(one)
    assert rate_interval(np.repeat(wins, 8)) != pytest.approx(one, abs=0.05)


def test_a_share_weighs_answers_and_its_variance_is_that_of_a_ratio():
    """The linearised variance, by the bootstrap over prompts: a wholly different way."""
    counts = RNG.integers(1, 9, 400)
    wins = RNG.binomial(counts, RNG.beta(4, 6, 400)).astype(float)
    low, high = share_interval(wins, counts)
    picks = RNG.integers(0, 400, (4000, 400))
    shares = wins[picks].sum(1) / counts[picks].sum(1)
    assert (low, high) == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])), abs=0.004)
    with pytest.raises(ValueError, match="wins"):
        share_interval([3.0], [2.0])


def test_one_prompt_with_most_answers_is_one_prompt():
    low, _ = share_interval([1000.0, 1.0, 1.0], [1000.0, 1.0, 1.0])
    assert low < 0.3  # not that of a thousand
    low, high = share_interval([500.0, 1.0, 1.0], [1000.0, 1.0, 1.0])
    assert low < 0.2 and high > 0.8


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_a_mean_has_students_interval(confidence):
    """Of symmetric values exactly; of others nearly."""
    half = RNG.normal(0, 2, 20)
    values = 3 + np.r_[half, -half]
    theirs = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert mean_interval(values, confidence) == pytest.approx((theirs.low, theirs.high))
    other = values - 1 - np.r_[half, -half][::-1]
    paired = stats.ttest_rel(values, other).confidence_interval(confidence)
    assert paired_interval(values, other, confidence) == pytest.approx((paired.low, paired.high))


def test_skewed_values_have_a_skewed_interval():
    """Against the bootstrap of the studentised mean, a wholly different way to the same correction."""
    values = np.random.default_rng(1).gamma(1.0, size=200)
    low, high = mean_interval(values)
    assert high - values.mean() > 1.1 * (values.mean() - low)
    samples = values[RNG.integers(0, 200, (8000, 200))]
    studentised = (samples.mean(1) - values.mean()) / (samples.std(1, ddof=1) / math.sqrt(200))
    error = values.std(ddof=1) / math.sqrt(200)
    theirs = values.mean() - error * np.quantile(studentised, [0.975, 0.025])
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.2 * error)
    assert mean_interval(-values) == pytest.approx((-high, -low))


def test_bounds_hold():
    values = RNG.uniform(2, 4, 30)
    low, high = mean_interval(values, low=2, high=4)
    assert 2 < low < values.mean() < high < 4
    assert mean_interval([2.0] * 30, low=2, high=2) == (2, 2)
    assert mean_interval([1 + 1e-12] * 3, low=0, high=1)[1] == 1  # rounding is no error
    for values in ([1.1], [-0.1], [math.nan]):
        with pytest.raises(ValueError, match="outside"):
            rate_interval(values)
    with pytest.raises(ValueError, match="paired"):
        paired_interval([1.0], [1.0, 2.0])


def test_pairing_takes_out_what_both_share():
    hard = RNG.random(100)
    ours, theirs = np.clip(hard + 0.05, 0, 1), hard
    low, high = paired_interval(ours, theirs, low=0, high=1)
    apart = [rate_interval(each) for each in (ours, theirs)]
    assert 0.04 < low < high < 0.051
    assert apart[0][0] < apart[1][1]  # unpaired, nothing could be told
    assert paired_interval(theirs, ours, low=0, high=1) == pytest.approx((-high, -low))


def test_fieller_solves_his_equation():
    """The limits are the ratios r at which the mean of y - r x is just significant."""
    x = RNG.integers(5, 60, 50).astype(float)
    y = RNG.gamma(0.2 * x)
    for limit in ratio_interval(y, x):
        assert stats.ttest_1samp(y - limit * x, 0).pvalue == pytest.approx(0.05, abs=1e-6)
    assert ratio_interval(RNG.normal(size=30), RNG.normal(size=30)) == (-math.inf, math.inf)  # the denominator may be 0


def test_a_correlation():
    x = RNG.normal(size=300)
    y = 0.6 * x + 0.8 * RNG.normal(size=300)
    r, low, high = correlation_interval(x, y)
    theirs = stats.pearsonr(x, y)
    assert r == pytest.approx(theirs.statistic)
    fisher = theirs.confidence_interval()
    assert (low, high) == pytest.approx((fisher.low, fisher.high), abs=0.03)
    assert correlation_interval(1e6 + x, y * 1e-6)[1:] == pytest.approx((low, high))
    again = correlation_interval(np.tile(x, 4), np.tile(y, 4), list(range(300)) * 4)
    assert again == pytest.approx((r, low, high))  # four times the same values of a prompt are no news
    ranked = correlation_interval(intervals.ranks(x), intervals.ranks(np.exp(y)))
    assert ranked[0] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert intervals.ranks([3, 1, 1, 2]).tolist() == stats.rankdata([3, 1, 1, 2]).tolist()


def test_a_correlation_without_variance_or_of_one_exactly():
    r, low, high = correlation_interval([1.0] * 9, RNG.normal(size=9))
    assert math.isnan(r) and (low, high) == (-1, 1)
    r, low, high = correlation_interval([1.0, 2, 3, 4], [2.0, 4, 6, 8])
    assert r == pytest.approx(1) and low <= 1 and high == pytest.approx(1)


def test_the_jackknife_of_a_mean_is_students():
    values = RNG.normal(size=25)
    ours = jackknife_interval(lambda weights: float(weights @ values / weights.sum()), 25)
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    assert ours == pytest.approx((theirs.low, theirs.high))


def test_a_sentence_where_an_interval_may_not_hold():
    assert too_few(50) == too_few(100, 0.05) == too_few(64, 0.2) == too_few(5000, 0.8) == ""
    assert "37 prompts" in too_few(37) and "50" in too_few(37)
    assert "1 voter;" in too_few(1, unit="voter")
    assert "97.0% is near 1" in too_few(100, 0.97) and "near 0" in too_few(100, 0.03)
    assert too_few(2000, 0.97) == too_few(100, 0.5, ties=0.8) == ""
    assert "95% decide nothing" in too_few(100, 0.5, ties=0.95)
