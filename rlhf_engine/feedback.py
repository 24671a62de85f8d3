"""Human feedback: typed events, and the append-only store that keeps them. What is derived from them: feedback_export.py.

    comparison  which of two responses is better: left, right, tie or both_bad
    ranking     the rank of each of K responses; "best of four" is the partial ranking 1, 2, 2, 2
    thumb       one response: up or down
    score       one response: 1 to 7
    edit        the person's own better answer in place of one response: a demonstration, and a pair
    retract     takes another event back

Nothing is ever changed or removed: undo is a retract, and what held at an earlier moment can be read again (`upto`).
Each call opens a connection of its own, so that a store can be used from any thread and survives a fork.
"""

import dataclasses
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_engine.config import UserError
from rlhf_engine.encoding import Prompt
from rlhf_engine.sources import kind_of

COUNTS = {"comparison": (2, 16), "ranking": (2, 16), "thumb": (1, 1), "score": (1, 1), "edit": (1, 1), "retract": (0, 0)}
"""The kinds of event, and the fewest and the most responses each is about."""
CHOICES = ("left", "right", "tie", "both_bad")
THUMBS = ("up", "down")
SCORES = range(1, 8)
MAX_NAME, MAX_TEXT = 256, 100_000
"""Longest id or other name, and longest text (a prompt, a response, an edit, the sampling settings), in characters."""
CLOCKED = ("time", "seq", "seconds")
"""Fields that a clock or a counter fills: the second half of a double click differs in them and is the same vote."""


@dataclass(frozen=True)
class Event:
    """One act of feedback. Lists, as JSON has them, become tuples."""

    id: str
    """Made by the client, unique: sending it again changes nothing."""
    kind: str
    """One of `COUNTS`."""
    prompt: Prompt = ""
    responses: tuple[str, ...] = ()
    """What is judged, in the order of the models or candidates that made it, whatever the order on the screen."""
    value: str | int | tuple[int, ...] = ""
    """The judgement. comparison: `left` (responses[0] is better), `right` (responses[1] is), `tie` or `both_bad`, the last two also of
    more than two responses; ranking: the rank of each response, 1 is best, equal ranks are ties; thumb: `up` or `down`; score: 1 to 7,
    7 is best; edit: the better text; retract: the id of the event that is taken back."""
    run: str = ""
    """The run that asked; a retract has that of the event it takes back."""
    shown: tuple[int, ...] = ()
    """Order on the screen, first to last, as indices into `responses`; () if unknown."""
    checkpoint: str = ""
    """What made the responses."""
    sampling: dict = field(default_factory=dict)
    """The settings with which it did, as JSON."""
    voter: str = ""
    """Anonymous id of who judged."""
    seconds: float = 0.0
    """From showing to judging."""
    scores: tuple[float, ...] = ()
    """The reward model's score of each response at that time, or ()."""
    step: int = 0
    """The training step that asked."""
    time: float = 0.0
    """Seconds since 1970; 0 until `Store.add`."""
    seq: int = 0
    """Place in the store, from 1; 0 outside it. What a reader has seen so far is one number."""

    def __post_init__(self):
        for name in ("responses", "value", "shown", "scores"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def from_dict(cls, row: dict) -> "Event":
        """An event, not yet validated, from its fields. Raises UserError for unknown names and without id and kind."""
        names = [f.name for f in dataclasses.fields(cls)]
        if unknown := [name for name in row if name not in names]:
            raise UserError(f"an event has no field {unknown[0]!r}; its fields are {', '.join(names)}")
        if missing := {"id", "kind"} - set(row):
            raise UserError(f"the event has no {min(missing)}; give it one")
        return cls(**row)

    def validate(self) -> "Event":
        """The event itself. Raises UserError: one line about the first thing that is wrong."""
        if flaw := next(_flaws(self), None):
            raise UserError(f"event {str(self.id)[:60]!r}: {flaw}")
        return self

    def same_as(self, other: "Event") -> bool:
        """Whether both are one vote, but for what clock and counter say."""
        return all(getattr(self, f.name) == getattr(other, f.name) for f in dataclasses.fields(self) if f.name not in CLOCKED)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each response, 1 is best, from a comparison or a ranking; () from other kinds."""
        if self.kind == "comparison":
            return {"left": (1, 2), "right": (2, 1)}.get(self.value, (1,) * len(self.responses))
        return self.value if self.kind == "ranking" else ()


def _flaws(event: Event) -> Iterator[str]:
    """What is wrong with an event. Each check relies on those before it, so only the first flaw counts."""
    for name in ("id", "kind", "run", "checkpoint", "voter"):
        yield from _text_flaws(name, getattr(event, name), MAX_NAME)
    if not event.id:
        yield "the id is empty; make a new one for each vote"
    if event.kind not in COUNTS:
        yield f"the kind is {event.kind!r}, but must be one of {', '.join(COUNTS)}"
    for name in ("responses", "shown", "scores"):
        if not isinstance(getattr(event, name), tuple):
            yield f"{name} is {kind_of(getattr(event, name))}, but must be a list"
    count, (least, most) = len(event.responses), COUNTS[event.kind]
    if not least <= count <= most:
        yield f"a {event.kind} has {least if least == most else f'{least} to {most}'} responses, not {count}"
    for text in event.responses:
        yield from _text_flaws("a response", text, MAX_TEXT)
    if event.kind != "retract":
        yield from _prompt_flaws(event.prompt)
    elif event.prompt:
        yield "a retract has no prompt"
    yield from _value_flaws(event)
    if event.shown and (not all(map(_is_whole, event.shown)) or sorted(event.shown) != list(range(count))):
        yield f"shown must name each of the {count} responses once, counted from 0"
    if event.scores and (len(event.scores) != count or not all(map(_is_number, event.scores))):
        yield f"scores must be {count} finite numbers, or none"
    for name in ("seconds", "time"):
        if not _is_number(getattr(event, name)) or getattr(event, name) < 0:
            yield f"{name} is {str(getattr(event, name))[:60]!r}, but must be a number, at least 0"
    if not _is_whole(event.step) or not 0 <= event.step < 2**53:
        yield f"step is {str(event.step)[:60]!r}, but must be a whole number, at least 0"
    yield from _sampling_flaws(event.sampling)


def _value_flaws(event: Event) -> Iterator[str]:
    value, count = event.value, len(event.responses)
    if event.kind == "comparison":
        if value not in CHOICES:
            yield f"a comparison is one of {', '.join(CHOICES)}, not {str(value)[:60]!r}"
        if value in ("left", "right") and count != 2:
            yield f"{value} is said of 2 responses, not {count}; send a ranking"
    elif event.kind == "ranking":
        if not isinstance(value, tuple) or len(value) != count:
            yield f"a ranking needs a list of {count} ranks, one for each response"
        if not all(_is_whole(rank) and 1 <= rank <= count for rank in value) or 1 not in value:
            yield f"ranks are whole numbers from 1 (best) to {count}, and one response at least has rank 1"
    elif event.kind == "thumb":
        if value not in THUMBS:
            yield f"a thumb is {' or '.join(THUMBS)}, not {str(value)[:60]!r}"
    elif event.kind == "score":
        if not _is_whole(value) or value not in SCORES:
            yield f"a score is a whole number from {SCORES[0]} to {SCORES[-1]}, not {str(value)[:60]!r}"
    elif event.kind == "edit":
        yield from _text_flaws("the edit", value, MAX_TEXT)
        if not value.strip() or value == event.responses[0]:
            yield "the edit is empty or what was shown; write a better answer"
    else:
        yield from _text_flaws("the id to take back", value, MAX_NAME)


def _prompt_flaws(prompt: Prompt) -> Iterator[str]:
    """A prompt has to pass the project's readers, or the exported rows would not."""
    if not isinstance(prompt, list):
        yield from _text_flaws("the prompt", prompt, MAX_TEXT)
        if not prompt.strip():
            yield "the prompt is empty"
        return
    if not all(isinstance(turn, dict) and set(turn) == {"role", "content"} for turn in prompt):
        yield 'the prompt is neither a text nor a list of messages {"role": ..., "content": ...}'
    for turn in prompt:
        yield from _text_flaws("a turn of the prompt", turn["content"], MAX_TEXT)
    if sum(len(turn["content"]) for turn in prompt) > MAX_TEXT:
        yield f"the prompt has more than {MAX_TEXT:,} characters; shorten it"
    roles = [turn["role"] for turn in prompt if turn["role"] != "system" or turn is not prompt[0]]
    if not roles or roles[-1] != "user" or roles != (["user", "assistant"] * len(roles))[:len(roles)]:
        yield "in the prompt, after at most one system turn, user and assistant alternate, the user first and last"
    if not prompt[-1]["content"].strip():
        yield "the last turn of the prompt is empty"


def _sampling_flaws(sampling: dict) -> Iterator[str]:
    try:
        text = json.dumps(sampling, ensure_ascii=False, allow_nan=False)
        exact = isinstance(sampling, dict) and json.loads(text) == sampling
    except (TypeError, ValueError, RecursionError):
        exact = False
    if not exact:
        yield "sampling must be an object of what JSON holds: texts, finite numbers, lists, objects"
    yield from _text_flaws("sampling", text, MAX_TEXT)


def _text_flaws(name: str, value, longest: int) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{name} is {kind_of(value)}, but must be a text"
    if len(value) > longest:
        yield f"{name} has {len(value):,} characters, at most {longest:,} are kept; shorten it"
    if re.search("[\ud800-\udfff]", value):
        yield f"{name} holds half a character (a lone surrogate); write it again"


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return (isinstance(value, float) or _is_whole(value)) and abs(value) < 1e300  # an int beyond that is no float


# -- the store -----------------------------------------------------------------------------------------------------------------

APPLICATION, VERSION = 0x524C4846, 1
"""Marks in the file: "RLHF", and the version of the tables."""
PATIENCE = 30.0
"""Seconds to wait for another process that is writing."""
NEWEST = 2**63 - 1

TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, run TEXT NOT NULL,
    voter TEXT NOT NULL, target TEXT, time REAL NOT NULL, content TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_target ON events (target) WHERE target IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_voter ON events (voter);
CREATE TRIGGER IF NOT EXISTS keep BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER IF NOT EXISTS keep_all BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""
MARKS = "SELECT * FROM pragma_application_id, pragma_user_version, (SELECT count(*) FROM sqlite_master)"
ALL = " FROM events AS event WHERE seq > :after AND seq <= :upto AND (:run IS NULL OR run = :run)"
LIVE = ALL + (" AND kind != 'retract' AND NOT EXISTS"
              " (SELECT 1 FROM events AS later WHERE later.target = event.id AND later.seq <= :upto)")

TROUBLES = {
    "SQLITE_FULL": "the disk is full: free some space, then try again",
    "SQLITE_READONLY": "cannot be written: give yourself the right to write the file and its folder, or set another PLAYGROUND_HOME",
    "SQLITE_CANTOPEN": "cannot be opened: check that file and folder exist and that you may read and write both",
    "SQLITE_NOTADB": "is no store of feedback: move it away, or set another PLAYGROUND_HOME",
    "SQLITE_CORRUPT": "is damaged: move it away and import your last export, or try to save it with `sqlite3 FILE .recover`",
    "SQLITE_BUSY": f"another process has kept it locked for {PATIENCE:g} s: end that one, or try again",
    "SQLITE_IOERR": "the disk reports an error: check it and the space on it, then try again",
}
"""What SQLite's errors mean to a user, by the beginning of their names."""
UNWRITABLE = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")


class Store:
    """The events in one SQLite file (of a workspace: `feedback.sqlite`); it is made if it is not there.

    Any number of threads and processes may add and read at once. Every method raises UserError for a full disk, a file that
    may not be written, is damaged, or is no store; nothing that was stored is touched then.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                self.path.touch()  # an empty file is an empty database
        except OSError as error:
            raise UserError(f"{self.path}: cannot be made ({error.strerror}); set another PLAYGROUND_HOME") from None
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder; name a file in it")
        (application, version, tables), = self._read(MARKS)
        if (application, version, tables) == (0, 0, 0):
            self._make()
        elif application != APPLICATION:
            raise UserError(f"{self.path}: is a database of another program; move it away, or set another PLAYGROUND_HOME")
        elif version > VERSION:
            raise UserError(f"{self.path}: was made by a newer playground (store {version}, this one knows {VERSION}); update this one")

    def add(self, event: Event) -> bool:
        """Store an event, on disk when this returns. False, and no change, if it is there already (a double click).

        Raises UserError for a malformed event, for a known id with another content, and for a retract of nothing or of a retract.
        """
        return self.add_all([event]) == 1

    def add_all(self, events: Iterable[Event]) -> int:
        """Store those that are new, all or (on an error) none, and count them. An event keeps the time it has. Raises as `add` does."""
        events = [event.validate() for event in events]
        with self._plainly(), self._open() as database:
            database.execute("BEGIN IMMEDIATE")  # a second writer waits here, not in the middle
            added = sum(self._insert(database, event) for event in events)
            database.execute("COMMIT")
        return added

    def events(self, *, run: str | None = None, after: int = 0, upto: int | None = None, retracted: bool = False) -> list[Event]:
        """The live events with `after` < seq <= `upto`, of one run or all, in the order in which they were stored.

        With `upto` (as with the store's `head()` of that moment) as the list was then: a retract that came later does not count.
        With `retracted`, those taken back and the retracts too, which is what to export.
        """
        rows = self._read(f"SELECT seq, time, content {ALL if retracted else LIVE} ORDER BY seq", run=run, after=after,
                          upto=NEWEST if upto is None else upto)
        return [self._event(*row) for row in rows]

    def count(self, run: str | None = None) -> int:
        """Number of live events."""
        return self._read(f"SELECT count(*) {LIVE}", run=run, after=0, upto=NEWEST)[0][0]

    def head(self) -> int:
        """The seq of the newest event, retracts included; 0 if there is none."""
        return self._read("SELECT coalesce(max(seq), 0) FROM events")[0][0]

    def last(self, voter: str, run: str | None = None) -> Event | None:
        """The voter's newest live event: the one to take back on undo."""
        rows = self._read(f"SELECT seq, time, content {LIVE} AND voter = :voter ORDER BY seq DESC LIMIT 1", run=run, voter=voter,
                          after=0, upto=NEWEST)
        return self._event(*rows[0]) if rows else None

    def _insert(self, database: sqlite3.Connection, event: Event) -> bool:
        known = database.execute("SELECT seq, time, content FROM events WHERE id = ?", (event.id,)).fetchone()
        if known:
            if not event.same_as(self._event(*known)):
                raise UserError(f"event {event.id[:60]!r}: this id has been used for another one; make a new id for each vote")
            return False
        if event.kind == "retract":
            target = database.execute("SELECT kind, run FROM events WHERE id = ?", (event.value,)).fetchone()
            if not target or target[0] == "retract":
                raise UserError(f"event {event.id[:60]!r}: takes back {event.value[:60]!r}, which is "
                                f"{'a retract itself; vote again instead' if target else 'not in the store; check the id'}")
            if target[1] != event.run:
                raise UserError(f"event {event.id[:60]!r}: takes back an event of the run {target[1]!r}; give it the same run")
        content = dataclasses.asdict(event)
        del content["time"], content["seq"]
        database.execute("INSERT INTO events (id, kind, run, voter, target, time, content) VALUES (?, ?, ?, ?, ?, ?, ?)", (
            event.id, event.kind, event.run, event.voter, event.value if event.kind == "retract" else None,
            float(event.time or time.time()), json.dumps(content, ensure_ascii=False)))
        return True

    def _event(self, seq: int, moment: float, content: str) -> Event:
        try:
            return Event(**json.loads(content), time=moment, seq=seq)
        except (TypeError, ValueError):
            raise UserError(f"{self.path}: {TROUBLES['SQLITE_CORRUPT']} (event {seq})") from None

    def _read(self, question: str, **values) -> list[tuple]:
        """All rows at once: a reader that takes its time keeps nothing locked."""
        with self._plainly():
            try:
                with self._open() as database:
                    return database.execute(question, values).fetchall()
            except sqlite3.OperationalError as error:
                # Even readers write an index beside the log. Where they cannot, and no log is there, the file alone holds everything.
                name, log = getattr(error, "sqlite_errorname", ""), Path(f"{self.path}-wal")
                if not name.startswith(UNWRITABLE) or (log.exists() and log.stat().st_size):
                    raise
                with self._open("ro&immutable=1") as database:
                    return database.execute(question, values).fetchall()

    @contextmanager
    def _open(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        """A connection, closed at the end; what was begun and not committed is undone."""
        database = sqlite3.connect(f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=PATIENCE, isolation_level=None)
        with closing(database):
            # A vote is a person's time, and rare: wait until it is on the disk, safe from a loss of power too.
            database.execute("PRAGMA synchronous = FULL")
            yield database

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Raises UserError for SQLite's errors."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith("SQLITE_IOERR") and shutil.disk_usage(self.path.parent).free < 2**16:  # no room for the log's index
                name = "SQLITE_FULL"
            trouble = next((text for start, text in TROUBLES.items() if name.startswith(start)), f"cannot be used ({error})")
            raise UserError(f"{self.path}: {trouble}") from None

    def _make(self) -> None:
        """The tables. Several processes may try at once, and one that is killed here leaves nothing half-made."""
        deadline = time.monotonic() + PATIENCE
        with self._plainly(), self._open() as database:
            while True:
                try:
                    database.execute("PRAGMA journal_mode = WAL")  # stays with the file; readers and the writer do not wait for each other
                    break
                except sqlite3.OperationalError as error:  # unlike other statements, this one does not wait
                    if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
            database.executescript(TABLES)
