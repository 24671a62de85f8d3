"""Votes: the next query for a voter, and what becomes of the answer. The Teach page and the API share this.

No worker is needed: queries lie in the run folder, votes go into the store.
"""

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from playground import text
from playground.vote_history import REPLACES, RESTORES, changes_of
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.choices import parse_choice
from rlhf_engine.feedback.events import Event, without_retracted
from rlhf_engine.feedback.queries import Query, find_query, next_query
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import ALIVE, Run
from rlhf_engine.stages import find_stage

PERSON = "person"
"""The labeler of a run that asks people."""
REMEMBERED = 10_000
"""Voters, of a run each, whose skips are kept in memory; the one that did nothing for longest is forgotten first."""
DONE = "done"
"""The state of a run that has taken all its steps. One that was stopped asks on: it learns the votes when it goes on.
"""
RUNS_IN_MEMORY = 64
"""Runs whose votes are kept in memory."""


@dataclass
class VoterMemory:
    """What a voter was shown in a run, with the time of the first showing, and what they skipped."""

    shown: dict[str, float] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)


class RunVotes:
    """The live events of one run, in memory. `read` asks the store only for events that came since the last time."""

    def __init__(self):
        self.store: Store | None = None
        self.head = 0
        """Number (seq) of the last event of the store that has been read."""
        self.events: list[Event] = []
        """The oldest first. The list is replaced, never changed."""
        self.history: list[Event] = []
        """The same with the retracts, and with what they take back."""

    def read(self, store: Store, run_id: str) -> None:
        """Bring both lists up to date. Raises UserError as the store does."""
        head = store.head()
        if store is not self.store or head < self.head:  # another file has taken the place of the store
            self.store, self.head, self.events, self.history = store, 0, [], []
        if head > self.head:
            new = store.events(run=run_id, after=self.head, upto=head, retracted=True)
            self.head, self.events = head, without_retracted([*self.events, *new])
            self.history = [*self.history, *new]


class VotingService:
    """Gives out queries and stores votes. Safe to use from any thread. Methods raise UserError as the store does."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._memories: OrderedDict[tuple[str, str], VoterMemory] = OrderedDict()
        self._votes: OrderedDict[str, RunVotes] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def store(self) -> Store:
        """The store of the workspace."""
        return self.workspace.store

    # -- runs that ask -----------------------------------------------------------------------------------------------

    def asking(self, entries: list[RunSummary]) -> list[RunSummary]:
        """The runs that ask people, live ones first, then the newest."""
        return [entry for entry in entries if entry.labeler == PERSON]

    def taught(self, entries: list[RunSummary]) -> list[RunSummary]:
        """The runs with any labeler, in the order of `entries`: live ones first, then the newest."""
        return [entry for entry in entries if find_stage(entry.stage).asks_voters]

    def chosen(self, name: str) -> str:
        """`name`, or for an empty one the run that asks people; where none does, the live run, or the newest."""
        if name:
            return name
        asking = self.asking(self.workspace.entries())
        return asking[0].name if asking else self.workspace.chosen("")

    def why_silent(self, name: str) -> str:
        """Why there is no query, and what to do about it."""
        if not name:
            return text.NOBODY_ASKS
        run, config = self.workspace.run(name), self.workspace.effective_settings(name)
        if config.get("labeler") != PERSON:
            return text.ASKS_NOBODY.format(name=name)
        status = run.status()
        if status["state"] == DONE:
            return text.RUN_DONE.format(name=name)
        if status["state"] not in ALIVE:
            return text.ASKS_NO_MORE.format(name=name, state=text.STATES[status["state"]])
        if self.votes(run) >= config["votes"]:
            return text.ALL_VOTES_IN.format(wanted=config["votes"])
        return text.QUESTION_COMES

    def learns_no_more(self, run: Run) -> str:
        """Why a vote teaches a run nothing any more; empty where it does, or will when the run goes on."""
        return text.TOO_LATE.format(name=run.path.name) if run.status()["state"] == DONE else ""

    # -- queries and votes -------------------------------------------------------------------------------------------

    def next(self, run: Run, voter: str) -> Query | None:
        """The query to show this voter next; None if there is none, and of a run that is done."""
        if self.learns_no_more(run):
            return None
        memory = self._memory(run, voter)
        query = next_query(run, self.live_votes(run), voter, frozenset(memory.skipped))
        if query:
            memory.shown.setdefault(query.id, time.monotonic())
        return query

    def live_votes(self, run: Run) -> list[Event]:
        """The live events of a run, the oldest first."""
        return self._read_votes(run).events

    def _read_votes(self, run: Run) -> RunVotes:
        """The votes of a run. After a vote, only that vote is read from the store."""
        store = self.store
        with self._lock:
            votes = remembered(self._votes, run.id, RunVotes, RUNS_IN_MEMORY)
            votes.read(store, run.id)
            return votes

    def votes(self, run: Run) -> int:
        """Number of live events of a run."""
        return len(self.live_votes(run))

    def vote(self, run: Run, query_id: str, choice: str, event_id: str, voter: str,
             seconds: float | None = None) -> bool:
        """Store a vote on a query, or an annotation of one response (`choices.py`); whether the store has changed.

        "skip" changes nothing, and neither does an event id that the store has. An annotation replaces the voter's
        earlier one of its kind; one that says the same as that only takes it back. Without `seconds`, the time since
        `next` first gave the query to this voter is noted. Raises UserError for an unknown query or choice.
        """
        query, memory = find_query(run, query_id), self._memory(run, voter)
        check_event_id(event_id)
        self.workspace.access.limit("vote", choice)
        if choice == "skip":
            memory.skipped.add(query.id)
            return False
        if seconds is None:
            now = time.monotonic()
            seconds = now - memory.shown.get(query.id, now)
        picked = parse_choice(choice, len(query.responses))
        event = query.event(picked, event_id, voter=voter, seconds=seconds).validate()
        store = self.store
        if is_known(store, run, event_id):
            return False
        old = self.annotations(run, query, voter).get(picked.position, {}).get(event.kind)
        if old is None:
            return store.add(event)
        take_back = Event(replacing_id(event_id), "retract", value=old.id, run=run.id, voter=voter)
        return store.add_all([take_back] if old.value == event.value else [take_back, event]) > 0

    def annotations(self, run: Run, query: Query, voter: str) -> dict[int, dict[str, Event]]:
        """A voter's live annotations of the responses of a query: position -> kind (thumb, score, edit) -> event."""
        annotations: dict[int, dict[str, Event]] = {}
        for event in self.live_votes(run):
            if event.voter == voter and event.position and event.query == query.id:
                annotations.setdefault(event.position, {})[event.kind] = event
        return annotations

    def undo(self, run: Run, event_id: str, voter: str) -> Event | None:
        """Take back the voter's last change in a run; None, and no change, if the store has the event id.

        Returns the event that counts no more, or the annotation that counts again. An annotation that took the place
        of another gives it back. Only votes on queries are taken back here; feedback on a chat is taken back there.
        Raises UserError where there is nothing.
        """
        store = self.store
        check_event_id(event_id)
        self.workspace.access.limit("vote")
        if is_known(store, run, event_id):
            return None
        changes = changes_of(self._read_votes(run).history, voter)
        if not changes:
            raise UserError(text.NOTHING_TO_UNDO.format(name=run.path.name))
        last = changes[-1].about
        store.add_all(changes[-1].undoing(event_id))
        self._memory(run, voter).shown.pop(last.answers, None)
        return last

    def asked(self, run: Run, vote: Event) -> Query | None:
        """The query that a vote was about, if the run still has it."""
        try:
            return find_query(run, vote.query)
        except UserError:
            return None

    def _memory(self, run: Run, voter: str) -> VoterMemory:
        with self._lock:
            return remembered(self._memories, (run.id, voter), VoterMemory, REMEMBERED)


def remembered(memory: OrderedDict, key, make, size: int):
    """The value of a key, made by `make()` if there is none. Beyond `size`, the key used longest ago is forgotten."""
    if key not in memory:
        memory[key] = make()
    memory.move_to_end(key)
    if len(memory) > size:
        memory.popitem(last=False)
    return memory[key]


def replacing_id(event_id: str) -> str:
    """The id of the retract that takes back the annotation which the event `event_id` replaces."""
    return event_id + REPLACES


def check_event_id(event_id: str) -> None:
    """Raises UserError for an id that ends like those which the page gives to the events that come with another."""
    if event_id.endswith((REPLACES, RESTORES)):
        raise UserError(text.RESERVED_ID.format(endings=f"{REPLACES!r} or {RESTORES!r}"))


def is_known(store: Store, run: Run, event_id: str) -> bool:
    """Whether an event of the run was stored under this id, or under the id of one that comes with it."""
    events = [store.find(each) for each in (event_id, replacing_id(event_id), event_id + RESTORES)]
    return any(event.run == run.id for event in events if event)


def voter_of(session: str | None) -> str:
    """An anonymous id from a random one that a browser or a client keeps. Without one it is new each time."""
    return hashlib.sha256((session or secrets.token_hex(16)).encode()).hexdigest()[:16]


def choice_of(vote: Event) -> str:
    """In words, what a vote chose: the inverse of `Query.event`."""
    many = len(vote.responses) > 2
    if vote.value == "tie":
        return text.SAID_TIE[many]
    if vote.value == "both_bad":
        return text.SAID_BOTH_BAD[many]
    if vote.ranks:
        return text.SAID_BEST.format(place=vote.ranks.index(1) + 1)
    return text.SAID_REMARK.get(vote.kind, f"{vote.kind} {{value}}").format(value=vote.value)
