"""The feedback store as the page reads it: once, then only what has come since; filtered and summed up once for all who look."""

import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from playground.components.formatting import conversation
from playground.pages.data import text
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.datasets import agreement
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.store import Store

CHEAP, PATIENCE = 0.05, 10
"""A sum that took more processor time than this, in seconds, is made anew when it is that many times as old: votes that come in keep a
tenth of a core busy, at most."""
REMEMBERED = 256
"""Filters whose events and sums are kept."""
NO_RUN, GONE = "-", "gone"
"""Filters for events of no run, and for those that were taken back."""


class FeedbackFilter(NamedTuple):
    """Which events to show; an empty field lets all pass."""

    run: str = ""
    kind: str = ""
    voter: str = ""
    text: str = ""


@dataclass(frozen=True)
class FeedbackSnapshot:
    """The store at one moment."""

    mark: tuple[int, int] = (0, 0)
    """File and head: another one with every event that comes."""
    events: tuple[Event, ...] = ()
    """All but the retracts, the oldest first."""
    retracts: tuple[Event, ...] = ()
    gone: frozenset[str] = frozenset()
    """Ids of the events that were taken back."""


@dataclass(frozen=True)
class Voter:
    """What one voter, or all together, did; `seconds` is a median, None where no clock ran."""

    name: str
    votes: int
    seconds: float | None
    guesses: int
    """Votes of which the reward had an opinion before, and in how many it was right."""
    guessed: int


@dataclass(frozen=True)
class FeedbackSummary:
    """What live events come to."""

    all: Voter
    voters: list[Voter]
    """The most active first."""
    kinds: Counter
    runs: Counter
    gone: int
    agreement: dict
    """As `feedback_export.agreement` has it."""


class FeedbackIndex:
    """Safe to use from any thread. `book`, `to_export` and `retract` raise UserError as the store does."""

    def __init__(self, workspace: Workspace):
        self.path, self.access = workspace.home / "feedback.sqlite", workspace.access
        self._book, self._lock = FeedbackSnapshot(), threading.RLock()
        self._chosen: OrderedDict[FeedbackFilter, tuple[tuple, list[Event]]] = OrderedDict()
        self._sums: OrderedDict[FeedbackFilter, tuple[tuple, float, float, FeedbackSummary]] = OrderedDict()

    def book(self) -> FeedbackSnapshot:
        """All events, of which only those are read that have come since the last time. Looking makes no store."""
        with self._lock:
            if not self.path.exists():
                self._book = FeedbackSnapshot()
                return self._book
            store, old, file = Store(self.path), self._book, self.path.stat().st_ino
            head = store.head()
            if old.mark == (file, head):
                return old
            if old.mark[0] != file or old.mark[1] > head:  # another file has taken its place
                old = FeedbackSnapshot()
            new = store.events(after=old.mark[1], retracted=True)
            retracts = tuple(event for event in new if event.kind == "retract")
            self._book = FeedbackSnapshot((file, new[-1].seq if new else head), old.events + tuple(e for e in new if e.kind != "retract"),
                              old.retracts + retracts, old.gone | {event.value for event in retracts})
            return self._book

    def chosen(self, book: FeedbackSnapshot, wanted: FeedbackFilter) -> list[Event]:
        """The events that are wanted, the newest first; those that were taken back are among them, unless one kind is wanted."""
        with self._lock:
            mark, events = self._chosen.get(wanted, (None, []))
            if mark != book.mark:
                events = [event for event in reversed(book.events) if passes(event, wanted, book.gone)]
                remember(self._chosen, wanted, (book.mark, events))
            return events

    def sums(self, book: FeedbackSnapshot, wanted: FeedbackFilter) -> tuple[tuple, FeedbackSummary]:
        """(the mark of what they were made of, what the wanted events come to); a large store's may be some seconds old."""
        with self._lock:
            mark, made, took, sums = self._sums.get(wanted, (None, 0.0, 0.0, None))
            stale = mark != book.mark and (took < CHEAP or time.monotonic() - made > PATIENCE * took)
            if sums is None or stale:
                start = time.thread_time()
                mark, sums = book.mark, summed(self.chosen(book, wanted), book.gone)
                remember(self._sums, wanted, (mark, time.monotonic(), time.thread_time() - start, sums))
            return mark, sums

    def to_export(self, wanted: FeedbackFilter) -> list[Event]:
        """The wanted events with the retracts of some of them, the oldest first."""
        book = self.book()
        events = self.chosen(book, wanted)
        ids = {event.id for event in events}
        return sorted([*events, *(event for event in book.retracts if event.value in ids)], key=lambda event: event.seq)

    def retract(self, event_id: str, retract_id: str, voter: str) -> Event:
        """Take an event back, a visitor only an own one, and return it. Sent again with the same id, that changes nothing; so does a
        second one for the same event."""
        book = self.book()
        event = next((event for event in reversed(book.events) if event.id == event_id), None)
        if event is None:
            raise UserError(text.NO_SUCH_EVENT)
        if event.voter != voter and not self.access.owner():
            raise UserError(text.NOT_YOURS)
        if event.id not in book.gone:
            Store(self.path).add(Event(retract_id, "retract", value=event.id, run=event.run, voter=voter))
        return event


def remember(known: OrderedDict, key, value) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > REMEMBERED:
        known.popitem(last=False)


def passes(event: Event, wanted: FeedbackFilter, gone: frozenset[str]) -> bool:
    if wanted.run and event.run != ("" if wanted.run == NO_RUN else wanted.run):
        return False
    if wanted.kind and (event.id in gone) != (wanted.kind == GONE):
        return False
    if wanted.kind not in ("", GONE, event.kind) or (wanted.voter and event.voter != wanted.voter):
        return False
    needle = wanted.text.casefold()
    return not needle or any(needle in part.casefold() for part in texts(event))


def texts(event: Event) -> list[str]:
    """All that was written."""
    return [conversation(event.prompt), *event.rules.texts(event)]


def summed(events: list[Event], gone: frozenset[str] = frozenset()) -> FeedbackSummary:
    """Counts, medians and agreement of those events that were not taken back."""
    live = [event for event in events if event.id not in gone]
    own: dict[str, list[Event]] = {}
    for event in live:
        own.setdefault(event.voter, []).append(event)
    voters = sorted((tally(name, votes) for name, votes in own.items()), key=lambda voter: (-voter.votes, voter.name))
    return FeedbackSummary(tally("", live), voters, Counter(event.kind for event in live), Counter(event.run for event in events),
                len(events) - len(live), agreement(reversed(live)))


def tally(name: str, votes: list[Event]) -> Voter:
    seconds = [event.seconds for event in votes if event.seconds]
    guesses = [event.guessed for event in votes if event.guessed is not None]
    return Voter(name, len(votes), median(seconds) if seconds else None, len(guesses), sum(guesses))
