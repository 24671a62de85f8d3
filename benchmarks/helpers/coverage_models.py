"""Coverage of what is fitted: kappa, strengths of a leaderboard, effects of scores. For `surveys/coverage.py`.

Each function gives rows (interval, prompts, rate or None, setting, coverage in percent).
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, product

import numpy as np

from rlhf_engine.evaluation.leaderboard.agreement import JudgedAnswer, cohen_kappa
from rlhf_engine.evaluation.leaderboard.bradley_terry import fit
from rlhf_engine.evaluation.leaderboard.ordinal import fit_ordinal
from rlhf_engine.evaluation.leaderboard.votes import Vote

Row = tuple[str, int, float | None, str, float]
STRENGTHS = np.array([-0.7, -0.2, 0.2, 0.7])
"""Of four checkpoints, in logits: 80 % of the decided votes for the best over the worst."""
EFFECTS = np.array([-0.6, 0.1, 0.5])
CUTS = np.array([-2.5, -1.5, -0.6, 0.3, 1.2, 2.3])
"""Common thresholds of the scores 1 to 7."""


def kappas(rng: np.random.Generator, simulations: int) -> Iterator[Row]:
    """Kappa of a judge who repeats the voter's answer in a share of the cases that differs by prompt."""
    for prompts, ties, samples in product((20, 50, 100, 200), (0.0, 0.3), (1, 4)):
        hits, same = [], 0.6
        for _ in range(max(simulations // 10, 20)):
            rows = []
            for prompt, repeat in enumerate(rng.beta(same * 4, (1 - same) * 4, prompts)):
                for _ in range(samples):
                    voter, other = (int(rng.choice([-1, 0, 1], p=[(1 - ties) / 2, ties, (1 - ties) / 2]))
                                    for _ in range(2))
                    rows.append(JudgedAnswer(voter, voter if rng.random() < repeat else other, 1.0, str(prompt)))
            kappa = cohen_kappa(rows, 0.95)
            low, high = kappa["kappa_low"], kappa["kappa_high"]
            hits.append(low is not None and high is not None and low <= same <= high)
        yield "kappa", prompts, None, f"ties {ties}, {samples} a prompt", 100 * sum(hits) / len(hits)


# -- strengths ---------------------------------------------------------------------------------------------------------

def strengths(rng: np.random.Generator, simulations: int) -> Iterator[Row]:
    """Bradley-Terry's sandwich over prompts: a difference of two, the widest one, and one to the mean.

    With `alike`, each checkpoint is better or worse on a prompt than on others, by a normal number; the truth is then
    what very many prompts would give.
    """
    contrasts = np.array([[1, -1, 0, 0], [1, 0, 0, -1], [-0.25, -0.25, -0.25, 0.75]])
    names = [str(i) for i in range(4)]
    for prompts, votes, theta, alike in product((20, 50, 100, 200), (1, 6), (None, -0.3, 1.5), (0.0, 1.0)):
        if alike and votes == 1:
            continue
        truth = marginal_strengths(theta, alike) if alike else STRENGTHS
        hits = []
        for _ in range(max(simulations // 4, 20)):
            sample = make_votes(rng, prompts, votes, theta, alike)
            fitted = fit(sample[0], names, sample[2], [0] * 4)
            errors = contrasts @ (fitted.strengths - truth)
            hits += [abs(error) <= fitted.half_width(contrast) for error, contrast in zip(errors, contrasts)]
        ties = "no ties" if theta is None else f"theta {theta}"
        yield "strength", prompts, None, f"{ties}, {votes} a prompt, alike {alike}", 100 * sum(hits) / len(hits)


@lru_cache
def marginal_strengths(theta: float | None, alike: float) -> np.ndarray:
    """The strengths that 200,000 votes on as many prompts give."""
    return fit(*make_votes(np.random.default_rng(1), 200_000, 1, theta, alike), [0] * 4).strengths


def make_votes(rng: np.random.Generator, prompts: int, votes: int, theta: float | None,
               alike: float) -> tuple[list[Vote], list[str], list[int]]:
    """(votes on random pairs of the four, their names, the prompt of each vote)."""
    names, pairs = [str(i) for i in range(4)], np.array(list(combinations(range(4), 2)))
    prompt = np.repeat(np.arange(prompts), votes)
    levels = STRENGTHS + alike * rng.standard_normal((prompts, 4))[prompt]
    met = pairs[rng.integers(0, 6, len(prompt))]
    one, other = (levels[np.arange(len(prompt)), met[:, side]] for side in (0, 1))
    tie = np.exp(theta + (one + other) / 2) if theta is not None else np.zeros(len(prompt))
    sums = np.cumsum(np.stack([np.exp(one), np.exp(other), tie]), axis=0)
    outcomes = (rng.random(len(prompt)) * sums[-1] > sums).sum(0)
    ballots = [Vote((names[i], names[j]), ((1, 2), (2, 1), (1, 1))[outcome], str(number), "")
            for (i, j), outcome, number in zip(met, outcomes, prompt)]
    return ballots, names, prompt.tolist()


# -- scores ------------------------------------------------------------------------------------------------------------

def ordinals(rng: np.random.Generator, simulations: int) -> Iterator[Row]:
    """Effects of three checkpoints on scores by raters who differ in their thresholds, by a shift and a scale.

    `uneven`: a rater mostly sees one of the checkpoints.
    """
    contrast, truth = np.array([-1.0, 0.0, 1.0]), EFFECTS[2] - EFFECTS[0]
    settings = ((1, 1), (3, 1), (3, 3), (15, 3), (60, 3))
    for prompts, (raters, scores), uneven in product((20, 50, 100, 200), settings, (False, True)):
        hits = []
        for _ in range(max(simulations // 8, 20)):
            data = make_scores(rng, prompts, raters, scores, uneven)
            if len(set(data[0].tolist())) == 3:
                fitted = fit_ordinal(*data)
                hits.append(abs(contrast @ fitted.effects - truth) <= fitted.half_width(contrast))
        setting = f"{raters} raters, {scores} a prompt{', uneven' if uneven else ''}"
        yield "effect of scores", prompts, None, setting, 100 * sum(hits) / len(hits)


def make_scores(rng: np.random.Generator, prompts: int, raters: int, scores: int,
                uneven: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(checkpoint, rater, level, prompt) of each score, numbered from 0 without gaps."""
    cuts = CUTS * np.exp(0.3 * rng.standard_normal((raters, 1))) + rng.standard_normal((raters, 1))
    prompt = np.repeat(np.arange(prompts), scores)
    rater, checkpoint = rng.integers(0, raters, len(prompt)), rng.integers(0, 3, len(prompt))
    if uneven:
        checkpoint = np.where(rng.random(len(prompt)) < 0.6, rater % 3, checkpoint)
    level = ((EFFECTS[checkpoint] + rng.logistic(size=len(prompt)))[:, None] > cuts[rater]).sum(1)
    rater, level = (np.unique(each, return_inverse=True)[1].reshape(-1) for each in (rater, level))
    return checkpoint, rater, level, prompt
