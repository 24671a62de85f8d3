"""The ordinal model behind `likert`: cumulative logits with thresholds per rater, and an effect of each checkpoint.

P(score <= k | rater r, checkpoint c) = sigmoid(threshold[r, k] - effect[c]) (McCullagh 1980). Raters differ in what
they call a 5, so each has thresholds of their own. A rater with few votes has little to fit seven scores with: each
rater has `SHRINKAGE` votes of an average person on an average checkpoint beside their own, so their thresholds begin at
the common ones. With one rater there is nothing to share, and the model is the plain one.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlhf_engine.evaluation.intervals import t_quantile
from rlhf_engine.evaluation.leaderboard.bradley_terry import FLAT, loose_parameters

SHRINKAGE = 3.0
"""Votes of an average person that each rater has beside their own, in all.

In simulations with raters who differ much, 1 exaggerates effects where raters gave few scores, and from 10 on the
differences between raters leak into the effects (`benchmarks/surveys/coverage.py`).
"""
MOST_ITERATIONS = 100


class Table(NamedTuple):
    """Scores as numbers; equal rows stand once."""

    checkpoints: np.ndarray
    raters: np.ndarray
    scores: np.ndarray
    """From 0 to `levels` - 1: which of the scores in use."""
    times: np.ndarray
    """How often the row stands in the data."""
    sizes: tuple[int, int, int]
    """Numbers of checkpoints, raters and levels."""


class Parts(NamedTuple):
    """Derivatives of the penalised log-likelihood, in blocks: thresholds of different raters do not meet."""

    value: float
    gradient: np.ndarray
    """[C], of the effects."""
    threshold_gradient: np.ndarray
    """[R, K]."""
    effects: np.ndarray
    """[C, C]: information of the effects."""
    mixed: np.ndarray
    """[R, C, K]."""
    thresholds: np.ndarray
    """[R, K, K]."""

    def efficient(self) -> tuple[np.ndarray, np.ndarray]:
        """(information of the effects with all thresholds fitted [C, C]; what takes threshold scores out [R, C, K])."""
        projection = np.linalg.solve(self.thresholds, self.mixed.transpose(0, 2, 1)).transpose(0, 2, 1)
        return self.effects - np.einsum("rck,rdk->cd", projection, self.mixed), projection


@dataclass(frozen=True)
class OrdinalFit:
    """Effects of checkpoints in logits, with the mean 0."""

    effects: np.ndarray
    thresholds: np.ndarray
    """[K]: the common thresholds, of an average rater."""
    rater_thresholds: np.ndarray
    """[R, K]."""
    robust: np.ndarray
    """[C, C]: sandwich covariance over clusters."""
    model: np.ndarray
    """[C, C]: covariance if the scores are independent and the model is right."""
    clusters: int
    prior: np.ndarray
    """[C]: whether the weak prior was needed."""

    def half_width(self, contrast: np.ndarray) -> float:
        """Half of the 95 % interval of `contrast @ effects`: that of the larger variance, as in `bradley_terry.Fit`."""
        variance = max(float(contrast @ self.robust @ contrast), float(contrast @ self.model @ contrast), 0.0)
        return t_quantile(0.95, max(self.clusters - 1, 1)) * math.sqrt(variance)

    def chance(self, difference: float) -> float:
        """P(an average rater scores the one higher, ties half) of two checkpoints whose effects differ so much.

        The one stands as far above the mean as the other below it.
        """
        one, other = (level_chances(self.thresholds, effect) for effect in (difference / 2, -difference / 2))
        below = np.concatenate([[0.0], np.cumsum(other)[:-1]])
        return float(one @ (below + other / 2))


def fit_ordinal(checkpoints: np.ndarray, raters: np.ndarray, scores: np.ndarray, clusters: np.ndarray,
                shrinkage: float = SHRINKAGE) -> OrdinalFit:
    """Fit the model to scores [N], given as numbers from 0. All levels, checkpoints and raters have a score at least.

    Where the scores do not bound an effect (a checkpoint has nothing but the best score), a weak prior does: half a
    win and half a loss against a checkpoint of mean effect. `shrinkage` counts with two raters or more.
    """
    table, row_of = make_table(checkpoints, raters, scores)
    count, rater_count, levels = table.sizes
    prior = np.zeros(count, dtype=bool)
    pooled = table._replace(raters=np.zeros_like(table.raters), sizes=(count, 1, levels))
    effects, common, prior = maximise_with_prior(pooled, prior, None, start_thresholds(pooled))
    thresholds, pseudo = common, None
    if rater_count > 1:
        pseudo = shrinkage * level_chances(common[0], 0.0)
        start = np.repeat(common, rater_count, axis=0)
        effects, thresholds, prior = maximise_with_prior(table, prior, pseudo, start)
    parts = derivatives(table, effects, thresholds, prior, pseudo)
    information, projection = parts.efficient()
    inverse = np.linalg.inv(information)
    rows = efficient_scores(table, effects, thresholds, projection)
    sums = np.zeros((int(clusters.max()) + 1, count))
    np.add.at(sums, clusters, rows[row_of])
    meat = sums.T @ sums * len(sums) / max(len(sums) - 1, 1)
    return OrdinalFit(effects - effects.mean(), common[0], thresholds, inverse @ meat @ inverse, inverse, len(sums),
                      prior)


def make_table(checkpoints: np.ndarray, raters: np.ndarray, scores: np.ndarray) -> tuple[Table, np.ndarray]:
    """(the table, the row of it [N] of each score)."""
    rows, row_of, times = np.unique(np.stack([checkpoints, raters, scores], axis=1), axis=0, return_inverse=True,
                                    return_counts=True)
    sizes = (int(checkpoints.max()) + 1, int(raters.max()) + 1, int(scores.max()) + 1)
    return Table(rows[:, 0], rows[:, 1], rows[:, 2], times.astype(float), sizes), row_of.reshape(-1)


def start_thresholds(table: Table) -> np.ndarray:
    """[1, K]: the thresholds that give each level its share, if all checkpoints are alike."""
    shares = np.bincount(table.scores, weights=table.times, minlength=table.sizes[2])
    below = np.cumsum(shares / shares.sum())[:-1]
    return np.log(below / (1 - below))[None]


def level_chances(thresholds: np.ndarray, effect: float) -> np.ndarray:
    """[L]: how probable each level is."""
    upper = np.concatenate([1 / (1 + np.exp(effect - thresholds)), [1.0]])
    return np.diff(upper, prepend=0.0)


# -- the likelihood ----------------------------------------------------------------------------------------------------

def row_derivatives(shifted: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of log P(score) in the upper and the lower threshold of its level.

    `shifted` [N, K] are the thresholds minus the effect. Returns (log P; first derivatives, upper and lower; second
    ones: upper, lower, mixed), [N] each; those of a threshold that a level lacks are 0. log P is -inf where thresholds
    are out of order.
    """
    rows = np.arange(len(scores))
    padded = np.pad(shifted, ((0, 0), (1, 1)), constant_values=((0, 0), (-np.inf, np.inf)))
    upper, lower = padded[rows, scores + 1], padded[rows, scores]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        # sigmoid(u) - sigmoid(l), from the side on which neither is close to 1.
        flip = upper + lower > 0
        a, b = np.where(flip, -lower, upper), np.where(flip, -upper, lower)
        chance = 1 / (1 + np.exp(-a)) - 1 / (1 + np.exp(-b))
        high, low = 1 / (1 + np.exp(-upper)), 1 / (1 + np.exp(-lower))
        slope_high, slope_low = high * (1 - high), low * (1 - low)
        first_high, first_low = slope_high / chance, -slope_low / chance
        second_high = slope_high * (1 - 2 * high) / chance - first_high**2
        second_low = -slope_low * (1 - 2 * low) / chance - first_low**2
        value = np.where(chance > 0, np.log(np.maximum(chance, 1e-300)), -np.inf)
    return value, first_high, first_low, second_high, second_low, -first_high * first_low


def derivatives(table: Table, effects: np.ndarray, thresholds: np.ndarray, prior: np.ndarray,
                pseudo: np.ndarray | None) -> Parts:
    """At some effects [C] and thresholds [R, K], with the prior and the gauge (the effects sum to 0)."""
    count, rater_count, levels = table.sizes
    cuts = levels - 1
    shifted = thresholds[table.raters] - effects[table.checkpoints][:, None]
    value, gradient_c, gradient_t, info_cc, info_ct, info_tt = 0.0, *empty(count, rater_count, cuts)
    log_p, *first_and_second = row_derivatives(shifted, table.scores)
    value += float(table.times @ log_p)
    up, down, up2, down2, mixed = (table.times * each for each in first_and_second)
    add_thresholds(gradient_t, info_tt, table.raters, table.scores, (up, down, up2, down2, mixed))
    np.add.at(gradient_c, table.checkpoints, -(up + down))
    np.add.at(info_cc, (table.checkpoints, table.checkpoints), -(up2 + down2 + 2 * mixed))
    for place, amount in ((table.scores, up2 + mixed), (table.scores - 1, down2 + mixed)):
        inside = (place >= 0) & (place < cuts)
        np.add.at(info_ct, (table.raters[inside], table.checkpoints[inside], place[inside]), amount[inside])
    if pseudo is not None:  # each rater's votes of an average person on an average checkpoint
        raters, scores = (each.reshape(-1) for each in np.indices((rater_count, levels)))
        log_p, *rest = row_derivatives(thresholds[raters], scores)
        times = pseudo[scores]
        value += float(times @ log_p)
        add_thresholds(gradient_t, info_tt, raters, scores, tuple(times * each for each in rest))
    p = 1 / (1 + np.exp(-effects))
    value -= 0.5 * float((np.logaddexp(0, effects) + np.logaddexp(0, -effects))[prior].sum())
    value -= effects.sum()**2 / 2
    gradient_c += prior * (0.5 - p) - effects.sum()
    info_cc += np.diag(prior * p * (1 - p)) + 1.0
    return Parts(value, gradient_c, gradient_t, info_cc, info_ct, info_tt)


def empty(count: int, raters: int, cuts: int) -> tuple[np.ndarray, ...]:
    return (np.zeros(count), np.zeros((raters, cuts)), np.zeros((count, count)), np.zeros((raters, count, cuts)),
            np.zeros((raters, cuts, cuts)))


def add_thresholds(gradient: np.ndarray, information: np.ndarray, raters: np.ndarray, scores: np.ndarray,
                   amounts: tuple[np.ndarray, ...]) -> None:
    """Add rows' derivatives in their two thresholds to `gradient` [R, K] and `information` [R, K, K]."""
    up, down, up2, down2, mixed = amounts
    has_up, has_down = scores < gradient.shape[1], scores > 0
    both = has_up & has_down
    for inside, place, first, second in ((has_up, scores, up, up2), (has_down, scores - 1, down, down2)):
        at = raters[inside], place[inside]
        np.add.at(gradient, at, first[inside])
        np.add.at(information, (at[0], at[1], at[1]), -second[inside])
    np.add.at(information, (raters[both], scores[both], scores[both] - 1), -mixed[both])
    np.add.at(information, (raters[both], scores[both] - 1, scores[both]), -mixed[both])


def efficient_scores(table: Table, effects: np.ndarray, thresholds: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """[rows, C]: what one score adds to the gradient of the effects, with what the thresholds take up taken out."""
    shifted = thresholds[table.raters] - effects[table.checkpoints][:, None]
    _, up, down, *_ = row_derivatives(shifted, table.scores)
    rows, cuts = np.arange(len(up)), thresholds.shape[1]
    scores = np.zeros((len(up), len(effects)))
    scores[rows, table.checkpoints] -= up + down
    for place, first in ((table.scores, up), (table.scores - 1, down)):
        inside = (place >= 0) & (place < cuts)
        scores[inside] -= projection[table.raters[inside], :, place[inside]] * first[inside][:, None]
    return scores


# -- the maximum -------------------------------------------------------------------------------------------------------

def maximise_with_prior(table: Table, prior: np.ndarray, pseudo: np.ndarray | None,
                        start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(effects, thresholds, which effects the prior holds): those that the scores do not bound, and `prior`."""
    effects, thresholds, parts = maximise(table, prior, pseudo, start)
    while (loose := loose_parameters(parts.efficient()[0], table.sizes[0]) & ~prior).any():
        prior = prior | loose
        effects, thresholds, parts = maximise(table, prior, pseudo, start)
    return effects, thresholds, prior


def maximise(table: Table, prior: np.ndarray, pseudo: np.ndarray | None,
             start: np.ndarray) -> tuple[np.ndarray, np.ndarray, Parts]:
    """(effects, thresholds, derivatives there), by Newton's method with halved steps. The likelihood is concave."""
    effects, thresholds = np.zeros(table.sizes[0]), start.copy()
    parts = derivatives(table, effects, thresholds, prior, pseudo)
    for _ in range(MOST_ITERATIONS):
        information, projection = parts.efficient()
        if np.linalg.eigvalsh(information)[0] < FLAT / 100:
            break
        gradient = parts.gradient - np.einsum("rck,rk->c", projection, parts.threshold_gradient)
        step = np.linalg.solve(information, gradient)
        rest = parts.threshold_gradient - np.einsum("rck,c->rk", parts.mixed, step)
        threshold_step = np.linalg.solve(parts.thresholds, rest[:, :, None])[:, :, 0]
        size = max(np.abs(step).max(), np.abs(threshold_step).max())
        rate = min(1.0, 5.0 / max(size, 1e-300))
        while True:
            ahead = effects + rate * step, thresholds + rate * threshold_step
            candidate = derivatives(table, *ahead, prior, pseudo)
            if candidate.value >= parts.value - 1e-12 * abs(parts.value) or rate < 1e-8:
                break
            rate /= 2
        (effects, thresholds), parts = ahead, candidate
        if size < 1e-10:
            break
    return effects, thresholds, parts
