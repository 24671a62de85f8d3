"""Scores from 1 to 7: which count, and what the rows say."""

import random

import pytest

from rlhf_engine.evaluation.leaderboard.likert import likert, ratings_of
from tests.rlhf_engine.evaluation.leaderboard.hand_votes import event, score


def report_of(events) -> dict:
    report = likert(ratings_of(events)[0])
    assert report is not None
    return report


def many(seed: int = 0, count: int = 240) -> list:
    rng = random.Random(seed)
    events = []
    for k in range(count):
        checkpoint, voter = rng.choice("abc"), rng.choice("xyz")
        value = {"a": 3.4, "b": 4.0, "c": 4.8}[checkpoint] + {"x": -1, "y": 0, "z": 1}[voter] + rng.gauss(0, 1)
        events.append(score(k, min(7, max(1, round(value))), checkpoint, voter))
    return events


def test_rows_pairs_and_their_order():
    report = report_of(many())
    assert [row["checkpoint"] for row in report["rows"]] == ["c", "b", "a"]
    for row in report["rows"]:
        assert row["effect_low"] < row["effect"] < row["effect_high"] and 1 <= row["mean_low"] < row["mean"] < row["mean_high"] <= 7
        assert sum(row["counts"]) == row["scores"] and row["flags"] == []
    assert sum(row["effect"] for row in report["rows"]) == pytest.approx(0, abs=1e-9)
    pair = next(row for row in report["pairs"] if (row["checkpoint"], row["against"]) == ("a", "c"))
    assert pair["difference_high"] < 0 and pair["higher_low"] < pair["higher"] < pair["higher_high"] < 0.5
    assert (report["raters"], report["scores"], report["prompts"], report["notes"]) == (3, 240, 240, [])


def test_order_and_names_do_not_matter():
    events = many(1)
    one, other = report_of(events), report_of(random.Random(0).sample(events, len(events)))
    assert [row["effect"] for row in one["rows"]] == pytest.approx([row["effect"] for row in other["rows"]])
    swap = {"a": "z", "b": "b", "c": "a"}
    renamed = report_of([score(k, each.value, swap[each.checkpoint], each.voter) for k, each in enumerate(events)])
    assert [row["effect"] for row in renamed["rows"]] == pytest.approx([row["effect"] for row in one["rows"]])


def test_raters_with_one_score_do_not_count_in_the_effects():
    events = many(2)
    with_bot = events + [score(1000 + k, 7, "a", "bot") for k in range(60)]
    report = report_of(with_bot)
    assert report["one_score_raters"] == ["bot"] and "1 rater gave nothing but one score, 60 times" in report["notes"][0]
    assert [row["effect"] for row in report["rows"]] == pytest.approx([row["effect"] for row in report_of(events)["rows"]])
    assert report["rows"][2]["scores"] > 100  # the mean has them all


def test_a_checkpoint_with_one_score():
    report = report_of(many(3) + [score(1000 + k, 7, "d", "xyz"[k % 3]) for k in range(30)])
    [row] = [row for row in report["rows"] if row["checkpoint"] == "d"]
    assert row["flags"] == ["one_score", "weak_prior"] and row["mean"] == 7 and row["mean_low"] < 7 == row["mean_high"]
    assert row["effect_high"] - row["effect_low"] > 1 and any("limit to the effect of d" in note for note in report["notes"])


@pytest.mark.parametrize(("events", "message"), [
    ([score(k, 1 + k % 7) for k in range(20)], "all of one checkpoint"),
    ([score(k, 4, "ab"[k % 2], f"v{k}") for k in range(8)], "all scores that count are 4"),
    ([score(k, 4, "ab"[k % 2]) for k in range(8)], "no score counts")])
def test_nothing_to_compare(events, message):
    report = report_of(events)
    assert report["pairs"] == [] and all(row["effect"] is None for row in report["rows"])
    assert any(message in note for note in report["notes"])


def test_raters_who_saw_one_checkpoint_each():
    report = report_of([score(k, 2 + k % 4 + (k % 2), "ab"[k % 2], "xy"[k % 2]) for k in range(40)])
    assert any("no rater scored two checkpoints" in note for note in report["notes"])


def test_who_wrote_the_response():
    events = [score(0, 5, "run at step 9"), score(1, 5, "run at step 9", roles=("policy",)),
              score(2, 5, "run at step 9", roles=("reference",), run="run"), score(3, 5, "x", checkpoints=("y",)), score(4, 5, ""), event(5)]
    ratings, notes = ratings_of(events)
    assert [rating.checkpoint for rating in ratings] == ["run at step 9", "run at step 9", "reference of run", "y"]
    assert notes == ["1 score left out: the event does not name the checkpoint of the response"]
    assert likert([]) is None
