"""One page over a workspace, and a port that is taken: both are said in one line."""

import runpy
import socket
import sys

import pytest

from playground import app
from playground.page_lock import note_address, only_page
from rlhf_engine.errors import UserError


def test_a_second_page_over_a_workspace_is_refused_with_the_address_of_the_first(tmp_path, monkeypatch):
    with only_page(tmp_path):
        with pytest.raises(UserError, match="has not told yet"):
            app.launch(tmp_path)
        note_address(tmp_path, "http://127.0.0.1:7860")
        with pytest.raises(UserError, match="is open already, on http://127.0.0.1:7860: use that one"):
            app.launch(tmp_path)
        with only_page(tmp_path / "another"):
            pass
    assert not (tmp_path / "page.json").exists()
    with only_page(tmp_path):
        pass


def test_a_port_that_is_none_is_refused_in_one_line():
    for value in ("abc", "70000", "-1"):
        with pytest.raises(UserError, match="GRADIO_SERVER_PORT is"):
            app.port_asked_for(value)
    assert (app.port_asked_for(""), app.port_asked_for("7861"), app.port_asked_for(7861)) == (None, 7861, 7861)


def test_a_workspace_that_cannot_be_locked_has_a_page_all_the_same(tmp_path, monkeypatch):
    def no_locks(lock, *args, **options):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr("playground.page_lock.FileLock.acquire", no_locks)
    with only_page(tmp_path):
        pass


def test_a_port_that_was_asked_for_and_is_in_use_is_no_other_port(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
        monkeypatch.setenv("PLAYGROUND_HOME", str(tmp_path))
        monkeypatch.setattr(sys, "argv", ["app.py"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path("app.py", run_name="__main__")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"error: port {port} is in use" in said and "Traceback" not in said
