"""Whether a scorer follows length: the correlation of scores and lengths, over all responses and within prompts.

Within prompts is what counts. Some prompts ask for long responses and get high scores; that is no bias. Of several
responses to one prompt, a scorer that follows length prefers the longer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlhf_engine.evaluation.intervals import correlation_interval, ranks, wilson
from rlhf_engine.evaluation.length_control import LengthControl

FEWEST = 3
"""Prompts without which a correlation has no interval."""
PERFECT = 1 - 1e-9
"""A correlation as large as this is taken for 1."""
STRONG, CLEAR = 0.6, 0.3
"""Correlations from which on a bias is called strong or clear."""
MOVED = 0.05
"""A change of the win rate that is worth a sentence."""
NAMES = ("spearman", "pearson", "within_spearman", "within_pearson")


def length_correlation(scores: Sequence[float], lengths: Sequence[float], prompts: Sequence[int],
                       groups: Sequence[int] | None = None) -> dict[str, Any]:
    """How scores go with lengths.

    Args:
        scores: [N], of the responses.
        lengths: [N], in any unit.
        prompts: [N], the number of each response's prompt. Prompts are the clusters of the intervals.
        groups: [N], responses with the same number are compared "within"; None takes the prompts. Responses of two
            policies to one prompt are two groups, or a better policy that writes more would look like a bias.

    Returns:
        For each of `spearman`, `pearson` (over all), `within_spearman` and `within_pearson`: the correlation, and its
        95 % interval as `..._low` and `..._high` (jackknife over prompts on Fisher's scale); None where there is none.
        Within groups, scores and lengths (or their ranks in the group) are taken less the group's mean, and all groups
        are pooled. A group whose scores or whose lengths are all the same says nothing and is left out. `responses`,
        `groups` and `informative` count the responses, the groups of at least two, and those that say something.

    Raises ValueError for lists that differ in length.
    """
    x, y, clusters = (np.asarray(column, dtype=float) for column in (lengths, scores, prompts))
    within = clusters if groups is None else np.asarray(groups, dtype=float)
    if not len(x) == len(y) == len(clusters) == len(within):
        raise ValueError(f"{len(y)} scores, {len(x)} lengths and {len(clusters)} prompts do not go together")
    x, y = scaled(x), scaled(y)
    clusters, within = (np.unique(column, return_inverse=True)[1] for column in (clusters, within))
    sizes = np.bincount(within) if len(within) else np.zeros(0, int)
    members = [np.flatnonzero(within == number) for number in np.flatnonzero(sizes > 1)]
    informative = [rows for rows in members if np.ptp(x[rows]) and np.ptp(y[rows])]
    rows = np.concatenate(informative) if informative else np.zeros(0, int)
    report: dict[str, Any] = {"responses": len(x), "groups": len(members), "informative": len(informative)}
    values = {"spearman": (ranks(x), ranks(y), clusters), "pearson": (x, y, clusters),
              "within_spearman": (pool(x, informative, ranks), pool(y, informative, ranks), clusters[rows]),
              "within_pearson": (pool(x, informative), pool(y, informative), clusters[rows])}
    for name in NAMES:
        left, right, owners = values[name]
        report |= dict(zip((name, f"{name}_low", f"{name}_high"), with_interval(left, right, owners)))
    return report


def with_interval(x: np.ndarray, y: np.ndarray,
                  prompts: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Pearson's correlation and its 95 % interval over prompts; None where there is none.

    A perfect correlation does not vary when a prompt is left out. There the interval is that of a share p of prompts
    that agree, on the scale 2 p - 1: Wilson's, for as many successes as there are prompts.
    """
    if not len(x) or not np.ptp(x) or not np.ptp(y):
        return None, None, None
    count = len(np.unique(prompts))
    value, low, high = correlation_interval(x, y, prompts.tolist())
    if np.isnan(value):
        return None, None, None
    if count < FEWEST:
        return value, None, None
    if abs(value) >= PERFECT:
        inner = 2 * wilson(count, count)[0] - 1
        return (value, inner, 1.0) if value > 0 else (value, -1.0, -inner)
    return value, low, high


def pool(values: np.ndarray, groups: Sequence[np.ndarray],
         change: Callable[[np.ndarray], np.ndarray] = np.asarray) -> np.ndarray:
    """The values of all groups (of their members' places), changed and taken less their mean in each group."""
    parts = [change(values[group]) for group in groups]
    return np.concatenate([part - part.mean() for part in parts]) if parts else values[:0]


def scaled(values: np.ndarray) -> np.ndarray:
    """The values divided by the largest, so that no square is too large or too small for a float."""
    return values / (np.abs(values).max(initial=0.0) or 1.0)


# -- in words ----------------------------------------------------------------------------------------------------------

def length_remarks(correlation: dict[str, Any], scorer: str) -> list[str]:
    """What `length_correlation` says about a scorer, as sentences; none where it does not follow length."""
    if not correlation["groups"]:
        return [f"whether {scorer} follows length cannot be told: no two responses of a policy answer the same prompt"]
    if not correlation["informative"]:
        return [f"whether {scorer} follows length cannot be told: among the responses to each prompt, all scores or "
                "all lengths are the same"]
    value, low, high = (correlation[f"within_spearman{end}"] for end in ("", "_low", "_high"))
    if low is None or low <= 0 <= high:
        return []
    size, unit = abs(value), f" in {correlation['unit']}" if "unit" in correlation else ""
    how = "strongly" if size >= STRONG else "clearly" if size >= CLEAR else "slightly"
    return [f"{scorer} {how} prefers {'longer' if value > 0 else 'shorter'} responses: among responses to the same "
            f"prompt, the rank correlation of score and length{unit} is {value:.2f} ({low:.2f} to {high:.2f})"]


def control_remarks(wins: dict[str, Any], control: LengthControl) -> list[str]:
    """What equal length does to a win rate, as sentences.

    `wins` has `win_rate`, `win_rate_low` and `win_rate_high`, as measured.
    """
    plain, low, high = wins["win_rate"], wins["win_rate_low"], wins["win_rate_high"]
    equal, equal_low, equal_high = control.win_rate, control.win_rate_low, control.win_rate_high
    if equal is None or equal_low is None or equal_high is None or not control.sd:
        return list(control.notes)
    remarks = list(control.notes)
    between = f"{equal:.1%} ({equal_low:.1%} to {equal_high:.1%}) at equal length"
    if (low > 0.5 >= equal_low) or (high < 0.5 <= equal_high):
        what = "wins" if low > 0.5 else "losses"
        remarks.append(f"the win rate is {plain:.1%}, but {between}: the {what} may come from length alone")
    elif abs(plain - equal) >= MOVED:
        remarks.append(f"the win rate is {plain:.1%}, and {between}")
    return remarks
