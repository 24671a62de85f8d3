"""Coverage of what has to do with length: wins at equal length, correlations of scores and lengths. For
`surveys/coverage.py`.

Each function gives rows (interval, prompts, rate or None, setting, coverage in percent). The truth is what 60,000
prompts give.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import numpy as np

from rlhf_engine.evaluation.length_bias import length_correlation
from rlhf_engine.evaluation.length_control import control_length

Row = tuple[str, int, float | None, str, float]
MANY = 60_000
"""Prompts from which the truth is taken."""


def controls(rng: np.random.Generator, simulations: int) -> Iterator[Row]:
    """The win rate at equal length. Verdicts follow length with a slope of 1; prompts differ where each has several."""
    rates = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
    for prompts, rate, ties, samples in product((20, 50, 100, 200), rates, (0.0, 0.3, 0.6), (1, 2, 4)):
        truth, hits = true_control(rate, ties, samples), []
        for _ in range(max(simulations, 20)):
            control = control_length(*verdicts(rng, prompts, rate, ties, samples))
            low, high = control.win_rate_low, control.win_rate_high
            hits.append(low is not None and high is not None and low <= truth <= high)
        yield "win rate at equal length", prompts, rate, f"ties {ties}, {samples} a prompt", 100 * sum(hits) / len(hits)


@lru_cache
def true_control(rate: float, ties: float, samples: int) -> float:
    """The win rate at equal length of very many prompts."""
    control = control_length(*verdicts(np.random.default_rng(1), MANY, rate, ties, samples))
    return control.win_rate or 0.0


def verdicts(rng: np.random.Generator, prompts: int, rate: float, ties: float,
             samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(verdicts, differences of lengths in characters, prompts)."""
    owners = np.repeat(np.arange(prompts), samples)
    differences = np.round(rng.normal(10, 30, len(owners)) + rng.normal(0, 20, prompts)[owners])
    alike = rng.normal(0, 1, prompts)[owners] if samples > 1 else 0.0
    logits = math.log(rate / (1 - rate)) + np.tanh(differences / 36) + alike
    wins = (rng.random(len(owners)) < 1 / (1 + np.exp(-logits))).astype(float)
    wins[rng.random(len(owners)) < ties] = 0.5
    return wins, differences, owners


def correlations_of_length(rng: np.random.Generator, simulations: int) -> Iterator[Row]:
    """Correlations within prompts, of scores with and without ties that follow length by a slope."""
    for prompts, slope, rounded, samples in product((20, 50, 100, 200), (0.0, 0.4, 1.5), (False, True), (2, 4)):
        hits: dict[str, list[bool]] = {"within_spearman": [], "within_pearson": []}
        for _ in range(max(simulations // 5, 20)):
            report = length_correlation(*scores(rng, prompts, slope, rounded, samples))
            truth = true_correlation(slope, rounded, samples)
            for name, found in hits.items():
                low, high = report[f"{name}_low"], report[f"{name}_high"]
                found.append(low is not None and low <= truth[name] <= high)
        setting = f"slope {slope}{', ties' if rounded else ''}, {samples} a prompt"
        for name, found in hits.items():
            yield f"length, {name.replace('_', ' ')}", prompts, None, setting, 100 * sum(found) / len(found)


@lru_cache
def true_correlation(slope: float, rounded: bool, samples: int) -> dict[str, float]:
    """The correlations of many prompts. Their interval is not needed, and would take long."""
    data = scores(np.random.default_rng(1), 4000, slope, rounded, samples)
    return length_correlation(*data[:2], np.zeros(len(data[2])), data[2])


def scores(rng: np.random.Generator, prompts: int, slope: float, rounded: bool,
           samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, lengths, prompts); both differ between prompts, too."""
    owners = np.repeat(np.arange(prompts), samples)
    deviations = rng.normal(0, 1, len(owners)) + rng.normal(0, 1, prompts)[owners]
    values = slope * deviations + rng.normal(0, 1, prompts)[owners] + rng.normal(0, 1, len(owners))
    return np.round(0.7 * values) if rounded else values, np.round(300 + 50 * deviations), owners
