"""A backup of the votes on the Hub. The disk of a Space is lost at a restart; a private data set keeps the votes.

PLAYGROUND_SYNC=USER/DATASET switches it on. The store itself is never sent: its events are, as lines of files that only
grow (`feedback.exchange.Sync`), and they are read back at the start.
"""

import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from playground.server import text
from playground.workspace import Workspace
from rlhf_engine.errors import UserError, first_line
from rlhf_engine.feedback.exchange import Sync, read_events
from rlhf_engine.feedback.store import Store
from rlhf_engine.files import write_json

STATUS = "sync.json"
"""In the workspace: how the backup stands, for the page."""


class FeedbackBackup:
    """Call `update` now and then.

    The first call that succeeds restores what the data set has; each sends what is new since the last.
    """

    def __init__(self, workspace: Workspace, repo_id: str):
        self.home, self.repo_id = workspace.home, repo_id
        self.sync: Sync | None = None
        self.restored = False
        self.sent: set[str] = set()
        """Ids of the events that the data set has, or will have with the next commit."""
        self.last_seq = 0
        """The last event of the store that has been dealt with."""
        self.saved_at = 0.0
        """When the last commit succeeded."""
        self.last_commit, self.commit_trouble = None, ""
        self.status: dict = {}

    def update(self) -> None:
        """Send new events, and look at the last commit. Never raises: what is wrong is written down for the page."""
        try:
            self._send_new_events(self._restored_sync())
            trouble = self._check_commit()
        except (UserError, OSError) as error:
            trouble = first_line(error)
        self._write_status({"repo": self.repo_id, "events": len(self.sent), "saved": self.saved_at, "trouble": trouble})

    def _send_new_events(self, sync: Sync) -> None:
        store = Store(self.home / "feedback.sqlite")
        events = store.events(after=self.last_seq, retracted=True)
        unsent = [event for event in events if event.id not in self.sent]
        if unsent:
            sync.append(unsent)
            self.sent.update(event.id for event in unsent)
        if events:
            self.last_seq = events[-1].seq

    def _restored_sync(self) -> Sync:
        """The connection to the data set, whose events have been read back once.

        Raises UserError; the next call tries again.
        """
        if self.sync is None:
            folder = self.home / "sync"
            folder.mkdir(parents=True, exist_ok=True)
            self.sync = Sync(folder, self.repo_id)  # makes the data set if it is new, and has a thread of its own
        if not self.restored:
            events = self._download_events()
            Store(self.home / "feedback.sqlite").add_all(sorted(events, key=lambda event: event.time))
            self.sent, self.restored = {event.id for event in events}, True
        return self.sync

    def _download_events(self) -> list:
        with TemporaryDirectory() as copy:
            try:
                from huggingface_hub import snapshot_download
                snapshot_download(self.repo_id, repo_type="dataset", allow_patterns=["*.jsonl"], local_dir=copy)
            except Exception as error:  # of the HTTP client and of huggingface_hub, which change with the version
                raise UserError(text.SYNC_UNREAD.format(repo=self.repo_id, error=first_line(error))) from None
            events = []
            for file in sorted(Path(copy).glob("*.jsonl")):
                events += read_events(file)
            return events

    def _check_commit(self) -> str:
        """What went wrong with the last commit, which the scheduler does not tell; empty if nothing did."""
        commit = getattr(self.sync.scheduler, "last_future", None) if self.sync else None
        if commit and commit.done() and commit is not self.last_commit:
            self.last_commit, error = commit, commit.exception()
            self.commit_trouble = text.SYNC_UNSAVED.format(repo=self.repo_id, error=first_line(error)) if error else ""
            if not error and commit.result() is not None:  # None: there was nothing to save
                self.saved_at = time.time()
        return self.commit_trouble

    def _write_status(self, status: dict) -> None:
        if status != self.status:
            with suppress(OSError):  # a full disk; the next call writes it
                write_json(self.home / STATUS, status)
                self.status = status


def back_up(backup: FeedbackBackup, ended: threading.Event, *, every: float = 10.0) -> None:
    """Update a backup every so many seconds until `ended` is set, and once more then.

    The last commit is made as the process ends.
    """
    while True:
        backup.update()
        if ended.wait(every):
            backup.update()
            return
