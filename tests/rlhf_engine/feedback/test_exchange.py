"""Feedback as files and on the Hub: rows by hand, files without loss, and what a push sends."""

import dataclasses
import json
import os
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from rlhf_engine.data.readers import (
    Demonstration,
    Preference,
    Ranking,
    read_demonstrations,
    read_preferences,
    read_prompts,
)
from rlhf_engine.feedback.datasets import agreement, demonstrations, groups, pairs, ratings, thumbs
from rlhf_engine.feedback.events import Event, without_retracted
from rlhf_engine.feedback.exchange import (
    Sync,
    export,
    export_rows,
    import_events,
    import_preferences,
    push_to_hub,
    read_events,
)
from rlhf_engine.feedback.store import Store
from tests.rlhf_engine.conftest import write_rows
from tests.rlhf_engine.helpers.feedback import CHAT, ids, small_disk, vote
from tests.rlhf_engine.helpers.messages import refused

EVENTS = [
    vote("left"),
    vote("right", prompt=CHAT, value="right", responses=("c", "d")),
    vote("tie", value="tie", responses=("e", "f")),
    vote("bad", value="both_bad", responses=("g", "h")),
    vote("best", "ranking", responses=("i", "j", "k", "l"), value=(2, 1, 2, 2)),
    vote("order", "ranking", responses=("m", "n", "o"), value=(3, 1, 2)),
    vote("same", responses=("p", "p")),
    vote("up", "thumb", responses=("q",)),
    vote("down", "thumb", responses=("r",), value="down"),
    vote("score", "score", responses=("s",), value=5),
    vote("edit", "edit", prompt=CHAT, responses=("t",), value="both_bad"),
    vote("gone", responses=("u", "v")),
    vote("undo", "retract", value="gone")]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "feedback.sqlite")


# Rows

def test_pairs():
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in pairs(EVENTS)] == [
        ("Once", "a", "b"), (CHAT, "d", "c"), ("Once", "j", "i"), ("Once", "j", "k"), ("Once", "j", "l"),
        ("Once", "n", "m"), ("Once", "n", "o"), ("Once", "o", "m"), (CHAT, "both_bad", "t")]


def test_groups():
    assert [(row["prompt"], row["responses"], row["ranking"]) for row in groups(EVENTS)] == [
        ("Once", ["a", "b"], [1, 2]), (CHAT, ["c", "d"], [2, 1]), ("Once", ["e", "f"], [1, 1]), ("Once", ["g", "h"], [1, 1]),
        ("Once", ["i", "j", "k", "l"], [2, 1, 2, 2]), ("Once", ["m", "n", "o"], [3, 1, 2]), ("Once", ["p", "p"], [1, 2])]


def test_thumbs_demonstrations_and_ratings():
    assert [(row["prompt"], row["completion"], row["label"]) for row in thumbs(EVENTS)] == [
        ("Once", "g", False), ("Once", "h", False), ("Once", "q", True), ("Once", "r", False)]
    assert demonstrations(EVENTS) == [{"prompt": CHAT, "completion": "both_bad"}]
    assert ratings(EVENTS) == [{"prompt": "Once", "completion": "s", "score": 5}]
    assert thumbs([vote(value="both_bad", responses=("a", "b", "c", "d"))]) == [
        {"prompt": "Once", "completion": text, "label": False} for text in "abcd"]


def test_what_was_taken_back_counts_nowhere():
    assert ids(without_retracted(EVENTS)) == ids(EVENTS[:-2])
    for convert in (pairs, groups, thumbs, demonstrations, ratings):
        assert convert(EVENTS) == convert(EVENTS[:-2]) and convert([*EVENTS, *(
            vote(f"u{i}", "retract", value=event.id) for i, event in enumerate(EVENTS[:-1]))]) == convert([]) == []


def test_the_readers_take_the_rows(tmp_path):
    def written(rows):
        return str(write_rows(tmp_path / "rows.jsonl", rows))

    assert read_preferences(written(pairs(EVENTS))) == [Preference(row["prompt"], row["chosen"], row["rejected"]) for row in pairs(EVENTS)]
    assert read_preferences(written(groups(EVENTS))) == [
        Ranking(row["prompt"], tuple(row["responses"]), tuple(map(float, row["ranking"]))) for row in groups(EVENTS)]
    assert read_demonstrations(written(demonstrations(EVENTS))) == [Demonstration(CHAT, "both_bad")]
    assert read_demonstrations(written(thumbs(EVENTS))) == [Demonstration("Once", "q")]
    assert read_prompts(written(ratings(EVENTS))) == ["Once"]


# Agreement

def test_agreement_by_hand():
    votes = [
        vote("1", voter="a"), vote("2", voter="b", value="right", responses=("b", "a")),  # the same, the other way round
        vote("3", voter="c", value="right"),  # three voters: 1 of 3 pairs of them agree
        vote("4", voter="a", value="tie", responses=("c", "d")), vote("5", voter="b", value="both_bad", responses=("d", "c")),  # agree
        vote("6", voter="a", responses=("e", "f")), vote("7", voter="b", value="tie", responses=("e", "f")),  # do not
        vote("8", voter="a", responses=("g", "h")), vote("9", voter="a", value="right", responses=("g", "h")),  # one voter only
        vote("10", voter="a", prompt="x"), vote("11", voter="b", prompt="y")]  # other prompts
    # Half of the answers to a pair are ties, on average: chance is (1/2)^2 + (1/2)^2 / 2 = 3/8, and (4/9 - 3/8) / (5/8) = 1/9.
    assert agreement(votes) == {"pairs": 3, "agree": pytest.approx((1 / 3 + 1 + 0) / 3), "kappa": pytest.approx(1 / 9)}
    assert agreement(votes[3:5]) == {"pairs": 1, "agree": 1.0, "kappa": None}  # nothing but ties: no chance to disagree
    assert agreement(votes[5:7]) == {"pairs": 1, "agree": 0.0, "kappa": pytest.approx(-0.6)}
    assert agreement(votes[:3]) == {"pairs": 1, "agree": pytest.approx(1 / 3), "kappa": pytest.approx(-1 / 3)}
    assert agreement(votes[7:]) == agreement([]) == {"pairs": 0, "agree": None, "kappa": None}


def test_the_last_answer_of_a_voter_counts_and_none_that_was_taken_back():
    votes = [vote("1", voter="a"), vote("2", voter="b", value="right"), vote("3", voter="b")]
    assert agreement(votes[:2]) == {"pairs": 1, "agree": 0.0, "kappa": -1.0}
    assert agreement(votes) == {"pairs": 1, "agree": 1.0, "kappa": 1.0}
    assert agreement([*votes, vote("4", "retract", value="3")])["agree"] == 0.0


def test_what_best_of_four_leaves_open_is_no_agreement():
    best = [vote("1", "ranking", voter="a", value=(1, 2, 2, 2)), vote("2", "ranking", voter="b", value=(2, 1, 2, 2))]
    assert (agreement(best)["pairs"], agreement(best)["agree"]) == (1, 0.0)  # only a against b was answered by both
    full = [vote("1", "ranking", voter="a", value=(1, 2, 3, 4)), vote("2", "ranking", voter="b", value=(2, 1, 3, 4))]
    assert agreement(full) == {"pairs": 6, "agree": pytest.approx(5 / 6), "kappa": pytest.approx(2 / 3)}


# Files

@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_export_is_read_back_without_loss(store, tmp_path, suffix):
    odd = vote("odd\u2028\n\0", prompt='["a text"]', responses=("ü🙂\u2028\0", "\n"), value="left", shown=(1, 0), scores=(0.1, -1e-30), seconds=1 / 3,
               voter="v", checkpoint="step-000100", step=100, sampling={"temperature": 0.7, "stop": ["a", None]})
    store.add_all([*EVENTS, odd])
    path, events = tmp_path / f"votes{suffix}", store.events(retracted=True)
    export(events, path)
    assert read_events(path) == events and len(events) == len(EVENTS) + 1
    other = Store(tmp_path / "other.sqlite")
    assert import_events(other, path) == len(events) and other.events(retracted=True) == events and other.events() == store.events()
    assert import_events(other, path) == import_events(store, path) == 0 and other.events(retracted=True) == events
    export([], path)
    assert read_events(path) == [] and [file.name for file in tmp_path.glob("*votes*")] == [path.name]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_exported_rows_are_read_by_the_readers(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    export_rows(pairs(EVENTS), path)
    read = read_preferences(str(path))
    assert [(row.chosen, row.rejected) for row in read] == [(row["chosen"], row["rejected"]) for row in pairs(EVENTS)]
    assert read[1].prompt == CHAT and read[0].prompt in ("Once", [{"role": "user", "content": "Once"}])
    export_rows(groups(EVENTS), path)
    assert [row.ranks for row in read_preferences(str(path))] == [tuple(map(float, row["ranking"])) for row in groups(EVENTS)]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_import_of_a_broken_file_adds_nothing(store, tmp_path):
    path = tmp_path / "votes.jsonl"
    good = dataclasses.asdict(vote("good"))
    for bad, said in ((good | {"id": "b", "value": "first"}, "row 2: event 'b': a comparison is one of"), ({"id": "b"}, "row 2: the event has no kind"),
                      (good | {"extra": 1}, "row 2: an event has no field 'extra'"), (good | {"seconds": float("nan")}, "row 2: event 'good': seconds is"),
                      (dataclasses.asdict(vote("u", "retract", value="none")), "not in the store"), (good | {"value": "tie"}, "has been used")):
        write_rows(path, [good, bad])
        assert said in refused(import_events, store, path)
    path.write_text(json.dumps(good) + '\n{"id": "to')
    assert "row 2: broken JSON" in refused(import_events, store, path)
    assert "there is no such file" in refused(import_events, store, tmp_path / "none.jsonl")
    assert "name one of these" in refused(import_events, store, "owner/name")
    assert store.head() == 0


def test_a_parquet_file_of_something_else_is_refused(store, tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table
    for row, said in (({"prompt": "a"}, "row 1: "), ({"id": "a", "kind": "thumb", "prompt": '"p"', "value": '"up"', "responses": None}, "responses is a NoneType"),
                      ({"id": "a", "kind": "thumb", "prompt": 5}, "row 1: ")):
        write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
        assert said in refused(import_events, store, tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_export_that_fails_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"votes{suffix}"
    export(EVENTS, path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert f"{path}: cannot be written (No space left on device)" in refused(export, EVENTS[:1], path)
    assert read_events(path) == EVENTS and os.listdir(tmp_path) == [path.name]
    assert "cannot be written" in refused(export, EVENTS, tmp_path / "none" / path.name)
    assert "name one of these" in refused(export, EVENTS, tmp_path / "votes.csv")
    (tmp_path / path.name).rename(tmp_path / path.name.upper())
    assert read_events(tmp_path / path.name.upper()) == EVENTS
    (tmp_path / path.name.upper()).rename(path)
    with small_disk("64k") as disk:
        assert "No space left" in refused(export, [vote(responses=(os.urandom(50_000).hex()[:90_000], "b"))], disk / path.name)
        assert os.listdir(disk) == []


# Preferences

def test_preferences_of_every_kind_are_imported_once(store, tmp_path):
    source = str(write_rows(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": CHAT[1:2], "chosen": "c", "rejected": "d"},
                                                       {"prompt": "p", "chosen": "a", "rejected": "b"}]))
    assert import_preferences(store, source, voter="ann", run="r") == 2
    assert pairs(store.events(run="r")) == [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": CHAT[1:2], "chosen": "c", "rejected": "d"}]
    assert {event.voter for event in store.events()} == {"ann"}
    assert import_preferences(store, source, voter="ann", run="r") == 0
    assert import_preferences(store, source, voter="bob", run="r") == 2 and import_preferences(store, source, voter="ann") == 2
    assert agreement(store.events()) == {"pairs": 2, "agree": 1.0, "kappa": 1.0}


@pytest.mark.parametrize(("column", "numbers"), [("ranking", [2, 0.5, 2, 9]), ("ranking", [2, 1, 2, 4]), ("scores", [3, 5.5, 3, -1])])
def test_ranks_of_any_scale_are_imported(store, tmp_path, column, numbers):
    source = str(write_rows(tmp_path / "k.jsonl", [{"prompt": "p", "responses": ["a", "b", "c", "d"], column: numbers}]))
    assert import_preferences(store, source) == 1
    event = store.events()[0]
    assert (event.kind, event.value, event.responses, event.voter) == ("ranking", (2, 1, 2, 4), ("a", "b", "c", "d"), "import")


def test_the_bundled_preferences_are_imported(store):
    rows = read_preferences("bundled", limit=200)
    assert import_preferences(store, "bundled", limit=200) == len({repr(row) for row in rows}) > 100
    assert import_preferences(store, "bundled", limit=200) == 0


def test_preferences_that_do_not_fit_are_named(store, tmp_path):
    source = str(write_rows(tmp_path / "p.jsonl", [{"prompt": "p", "responses": ["a", "b"], "ranking": [1, 2]},
                                                   {"prompt": "p", "responses": list("abcdefghijklmnopq"), "ranking": list(range(17))}]))
    assert "preference 2: event 'import-" in refused(import_preferences, store, source)
    assert "there is no such file" in refused(import_preferences, store, str(tmp_path / "none.jsonl")) and store.head() == 0


# The Hub

def test_a_push_is_private_and_holds_events_and_rows(store, tmp_path, monkeypatch):
    import datasets
    pushed = {}

    def push(table, repo_id, config_name, private):
        pushed[config_name] = (table, repo_id, private)

    monkeypatch.setattr(datasets.Dataset, "push_to_hub", push)
    store.add_all(EVENTS)
    events = store.events(retracted=True)
    push_to_hub(events, "me/votes")
    assert set(pushed) == {"events", "pairs", "groups", "thumbs", "demonstrations", "ratings"}
    assert {(repo, private) for _, repo, private in pushed.values()} == {("me/votes", True)}
    pushed["events"][0].to_parquet(tmp_path / "events.parquet")
    assert read_events(tmp_path / "events.parquet") == events
    pushed["pairs"][0].to_parquet(tmp_path / "pairs.parquet")
    assert [(p.chosen, p.rejected) for p in read_preferences(str(tmp_path / "pairs.parquet"))] == [
        (row["chosen"], row["rejected"]) for row in pairs(events)]
    prompts = [row["prompt"] for row in pushed["pairs"][0]]  # a text among conversations is one user turn
    assert prompts[0] == [{"role": "user", "content": "Once"}] and prompts[1] == CHAT
    assert pushed["thumbs"][0].to_list() == thumbs(events) and pushed["ratings"][0].to_list() == ratings(events)

    pushed.clear()
    push_to_hub(EVENTS[:1], "me/votes", private=False)
    assert set(pushed) == {"events", "pairs", "groups"} and pushed["events"][2] is False
    assert pushed["pairs"][0].to_list() == [{"prompt": "Once", "chosen": "a", "rejected": "b"}]


def test_a_push_that_fails_says_why(monkeypatch):
    import datasets
    assert "no events to push" in refused(push_to_hub, [], "me/votes")

    def push(*_, **__):
        raise RuntimeError("401 Client Error\nmore")

    monkeypatch.setattr(datasets.Dataset, "push_to_hub", push)
    message = refused(push_to_hub, EVENTS, "me/votes")
    assert message.startswith("me/votes: cannot be pushed to (401 Client Error)") and "hf auth login" in message


class Scheduler:
    """A CommitScheduler that pushes nothing. It fails if the folder changes while nobody holds its lock."""

    def __init__(self, **given):
        self.given, self.sizes, self.real, self.lock = given, [0], threading.Lock(), self

    def __enter__(self):
        self.real.acquire()
        assert self.size() == self.sizes[-1], "written without the lock"

    def __exit__(self, *error):
        self.sizes.append(self.size())
        self.real.release()

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.given["folder_path"].iterdir())


@pytest.fixture
def scheduler(monkeypatch):
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub, "CommitScheduler", Scheduler)


def test_events_are_appended_under_the_lock_of_the_scheduler(scheduler, store, tmp_path):
    folder = tmp_path / "sync"
    folder.mkdir()
    sync = Sync(folder, "me/votes", 2.5)
    assert sync.scheduler.given == {"repo_id": "me/votes", "repo_type": "dataset", "folder_path": folder, "every": 2.5, "private": True,
                                    "allow_patterns": ["*.jsonl"]}
    store.add_all(EVENTS)
    sync.append(store.events(retracted=True))
    sync.append([vote("new")])
    assert len(sync.scheduler.sizes) == 3 and sync.scheduler.sizes[-1] == sync.path.stat().st_size
    assert read_events(sync.path)[:-1] == store.events(retracted=True) and read_events(sync.path)[-1].time > 1.7e9
    assert import_events(store, sync.path) == 1
    assert Sync(folder, "me/votes").path != sync.path


def test_lines_of_many_threads_stay_whole(scheduler, tmp_path):
    sync = Sync(tmp_path, "me/votes")
    threads = [threading.Thread(target=lambda n=n: [sync.append([vote(f"{n}-{i}", responses=("x" * 20_000, "y"))]) for i in range(10)]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids(read_events(sync.path))) == sorted(f"{n}-{i}" for n in range(8) for i in range(10))


def test_a_full_disk_tears_no_line(scheduler):
    with small_disk("64k") as disk:
        sync = Sync(disk, "me/votes")
        sync.append([vote("e1")])
        assert "cannot be written (No space left on device)" in refused(sync.append, [vote("e2", responses=("x" * 90_000, "y"))])
        sync.append([vote("e3")])
        assert ids(read_events(sync.path)) == ["e1", "e3"]


def test_only_the_lines_leave_the_folder_and_never_the_store(tmp_path, monkeypatch):
    """The real scheduler, with an API that notes what would be uploaded."""
    from huggingface_hub import _commit_scheduler
    commits = []

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, private, repo_type, exist_ok):
            assert (private, repo_type, exist_ok) == (True, "dataset", True)
            return SimpleNamespace(repo_id=repo_id)

        def run_as_future(self, push):
            return Future()  # not now: the test pushes

        def create_commit(self, operations, **_):
            commits.append({operation.path_in_repo: operation.path_or_fileobj.read() for operation in operations})

    monkeypatch.setattr(_commit_scheduler, "HfApi", Api)
    store = Store(tmp_path / "feedback.sqlite")
    store.add_all(EVENTS)
    sync = Sync(tmp_path, "me/votes", 60)
    try:
        for events in (EVENTS[:3], EVENTS[3:]):
            sync.append(events)
            sync.scheduler.push_to_hub()
    finally:
        sync.scheduler.stop()
    assert [list(commit) for commit in commits] == [[sync.path.name]] * 2
    last = commits[-1][sync.path.name].decode().split("\n")[:-1]
    assert ids(Event.from_dict(json.loads(line)) for line in last) == ids(EVENTS) and len(commits[0][sync.path.name].split(b"\n")) == 4


def test_a_sync_that_cannot_begin_says_why(tmp_path, monkeypatch):
    import huggingface_hub

    def failing(**_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "CommitScheduler", failing)
    assert "me/votes: cannot be pushed to (no route to host)" in refused(Sync, tmp_path, "me/votes")
