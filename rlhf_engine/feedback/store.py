"""The append-only store of human feedback (`events.Event`): one SQLite file.

Nothing is ever changed or removed: undo is a retract, and the list of events at an earlier moment can be read again
(`upto`). Each call opens a connection of its own, so a store can be used from any thread and survives a fork.
"""

import dataclasses
import json
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event
from rlhf_engine.files import expand_user, json_text

APPLICATION, VERSION = 0x524C4846, 2
"""Marks in the file: "RLHF", and the version of what it holds. Version 1 has events without the fields from `query` on.

A store of version 1 is read as it is. It becomes version 2 when the first event is added, so that an older playground
says that it is too old, instead of calling the new event damaged.
"""
PATIENCE = 30.0
"""Seconds to wait for another process that is writing."""
NEWEST = 2**63 - 1
"""Larger than the number of any event."""

TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    run TEXT NOT NULL, voter TEXT NOT NULL, target TEXT, time REAL NOT NULL, content TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_target ON events (target) WHERE target IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_voter ON events (voter);
CREATE TRIGGER IF NOT EXISTS keep BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER IF NOT EXISTS keep_all BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""
MARKS = "SELECT * FROM pragma_application_id, pragma_user_version, (SELECT count(*) FROM sqlite_master)"
ALL = " FROM events AS event WHERE seq > :after AND seq <= :upto AND (:run IS NULL OR run = :run)"
LIVE = ALL + (" AND kind != 'retract' AND NOT EXISTS"
              " (SELECT 1 FROM events AS later WHERE later.target = event.id AND later.seq <= :upto)")

MESSAGES = {
    "SQLITE_FULL": "the disk is full: free some space, then try again",
    "SQLITE_READONLY": "cannot be written: get the right to write the file and its folder, or choose another folder",
    "SQLITE_CANTOPEN": "cannot be opened: check that file and folder exist and that you may read and write both",
    "SQLITE_NOTADB": "is no store of feedback: move it away, or choose another folder",
    "SQLITE_CORRUPT": "is damaged: move it away and import your last export, or try to save it with "
                      "`sqlite3 FILE .recover`",
    "SQLITE_BUSY": f"another process has kept it locked for {PATIENCE:g} s: end that one, or try again",
    "SQLITE_IOERR": "the disk reports an error: check it and the space on it, then try again",
}
"""What SQLite's errors mean to a user, by the beginning of their names."""
UNWRITABLE = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")
"""Errors after which a store can still be read, if nothing waits in its log."""


class Store:
    """The events in one SQLite file (in a workspace: `feedback.sqlite`). A file that does not exist is made.

    Any number of threads and processes may add and read at once. Every method raises UserError for a full disk, and for
    a file that may not be written, is damaged, or is no store. Stored events stay untouched then.
    """

    def __init__(self, path: str | Path):
        self.path = Path(expand_user(str(path))).absolute()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                self.path.touch()  # an empty file is an empty database
        except OSError as error:
            raise UserError(f"{self.path}: cannot be made ({error.strerror}); choose another folder") from None
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder; name a file in it")
        application, version, tables = self._read(MARKS)[0]
        if (application, version, tables) == (0, 0, 0):
            self._make()
        elif application != APPLICATION:
            raise UserError(f"{self.path}: is a database of another program; move it away, or choose another folder")
        elif version > VERSION:
            raise UserError(f"{self.path}: was made by a newer playground (store {version}, this one knows {VERSION}); "
                            "update this one")

    def add(self, event: Event) -> bool:
        """Store an event; it is on disk when this returns. False, and no change, if the store has it (a double click).

        Raises UserError for a malformed event, for a known id with another content, and for a retract of an event that
        does not exist, belongs to another run, or is a retract itself.
        """
        return self.add_all([event]) == 1

    def add_all(self, events: Iterable[Event]) -> int:
        """Store the events that are new, and return their number. An event keeps the time that it has.

        On an error none is stored. Raises as `add` does.
        """
        events = [event.validate() for event in events]
        with self._user_errors(), self._open() as database:
            database.execute("BEGIN IMMEDIATE")  # a second writer waits here, not in the middle
            added = sum(self._insert(database, event) for event in events)
            if added and database.execute("PRAGMA user_version").fetchone()[0] < VERSION:
                database.execute(f"PRAGMA user_version = {VERSION}")
            database.execute("COMMIT")
        return added

    def events(self, *, run: str | None = None, after: int = 0, upto: int | None = None,
               retracted: bool = False) -> list[Event]:
        """The live events with `after` < seq <= `upto`, of one run or all, in the order in which they were stored.

        With `upto`, such as the store's `head()` of an earlier moment, this is the list of that moment: a retract that
        came later does not count. `retracted` adds the events that were taken back and the retracts: all to export.
        """
        rows = self._read(f"SELECT seq, time, content {ALL if retracted else LIVE} ORDER BY seq", run=run, after=after,
                          upto=NEWEST if upto is None else upto)
        return [self._event(*row) for row in rows]

    def find(self, event_id: str) -> Event | None:
        """The event with this id, retracted or not; None if the store has none."""
        rows = self._read("SELECT seq, time, content FROM events WHERE id = :id", id=event_id)
        return self._event(*rows[0]) if rows else None

    def count(self, run: str | None = None) -> int:
        """Number of live events."""
        return self._read(f"SELECT count(*) {LIVE}", run=run, after=0, upto=NEWEST)[0][0]

    def head(self) -> int:
        """The number (seq) of the newest event, retracts included; 0 if there is none."""
        return self._read("SELECT coalesce(max(seq), 0) FROM events")[0][0]

    def last(self, voter: str, run: str | None = None) -> Event | None:
        """The voter's newest live event."""
        question = f"SELECT seq, time, content {LIVE} AND voter = :voter ORDER BY seq DESC LIMIT 1"
        rows = self._read(question, run=run, voter=voter, after=0, upto=NEWEST)
        return self._event(*rows[0]) if rows else None

    def _insert(self, database: sqlite3.Connection, event: Event) -> bool:
        """Add one event inside of a transaction; False if it is there already."""
        known = database.execute("SELECT seq, time, content FROM events WHERE id = ?", (event.id,)).fetchone()
        if known:
            if not event.same_as(self._event(*known)):
                raise UserError(f"event {event.id[:60]!r}: this id has been used for another one; "
                                "make a new id for each vote")
            return False
        target = str(event.value) if event.kind == "retract" else None
        if target is not None:
            self._check_retract(database, event, target)
        content = dataclasses.asdict(event)
        del content["time"], content["seq"]
        row = (event.id, event.kind, event.run, event.voter, target, float(event.time or time.time()),
               json_text(content))
        columns = "id, kind, run, voter, target, time, content"
        database.execute(f"INSERT INTO events ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return True

    def _check_retract(self, database: sqlite3.Connection, event: Event, target: str) -> None:
        """Raise UserError unless the retract takes back an event of the same run that is no retract."""
        row = database.execute("SELECT kind, run FROM events WHERE id = ?", (target,)).fetchone()
        start = f"event {event.id[:60]!r}: takes back"
        if not row:
            raise UserError(f"{start} {target[:60]!r}, which is not in the store; check the id")
        kind, run = row
        if kind == "retract":
            raise UserError(f"{start} {target[:60]!r}, which is a retract itself; vote again instead")
        if run != event.run:
            raise UserError(f"{start} an event of the run {run!r}; give it the same run")

    def _event(self, seq: int, moment: float, content: str) -> Event:
        """An event from its row. A row of the first version keeps its bytes; `Event` moves old keys into fields."""
        try:
            return Event(**json.loads(content), time=moment, seq=seq)
        except (TypeError, ValueError):
            raise UserError(f"{self.path}: {MESSAGES['SQLITE_CORRUPT']} (event {seq})") from None

    def _read(self, question: str, **values) -> list[tuple]:
        """All rows at once, so that a slow reader keeps nothing locked."""
        with self._user_errors():
            try:
                with self._open() as database:
                    return database.execute(question, values).fetchall()
            except sqlite3.OperationalError as error:
                # Readers too write an index beside the log. Where they cannot, and the log is empty, the file alone
                # holds everything.
                name, log = getattr(error, "sqlite_errorname", ""), Path(f"{self.path}-wal")
                if not name.startswith(UNWRITABLE) or (log.exists() and log.stat().st_size):
                    raise
                with self._open("ro&immutable=1") as database:
                    return database.execute(question, values).fetchall()

    @contextmanager
    def _open(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        """A connection, closed at the end; a transaction that was not committed is undone."""
        uri = f"{self.path.as_uri()}?mode={mode}"
        database = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
        with closing(database):
            # A vote is rare and costs a person's time: wait until it is on the disk, safe from a loss of power too.
            database.execute("PRAGMA synchronous = FULL")
            yield database

    @contextmanager
    def _user_errors(self) -> Iterator[None]:
        """Turn SQLite's errors into UserError."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith("SQLITE_IOERR") and shutil.disk_usage(self.path.parent).free < 2**16:
                name = "SQLITE_FULL"  # there is no room for the log's index
            known = (text for start, text in MESSAGES.items() if name.startswith(start))
            message = next(known, f"cannot be used ({error})")
            raise UserError(f"{self.path}: {message}") from None

    def _make(self) -> None:
        """Make the tables. Several processes may try at once, and one that is killed here leaves nothing half-made."""
        deadline = time.monotonic() + PATIENCE
        with self._user_errors(), self._open() as database:
            while True:
                try:
                    # This stays with the file; with it readers and the writer do not wait for each other.
                    database.execute("PRAGMA journal_mode = WAL")
                    break
                except sqlite3.OperationalError as error:  # unlike other statements, this one does not wait
                    if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
            database.executescript(TABLES)
