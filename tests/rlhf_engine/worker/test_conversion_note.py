"""The note that a worker converts a GGUF file: what the page reads, and what the stream of a load says meanwhile."""

import threading

import psutil
import pytest

from rlhf_engine.files import read_json, write_json
from rlhf_engine.gguf import progress
from rlhf_engine.gguf.progress import Progress, announce
from rlhf_engine.worker import server as serving
from rlhf_engine.worker.conversion_note import read_note, write_note
from rlhf_engine.worker.protocol import CONVERSION_FILE
from rlhf_engine.worker.server import Server


@pytest.fixture
def one(tmp_path, monkeypatch) -> Progress:
    """A conversion of which 30 of 100 bytes are written, with the note in `tmp_path` kept up to date."""
    monkeypatch.setattr(progress, "WATCHERS", [lambda: write_note(tmp_path)])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.safetensors").write_bytes(b"1" * 30)
    return Progress("models/m.gguf", tmp_path / "new", 100)


def test_the_note_is_there_as_long_as_the_conversion(tmp_path, one):
    assert read_note(tmp_path) is None
    with announce(one):
        assert read_note(tmp_path) == one and one.done == 30
        with announce(Progress("other.gguf", tmp_path, 7)):
            assert read_note(tmp_path) == one  # the oldest
    assert read_note(tmp_path) is None and not (tmp_path / CONVERSION_FILE).exists()


def test_a_conversion_goes_on_where_no_note_can_be_written(tmp_path, one, monkeypatch):
    monkeypatch.setattr(progress, "WATCHERS", [lambda: write_note(tmp_path / "gone")])
    with announce(one):
        assert [one] == progress.CONVERSIONS


def test_a_note_of_a_process_that_has_ended_and_a_file_of_something_else_say_nothing(tmp_path, one):
    with announce(one):
        note = read_json(tmp_path / CONVERSION_FILE)
    write_json(tmp_path / CONVERSION_FILE, {**note, "born": psutil.Process().create_time() - 100})
    assert read_note(tmp_path) is None
    for other in ({}, {"pid": "x"}, {"pid": note["pid"], "born": note["born"]}, [1]):
        write_json(tmp_path / CONVERSION_FILE, other)
        assert read_note(tmp_path) is None
    write_note(tmp_path)  # a worker that starts
    assert not (tmp_path / CONVERSION_FILE).exists()


def test_a_load_says_how_far_the_conversion_is(tmp_path, one, monkeypatch):
    converting, looked = threading.Event(), threading.Event()

    def resolve(model, report):
        with announce(one):
            converting.set()
            assert looked.wait(60)
        return tmp_path
    monkeypatch.setattr(serving, "resolve_model", resolve)
    steps = Server(tmp_path).load(None, model=one.model)
    assert next(steps) == {"state": "fetching", "done": 0, "total": 0}
    assert converting.wait(60)
    assert next(steps) == {"state": "converting", "done": 30, "total": 100}
    looked.set()
    states = [step["state"] for step in (next(steps), next(steps))]
    assert "loading" in states
