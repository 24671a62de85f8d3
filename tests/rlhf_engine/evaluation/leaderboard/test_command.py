"""The command `leaderboard`: its files, its tables, and one line for what it refuses."""

import json
from pathlib import Path

import pytest

from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.exchange import export
from rlhf_engine.feedback.store import Store
from tests.rlhf_engine.evaluation.leaderboard.hand_votes import event, score


@pytest.fixture
def votes(tmp_path) -> Path:
    events = [event(i, "left" if i % 3 else "right", ("new", "old"), voter=f"v{i % 2}", run="r" if i % 2 else "", blind=i % 4 > 0, scores=(1.0, 0.0))
              for i in range(120)]
    events += [score(i, 2 + (i % 5) + (i % 2), ("old", "new")[i % 2]) for i in range(60)]
    events.append(Event("undo", "retract", value="e1", run="r"))
    export(events, tmp_path / "votes.jsonl")
    return tmp_path / "votes.jsonl"


def test_a_file_and_a_workspace_give_one_report(cli, tmp_path, votes):
    code, out, _ = cli("leaderboard", "--data", votes, "--output", tmp_path / "one", "--anchor", "old")
    assert code == 0 and "new" in out and "Bradley-Terry" in out and "scores 1 to 7" in out
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == ["report.json"]
    assert report["votes"] == 119 and report["likert"]["scores"] == 60 and report["data"] == str(votes)
    assert report["reward_agreement"]["decided"] == 119 and report["agreement"]["pairs"] == 0
    home = tmp_path / "home"
    home.mkdir()
    events = [Event.from_dict(json.loads(line)) for line in votes.read_text().splitlines()]
    Store(home / "feedback.sqlite").add_all(events)
    assert cli("leaderboard", "--data", home, "--output", tmp_path / "two", "--anchor", "old")[0] == 0
    other = json.loads((tmp_path / "two" / "report.json").read_text())
    for key in ("leaderboard", "pairs", "likert", "matrix"):
        if key != "leaderboard":
            assert report[key] == other[key]
    assert [row["strength"] for row in report["leaderboard"][0]["rows"]] == [row["strength"] for row in other["leaderboard"][0]["rows"]]


def test_choices(cli, tmp_path, votes):
    counts = []
    for number, flags in enumerate((["--blind"], ["--run", "r"], ["--voter", "v0"], ["--blind", "--voter", "v0"], ["--cluster", "voter"])):
        assert cli("leaderboard", "--data", votes, "--output", tmp_path / f"{number}", *flags)[0] == 0
        counts.append(json.loads((tmp_path / f"{number}" / "report.json").read_text())["votes"])
    assert counts == [89, 59, 60, 30, 119]


def test_scores_alone_are_enough(cli, tmp_path):
    export([score(i, 1 + i % 7, "ab"[i % 2]) for i in range(30)], tmp_path / "scores.jsonl")
    code, out, _ = cli("leaderboard", "--data", tmp_path / "scores.jsonl", "--output", tmp_path / "out")
    assert code == 0 and "scores 1 to 7" in out and "Bradley" not in out


def test_names_are_shown_on_one_line_and_cut(cli, tmp_path):
    names = ("evil\nname\x1b[31m", "x" * 200)
    export([event(i, "left" if i % 3 else "tie", names) for i in range(9)], tmp_path / "votes.jsonl")
    code, out, _ = cli("leaderboard", "--data", tmp_path / "votes.jsonl", "--output", tmp_path / "out")
    assert code == 0 and "\x1b" not in out and "evil name" in out and "x" * 100 not in out
    assert names[1] in (tmp_path / "out" / "report.json").read_text()


@pytest.mark.parametrize(("flags", "message"), [
    (["--anchor", "nwe"], "there are 'new', 'old'"), (["--run", "zz"], "no event has the run 'zz'"), (["--voter", "zz"], "there are 'v', 'v0', 'v1'"),
    (["--cluster", "voter", "--voter", "v1"], "two people"), (["--cluster", "team"], "--cluster"), (["--seed", "-1"], "--seed"),
    (["--data", "nowhere.jsonl"], "there is no nowhere.jsonl"), (["--blind=yes"], "switch")])
def test_what_is_refused_leaves_nothing(cli, tmp_path, votes, flags, message):
    code, out, err = cli("leaderboard", "--data", votes, "--output", tmp_path / "out", *flags)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_votes_that_compare_no_checkpoints(cli, tmp_path):
    path = tmp_path / "votes.jsonl"
    export([event(i, checkpoints=(), responses=("x", "y")) for i in range(3)], path)
    code, _, err = cli("leaderboard", "--data", path, "--output", tmp_path / "out")
    assert code == 2 and "none of the 3 events that count compares checkpoints" in err and "3 votes left out" in err
    export([event(0, blind=False)], path)
    assert "no vote was blind" in cli("leaderboard", "--data", path, "--output", tmp_path / "out", "--blind")[2]
    Store(tmp_path / "feedback.sqlite")
    assert "there are no votes" in cli("leaderboard", "--data", tmp_path, "--output", tmp_path / "out")[2]


def test_an_earlier_result_is_kept_unless_it_may_be_replaced(cli, tmp_path, votes):
    output = tmp_path / "out"
    assert cli("leaderboard", "--data", votes, "--output", output)[0] == 0
    code, _, err = cli("leaderboard", "--data", votes, "--output", output)
    assert code == 2 and "--overwrite" in err
    assert cli("leaderboard", "--data", votes, "--output", output, "--overwrite")[0] == 0
    (output / "thesis.txt").write_text("x")
    assert cli("leaderboard", "--data", votes, "--output", output, "--overwrite")[0] == 2
