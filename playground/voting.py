"""Questions out, votes in: what the Teach page and the API share. No worker is needed: queries lie in the run folder, votes go into
the store."""

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from playground import text
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.queries import Query, find_query, next_query
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import ALIVE, Run
from rlhf_engine.stages import find_stage

PERSON = "person"
"""The labeler of a run that asks people."""
REMEMBERED = 10_000
"""Voters, of a run each, whose skips are kept in memory; the one who was heard of longest ago is forgotten first."""


@dataclass
class Memory:
    """What a voter was shown in a run, with the time at which they first were, and what they passed over."""

    shown: dict[str, float] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)


class VotingService:
    """Safe to use from any thread. Every method raises UserError as the store does."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._memories: OrderedDict[tuple[str, str], Memory] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def store(self) -> Store:
        """Opened anew each time, so that a full disk or a moved file can be mended while the page is up."""
        return Store(self.workspace.home / "feedback.sqlite")

    # -- who asks ----------------------------------------------------------------------------------------------------

    def asking(self, entries: list[RunSummary]) -> list[RunSummary]:
        """The runs that ask people, live ones first, then the newest."""
        return [entry for entry in entries if entry.labeler == PERSON]

    def taught(self, entries: list[RunSummary]) -> list[RunSummary]:
        """The runs that anybody teaches: live ones first, then those that ask people, then the newest."""
        found = [entry for entry in entries if find_stage(entry.stage).asks_voters]
        return sorted(found, key=lambda entry: (not entry.alive, entry.labeler != PERSON))

    def chosen(self, name: str) -> str:
        """`name`, or for an empty one the run that asks; where none does, the live run, or the newest."""
        return name or next((e.name for e in self.asking(self.workspace.entries())), "") or self.workspace.chosen("")

    def why_silent(self, name: str) -> str:
        """Why there is no question, and what to do about it."""
        if not name:
            return text.NOBODY_ASKS
        run, config = self.workspace.run(name), self.workspace.effective_settings(name)
        if config.get("labeler") != PERSON:
            return text.ASKS_NOBODY.format(name=name)
        if (state := run.status()["state"]) not in ALIVE:
            return text.ASKS_NO_MORE.format(name=name, state=text.STATES[state])
        return text.ALL_VOTES_IN.format(wanted=config["votes"]) if self.votes(run) >= config["votes"] else text.QUESTION_COMES

    # -- questions and votes -----------------------------------------------------------------------------------------

    def next(self, run: Run, voter: str) -> Query | None:
        """What to show this voter next; None if there is nothing."""
        memory = self._memory(run, voter)
        query = next_query(run, self.store, voter, frozenset(memory.skipped))
        if query:
            memory.shown.setdefault(query.id, time.monotonic())
        return query

    def votes(self, run: Run) -> int:
        return self.store.count(run.id)

    def vote(self, run: Run, query_id: str, choice: str, event_id: str, voter: str, seconds: float | None = None) -> bool:
        """Store a vote, or a remark (`Query.parse_annotation`); False, and no change, for "skip" and for an event id that is there already.

        A remark takes the place of an earlier one of its kind, and one that says the same again only takes that back. Without `seconds`,
        the time since `next` gave the query to this voter is noted. Raises UserError for a query or a choice that there is not.
        """
        query, store, memory = find_query(run, query_id), self.store, self._memory(run, voter)
        self.workspace.access.limit("vote", choice)
        if choice == "skip":
            memory.skipped.add(query.id)
            return False
        if seconds is None:
            now = time.monotonic()
            seconds = now - memory.shown.get(query.id, now)
        event = (query.parse_annotation if ":" in choice else query.event)(choice, event_id, voter=voter, seconds=seconds).validate()
        if is_known(store, run, event_id):
            return False
        if ":" not in choice:
            return store.add(event)
        old = self.remarks(run, query, voter).get(event.sampling["place"], {}).get(event.kind)
        if old is None:
            return store.add(event)
        back = Event(f"{event_id} takes back", "retract", value=old.id, run=run.id, voter=voter)
        return store.add_all([back] if old.value == event.value else [back, event]) > 0

    def remarks(self, run: Run, query: Query, voter: str) -> dict[int, dict[str, Event]]:
        """A voter's live remarks on the responses of a query: place to kind (thumb, score, edit) to event."""
        found: dict[int, dict[str, Event]] = {}
        for event in self.store.events(run=run.id):
            if event.voter == voter and event.sampling.get("about") == query.id:
                found.setdefault(event.sampling["place"], {})[event.kind] = event
        return found

    def undo(self, run: Run, event_id: str, voter: str) -> Event | None:
        """Take back the voter's newest vote and return it; None, and no change, if the event id is there already."""
        store = self.store
        self.workspace.access.limit("vote")
        if is_known(store, run, event_id):
            return None
        last = next((event for event in reversed(store.events(run=run.id))
                     if event.voter == voter and {"query", "about"} & event.sampling.keys()), None)
        if last is None:  # what was said in a chat is taken back there
            raise UserError(text.NOTHING_TO_UNDO.format(name=run.path.name))
        store.add(Event(event_id, "retract", value=last.id, run=run.id, voter=voter))
        self._memory(run, voter).shown.pop(last.sampling.get("query"), None)
        return last

    def asked(self, run: Run, vote: Event) -> Query | None:
        """The query that a vote answered or was about, if the run still has it."""
        try:
            return find_query(run, vote.sampling.get("query") or vote.sampling.get("about", ""))
        except UserError:
            return None

    def _memory(self, run: Run, voter: str) -> Memory:
        with self._lock:
            key = (run.id, voter)
            memory = self._memories.setdefault(key, Memory())
            self._memories.move_to_end(key)
            if len(self._memories) > REMEMBERED:
                self._memories.popitem(last=False)
            return memory


def is_known(store: Store, run: Run, event_id: str) -> bool:
    return any(event.id in (event_id, f"{event_id} takes back") for event in store.events(run=run.id, retracted=True))


def voter_of(session: str | None) -> str:
    """An anonymous id from a random one that a browser or a client keeps; somebody new each time for those that keep none."""
    return hashlib.sha256((session or secrets.token_hex(16)).encode()).hexdigest()[:16]


def choice_of(vote: Event) -> str:
    """In words, what a vote from here chose: the inverse of `Query.event`."""
    if vote.value in ("tie", "both_bad"):
        return (text.SAID_TIE if vote.value == "tie" else text.SAID_BOTH_BAD)[len(vote.responses) > 2]
    return text.SAID_BEST.format(place=vote.ranks.index(1) + 1) if vote.ranks else text.SAID_REMARK[vote.kind].format(value=vote.value)
