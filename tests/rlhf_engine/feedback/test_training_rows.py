"""Votes as training data: what each kind of vote becomes, from a store and from an export of it, and what is refused."""

import pytest

from rlhf_engine.cli import main
from rlhf_engine.data.examples import Demonstration, Ranking, Thumb
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.datasets import groups, pairs, thumbs
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.exchange import export, export_rows
from rlhf_engine.feedback.store import Store
from rlhf_engine.feedback.training_rows import read_training_rows
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.inputs import data_fingerprint, store_head
from tests.rlhf_engine.helpers.trainers import without_time

VOTES = [Event("a", "comparison", "q", ("x", "y"), "right"), Event("b", "comparison", "q", ("x", ""), "tie"), Event("c", "comparison", "r", ("u", "v"), "both_bad"),
         Event("d", "ranking", "q", ("1", "2", "3", "4"), (1, 2, 2, 2)), Event("e", "thumb", "q", ("z",), "up"), Event("f", "thumb", "r", ("w",), "down"),
         Event("g", "score", "q", ("s",), 7), Event("h", "score", "q", ("t",), 4), Event("i", "edit", "r", ("w",), "better"),
         Event("j", "thumb", "q", ("gone",), "up"), Event("k", "retract", "", (), "j")]
"""Each event's responses are for its prompt; the last takes the one before it back."""
RANKINGS = [Ranking("q", ("x", "y"), (2, 1)), Ranking("q", ("x", ""), (1, 1)), Ranking("r", ("u", "v"), (1, 1)), Ranking("q", ("1", "2", "3", "4"), (1, 2, 2, 2)),
            Ranking("r", ("better", "w"), (1, 2))]
THUMBS = [Thumb("q", "x", False), Thumb("q", "y", True), Thumb("r", "u", False), Thumb("r", "v", False), Thumb("q", "1", True), Thumb("q", "2", False),
          Thumb("q", "3", False), Thumb("q", "4", False), Thumb("q", "z", True), Thumb("r", "w", False), Thumb("q", "s", True), Thumb("r", "w", False),
          Thumb("r", "better", True)]


@pytest.fixture(params=["feedback.sqlite", "events.jsonl", "events.parquet"])
def source(request, tmp_path) -> str:
    store = Store(tmp_path / "feedback.sqlite")
    store.add_all(VOTES)
    if request.param.startswith("events"):
        export(store.events(retracted=True), tmp_path / request.param)
    return str(tmp_path / request.param)


def test_each_kind_of_data_follows_from_the_votes(source):
    assert read_training_rows(source, "preferences") == read_training_rows(source) == RANKINGS
    read = read_training_rows(source, "thumbs")
    assert read == THUMBS and read.kind == "thumbs" and read.remarks == ["9 votes, of which 7 make 13 rows"] and len(read.numbers) == 13
    assert read_training_rows(source, "demonstrations") == [Demonstration("r", "better")] and len(read_training_rows(source, "prompts")) == 9
    assert read_training_rows(source, "thumbs", limit=2) == THUMBS[:2]
    with pytest.raises(UserError, match="no subsets or splits"):
        read_training_rows(source, "thumbs", split="test")


def test_the_exported_rows_are_read_likewise(tmp_path):
    export_rows(thumbs(VOTES), tmp_path / "thumbs.jsonl")
    assert read_training_rows(str(tmp_path / "thumbs.jsonl"), "thumbs") == [Thumb("r", "u", False), Thumb("r", "v", False), Thumb("q", "z", True), Thumb("r", "w", False)]
    for rows, name in ((pairs(VOTES), "pairs.parquet"), (groups([VOTES[0], VOTES[3]]), "groups.jsonl")):
        export_rows(rows, tmp_path / name)
        assert len(read_training_rows(str(tmp_path / name), "preferences")) == len(rows) == len(read_training_rows(str(tmp_path / name), "thumbs"))


def test_thumbs_alone_make_no_pairs(tmp_path):
    store = Store(tmp_path / "feedback.sqlite")
    for kind, words in (("thumbs", "calls a response good or bad"), ("preferences", "the loss kto of the stage dpo"), ("demonstrations", "is an edit")):
        with pytest.raises(UserError, match=words) as caught:
            read_training_rows(str(store.path), kind)
        assert "\n" not in str(caught.value) and "none of its 0 votes" in str(caught.value)
    store.add(VOTES[4])
    with pytest.raises(UserError, match="none of its 1 votes compares responses"):
        read_training_rows(str(store.path), "preferences")


def test_another_database_and_broken_files_are_refused(tmp_path):
    (tmp_path / "other.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 100)
    (tmp_path / "broken.jsonl").write_text('{"id": 1,')
    for name in ("other.sqlite", "broken.jsonl", "none.sqlite"):
        with pytest.raises(UserError) as caught:
            read_training_rows(str(tmp_path / name), "thumbs")
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_the_fingerprint_of_a_store_is_of_its_votes(tmp_path):
    store = Store(tmp_path / "feedback.sqlite")
    store.add_all(VOTES[:3])
    before = data_fingerprint(str(store.path))
    with store._open() as held:  # while another reader is there, new votes stay in the log
        held.execute("SELECT count(*) FROM events").fetchone()
        assert data_fingerprint(str(store.path)) == before
        store.add(VOTES[3])
        assert data_fingerprint(str(store.path)) != before
        assert data_fingerprint(str(store.path), 3) == before and store_head(str(store.path), before) == 3
    assert store_head(str(store.path)) == 4 and store_head(str(store.path), "0" * 64) is None
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert store_head(str(tmp_path / "rows.jsonl")) is store_head("bundled") is None


def test_kto_learns_from_a_store_on_the_command_line(tiny_llama, tmp_path, capsys):
    store = Store(tmp_path / "feedback.sqlite")
    store.add_all([Event(str(i), "thumb", f"the {i}", ("dog was" if i % 2 else "cat was",), "up" if i % 2 else "down") for i in range(12)])
    command = ["dpo", "--model", str(tiny_llama), "--data", str(store.path), "--batch-size", "4", "--max-tokens", "64", "--max-new-tokens", "4",
               "--reference-samples", "4", "--steps", "2", "--lora-rank", "2", "--output", str(tmp_path / "run")]
    assert main(command) == 2 and "the loss kto of the stage dpo" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert main([*command, "--loss", "kto"]) == 0
    run = Run(tmp_path / "run")
    assert run.status()["state"] == "done" and "log_ratio/mismatched" in run.metrics()[-1] and run.report()["rows"] == 10


def test_a_run_on_a_store_that_grows_goes_on_with_the_votes_of_its_start(tiny_llama, tmp_path, capsys):
    """Also if one of them was taken back since. It then is the run on a store that did not grow."""
    votes = [Event(str(i), "thumb", f"the {i}", ("dog was" if i % 2 else "cat was",), "up" if i % 2 else "down") for i in range(12)]
    runs = []
    for name, later in (("still", []), ("grows", [Event("new", "thumb", "the new", ("dog was",), "up"), Event("back", "retract", "", (), "3")])):
        store, output = Store(tmp_path / f"{name}.sqlite"), tmp_path / name
        store.add_all(votes)
        command = ["dpo", "--loss", "kto", "--model", str(tiny_llama), "--data", str(store.path), "--batch-size", "4", "--max-tokens", "64",
                   "--max-new-tokens", "4", "--reference-samples", "4", "--steps", "2", "--lora-rank", "2", "--output", str(output)]
        assert main(command) == 0
        store.add_all(later)
        assert main(["dpo", "--output", str(output), "--resume", "--steps", "4"]) == 0
        assert ("has grown since this run began" in capsys.readouterr().out) == bool(later)
        runs.append(Run(output))
    still, grows = runs
    assert [without_time(row) for row in grows.metrics()] == [without_time(row) for row in still.metrics()] and len(grows.metrics()) == 4
    other = Store(tmp_path / "other.sqlite")
    other.add_all(votes[1:])
    assert main(["dpo", "--output", str(output), "--resume", "--steps", "5", "--data", str(other.path)]) == 2
    assert "has another content" in capsys.readouterr().err
