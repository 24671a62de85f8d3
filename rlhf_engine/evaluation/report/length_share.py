"""How much of a judge's scores is length: the share of their variance that a function of length alone explains.

A correlation would miss a judge that wants answers near fifty words: its scores rise and fall. Numpy alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlhf_engine.feedback.scoring_functions import words

BINS = 12
"""Classes of length, equally full, with one score each: any function of length, in steps."""
FEWEST = 60
"""Responses below which there is no answer: twelve classes need five each."""
NOTHING: dict[str, Any] = {"share": None, "of": None, "correlation": None}
"""Of scores about which nothing can be said."""
MEASURES: dict[str, Callable[[str], int]] = {
    "words": lambda text: len(words(text)), "characters": len, "sentences": lambda text: sum(map(text.count, ".!?"))}


def share_explained_by_length(scores: Sequence[float], texts: Sequence[str], prompts: Sequence[int]) -> dict[str, Any]:
    """The share (0 to 1) of the variance of scores that length explains, on prompts that did not help to say how.

    A score is predicted by the mean of its class of length (`BINS` classes, equally full), which is taken from the
    other half of the prompts. The share is one less the squared error of these predictions, divided by that of the mean
    score. It is taken for words, for characters and for sentences, and the largest counts.

    Args:
        scores: [N].
        texts: [N].
        prompts: [N], the number of the prompt of each response.

    Returns {"share", "of": "words", "characters" or "sentences", "correlation": Spearman's, of that length}; None for
    all where scores or lengths are all alike, or there are fewer than `FEWEST` responses.
    """
    values, owners = np.asarray(scores, dtype=float), np.asarray(prompts)
    if len(values) < FEWEST or np.ptp(values) == 0 or len(np.unique(owners)) < 2:
        return dict(NOTHING)
    best = dict(NOTHING)
    for name, measure in MEASURES.items():
        lengths = np.array([measure(text) for text in texts], dtype=float)
        if np.ptp(lengths) == 0:
            continue
        share = held_out_share(values, lengths, owners)
        if best["share"] is None or share > best["share"]:
            best = {"share": share, "of": name, "correlation": spearman(values, lengths)}
    return best


def held_out_share(values: np.ndarray, lengths: np.ndarray, owners: np.ndarray) -> float:
    """1 - (squared error of the classes' means) / (squared error of the mean), both from the other half of the prompts.
    """
    places = np.unique(owners, return_inverse=True)[1]
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, BINS + 1)[1:-1]))
    classes = np.searchsorted(edges, lengths, side="right")
    error, total = 0.0, 0.0
    for half in (0, 1):
        here, there = places % 2 == half, places % 2 != half
        mean = values[there].mean()
        means = np.array([values[there & (classes == k)].mean() if (there & (classes == k)).any() else mean
                          for k in range(len(edges) + 1)])
        error += float(((values[here] - means[classes[here]]) ** 2).sum())
        total += float(((values[here] - mean) ** 2).sum())
    return max(0.0, 1 - error / total) if total else 0.0


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation: that of the ranks, ties at their mean."""
    ranks = [np.unique(side, return_inverse=True, return_counts=True) for side in (x, y)]
    mean_ranks = [(np.cumsum(counts) - (counts - 1) / 2)[inverse] for _, inverse, counts in ranks]
    return float(np.corrcoef(mean_ranks[0], mean_ranks[1])[0, 1])
