"""The feedback store as the page reads it: all events once, then only new ones; filtered and summarised once for all
browsers."""

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

CHEAP_SECONDS, PATIENCE = 0.05, 10
"""A summary that took more processor time than CHEAP_SECONDS is made again only when it is PATIENCE times as old as
that time. So votes that come in keep at most a tenth of a core busy."""
CACHED_FILTERS = 256
"""So many filters have their events and summaries cached."""
NO_RUN, GONE = "-", "gone"
"""Values of a filter: for events that belong to no run, and for events that were taken back."""


class FeedbackFilter(NamedTuple):
    """Which events to show. An empty field lets every event pass."""

    run: str = ""
    kind: str = ""
    voter: str = ""
    text: str = ""


@dataclass(frozen=True)
class FeedbackSnapshot:
    """The store at one moment."""

    mark: tuple[int, int] = (0, 0)
    """(inode of the file, number of its newest event): it changes with every event."""
    events: tuple[Event, ...] = ()
    """All events but the retracts, oldest first."""
    retracts: tuple[Event, ...] = ()
    gone: frozenset[str] = frozenset()
    """Ids of the events that were taken back."""


@dataclass(frozen=True)
class VoterSummary:
    """What one voter did, or all voters together."""

    name: str
    votes: int
    seconds: float | None
    """Median time of a vote; None if no vote was timed."""
    guesses: int
    """Votes that the reward model had predicted, right or wrong."""
    guessed: int
    """Votes that it had predicted right."""


@dataclass(frozen=True)
class FeedbackSummary:
    """Counts, times and agreement of the events that were not taken back."""

    all: VoterSummary
    voters: list[VoterSummary]
    """The most active voter first."""
    kinds: Counter
    runs: Counter
    gone: int
    """Number of events that were taken back."""
    agreement: dict
    """As `rlhf_engine.feedback.datasets.agreement` returns it."""


class FeedbackIndex:
    """Reads the feedback store of a workspace. Safe to use from any thread.

    `snapshot`, `to_export` and `retract` raise UserError as the store does.
    """

    def __init__(self, workspace: Workspace):
        self.path, self.access = workspace.home / "feedback.sqlite", workspace.access
        self._snapshot, self._lock = FeedbackSnapshot(), threading.RLock()
        self._selections: OrderedDict[FeedbackFilter, tuple[tuple, list[Event]]] = OrderedDict()
        self._summaries: OrderedDict[FeedbackFilter, CachedSummary] = OrderedDict()

    def snapshot(self) -> FeedbackSnapshot:
        """All events. Only those that are new since the last call are read; a store that does not exist is not created.
        """
        with self._lock:
            if not self.path.exists():
                self._snapshot = FeedbackSnapshot()
                return self._snapshot
            store, old, file = Store(self.path), self._snapshot, self.path.stat().st_ino
            head = store.head()
            if old.mark == (file, head):
                return old
            if old.mark[0] != file or old.mark[1] > head:  # another file stands in its place
                old = FeedbackSnapshot()
            new = store.events(after=old.mark[1], retracted=True)
            events = tuple(event for event in new if event.kind != "retract")
            retracts = tuple(event for event in new if event.kind == "retract")
            gone = frozenset(str(event.value) for event in retracts)
            mark = (file, new[-1].seq if new else head)
            self._snapshot = FeedbackSnapshot(mark, old.events + events, old.retracts + retracts, old.gone | gone)
            return self._snapshot

    def select(self, snapshot: FeedbackSnapshot, criteria: FeedbackFilter) -> list[Event]:
        """The events that pass a filter, newest first, among them those that were taken back (unless the filter asks
        for a kind)."""
        with self._lock:
            mark, events = self._selections.get(criteria, (None, []))
            if mark != snapshot.mark:
                events = [event for event in reversed(snapshot.events) if matches(event, criteria, snapshot.gone)]
                remember(self._selections, criteria, (snapshot.mark, events))
            return events

    def summary(self, snapshot: FeedbackSnapshot, criteria: FeedbackFilter) -> tuple[tuple, FeedbackSummary]:
        """(mark of the snapshot that was summarised, summary of the events that pass). That of a large store may be
        seconds old."""
        with self._lock:
            cached = self._summaries.get(criteria)
            if cached is None or (cached.mark != snapshot.mark and cached.worth_renewing(time.monotonic())):
                start = time.thread_time()
                summary = summarise(self.select(snapshot, criteria), snapshot.gone)
                cached = CachedSummary(snapshot.mark, summary, time.monotonic(), time.thread_time() - start)
                remember(self._summaries, criteria, cached)
            return cached.mark, cached.summary

    def to_export(self, criteria: FeedbackFilter) -> list[Event]:
        """The events that pass a filter and the retracts of some of them, oldest first."""
        snapshot = self.snapshot()
        events = self.select(snapshot, criteria)
        ids = {event.id for event in events}
        retracts = [event for event in snapshot.retracts if event.value in ids]
        return sorted([*events, *retracts], key=lambda event: event.seq)

    def retract(self, event_id: str, retract_id: str, voter: str) -> Event:
        """Take an event back, and return it. A visitor can take back only an own event.

        A second retract of the same event, or the same one sent again, changes nothing.
        """
        snapshot = self.snapshot()
        event = next((event for event in reversed(snapshot.events) if event.id == event_id), None)
        if event is None:
            raise UserError(text.NO_SUCH_EVENT)
        if event.voter != voter and not self.access.owner():
            raise UserError(text.NOT_YOURS)
        if event.id not in snapshot.gone:
            Store(self.path).add(Event(retract_id, "retract", value=event.id, run=event.run, voter=voter))
        return event


class CachedSummary(NamedTuple):
    """A summary, the mark of the snapshot it is of, when it was made (monotonic seconds), and the processor time it
    took."""

    mark: tuple
    summary: FeedbackSummary
    made: float
    seconds: float

    def worth_renewing(self, now: float) -> bool:
        """Whether it was cheap to make, or is old enough to be made again."""
        return self.seconds < CHEAP_SECONDS or now - self.made > PATIENCE * self.seconds


def remember(cache: OrderedDict, key, value) -> None:
    """Put a value into a cache, and drop the one that was put there first if the cache is full."""
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > CACHED_FILTERS:
        cache.popitem(last=False)


def matches(event: Event, criteria: FeedbackFilter, gone: frozenset[str]) -> bool:
    """Whether an event passes a filter."""
    if criteria.run and event.run != ("" if criteria.run == NO_RUN else criteria.run):
        return False
    if criteria.kind and (event.id in gone) != (criteria.kind == GONE):
        return False
    if criteria.kind not in ("", GONE, event.kind):
        return False
    if criteria.voter and event.voter != criteria.voter:
        return False
    search = criteria.text.casefold()
    return not search or any(search in part.casefold() for part in event_texts(event))


def event_texts(event: Event) -> list[str]:
    """The prompt, the responses, and the better answer that somebody wrote."""
    return [conversation(event.prompt), *event.rules.texts(event)]


def summarise(events: list[Event], gone: frozenset[str] = frozenset()) -> FeedbackSummary:
    """The summary of events, newest first, of which those with an id in `gone` were taken back."""
    valid = [event for event in events if event.id not in gone]
    by_voter: dict[str, list[Event]] = {}
    for event in valid:
        by_voter.setdefault(event.voter, []).append(event)
    voters = [summarise_voter(name, votes) for name, votes in by_voter.items()]
    voters.sort(key=lambda voter: (-voter.votes, voter.name))
    return FeedbackSummary(all=summarise_voter("", valid), voters=voters, kinds=Counter(event.kind for event in valid),
                           runs=Counter(event.run for event in events), gone=len(events) - len(valid),
                           agreement=agreement(reversed(valid)))


def summarise_voter(name: str, votes: list[Event]) -> VoterSummary:
    """What a voter's votes come to."""
    seconds = [event.seconds for event in votes if event.seconds]
    guesses = [event.guessed for event in votes if event.guessed is not None]
    return VoterSummary(name, len(votes), median(seconds) if seconds else None, len(guesses), sum(guesses))
