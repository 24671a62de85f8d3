"""What the first version kept inside `Event.sampling` and `Query.sampling` is read as fields, and stays the same event."""

import contextlib
import dataclasses
import json
import sqlite3

import pytest

from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.exchange import export, import_events, read_events
from rlhf_engine.feedback.queries import Query
from rlhf_engine.feedback.store import Store

NEW_FIELDS = ("query", "position", "roles", "checkpoints", "blind", "stopped")
OLD = [
    {"id": "answer", "kind": "ranking", "prompt": "p", "responses": ["a", "b", "c"], "value": [1, 2, 2], "run": "r",
     "sampling": {"temperature": 1.0, "roles": ["policy", "reference", "policy"], "query": "q1"}},
    {"id": "annotation", "kind": "score", "prompt": "p", "responses": ["b"], "value": 5, "run": "r",
     "sampling": {"temperature": 1.0, "roles": ["policy", "reference", "policy"], "about": "q1", "place": 2}},
    {"id": "chat", "kind": "comparison", "prompt": "p", "responses": ["a", "b"], "value": "tie",
     "sampling": {"model": "bundled", "checkpoints": ["none", "bundled"], "blind": True, "stopped": True}},
    {"id": "plain", "kind": "thumb", "prompt": "p", "responses": ["a"], "value": "up", "sampling": {"max_new_tokens": 8}}]
NEW = [
    Event("answer", "ranking", "p", ("a", "b", "c"), (1, 2, 2), run="r", sampling={"temperature": 1.0}, query="q1",
          roles=("policy", "reference", "policy")),
    Event("annotation", "score", "p", ("b",), 5, run="r", sampling={"temperature": 1.0}, query="q1", position=2,
          roles=("reference",)),
    Event("chat", "comparison", "p", ("a", "b"), "tie", sampling={"model": "bundled"}, checkpoints=("none", "bundled"),
          blind=True, stopped=True),
    Event("plain", "thumb", "p", ("a",), "up", sampling={"max_new_tokens": 8})]


def old_store(path) -> Store:
    """A store as the first version left it: version 1, and rows without the new fields."""
    store = Store(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        for row in OLD:
            whole = {name: value for name, value in dataclasses.asdict(Event(row["id"], row["kind"])).items()
                     if name not in (*NEW_FIELDS, "time", "seq")}
            database.execute("INSERT INTO events (id, kind, run, voter, target, time, content) VALUES (?, ?, ?, '', NULL, 5.0, ?)",
                             (row["id"], row["kind"], row.get("run", ""), json.dumps(whole | row)))
        database.execute("PRAGMA user_version = 1")
        database.commit()
    return store


def without_clock(events: list[Event]) -> list[Event]:
    return [dataclasses.replace(event, time=0.0, seq=0) for event in events]


def rows_and_version(path) -> tuple[list, int]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return (database.execute("SELECT id, content FROM events ORDER BY seq").fetchall(),
                database.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize("old, new", zip(OLD, NEW), ids=[event.id for event in NEW])
def test_an_old_event_is_the_new_one(old, new):
    event = Event.from_dict(old).validate()
    assert event == new and event.same_as(new) and new.same_as(event)
    assert Event(**old) == new == Event.from_dict(json.loads(json.dumps(dataclasses.asdict(new))))


def test_what_an_event_answers_and_what_it_is_about():
    assert [event.answers for event in NEW] == ["q1", "", "", ""]
    assert [(event.query, event.position) for event in NEW] == [("q1", 0), ("q1", 2), ("", 0), ("", 0)]


@pytest.mark.parametrize("sampling", [
    {"query": 5}, {"query": ""}, {"about": "q1"}, {"about": "q1", "place": 0}, {"about": "q1", "place": "2"}, {"place": 2},
    {"roles": "policy"}, {"roles": ["policy", "reference"]}, {"checkpoints": [1]}, {"blind": "yes"}, {"stopped": None}])
def test_what_no_field_can_hold_stays_a_setting(sampling):
    event = Event("e", "thumb", "p", ("a",), "up", sampling=dict(sampling)).validate()
    assert event.sampling == sampling and not any(getattr(event, name) for name in NEW_FIELDS)


def test_the_settings_that_were_given_are_not_changed():
    sampling = {"temperature": 1.0, "query": "q1"}
    assert Event("e", "thumb", "p", ("a",), "up", sampling=sampling).sampling == {"temperature": 1.0}
    assert sampling == {"temperature": 1.0, "query": "q1"}


def test_an_old_store_is_read_and_keeps_its_bytes(tmp_path):
    store = old_store(tmp_path / "feedback.sqlite")
    before = rows_and_version(store.path)
    again = Store(store.path)
    assert without_clock(again.events()) == NEW and again.last("", "r").id == "annotation"
    assert rows_and_version(store.path) == before and before[1] == 1
    assert store.add_all(NEW) == 0 and rows_and_version(store.path) == before, "they are there already"
    assert store.add(dataclasses.replace(NEW[0], id="another"))
    rows, version = rows_and_version(store.path)
    assert rows[:-1] == before[0] and version == 2 and without_clock(Store(store.path).events())[:-1] == NEW


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_old_and_new_files_bring_nothing_new(tmp_path, suffix):
    store, path = old_store(tmp_path / "feedback.sqlite"), tmp_path / f"new{suffix}"
    export(store.events(), path)
    assert without_clock(read_events(path)) == NEW and import_events(store, path) == 0
    old = tmp_path / f"old{suffix}"
    if suffix == ".jsonl":
        old.write_text("".join(json.dumps(row) + "\n" for row in OLD))
    else:
        import pyarrow
        from pyarrow.parquet import write_table
        flat = [{"run": ""} | row | {name: json.dumps(row[name]) for name in ("prompt", "value", "sampling")} for row in OLD]
        write_table(pyarrow.Table.from_pylist(flat), old)
    assert read_events(old) == NEW and import_events(store, old) == 0
    other = Store(tmp_path / "other.sqlite")
    assert import_events(other, old) == 4 and import_events(other, path) == 0


def test_an_old_query_has_its_roles_as_a_field():
    row = {"id": "q", "prompt": "p", "responses": ["a", "b"], "scores": [0.5, 0.1], "step": 3, "run": "r", "checkpoint": "c",
           "sampling": {"temperature": 1.0, "roles": ["policy", "reference"]}}
    query = Query.from_dict(row)
    assert query == Query("q", "p", ("a", "b"), (0.5, 0.1), 3, {"temperature": 1.0}, "r", "c", ("policy", "reference"))
    assert row["sampling"]["roles"] == ["policy", "reference"]
    assert Query.from_dict(json.loads(json.dumps(dataclasses.asdict(query)))) == query
    assert query.event("2", "e").roles == ("policy", "reference") and query.event("up:2", "e").roles == ("reference",)


def test_new_fields_are_checked():
    for change, message in (({"position": 1}, "name the query"), ({"query": "q", "position": -1}, "position is '-1'"),
                            ({"roles": ("policy",)}, "roles must be 2 names"), ({"checkpoints": ("a", 5)}, "one of the checkpoints is"),
                            ({"blind": 1}, "blind is a number"), ({"query": 5}, "query is a number")):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(Event("e", "comparison", "p", ("a", "b"), "left"), **change).validate()
