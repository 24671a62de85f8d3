"""Elo against hand values; its order, and its spread over orders."""

import random

import numpy as np
import pytest

from rlhf_engine.evaluation.leaderboard.elo import MEAN, elo_ratings
from rlhf_engine.evaluation.leaderboard.votes import Vote
from tests.rlhf_engine.evaluation.leaderboard.hand_votes import duel, duels


def test_hand_values():
    [a, b], _ = elo_ratings([duel("a", "b")], ["a", "b"])
    assert (a.rating, b.rating) == (MEAN + 16, MEAN - 16)
    [a, b], _ = elo_ratings([duel("a", "b"), duel("a", "b", "tie")], ["a", "b"])
    expected = 1 / (1 + 10**(-32 / 400))
    assert a.rating == pytest.approx(MEAN + 16 + 32 * (0.5 - expected)) and a.rating + b.rating == pytest.approx(2 * MEAN)
    [a, b, c], _ = elo_ratings([Vote(("a", "b", "c"), (1, 2, 2), "p", "v")], ["a", "b", "c"])
    assert a.rating == pytest.approx(MEAN + 16, abs=0.5)  # two pairs of half a step; b and c did not meet


def test_the_order_matters_and_the_spread_says_how_much():
    votes = duels("a", "b", 30, 30)
    [a, _], count = elo_ratings(votes, ["a", "b"], seed=1)
    [last, _], _ = elo_ratings(votes[::-1], ["a", "b"], seed=1)
    assert a.rating < MEAN - 50 and last.rating > MEAN + 50  # of the same votes
    assert a.deviation > 20 and a.low < MEAN < a.high and a.mean == pytest.approx(MEAN, abs=15) and count == 200


def test_shuffles_follow_from_the_seed():
    votes = duels("a", "b", 9, 5)
    assert elo_ratings(votes, ["a", "b"], seed=3) == elo_ratings(votes, ["a", "b"], seed=3)
    assert elo_ratings(votes, ["a", "b"], seed=3) != elo_ratings(votes, ["a", "b"], seed=4)


def test_an_anchor_stands_still_in_every_order():
    votes = random.Random(0).sample(duels("a", "b", 9, 5) + duels("b", "c", 7, 7), 28)
    origin = np.eye(3) - np.array([1.0, 0, 0])
    [a, b, _], _ = elo_ratings(votes, ["a", "b", "c"], origin)
    assert (a.rating, a.mean, a.low, a.high) == (MEAN,) * 4 and b.deviation > 0


def test_many_votes_have_fewer_shuffles(monkeypatch):
    monkeypatch.setattr("rlhf_engine.evaluation.leaderboard.elo.MOST_UPDATES", 1000)
    assert elo_ratings(duels("a", "b", 20, 20), ["a", "b"])[1] == 25
    assert elo_ratings(duels("a", "b", 500, 500), ["a", "b"])[1] == 20
