"""Votes that outlive the disk of a Space: sent as they come, read back at the start, and what is wrong is said."""

import shutil
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import huggingface_hub
import pytest

from playground.pages.data import feedback_view
from playground.server.feedback_backup import STATUS, FeedbackBackup, back_up
from playground.workspace import Workspace
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.store import Store
from rlhf_engine.files import read_json
from tests.playground.conftest import EVIL


class Hub:
    """A data set in a folder, and the scheduler that commits to it when it is told to."""

    def __init__(self, folder: Path):
        self.folder, self.down = folder, ""
        folder.mkdir()

    def scheduler(self, *, folder_path, **_):
        if self.down:
            raise ConnectionError(self.down)
        self.source, self.lock, self.last_future = folder_path, threading.Lock(), None
        return self

    def commit(self) -> None:
        self.last_future = Future()
        if self.down:
            self.last_future.set_exception(ConnectionError(self.down))
            return
        for file in self.source.glob("*.jsonl"):
            shutil.copy(file, self.folder)
        self.last_future.set_result("done")

    def download(self, repo_id, *, repo_type, allow_patterns, local_dir):
        assert (repo_id, repo_type, allow_patterns) == ("me/votes", "dataset", ["*.jsonl"])
        for file in self.folder.glob("*.jsonl"):
            shutil.copy(file, local_dir)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "CommitScheduler", hub.scheduler)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.download)
    return hub


def thumb(name: str) -> Event:
    return Event(name, "thumb", "p", ("r",), "up", voter="me")


def ids(home: Path) -> list[str]:
    return [event.id for event in Store(home / "feedback.sqlite").events(retracted=True)]


def test_votes_come_back_after_the_disk_is_gone(hub, tmp_path):
    home = Workspace(tmp_path / "home").home
    store = Store(home / "feedback.sqlite")
    store.add_all([thumb("e1"), thumb("e2")])
    backup = FeedbackBackup(Workspace(home), "me/votes")
    backup.update()
    store.add(Event("e3", "retract", value="e1", voter="me"))
    backup.update()
    assert read_json(home / STATUS) == {"repo": "me/votes", "events": 3, "saved": 0.0, "trouble": ""}
    assert "with the next commit" in feedback_view.backup_status(read_json(home / STATUS))
    hub.last_future = Future()
    hub.last_future.set_result(None)  # there was nothing new in the folder
    backup.update()
    assert read_json(home / STATUS)["saved"] == 0
    hub.commit()
    backup.update()
    saved = read_json(home / STATUS)
    assert saved["saved"] > 1.7e9 and "last saved 20" in feedback_view.backup_status(saved)
    shutil.rmtree(home)
    again = FeedbackBackup(Workspace(home), "me/votes")
    again.update()
    assert ids(home) == ["e1", "e2", "e3"] and [event.id for event in Store(home / "feedback.sqlite").events()] == ["e2"]
    Store(home / "feedback.sqlite").add(thumb("e4"))
    again.update()
    hub.commit()
    sent = [line for file in hub.folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(sent) == 4, "what came back was sent again"


def test_a_hub_that_is_down_is_said_and_tried_again(hub, tmp_path):
    home = Workspace(tmp_path / "home").home
    Store(home / "feedback.sqlite").add(thumb("e1"))
    backup = FeedbackBackup(Workspace(home), "me/votes")
    hub.down = f"no route {EVIL}"
    backup.update()
    trouble = read_json(home / STATUS)["trouble"]
    assert trouble.startswith("me/votes: cannot be pushed to (no route") and "<b>" not in feedback_view.backup_status(read_json(home / STATUS))
    hub.down = ""
    backup.update()
    assert read_json(home / STATUS)["trouble"] == ""
    hub.down = "503"
    hub.commit()
    backup.update()
    backup.update()
    assert "the last commit failed (503)" in read_json(home / STATUS)["trouble"]
    hub.down = ""
    hub.commit()
    backup.update()
    assert read_json(home / STATUS)["trouble"] == "" and read_json(home / STATUS)["saved"] > 0


def test_what_cannot_be_read_back_is_not_written_over(hub, tmp_path):
    home = Workspace(tmp_path / "home").home
    (hub.folder / "events-x.jsonl").write_text("no event\n")
    backup = FeedbackBackup(Workspace(home), "me/votes")
    backup.update()
    assert "events-x.jsonl" in read_json(home / STATUS)["trouble"] and not backup.restored
    made = backup.sync
    backup.update()
    assert backup.sync is made, "another scheduler at each look"


def test_the_last_votes_are_sent_as_the_page_ends(hub, tmp_path):
    home = Workspace(tmp_path / "home").home
    ended = threading.Event()
    backup = FeedbackBackup(Workspace(home), "me/votes")
    thread = threading.Thread(target=back_up, args=(backup, ended), kwargs={"every": 36_000})
    thread.start()
    while not backup.restored:
        time.sleep(0.01)
    Store(home / "feedback.sqlite").add(thumb("e1"))
    ended.set()
    thread.join()  # it does not wait for its next turn, in ten hours
    assert "e1" in next((home / "sync").glob("*.jsonl")).read_text()
