"""A change of mind is noticed within a few votes. Noise, surprises and a reward that is too sure of itself are no change."""

import math
import random

import pytest
import torch

from rlhf_engine.feedback.events import Event
from rlhf_engine.teach.likelihood import ResponseModel
from rlhf_engine.teach.preference_drift import ENOUGH, ChangeOfMind, DriftDetector, counts_now
from rlhf_engine.trainers.state import load_state, save_state

FEATURES = torch.eye(4)[:, :2] * 1.0
"""[4, 2] of four responses: the first has what the first weight likes, the second what the second weight likes."""


def best_of_four(best: int, name: str = "") -> Event:
    return Event(name or f"{best}", "ranking", "p", ("a", "b", "c", "d"), tuple(1 if i == best else 2 for i in range(4)))


def hear(turning: DriftDetector, choices, weights=(2.0, 0.0)) -> int | None:
    """The number of the vote at which a change is noticed."""
    for number, best in enumerate(choices, 1):
        if turning.update(best_of_four(best, f"e{number}"), FEATURES, torch.tensor(weights), ResponseModel()):
            return number
    return None


def test_the_evidence_of_a_vote_by_hand():
    """The best of four with scores (2, 0, 0, 0) has probability 1 / (1 + 3 e^-2). With the sign turned another has 1 / (3 + e^-2); without scores 1/4."""
    turning = DriftDetector()
    assert hear(turning, [0]) is None and turning.votes == [] and turning.reward_before is None  # nothing is earned yet, so nothing is evidence
    assert turning.scale_evidence[-1].item() == pytest.approx(math.log(4 / (1 + 3 * math.exp(-2))), abs=1e-5) and turning.scale_evidence[0] == 0
    hear(turning, [1])
    assert turning.evidence == pytest.approx(math.log(4 / (3 + math.exp(-2))), abs=1e-5) and turning.votes == ["e1"]
    hear(turning, [0])  # as expected: takes back more than that
    assert turning.evidence == 0.0 and turning.votes == []


def test_the_opposite_is_noticed_and_only_that():
    rng = random.Random(0)
    told = [0 if rng.random() < 0.8 else rng.randrange(4) for _ in range(400)]
    turning = DriftDetector()
    assert hear(turning, told) is None
    first = hear(turning, [rng.choice([1, 2, 3]) for _ in range(60)])
    assert first is not None and len(turning.votes) <= first


def test_a_reward_that_is_always_wrong_earns_nothing():
    """A reward that is sure of itself and never right shows no change of mind: nobody has ever agreed with it."""
    turning = DriftDetector()
    assert hear(turning, [1, 2, 3] * 40) is None and turning.evidence == 0.0


def test_while_there_is_evidence_the_reward_stays_as_it_was():
    """The reward itself learns from the votes that contradict it, and would soon expect them."""
    turning = DriftDetector()
    hear(turning, [0] * 20)
    assert hear(turning, [1]) is None
    assert hear(turning, [2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3], weights=(0.0, 0.0)) is not None and turning.evidence > ENOUGH


def test_its_state_goes_through_a_checkpoint(tmp_path):
    turning = DriftDetector()
    hear(turning, [0] * 20 + [1, 2])
    save_state(tmp_path, turning.state_dict())
    again = DriftDetector.from_state(load_state(tmp_path))
    assert hear(turning, [3, 1] * 10) == hear(again, [3, 1] * 10) is not None and again.evidence == turning.evidence
    save_state(tmp_path, DriftDetector().state_dict())
    assert DriftDetector.from_state(load_state(tmp_path)).reward_before is None


def test_what_was_said_before_a_change_counts_no_more_or_the_other_way_round():
    other, opposite = ChangeOfMind(["c"], ["a", "b"]), ChangeOfMind(["c"], ["a", "b"], opposite=True)
    back = ChangeOfMind(["e"], ["a", "b", "c", "d"], opposite=True)
    assert counts_now([], "abc") == {} and counts_now([other], "abc") == {"a": 0, "b": 0} and counts_now([opposite], "abc") == {"a": -1, "b": -1}
    assert counts_now([opposite, back], "abcde") == {"a": 1, "b": 1, "c": -1, "d": -1}, "back to what was wanted at first"
    assert counts_now([other, back], "abcde") == {"a": 0, "b": 0, "c": -1, "d": -1}
    assert counts_now([opposite, back], "abcd") == {"a": -1, "b": -1}, "the votes that show the second one have been taken back"
