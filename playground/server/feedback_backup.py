"""Votes kept on the Hub: what the disk of a Space forgets at a restart, a private data set remembers (PLAYGROUND_SYNC=USER/DATASET).

The store itself is never sent: its events are, as lines of files that only grow (`feedback_export.Sync`), and are read back at the start.
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
"""In the workspace: how it went, for the page."""


class Keeper:
    """`look` now and then: the first that succeeds restores what the data set has, each sends what has come since."""

    def __init__(self, workspace: Workspace, repo_id: str):
        self.home, self.repo_id = workspace.home, repo_id
        self.sync: Sync | None = None
        self.restored = False
        self.sent: set[str] = set()
        """Ids of the events that the data set has, or will have with the next commit."""
        self.seq, self.saved, self.commit, self.unsaved = 0, 0.0, None, ""
        self.said: dict = {}

    def look(self) -> None:
        """One look at the store and at the last commit; never raises, but writes down what is wrong."""
        try:
            if not self.restored:
                self._restore()
            store = Store(self.home / "feedback.sqlite")
            new = store.events(after=self.seq, retracted=True)
            if fresh := [event for event in new if event.id not in self.sent]:
                self.sync.append(fresh)
                self.sent |= {event.id for event in fresh}
            self.seq = new[-1].seq if new else self.seq
            trouble = self._committed()
        except (UserError, OSError) as error:
            trouble = first_line(error)
        self._say({"repo": self.repo_id, "events": len(self.sent), "saved": self.saved, "trouble": trouble})

    def _restore(self) -> None:
        """Read back what was kept. Raises UserError; the next look tries again."""
        folder = self.home / "sync"
        folder.mkdir(parents=True, exist_ok=True)
        self.sync = self.sync or Sync(folder, self.repo_id)  # makes the data set, if it is not there yet; with a thread of its own
        with TemporaryDirectory() as copy:
            try:
                from huggingface_hub import snapshot_download
                snapshot_download(self.repo_id, repo_type="dataset", allow_patterns=["*.jsonl"], local_dir=copy)
            except Exception as error:  # of the HTTP client and of huggingface_hub, which change with the version
                raise UserError(text.SYNC_UNREAD.format(repo=self.repo_id, error=first_line(error))) from None
            kept = [event for file in sorted(Path(copy).glob("*.jsonl")) for event in read_events(file)]
        Store(self.home / "feedback.sqlite").add_all(sorted(kept, key=lambda event: event.time))
        self.sent, self.restored = {event.id for event in kept}, True

    def _committed(self) -> str:
        """What went wrong with the last commit, which the scheduler keeps to itself."""
        commit = getattr(self.sync.scheduler, "last_future", None)
        if commit and commit.done() and commit is not self.commit:
            self.commit, error = commit, commit.exception()
            self.unsaved = text.SYNC_UNSAVED.format(repo=self.repo_id, error=first_line(error)) if error else ""
            self.saved = self.saved if error or commit.result() is None else time.time()  # None: there was nothing to save
        return self.unsaved

    def _say(self, said: dict) -> None:
        if said != self.said:
            with suppress(OSError):  # a full disk: the next look writes it
                write_json(self.home / STATUS, said)
                self.said = said


def keep(keeper: Keeper, ended: threading.Event, *, every: float = 10.0) -> None:
    """Look every so many seconds until `ended` is set, and once more then; the last commit is made as the process ends."""
    while True:
        keeper.look()
        if ended.wait(every):
            keeper.look()
            return
