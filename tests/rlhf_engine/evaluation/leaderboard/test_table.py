"""The leaderboard: rows, pairs, groups, anchors, and what its remarks say."""

import math
import random

import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.intervals import wilson
from rlhf_engine.evaluation.leaderboard.table import connected_groups, leaderboard
from rlhf_engine.evaluation.leaderboard.votes import Vote
from tests.rlhf_engine.evaluation.leaderboard.hand_votes import duel, duels


def rows_of(report: dict) -> dict[str, dict]:
    return {row["checkpoint"]: row for group in report["leaderboard"] for row in group["rows"]}


def test_a_row_is_on_the_scale_of_elo():
    report = leaderboard(duels("a", "b", 100, 10, 20))
    [a, b] = report["leaderboard"][0]["rows"]
    assert (a["checkpoint"], a["rank"], b["rank"]) == ("a", 1, 2)
    assert a["strength"] - b["strength"] == pytest.approx(400)  # odds of ten to one
    assert a["strength"] + b["strength"] == pytest.approx(2000)
    assert a["low"] < a["strength"] < a["high"] and (a["rank_low"], a["rank_high"]) == (1, 1)
    assert (a["votes"], a["wins"], a["losses"], a["ties"], a["win_rate"]) == (130, 100, 10, 20, 110 / 130)
    assert a["flags"] == b["flags"] == [] and report["ties"] == pytest.approx(20 / 130)
    assert (report["votes"], report["prompts"], report["voters"], report["clusters"]) == (130, 130, 1, 130)


def test_pairs_and_matrix_count_every_answer():
    report = leaderboard([*duels("b", "a", 6, 3, 1), duel("a", "c"), Vote(("a", "b", "c"), (2, 1, 2), "x", "v")])
    pairs = {(row["checkpoint"], row["against"]): row for row in report["pairs"]}
    assert set(pairs) == {("a", "b"), ("a", "c"), ("b", "c")}
    row = pairs["a", "b"]
    assert (row["answers"], row["wins"], row["losses"], row["ties"]) == (11, 3, 7, 1)
    assert row["win_rate"] == pytest.approx(3.5 / 11) and row["win_rate_low"] < row["win_rate"] < row["win_rate_high"]
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    names = report["matrix"]["checkpoints"]
    assert names == ["a", "b", "c"] and report["matrix"]["wins"] == [[0, 3, 1], [7, 0, 1], [0, 0, 0]]
    assert report["matrix"]["ties"][0][1] == report["matrix"]["ties"][1][0] == 1
    assert [row["answers"] for row in report["pairs"]] == [11, 1, 1]


def test_the_expected_share_is_that_of_the_strengths():
    [row] = leaderboard(duels("a", "b", 30, 10, 5))["pairs"]
    assert row["expected"] == pytest.approx(0.75) and row["difference"] == pytest.approx(400 / math.log(10) * math.log(3))
    [row] = leaderboard(duels("a", "b", 20, 0))["pairs"]
    assert (row["win_rate_low"], row["win_rate_high"]) == pytest.approx(wilson(20, 20))  # no [1, 1]


def test_the_anchor_stands_at_1000():
    votes = duels("a", "b", 9, 5, 2) + duels("b", "c", 7, 6, start=50)
    free, held = rows_of(leaderboard(votes)), rows_of(leaderboard(votes, anchor="b"))
    assert (held["b"]["strength"], held["b"]["low"], held["b"]["high"], held["b"]["elo"], held["b"]["elo_high"]) == (1000,) * 5
    assert held["b"]["flags"] == ["anchor"]
    for name in "ac":
        assert held[name]["strength"] - 1000 == pytest.approx(free[name]["strength"] - free["b"]["strength"])
    with pytest.raises(UserError, match="--anchor 'd' is in no vote"):
        leaderboard(votes, anchor="d")


def test_unconnected_groups_stand_apart_each_with_a_mean_of_1000():
    votes = duels("a", "b", 9, 5) + duels("x", "y", 3, 2, start=50) + duels("y", "z", 3, 2, start=90)
    report = leaderboard(votes, anchor="a")
    assert [[row["checkpoint"] for row in group["rows"]] for group in report["leaderboard"]] == [["x", "y", "z"], ["a", "b"]]
    assert [group["clusters"] for group in report["leaderboard"]] == [10, 14]
    rows = rows_of(report)
    assert rows["a"]["strength"] == 1000 and sum(rows[name]["strength"] for name in "xyz") == pytest.approx(3000)
    assert "2 groups" in report["notes"][0]
    alone = rows_of(leaderboard(duels("x", "y", 3, 2, start=50) + duels("y", "z", 3, 2, start=90)))
    assert {name: rows[name]["strength"] for name in "xyz"} == pytest.approx({name: alone[name]["strength"] for name in "xyz"})
    assert {name: rows[name]["low"] for name in "xyz"} == pytest.approx({name: alone[name]["low"] for name in "xyz"}, rel=1e-2)
    joined = leaderboard([*votes, duel("a", "x", "tie", 999)])
    assert len(joined["leaderboard"]) == 1


def test_groups_by_hand():
    votes = [duel("a", "b"), duel("d", "e"), Vote(("c", "d", "e"), (1, 2, 2), "p", "v")]
    assert connected_groups(votes, list("abcde")) == [1, 1, 0, 0, 0]


def test_who_won_or_lost_everything_is_flagged_and_finite():
    report = leaderboard([*duels("a", "b", 20, 0), *duels("b", "c", 7, 7, start=50), *duels("c", "d", 4, 0, start=90)])
    rows = rows_of(report)
    assert rows["a"]["flags"] == ["won_all", "weak_prior"] and rows["d"]["flags"] == ["lost_all", "weak_prior"]
    assert rows["b"]["flags"] == rows["c"]["flags"] == []
    assert 1000 < rows["a"]["strength"] < 2500 and rows["a"]["high"] - rows["a"]["low"] > 300
    assert any("half a win and half a loss" in note for note in report["notes"])


def test_a_tie_is_not_won():
    rows = rows_of(leaderboard(duels("a", "b", 5, 0, 3)))
    assert "won_all" not in rows["a"]["flags"] and "weak_prior" in rows["a"]["flags"]


def test_order_does_not_matter_but_for_elo():
    votes = duels("a", "b", 30, 20, 5) + duels("b", "c", 20, 20, start=100)
    one, other = (leaderboard(each, seed=1) for each in (votes, random.Random(0).sample(votes, len(votes))))
    for name, row in rows_of(one).items():
        again = rows_of(other)[name]
        assert {key: row[key] for key in ("strength", "low", "high")} == pytest.approx({key: again[key] for key in ("strength", "low", "high")})
        assert row["elo"] != again["elo"] and abs(row["elo_mean"] - again["elo_mean"]) < 10


def test_clusters_are_prompts_or_voters():
    votes = [duel("a", "b", "loss" if i % 10 == i // 10 else "win" if i % 3 else "loss", i // 10, f"v{i % 10}") for i in range(100)]
    by_prompt, by_voter = leaderboard(votes), leaderboard(votes, cluster="voter")
    assert (by_prompt["clusters"], by_voter["clusters"], by_voter["cluster"]) == (10, 10, "voter")
    assert by_prompt["leaderboard"][0]["rows"][0]["strength"] == pytest.approx(by_voter["leaderboard"][0]["rows"][0]["strength"])
    # Voters of whom each always says the same know less than as many prompts do.
    votes = [duel("a", "b", "win" if i % 10 < 7 else "loss", i // 10, f"v{i % 10}") for i in range(100)]
    widths = [leaderboard(votes, cluster=cluster)["pairs"][0] for cluster in ("prompt", "voter")]
    assert widths[1]["difference_high"] - widths[1]["difference_low"] > 1.5 * (widths[0]["difference_high"] - widths[0]["difference_low"])
    assert any("10 voters" in note for note in by_voter["notes"])
    with pytest.raises(UserError, match="--cluster voter needs votes of two people"):
        leaderboard(duels("a", "b", 3, 2), cluster="voter")


def test_what_the_first_side_wins():
    votes = [Vote(("a", "b"), (1, 2), str(i), "v", shown=(0, 1)) for i in range(30)]
    votes += [Vote(("a", "b"), (1, 2), str(i), "v", shown=(1, 0)) for i in range(30, 40)]
    votes += [Vote(("a", "b"), (1, 1), "t", "v", shown=(1, 0)), Vote(("a", "b"), (2, 1), "u", "v")]
    first = leaderboard(votes)["first_shown"]
    assert first is not None and (first["votes"], first["win_rate"]) == (40, 0.75)
    assert (first["win_rate_low"], first["win_rate_high"]) == pytest.approx(wilson(30, 40), abs=0.01)
    assert leaderboard(duels("a", "b", 3, 2))["first_shown"] is None


def test_remarks_in_words():
    notes = leaderboard(duels("a", "b", 20, 20))["notes"]
    assert notes[0].startswith("the intervals rest on 40 prompts") and "one voter" in notes[1]
    many = [duel("a", "b", "win" if i % 3 else "loss", i, f"v{i % 2}") for i in range(120)]
    assert leaderboard(many)["notes"] == []
    with pytest.raises(UserError, match="there are no votes"):
        leaderboard([])
