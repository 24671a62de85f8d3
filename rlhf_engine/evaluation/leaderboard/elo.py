"""Elo ratings, for comparison: they depend on the order of the votes, and this module says how much.

A rating moves by `STEP` times the surprise of each answer, so late votes weigh more than early ones. The votes on
checkpoints, which do not change, have no order that matters. The mean over many orders is close to Bradley-Terry; the
spread over them is noise that a single Elo rating has on top.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_engine.evaluation.leaderboard.votes import Vote

MEAN = 1000.0
"""Mean rating, in Elo and on the leaderboard."""
SCALE = 400.0
"""A difference of so much is odds of 10 to 1."""
STEP = 32.0
"""The most that one answer of two responses moves a rating."""
SHUFFLES = 200
FEWEST_SHUFFLES = 20
MOST_UPDATES = 2_000_000
"""Updates over all shuffles, some seconds. With more votes there are fewer shuffles."""


@dataclass(frozen=True)
class EloRating:
    """The ratings of one checkpoint."""

    rating: float
    """In the order in which the votes came."""
    mean: float
    """Over shuffles."""
    deviation: float
    """Standard deviation over shuffles."""
    low: float
    """In 2.5 % of the shuffles it is lower."""
    high: float


def elo_ratings(votes: Sequence[Vote], names: Sequence[str], origin: np.ndarray | None = None, seed: int = 0,
                shuffles: int = SHUFFLES) -> tuple[list[EloRating], int]:
    """(the ratings of the checkpoints `names` from votes in their order, number of shuffles that were taken).

    Row i of `origin` [C, C] takes the anchor from rating i, so that the anchor stands at `MEAN` in every shuffle.
    """
    origin = np.eye(len(names)) if origin is None else origin
    index = {name: i for i, name in enumerate(names)}
    updates = [updates_of(vote, index) for vote in votes]
    count = max(sum(map(len, updates)), 1)
    shuffles = max(FEWEST_SHUFFLES, min(shuffles, MOST_UPDATES // count))
    rated = MEAN + origin @ play(updates, len(names))
    rng, order, columns = random.Random(f"{seed} elo"), list(updates), []
    for _ in range(shuffles):
        rng.shuffle(order)
        columns.append(MEAN + origin @ play(order, len(names)))
    return [summary(rating, shuffled) for rating, shuffled in zip(rated, np.array(columns).T)], shuffles


def updates_of(vote: Vote, index: dict[str, int]) -> list[tuple[int, int, float, float]]:
    """(checkpoint, other checkpoint, result, step) of every two responses.

    A response among K takes part in up to K - 1 pairs, so each of them moves it K - 1 times less.
    """
    step = STEP / (len(vote.ranks) - 1)
    return [(index[vote.checkpoints[i]], index[vote.checkpoints[j]], result, step) for i, j, result in vote.answers()]


def play(updates: Sequence[list[tuple[int, int, float, float]]], count: int) -> np.ndarray:
    """[C]: the ratings of `count` checkpoints above the mean after all votes, one vote after another."""
    ratings = [0.0] * count
    for vote in updates:
        for i, j, result, step in vote:
            expected = 1.0 / (1.0 + 10.0**((ratings[j] - ratings[i]) / SCALE))
            change = step * (result - expected)
            ratings[i] += change
            ratings[j] -= change
    return np.array(ratings)


def summary(rating: float, shuffled: np.ndarray) -> EloRating:
    low, high = np.quantile(shuffled, (0.025, 0.975))
    return EloRating(float(rating), float(shuffled.mean()), float(shuffled.std(ddof=1)), float(low), float(high))
