"""The store of feedback: no vote is lost or counts twice, with many voters, killed processes and full disks; any earlier state can be read."""

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.feedback import store as feedback
from rlhf_engine.feedback.checks import MAX_NAME, MAX_TEXT
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.store import Store
from tests.rlhf_engine.helpers.feedback import CHAT, VALUES, ids, small_disk, vote
from tests.rlhf_engine.helpers.messages import refused

ROOT = Path(__file__).resolve().parents[3]


def start(code: str, *args) -> subprocess.Popen:
    """Another Python process that has imported the store."""
    head = "import os, sys, threading\nfrom rlhf_engine.feedback.events import Event\nfrom rlhf_engine.feedback.store import Store\n"
    return subprocess.Popen([sys.executable, "-c", head + code, *map(str, args)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "feedback.sqlite")


# Events

@pytest.mark.parametrize("kind", VALUES)
def test_every_kind_comes_back_as_it_went_in(store, kind):
    if kind == "retract":
        store.add(vote("e1", run="runs/a"))
    event = vote("x\0'\"\n\u2028ü🙂", kind, run="runs/a", voter="v", checkpoint="step-000100", seconds=2.5, step=7,
                 sampling={"temperature": 0.7, "seeds": [1, 2], "deep": {"a": None, "b": True}})
    if event.responses:
        event = dataclasses.replace(event, prompt=CHAT, responses=("\0 \u2028 \n ü🙂", *event.responses[1:]),
                                    shown=tuple(reversed(range(len(event.responses)))), scores=(-1.5,) * len(event.responses))
    assert store.add(event)
    stored = store.events(retracted=True)[-1]
    assert stored == dataclasses.replace(event, seq=stored.seq, time=stored.time) and stored.time > 1.7e9
    assert Event.from_dict(json.loads(json.dumps(dataclasses.asdict(stored)))) == stored  # lists become tuples


@pytest.mark.parametrize(("kind", "changes", "said"), [
    ("comparison", {"id": ""}, "the id is empty"),
    ("comparison", {"id": "x" * (MAX_NAME + 1)}, "id has 257 characters, at most 256"),
    ("comparison", {"id": 5}, "id is a number, but must be a text"),
    ("comparison", {"kind": "vote"}, "the kind is 'vote', but must be one of comparison, ranking, thumb, score, edit, retract"),
    ("comparison", {"kind": ["thumb"]}, "kind is a list"),
    ("comparison", {"run": None}, "run is a NoneType"),
    ("comparison", {"voter": "\ud800"}, "voter holds half a character"),
    ("comparison", {"checkpoint": "x" * 257}, "checkpoint has 257"),
    ("comparison", {"prompt": " "}, "the prompt is empty"),
    ("comparison", {"prompt": 3}, "the prompt is a number"),
    ("comparison", {"prompt": "x" * (MAX_TEXT + 1)}, "the prompt has 100,001 characters"),
    ("comparison", {"prompt": []}, "alternate"),
    ("comparison", {"prompt": CHAT[:3]}, "alternate"),
    ("comparison", {"prompt": [CHAT[1], CHAT[0], CHAT[1]]}, "alternate"),
    ("comparison", {"prompt": [{"role": "user", "content": " "}]}, "the last turn of the prompt is empty"),
    ("comparison", {"prompt": [{"role": "user"}]}, "nor a list of messages"),
    ("comparison", {"prompt": [{"role": "user", "content": 1}]}, "a turn of the prompt is a number"),
    ("comparison", {"prompt": [{"role": r, "content": "x" * 60_000} for r in ("user", "assistant", "user")]}, "more than 100,000"),
    ("comparison", {"responses": ("a",)}, "a comparison has 2 to 16 responses, not 1"),
    ("comparison", {"responses": "ab"}, "responses is a text, but must be a list"),
    ("comparison", {"responses": ("a", None)}, "a response is a NoneType"),
    ("comparison", {"responses": ("a", "\udc80")}, "a response holds half a character"),
    ("comparison", {"responses": ("a", "x" * (MAX_TEXT + 1))}, "a response has 100,001 characters"),
    ("comparison", {"value": "first"}, "a comparison is one of left, right, tie, both_bad, not 'first'"),
    ("comparison", {"value": {}}, "a comparison is one of"),
    ("comparison", {"responses": ("a", "b", "c")}, "left names one of 2 responses, but there are 3; send a ranking"),
    ("ranking", {"value": (1, 2)}, "a list of 4 ranks"),
    ("ranking", {"value": 1}, "a list of 4 ranks"),
    ("ranking", {"value": (0, 1, 2, 3)}, "ranks are whole numbers from 1 (best) to 4"),
    ("ranking", {"value": (1, 2, 3, 5)}, "from 1 (best) to 4"),
    ("ranking", {"value": (2, 2, 3, 4)}, "one response at least has rank 1"),
    ("ranking", {"value": (1, 2, 2, 2.0)}, "whole numbers"),
    ("ranking", {"value": (1, [], 2, True)}, "whole numbers"),
    ("ranking", {"responses": ("a",) * 17, "value": (1,) * 17}, "a ranking has 2 to 16 responses, not 17"),
    ("thumb", {"value": True}, "a thumb is up or down, not 'True'"),
    ("thumb", {"responses": ("a", "b")}, "a thumb has 1 responses, not 2"),
    ("score", {"value": 0}, "from 1 to 7, not '0'"),
    ("score", {"value": 8}, "from 1 to 7"),
    ("score", {"value": 3.5}, "from 1 to 7"),
    ("score", {"value": True}, "from 1 to 7"),
    ("edit", {"value": " \n"}, "the edit is empty or what was shown"),
    ("edit", {"value": "a"}, "the edit is empty or what was shown"),
    ("edit", {"value": 1}, "the edit is a number"),
    ("edit", {"value": "x" * (MAX_TEXT + 1)}, "the edit has 100,001"),
    ("retract", {"value": 1}, "the id to take back is a number"),
    ("retract", {"prompt": "x"}, "a retract has no prompt"),
    ("retract", {"responses": ("a",)}, "a retract has 0 responses, not 1"),
    ("comparison", {"shown": (0, 0)}, "shown must name each of the 2 responses once, counted from 0"),
    ("comparison", {"shown": (1, 2)}, "shown must name"),
    ("comparison", {"shown": (False, True)}, "shown must name"),
    ("comparison", {"shown": "01"}, "shown is a text"),
    ("comparison", {"scores": (1.0,)}, "scores must be 2 finite numbers"),
    ("comparison", {"scores": (1.0, float("nan"))}, "scores must be 2 finite numbers"),
    ("comparison", {"scores": (1.0, "2")}, "scores must be 2 finite numbers"),
    ("comparison", {"seconds": float("inf")}, "seconds is 'inf'"),
    ("comparison", {"seconds": -1}, "seconds is '-1'"),
    ("comparison", {"seconds": "1"}, "seconds is '1'"),
    ("comparison", {"time": 10**400}, "time is '1000"),
    ("comparison", {"step": 1.5}, "step is '1.5'"),
    ("comparison", {"step": -1}, "step is '-1'"),
    ("comparison", {"step": 2**64}, "step is"),
    ("comparison", {"sampling": []}, "sampling must be an object"),
    ("comparison", {"sampling": {"t": float("nan")}}, "sampling must be an object"),
    ("comparison", {"sampling": {1: 2}}, "sampling must be an object"),
    ("comparison", {"sampling": {"t": object()}}, "sampling must be an object"),
    ("comparison", {"sampling": {"t": "\ud800"}}, "sampling holds half a character"),
    ("comparison", {"sampling": {"t": "x" * MAX_TEXT}}, "sampling has 100,009 characters")])
def test_what_is_malformed_is_refused_in_one_line(store, kind, changes, said):
    event = dataclasses.replace(vote(kind=kind), **changes)
    message = refused(store.add, event)
    assert said in message and message.startswith("event ") and len(message) < 400
    assert store.count() == store.head() == 0


def test_a_row_with_unknown_or_missing_fields_is_no_event():
    assert "no field 'choice'; its fields are id, kind, prompt" in refused(Event.from_dict, {"id": "a", "kind": "thumb", "choice": 1})
    assert "has no id" in refused(Event.from_dict, {"kind": "thumb"})


def test_a_tie_may_be_of_many_and_an_answer_may_be_empty(store):
    assert store.add(vote("e1", value="both_bad", responses=("a", "b", "c", "d")))
    assert store.add(vote("e2", responses=("a story", ""), prompt=[*CHAT[:2], {"role": "assistant", "content": ""}, CHAT[3]]))
    assert store.events()[0].ranks == (1, 1, 1, 1) and store.events()[1].ranks == (1, 2)


# Exactly once

def test_a_double_click_is_one_vote(store):
    assert store.add(vote("e1", seconds=1.0))
    before = store.events()
    assert not store.add(vote("e1", seconds=1.2))  # the server's clock went on
    assert store.events() == before and store.head() == 1
    for change in ({"value": "right"}, {"responses": ("a", "c")}, {"voter": "w"}, {"run": "r"}, {"prompt": "Twice"}, {"kind": "ranking", "responses": ("a", "b"), "value": (1, 2)}):
        assert "make a new id for each vote" in refused(store.add, vote("e1", **change))
    assert store.events() == before
    store.add(vote("e2", "retract"))
    assert not store.add(vote("e1")) and not store.add(vote("e2", "retract")) and store.count() == 0


def test_many_are_added_all_or_none(store):
    store.add(vote("e1"))
    assert "not in the store" in refused(store.add_all, [vote("e2"), vote("e3", "retract", value="nothing")])
    assert "a thumb is up or down" in refused(store.add_all, [vote("e2"), vote("e3", "thumb", value="no")])
    assert ids(store.events()) == ["e1"]
    assert store.add_all([vote("e1"), vote("e2"), vote("e2"), vote("e3", "retract", value="e2")]) == 2
    assert ids(store.events(retracted=True)) == ["e1", "e2", "e3"] and ids(store.events()) == ["e1"]


CLIENTS = """
store, place, added = Store(sys.argv[1]), int(sys.argv[2]), []
def client(number):
    for i in range(20):
        event = Event(id=f"{number}-{i}", kind="thumb", prompt="p", responses=("x" * 300,), value="up", voter=str(number), run="r")
        added.append(store.add(event) + store.add(event))  # a double click
threads = [threading.Thread(target=client, args=(n % 50,)) for n in range(10 * place, 10 * place + 15)]  # five clients of the next one, too
[t.start() for t in threads]
[t.join() for t in threads]
print(len(added), sum(added))
"""


def test_fifty_clients_in_five_processes_with_doubles(tmp_path):
    """All begin before there is a store. A reader that polls meanwhile sees each event once and in order."""
    path = tmp_path / "new" / "feedback.sqlite"
    processes = [start(CLIENTS, path, place) for place in range(5)]
    store, seen = Store(path), []
    while any(process.poll() is None for process in processes):
        seen += store.events(after=seen[-1].seq if seen else 0)
    seen += store.events(after=seen[-1].seq if seen else 0)
    said = [list(map(int, process.stdout.read().split())) for process in processes]
    assert [tried for tried, _ in said] == [300] * 5 and sum(new for _, new in said) == 1000
    assert sorted(ids(seen)) == sorted(f"{n}-{i}" for n in range(50) for i in range(20))
    assert [event.seq for event in seen] == list(range(1, 1001)) and store.count("r") == 1000
    for client in range(50):
        assert [event.id for event in seen if event.voter == str(client)][-1] == store.last(str(client), "r").id


def test_a_killed_writer_loses_no_vote_that_it_was_told_is_stored(store):
    code = ("store, i = Store(sys.argv[1]), 0\nwhile True:\n    i += 1\n"
            "    store.add(Event(id=str(i), kind='thumb', prompt='p', responses=('x' * 5000,), value='up'))\n    print(i, flush=True)")
    total = 0
    for _ in range(3):
        Path(f"{store.path}-told").unlink(missing_ok=True)
        writer = start(code.replace("i = Store(sys.argv[1]), 0", f"i = Store(sys.argv[1]), {total}"), store.path)
        for _ in range(30):
            writer.stdout.readline()
        writer.kill()
        told = total + 30 + len([line for line in writer.stdout.read().split("\n")[:-1] if line])
        assert writer.wait() < 0
        stored = ids(store.events())
        assert stored in ([str(i + 1) for i in range(told)], [str(i + 1) for i in range(told + 1)])  # the last may not have been told
        total = len(stored)
    with contextlib.closing(sqlite3.connect(store.path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert store.add(vote("after"))


def test_a_store_survives_a_fork(store):
    code = """
store = Store(sys.argv[1])
add = lambda who: [store.add(Event(id=f"{who}{i}", kind="thumb", prompt="p", responses=("x",), value="up")) for i in range(20)]
add("before")
child = os.fork()
add("child" if child == 0 else "parent")
if child:
    print(os.waitpid(child, 0)[1])
"""
    process = start(code, store.path)
    assert process.communicate()[0] == "0\n" and store.count() == 60


def test_a_reader_that_takes_its_time_locks_nothing(store):
    store.add_all(vote(f"e{i}") for i in range(10))
    reading = iter(store.events())
    next(reading)
    assert store.add(vote("new")) and len(list(reading)) == 9


# Undo, and what was seen when

def test_undo_is_a_retract(store):
    for name, voter, run in (("a", "v", "r"), ("b", "w", "r"), ("c", "v", "q"), ("d", "v", "r")):
        store.add(vote(name, voter=voter, run=run))
    assert (store.last("v", "r").id, store.last("v", "q").id, store.last("v").id, store.last("w", "r").id) == ("d", "c", "d", "b")
    assert store.add(vote("u1", "retract", value="d", voter="v", run="r"))
    assert store.last("v", "r").id == "a" and store.last("v").id == "c"
    assert store.add(vote("u2", "retract", value="d", voter="v", run="r"))  # from another window: harmless
    assert not store.add(vote("u1", "retract", value="d", voter="v", run="r"))
    assert ids(store.events()) == ["a", "b", "c"] and ids(store.events(run="r")) == ["a", "b"]
    assert (store.count(), store.count("r"), store.count("q"), store.count("none")) == (3, 2, 1, 0)
    store.add(vote("u3", "retract", value="a", voter="v", run="r"))
    assert store.last("v", "r") is None and store.last("nobody") is None
    assert ids(store.events(run="r", retracted=True)) == ["a", "b", "d", "u1", "u2", "u3"]


def test_nothing_and_a_retract_cannot_be_taken_back(store):
    store.add(vote("e1", run="r"))
    assert "'none', which is not in the store" in refused(store.add, vote("u", "retract", value="none"))
    assert "not in the store" in refused(store.add, vote("u", "retract", value="u"))
    store.add(vote("u", "retract", run="r"))
    assert "which is a retract itself" in refused(store.add, vote("uu", "retract", value="u", run="r"))
    assert "takes back an event of the run 'r'" in refused(store.add, vote("uu", "retract", run="other"))
    assert store.head() == 2


def test_what_was_live_at_an_earlier_moment_can_be_read_again(store):
    """What was read at a moment is what `upto` gives for that moment later."""
    acts = [vote("a"), vote("b"), vote("u1", "retract", value="a"), vote("c"), vote("u2", "retract", value="c"), vote("d")]
    seen = {0: []}
    for act in acts:
        store.add(act)
        seen[store.head()] = ids(store.events())
    assert list(seen) == [0, 1, 2, 3, 4, 5, 6] and seen[4] == ["b", "c"] and seen[6] == ["b", "d"]
    for seq, then in seen.items():
        assert ids(store.events(upto=seq)) == then
    assert ids(store.events(after=1, upto=2)) == ["b"] and ids(store.events(after=3, upto=4)) == ["c"] and store.events(after=3, upto=5) == []
    assert ids(store.events(after=4)) == ["d"] and store.events(after=6) == []
    assert ids(store.events(after=1, upto=3, retracted=True)) == ["b", "u1"]


def test_what_looks_like_sql_is_text(tmp_path):
    evil = "x'); DROP TABLE events; --"
    store = Store(tmp_path / "100% odd? #name" / "it's; f.sqlite")
    store.add(vote(evil, run=evil, voter=evil, prompt=evil))
    assert store.last(evil, evil).prompt == evil and store.count(evil) == 1 and store.events(run="' OR 1=1 --") == []
    assert store.path.exists() and os.listdir(tmp_path) == ["100% odd? #name"]


def test_the_file_itself_refuses_changes_and_removals(store):
    store.add(vote("e1"))
    with contextlib.closing(sqlite3.connect(store.path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        for statement in ("UPDATE events SET content = ''", "DELETE FROM events"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                database.execute(statement)
    assert ids(store.events()) == ["e1"]


# Trouble

@contextlib.contextmanager
def without_rights(folder_mode: int, file_mode: int):
    """A store with one vote and these permissions. A root process gives up its rights for a while."""
    folder = Path(tempfile.mkdtemp())
    store = Store(folder / "feedback.sqlite")
    store.add(vote("e1"))
    store.path.chmod(file_mode)
    folder.chmod(folder_mode)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield store
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room():
    with small_disk("300k") as folder:
        store, stored = Store(folder / "feedback.sqlite"), []
        with pytest.raises(UserError, match="feedback.sqlite: the disk is full: free some space"):
            for i in range(1000):
                store.add(vote(f"e{i}", responses=("x" * 3000, "y")))
                stored.append(f"e{i}")
        assert 10 < len(stored) < 100 and ids(store.events()) == ids(Store(store.path).events()) == stored
        subprocess.run(["mount", "-o", "remount,size=2m", folder], check=True)
        assert store.add(vote("more")) and ids(store.events()) == [*stored, "more"]


def test_a_disk_without_room_for_a_new_store_or_for_the_log():
    with small_disk("128k") as folder:
        store = Store(folder / "feedback.sqlite")
        store.add(vote("e1"))
        with pytest.raises(OSError), open(folder / "fill", "wb", buffering=0) as fill:
            while fill.write(b"x" * 4096):
                pass
        assert "the disk is full" in refused(store.add, vote("e2"))
        assert ids(store.events()) == ["e1"] and Store(store.path).count() == 1
        assert str(folder / "b.sqlite") in refused(Store, folder / "b.sqlite")
        (folder / "fill").unlink()
        assert store.add(vote("e2")) and Store(folder / "b.sqlite").count() == 0


def test_a_file_that_may_not_grow(store, monkeypatch):
    """With SQLite's own limit, for machines on which no disk can be mounted."""
    def opened(self, mode="rw", open=Store._open):
        manager = open(self, mode)

        @contextlib.contextmanager
        def limited():
            with manager as database:
                database.execute("PRAGMA max_page_count = 20")
                yield database
        return limited()

    monkeypatch.setattr(Store, "_open", opened)
    stored = []
    with pytest.raises(UserError, match="the disk is full"):
        for i in range(1000):
            store.add(vote(f"e{i}", responses=("x" * 3000, "y")))
            stored.append(f"e{i}")
    assert stored and ids(store.events()) == stored
    monkeypatch.undo()
    assert store.add(vote("more")) and store.count() == len(stored) + 1


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o555, 0o444), (0o777, 0o444), (0o555, 0o666)])
def test_a_store_that_may_only_be_read_is_read(folder_mode, file_mode):
    with without_rights(folder_mode, file_mode) as store:
        assert f"{store.path}: cannot be " in refused(store.add, vote("e2"))
        assert ids(store.events()) == ["e1"] and Store(store.path).last("").id == "e1"
        if folder_mode == 0o555:
            assert "new.sqlite: cannot be made (Permission denied)" in refused(Store, store.path.parent / "new.sqlite")
    assert not store.path.exists()


def test_a_store_that_may_not_be_read():
    with without_rights(0o755, 0o000) as store:
        for act in (store.events, store.head, lambda: store.add(vote("e2")), lambda: Store(store.path)):
            assert "cannot be opened: check that file and folder exist" in refused(act)


def test_a_damaged_store_is_left_as_it_is(store):
    store.add_all(vote(f"e{i}", responses=("x" * 500, "y")) for i in range(200))
    whole = store.path.read_bytes()
    for damaged in (whole[:4096] + b"\xff" * (len(whole) - 4096), whole[:20_000]):
        store.path.write_bytes(damaged)
        message = refused(store.events)
        assert f"{store.path}: is damaged: move it away and import your last export" in message
        assert "is damaged" in refused(store.add_all, [vote(f"n{i}", responses=("x" * 500, "y")) for i in range(200)])
        assert store.path.read_bytes() == damaged
    store.path.write_bytes(whole)
    assert store.count() == 200


def test_a_damaged_event_is_named(store):
    store.add_all([vote("e1"), vote("e2")])
    for content in ("{", "[1]", '{"id": "e2"}', '{"id": "e2", "kind": "thumb", "what": 1}'):
        with contextlib.closing(sqlite3.connect(store.path)) as database:
            database.execute("DROP TRIGGER IF EXISTS keep")
            database.execute("UPDATE events SET content = ? WHERE seq = 2", (content,))
            database.commit()
        assert "(event 2)" in refused(store.events)
        assert ids(store.events(upto=1)) == ["e1"]


def test_other_files_are_refused_and_kept(tmp_path):
    (tmp_path / "text").write_text("my thesis " * 1000)
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as database:
        database.execute("CREATE TABLE mine (a)")
    newer = Store(tmp_path / "newer")
    newer.add(vote())
    with contextlib.closing(sqlite3.connect(newer.path)) as database:
        database.execute("PRAGMA user_version = 3")
    (tmp_path / "folder").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for name, said in (("text", "is no store of feedback"), ("other", "is a database of another program"),
                       ("newer", "was made by a newer playground (store 3, this one knows 2); update this one"),
                       ("folder", "is a folder; name a file in it"), ("text/below", "cannot be made")):
        message = refused(Store, tmp_path / name)
        assert message.startswith(f"{tmp_path / name}: ") and said in message
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_store_whose_making_was_killed_is_made(tmp_path):
    for name, prepare in (("empty", lambda database: None), ("half", lambda database: database.execute("PRAGMA journal_mode = WAL"))):
        (tmp_path / name).touch()
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as database:
            prepare(database)
        store = Store(tmp_path / name)
        assert store.add(vote()) and store.count() == 1


def test_a_store_that_vanished_is_not_begun_anew(store):
    store.add(vote())
    store.path.unlink()
    for act in (store.events, lambda: store.add(vote("e2"))):
        assert "cannot be opened: check that file and folder exist" in refused(act)
    assert not store.path.exists()


def test_a_writer_that_never_ends_is_waited_for_and_named(store, monkeypatch):
    store.add(vote("e1"))
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with monkeypatch.context() as patch:
            patch.setattr(feedback, "PATIENCE", 0.1)
            assert "another process has kept it locked" in refused(store.add, vote("e2"))
            assert store.count() == 1  # readers do not wait
        release = threading.Timer(0.2, other.execute, ("ROLLBACK",))
        release.start()
        assert store.add(vote("e2")) and store.count() == 2
        release.join()


def test_the_store_is_imported_without_heavy_libraries():
    code = ("import rlhf_engine.feedback.exchange\nheavy = {'torch', 'gradio', 'datasets', 'huggingface_hub', 'pandas', 'pyarrow', 'numpy'}\n"
            "print(sorted(heavy & set(sys.modules)))")
    assert start(code).communicate()[0] == "[]\n"


@pytest.mark.parametrize(("event", "right"), [
    (vote("e", scores=(1.0, 0.5)), True), (vote("e", value="right", scores=(1.0, 0.5)), False), (vote("e", value="tie", scores=(1.0, 0.5)), None),
    (vote("e", scores=(0.0, 0.0)), None), (vote("e"), None), (vote("e", "thumb", responses=("a",), value="up", scores=(1.0,)), None),
    (vote("e", "ranking", responses=tuple("abcd"), value=(2, 2, 1, 2), scores=(0.1, 0.2, 0.3, -1.0)), True),
    (vote("e", "ranking", responses=tuple("abc"), value=(1, 1, 2), scores=(0.1, 0.3, 0.2)), True),
    (vote("e", "ranking", responses=tuple("abc"), value=(1, 2, 3), scores=(0.1, 0.3, 0.2)), False)])
def test_whether_the_reward_had_guessed_an_answer(event, right):
    assert event.validate().guessed is right
