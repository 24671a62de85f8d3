"""Confidence intervals of rates, means, differences, ratios and correlations. Prompts are the unit: numpy, no torch.

The samples of one prompt are alike, so a hundred samples of ten prompts say less than a hundred of a hundred prompts.
Every function but `wilson` therefore takes one number for each prompt (or another cluster), and none of them takes
samples without variance for certainty. `too_few` says in words where an interval does not hold what it promises;
`benchmarks/surveys/coverage.py` measures that.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]
"""(low, high). Infinite where the data set no limit; a JSON file of ours has null there."""
Numbers = Sequence[float] | np.ndarray
UNKNOWN: Interval = (-math.inf, math.inf)
FEWEST_PROMPTS = 50
"""From so many prompts on, and for rates within `HELD_RATES`, an interval covers the truth in 93 to 97 of 100 cases."""
HELD_RATES = (0.2, 0.8)
FEWEST_RARE = 5
"""Prompts with the rarer answer (rate times prompts) from which on a rate beyond `HELD_RATES` is covered as well."""
FEWEST_DECIDED = 20
"""Prompts that are no tie, likewise."""


# -- rates -------------------------------------------------------------------------------------------------------------

def wilson(wins: float, count: float, confidence: float = 0.95) -> Interval:
    """Interval of a rate, from `wins` in `count` independent trials without ties (Wilson 1927).

    It never leaves [0, 1], and has a width even where all trials were won. Without trials it is (0, 1). Raises
    ValueError unless 0 <= wins <= count.
    """
    if not 0 <= wins <= count:
        raise ValueError(f"{wins} wins in {count} trials: the wins must be at least 0 and at most the trials")
    if count == 0:
        return 0.0, 1.0
    return _score_interval(wins / count, count, normal_quantile(confidence))


def share_interval(wins: Numbers, counts: Numbers, confidence: float = 0.95) -> Interval:
    """Interval of a share sum(wins) / sum(counts), where `wins` [G] of `counts` [G] answers come from each cluster.

    An answer counts from 0 to 1, so ties may be halves. The variance is that of the jackknife over clusters; where all
    have as many answers it is that of a mean. It gives the number of independent trials that would know as much, and
    Wilson's interval of these, with Student's quantile, is the result (Dean & Pagano 2015). Where all clusters have the
    same share, the variance is not 0 but unknown: the interval then leaves room for clusters that were not seen, as
    many as 1 in `len(counts)` may hide.
    Raises ValueError unless 0 <= wins <= counts.
    """
    wins, counts = np.asarray(wins, dtype=float), np.asarray(counts, dtype=float)
    if not ((wins >= 0) & (wins <= counts * (1 + 1e-12))).all():
        raise ValueError("the wins of a cluster must be at least 0 and at most its answers")
    wins, counts = wins[counts > 0], counts[counts > 0]
    if not len(counts):
        return 0.0, 1.0
    total = counts.sum()
    share = min(float(wins.sum() / total), 1.0)
    # As many clusters of equal size: one that has most of the answers is one cluster still.
    clusters = float(total**2 / (counts**2).sum())
    residuals = wins - share * counts
    if len(counts) < 2 or float(residuals @ residuals) < 1e-20 * total**2:
        unseen = wilson(0, clusters, confidence)[1]
        return share * (1 - unseen), share + unseen * (1 - share)
    changes = residuals / (total - counts)  # of the share, where one cluster is left out
    trials = share * (1 - share) / (float(changes @ changes) * (len(counts) - 1) / len(counts))
    return _score_interval(share, trials, t_quantile(confidence, len(counts) - 1))


def _score_interval(share: float, trials: float, quantile: float) -> Interval:
    """Wilson's interval, which solves |share - p| = quantile * sqrt(p (1 - p) / trials) for p."""
    square = quantile**2 / trials
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return min(low, share), max(high, share)  # what rounding moved past the share itself


# -- means -------------------------------------------------------------------------------------------------------------

def mean_interval(values: Numbers, confidence: float = 0.95, *, low: float = -math.inf,
                  high: float = math.inf) -> Interval:
    """Interval of a mean over prompts, from one value for each prompt: the mean over its samples.

    Between two bounds `low` and `high`, such as 0 and 1 of win rates, it is `share_interval`, which stays between
    them. Without bounds it is Student's interval over prompts, corrected for the skewness of the values (Hall 1992;
    the same where they are symmetric), and (low, high) where fewer than two prompts, or no variance, leave the spread
    open. Raises ValueError for a value outside of the bounds.
    """
    values = np.asarray(values, dtype=float)
    if math.isfinite(low) and math.isfinite(high):
        return _bounded_mean_interval(values, confidence, low, high)
    if len(values) < 2:
        return low, high
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    if error <= 1e-12 * max(abs(mean), 1e-300):
        return low, high
    skewness = float(((values - mean)**3).mean() / values.std()**3)
    quantile = t_quantile(confidence, len(values) - 1)
    below, above = (_without_skew(sign * quantile, skewness, len(values)) for sign in (1, -1))
    return max(float(mean - error * max(below, 0.0)), low), min(float(mean - error * min(above, 0.0)), high)


def _without_skew(quantile: float, skewness: float, count: int) -> float:
    """The quantile of the studentised mean of skewed values, from that of symmetric ones: Hall's cubic, solved."""
    root = math.sqrt(count)
    if abs(skewness) < 1e-6:
        return quantile
    return 3 * root / skewness * float(np.cbrt(1 + skewness * (quantile / root - skewness / (6 * count))) - 1)


def _bounded_mean_interval(values: np.ndarray, confidence: float, low: float, high: float) -> Interval:
    """Of values in [low, high]. Rounding may have moved a value past a bound by some last digits."""
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    if len(values) and not (low - slack <= values.min() and values.max() <= high + slack):
        raise ValueError(f"a value is outside of {low:g} to {high:g}")
    width = high - low
    if width <= 0:
        return low, high
    shares = np.clip((values - low) / width, 0.0, 1.0)
    lower, upper = share_interval(shares, np.ones(len(shares)), confidence)
    return low + width * lower, low + width * upper


def rate_interval(rates: Numbers, confidence: float = 0.95) -> Interval:
    """Interval of a win rate, from the rate of each prompt (0 to 1, ties half)."""
    return mean_interval(rates, confidence, low=0.0, high=1.0)


def paired_interval(ours: Numbers, theirs: Numbers, confidence: float = 0.95, *, low: float = -math.inf,
                    high: float = math.inf) -> Interval:
    """Interval of the mean difference `ours` - `theirs` of two policies, value by value on the same prompts.

    What makes a prompt easy or hard for both falls out. `low` and `high` bound the values themselves: 0 and 1 of rates.
    Raises ValueError for lists of different lengths, and for a value outside of the bounds.
    """
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} values cannot be paired with {len(theirs)}: give one for each prompt")
    return mean_interval(ours - theirs, confidence, low=low - high, high=high - low)


# -- ratios, correlations and other statistics -------------------------------------------------------------------------

def ratio_interval(numerators: Numbers, denominators: Numbers, confidence: float = 0.95) -> Interval:
    """Interval of sum(numerators) / sum(denominators), from one pair of numbers for each prompt (Fieller 1954).

    Such as a KL per token: the nats and the tokens of each prompt. `UNKNOWN` where the sum of the denominators may as
    well be 0, and with fewer than two prompts or without variance.
    """
    x, y = np.asarray(denominators, dtype=float), np.asarray(numerators, dtype=float)
    if len(x) < 2 or not x.mean():
        return UNKNOWN
    quantile = t_quantile(confidence, len(x) - 1)
    ratio = y.mean() / x.mean()
    residuals = y - ratio * x
    if float(residuals @ residuals) <= 1e-24 * max(float(y @ y), 1e-300):
        return UNKNOWN
    (var_x, cov), (_, var_y) = np.cov(x, y) / len(x) * quantile**2
    a = x.mean()**2 - var_x
    if a <= 0:
        return UNKNOWN
    b, c = x.mean() * y.mean() - cov, y.mean()**2 - var_y
    root = math.sqrt(max(b * b - a * c, 0.0))
    return float((b - root) / a), float((b + root) / a)


def jackknife_interval(statistic: Callable[[np.ndarray], float], clusters: int, confidence: float = 0.95, *,
                       low: float = -math.inf, high: float = math.inf) -> Interval:
    """Interval of any smooth statistic of clusters, by leaving out one cluster after another (Tukey 1958).

    Args:
        statistic: gives the number from the weights [clusters] of the clusters, which are 1 or 0.
        clusters: how many there are.
        confidence: how often the interval should cover the truth.
        low, high: bounds of the statistic.

    `UNKNOWN`, within the bounds, for fewer than two clusters, without variance, and where a cluster that is left out
    leaves no number.
    """
    if clusters < 2:
        return low, high
    everything = statistic(np.ones(clusters))
    left_out = np.array([statistic(np.arange(clusters) != i) for i in range(clusters)], dtype=float)
    if not np.isfinite([everything, *left_out]).all():
        return low, high
    error = math.sqrt((clusters - 1) / clusters * float(((left_out - left_out.mean())**2).sum()))
    if error <= 1e-12 * max(abs(everything), 1e-300):
        return low, high
    half = t_quantile(confidence, clusters - 1) * error
    return max(everything - half, low), min(everything + half, high)


def correlation_interval(x: Numbers, y: Numbers, prompts: Sequence | None = None,
                         confidence: float = 0.95) -> tuple[float, float, float]:
    """(r, low, high): Pearson's correlation of two lists [N], and its interval.

    The interval is the jackknife of arctanh r over prompts. Unlike Fisher's formula it needs no normal distribution,
    and lets the values of one prompt be alike; `prompts` [N] says whose they are, and without it each stands for
    itself. For Spearman's correlation give `ranks` of both lists. r is nan, and the interval (-1, 1), where one of
    the lists has no variance.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < 2 or not x.std() or not y.std():
        return math.nan, -1.0, 1.0
    owners = _codes(prompts, len(x))
    sums = np.zeros((int(owners.max()) + 1, 6))
    np.add.at(sums, owners, _products((x - x.mean()) / x.std(), (y - y.mean()) / y.std()))

    def transformed(weights: np.ndarray) -> float:
        """arctanh of the correlation. A correlation of exactly 1 stays finite."""
        return math.atanh(max(min(_correlation(weights @ sums), 1 - 1e-12), 1e-12 - 1))

    low, high = jackknife_interval(transformed, len(sums), confidence)
    return _correlation(sums.sum(0)), math.tanh(low), math.tanh(high)


def _codes(prompts: Sequence | None, count: int) -> np.ndarray:
    """A number for each of `count` values; equal numbers belong to one prompt."""
    if prompts is None:
        return np.arange(count)
    numbers: dict = {}
    return np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts])


def _products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[N, 6]: what the sums that make a correlation are of. Standardised x and y cancel no digits."""
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)


def _correlation(sums: np.ndarray) -> float:
    """From the sums of 1, x, y, x^2, y^2 and xy; nan without variance."""
    count, x, y, xx, yy, xy = sums
    if count <= 0:
        return math.nan
    spread = (xx - x * x / count) * (yy - y * y / count)
    return float((xy - x * y / count) / math.sqrt(spread)) if spread > 1e-18 * count**2 else math.nan


def ranks(values: Numbers) -> np.ndarray:
    """[N]: rank of each value, 1 is the lowest; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


# -- quantiles ---------------------------------------------------------------------------------------------------------

def normal_quantile(confidence: float) -> float:
    """z such that a standard normal number lies within +-z with this probability: 1.96 for .95."""
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence is {confidence}, but must lie between 0 and 1")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


@lru_cache(maxsize=4096)
def t_quantile(confidence: float, freedom: float) -> float:
    """t such that Student's t with `freedom` degrees of freedom lies within +-t with this probability.

    With t = sqrt(freedom) tan a, the probability within +-t is the integral of cos^(freedom - 1) from -a to a over a
    constant; a is found by halving.
    """
    if not 0 < confidence < 1 or freedom <= 0:
        raise ValueError(f"there is no quantile for a confidence of {confidence} and {freedom} degrees of freedom")
    if freedom > 1e6:
        return normal_quantile(confidence)
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        # From the middle to the angle, doubled; the nodes lie in -1 to 1.
        inside = constant * angle * float(weights @ np.cos(angle * (nodes + 1) / 2)**(freedom - 1))
        low, high = (angle, high) if inside < confidence else (low, angle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


# -- where they do not hold --------------------------------------------------------------------------------------------

def too_few(clusters: int, rate: float | None = None, *, ties: float = 0.0, unit: str = "prompt") -> str:
    """A sentence about an interval that may not hold what it promises; "" where it does.

    Args:
        clusters: how many prompts (or voters) it rests on.
        rate: the rate that was measured, if it is one. A rate near 0 or 1 needs more prompts: `FEWEST_RARE` of the
            rarer answer.
        ties: share of the prompts on which all answers tie. `FEWEST_DECIDED` prompts at least should decide something.
        unit: what a cluster is, for the sentence.
    """
    what = f"{clusters:,} {unit}{'' if clusters == 1 else 's'}"
    if clusters < FEWEST_PROMPTS:
        return (f"the intervals rest on {what}; with fewer than {FEWEST_PROMPTS} they may be too narrow or too wide: "
                f"ask more {unit}s before you rely on them")
    rare = min(rate, 1 - rate) if rate is not None else 0.5
    if rare < HELD_RATES[0] and rare * clusters < FEWEST_RARE:
        return (f"the rate of {rate:.1%} is near {'0' if rate == rare else '1'}, and {what} hold few of the rarer "
                f"answers; the interval may be too narrow or too wide: ask more {unit}s before you rely on it")
    if clusters - round(ties * clusters) < FEWEST_DECIDED:
        return (f"of {what}, {ties:.0%} decide nothing; the interval may be too narrow or too wide: ask more {unit}s "
                "before you rely on it")
    return ""
