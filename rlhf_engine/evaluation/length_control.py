"""Wins at equal length: a logistic model of the verdicts with a term for the difference of lengths.

The model is that of AlpacaEval 2.0 (Dubois et al. 2024): logit P(win) = theta + phi tanh(d / s), where d is the length
of our response less that of theirs, and s the standard deviation of d. The rate at equal length is P(win) at d = 0.
AlpacaEval also has a term for the difficulty of each prompt, which it takes from other models; here there is none.
Lengths are in characters, as there, or in another unit that the caller names.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlhf_engine.evaluation.intervals import share_interval, t_quantile

ROUNDS = 100
"""Newton steps of a fit, at most."""
TOLERANCE = 1e-10
"""A fit is done when no coefficient moves further than this."""
FEWEST_PROMPTS = 3
"""Prompts without which there is no model: it has two coefficients."""
SINGULAR = 1e-10
"""Determinant of two by two, as a share of the product of its diagonal, below which there is no fit."""
LARGEST_STEP = 2.0
"""Furthest that a coefficient moves in one step, so that a fit does not jump to where all is certain."""


@dataclass(frozen=True, kw_only=True)
class LengthControl:
    """The win rate at equal length, what length does to the verdicts, and what must be known to read the two."""

    win_rate: float | None = None
    """At equal length; None where the data cannot tell."""
    win_rate_low: float | None = None
    win_rate_high: float | None = None
    """95 % interval, clustered by prompt."""
    slope: float | None = None
    """phi: by how much the log-odds of a win rise with the tanh of the standardised difference of lengths."""
    slope_low: float | None = None
    slope_high: float | None = None
    share: float | None = None
    """By how much the share of wins rises where our response is one standard deviation longer: a straight line through
    the verdicts, by least squares."""
    share_low: float | None = None
    share_high: float | None = None
    sd: float
    """s: the standard deviation of the differences of lengths."""
    difference: float
    """Mean of the differences."""
    unit: str
    """Of lengths: characters or words."""
    notes: list[str]
    """Lines about what the data cannot tell."""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return asdict(self)


def control_length(wins: Sequence[float], differences: Sequence[float], prompts: Sequence[int],
                   unit: str = "characters") -> LengthControl:
    """The win rate at equal length.

    Args:
        wins: of each pair of responses 1, 0, or anything between: a tie is 1/2.
        differences: of each pair, the length of our response less that of theirs.
        prompts: of each pair, the number of its prompt. Pairs of one prompt are a cluster.
        unit: of the lengths.

    Raises ValueError for no pairs, and for lists that differ in length.
    """
    y, d, clusters = (np.asarray(column, dtype=float) for column in (wins, differences, prompts))
    if not len(y) or not len(y) == len(d) == len(clusters):
        raise ValueError(f"{len(y)} verdicts, {len(d)} differences and {len(clusters)} prompts do not go together")
    groups = np.unique(clusters, return_inverse=True)[1]
    if np.ptp(d) == 0:
        return all_alike(y, float(d[0]), groups, unit)
    if y.min() == y.max() and 0 < y[0] < 1:
        note = "every pair is a tie, so the verdicts do not say what length does"
        return plain_rate(y, groups, unit, note, d)
    if groups.max() + 1 < FEWEST_PROMPTS:
        note = f"a win rate at equal length needs {FEWEST_PROMPTS} prompts, and there are {groups.max() + 1}"
        return LengthControl(sd=float(np.std(d, ddof=1)), difference=float(d.mean()), unit=unit, notes=[note])
    sd = float(np.std(d, ddof=1))
    notes = separation_notes(y, d) + range_notes(d)
    x = np.tanh(d / sd)
    logit, logit_errors = fit_logistic(x, y, groups)
    line, line_errors = fit_line(d / sd, y, groups)
    if not np.isfinite(line_errors).all():
        notes.append("all pairs but those of one prompt differ equally in length, so there is no interval for what "
                     "length does")
    reach = t_quantile(0.95, int(groups.max()))
    numbers = {"win_rate": (logit[0], logit_errors[0]), "slope": (logit[1], logit_errors[1]),
               "share": (line[1], line_errors[1])}
    bounds: dict[str, float | None] = {}
    for name, (center, error) in numbers.items():
        for end, side in (("", 0), ("_low", -1), ("_high", 1)):
            bound = center + side * reach * error if side else center
            bounds[name + end] = float(bound) if np.isfinite(bound) else None
    for name in ("win_rate", "win_rate_low", "win_rate_high"):
        bound = bounds[name]
        bounds[name] = None if bound is None else float(logistic(bound))
    return LengthControl(**bounds, sd=sd, difference=float(d.mean()), unit=unit, notes=notes)


# -- what the data cannot tell -----------------------------------------------------------------------------------------

def all_alike(y: np.ndarray, difference: float, groups: np.ndarray, unit: str) -> LengthControl:
    """The result where the difference of lengths is the same in every pair: the plain rate if it is 0, else none."""
    if difference:
        side = "longer" if difference > 0 else "shorter"
        note = (f"our response is {abs(difference):g} {unit} {side} in every pair, so what length does cannot be "
                "told from the rest: there is no win rate at equal length")
        return LengthControl(sd=0.0, difference=difference, unit=unit, notes=[note])
    note = "both responses are of the same length in every pair, so the win rate at equal length is the plain one"
    return plain_rate(y, groups, unit, note, np.zeros(len(y)))


def plain_rate(y: np.ndarray, groups: np.ndarray, unit: str, note: str, d: np.ndarray) -> LengthControl:
    """The result where length has no part: the plain win rate and its interval over prompts."""
    low, high = share_interval(np.bincount(groups, weights=y), np.bincount(groups))
    sd = float(np.std(d, ddof=1)) if len(d) > 1 else 0.0
    return LengthControl(win_rate=float(y.mean()), win_rate_low=float(low), win_rate_high=float(high), sd=sd,
                         difference=float(d.mean()), unit=unit, notes=[note])


def is_separated(y: np.ndarray, x: np.ndarray) -> bool:
    """Whether a threshold on x tells all wins from all losses, so that no coefficients are the most likely ones.

    A tie counts as a win and a loss.
    """
    won, lost = x[y > 0], x[y < 1]
    return not len(won) or not len(lost) or won.min() >= lost.max() or won.max() <= lost.min()


def separation_notes(y: np.ndarray, d: np.ndarray) -> list[str]:
    """A line where the verdicts leave the coefficients without a bound; none elsewhere."""
    if not is_separated(y, d):
        return []
    shrunk = "the win rate at equal length is an estimate that is drawn towards one half (Firth 1993)"
    if y.min() == y.max():
        what = "won" if y.min() == 1 else "lost"
        return [f"every pair is {what}, so the verdicts do not say what length does: {shrunk}"]
    won, lost = d[y > 0], d[y < 1]
    side, gap = ("longer", won.min() - lost.max()) if won.min() >= lost.max() else ("shorter", lost.min() - won.max())
    if gap:
        return [f"our response wins exactly where it is {side} by enough, so length alone explains every verdict: "
                f"{shrunk}"]
    return [f"our response wins where it is {side} and loses elsewhere, but for pairs of one and the same difference: "
            f"the effect of length has no bound, and {shrunk}"]


def range_notes(d: np.ndarray) -> list[str]:
    """A line where equal length lies outside of what was seen; none elsewhere."""
    if d.min() <= 0 <= d.max():
        return []
    side = "longer" if d.min() > 0 else "shorter"
    return [f"our response is {side} in every pair, so the win rate at equal length lies outside of what was seen"]


# -- the fits ----------------------------------------------------------------------------------------------------------

def fit_logistic(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coefficients [2], their standard errors) of logit P(win) = theta + phi x, for fractional wins.

    The most likely coefficients (quasi-likelihood, Papke & Wooldridge 1996), with errors by the jackknife over prompts.
    Where a threshold on x tells wins from losses, the likelihood has no maximum. There it has Jeffreys' prior (Firth
    1993), and the errors follow from the information, as if the pairs of a prompt were one. So do they where one prompt
    alone says what x does.

    Args:
        x: [N], not all equal.
        y: [N], in [0, 1].
        groups: [N], the cluster of each pair, from 0.
    """
    design, penalised = np.column_stack([np.ones(len(x)), x]), is_separated(y, x)
    coefficients = np.zeros(2)
    for _ in range(ROUNDS):
        p = logistic(design @ coefficients)
        weights = p * (1 - p)
        information = design.T @ (design * weights[:, None])
        residuals = y - p
        if penalised:
            leverages = weights * np.einsum("ni,ij,nj->n", design, np.linalg.inv(information), design)
            residuals = residuals + leverages * (0.5 - p)
        step = np.linalg.solve(information, design.T @ residuals)
        step *= min(1.0, LARGEST_STEP / max(float(np.abs(step).max()), TOLERANCE))
        coefficients = coefficients + step
        if np.abs(step).max() < TOLERANCE:
            break
    p = logistic(design @ coefficients)
    weights = p * (1 - p)
    errors = jackknife_errors(design, y - p, weights, groups)
    if penalised or not np.isfinite(errors).all():
        size = len(y) / (groups.max() + 1)
        errors = np.sqrt(np.diag(np.linalg.inv(design.T @ (design * weights[:, None]))) * size)
    return coefficients, errors


def fit_line(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coefficients [2], their standard errors) of y = a + b x by least squares; errors by the jackknife over prompts.
    """
    design = np.column_stack([np.ones(len(x)), x])
    coefficients = np.linalg.solve(design.T @ design, design.T @ y)
    return coefficients, jackknife_errors(design, y - design @ coefficients, np.ones(len(y)), groups)


def jackknife_errors(x: np.ndarray, residuals: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Standard errors of coefficients by leaving out each cluster once (CR3; MacKinnon, Nielsen & Webb 2023).

    For least squares it is exact. Of a logistic model it takes one Newton step from the fit of all data. The errors are
    infinite where the rest has no fit without one of the clusters.
    """
    count = int(groups.max()) + 1
    information = np.zeros((count, x.shape[1], x.shape[1]))
    np.add.at(information, groups, (x * weights[:, None])[:, :, None] * x[:, None, :])
    scores = np.column_stack([np.bincount(groups, weights=column) for column in (x * residuals[:, None]).T])
    without = information.sum(0) - information
    scale = np.prod(np.diagonal(without, axis1=1, axis2=2), axis=1)
    if count < 2 or (np.linalg.det(without) <= SINGULAR * scale).any():
        return np.full(x.shape[1], np.inf)
    moves = np.linalg.solve(without, -scores[:, :, None])[:, :, 0]
    return np.sqrt((count - 1) / count * ((moves - moves.mean(0)) ** 2).sum(0))


def logistic(z):
    """1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(z)))
