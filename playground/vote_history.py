"""What a voter did in a run, one change after the other, so that an undo takes back the last change and nothing more.

A new score in the place of an old one is one change: it is undone to the old score. The store only grows, so an undo
adds events: a retract of the new one, and the old one once more. Their ids tell what belongs together.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rlhf_engine.feedback.events import Event

REPLACES, RESTORES = " takes back", " restores"
"""Endings of ids: of the retract that makes room for the event with the rest of the id, and of the event that an undo
stores once more."""


@dataclass(frozen=True)
class Change:
    """What one act of a voter changed in the store."""

    event: Event | None
    """What counts since then; None where an annotation was only taken back."""
    before: Event | None = None
    """What counted in its place before; None where nothing did."""

    @property
    def about(self) -> Event:
        """The event that tells which query and which response it was about."""
        event = self.event or self.before
        assert event is not None, "a change has at least one of them"
        return event

    def undoing(self, event_id: str) -> list[Event]:
        """The events that take the change back, under the id of the undo."""
        events = []
        if self.event:
            events.append(Event(event_id, "retract", value=self.event.id, run=self.event.run, voter=self.event.voter))
        if self.before:
            events.append(replace(self.before, id=event_id + RESTORES, time=0.0, seq=0))
        return events


def changes_of(events: Iterable[Event], voter: str) -> list[Change]:
    """The changes of a voter that stand, the oldest first.

    `events` are all of a run, the retracts and what they take back among them, in the order of the store.
    """
    history = _History(voter)
    for event in events:
        history.add(event)
    return history.changes


class _History:
    """The changes so far, while the events of a run are read."""

    def __init__(self, voter: str):
        self.voter = voter
        self.changes: list[Change] = []
        self._events: dict[str, Event] = {}
        self._replaced_by = ""
        """Id of the event for which the last retract makes room, if one follows."""
        self._undone: dict[str, Change] = {}
        """Id of an undo -> what it has taken back. The event that it restores, if any, comes next."""

    def add(self, event: Event) -> None:
        """Take in the next event of the store."""
        if event.kind == "retract":
            self._retract(event)
        elif event.voter == self.voter and event.query:
            self._events[event.id] = event
            if not (event.id.endswith(RESTORES) and self._restore(event)):
                self._vote(event)

    def _vote(self, event: Event) -> None:
        last = self.changes[-1] if self.changes else None
        if last and last.event is None and last.before and self._replaced_by == event.id:
            self.changes[-1] = Change(event, last.before)
        else:
            self.changes.append(Change(event))

    def _retract(self, retract: Event) -> None:
        old = self._events.get(str(retract.value))
        if old is None:
            return
        if retract.id.endswith(REPLACES):
            self._replaced_by = retract.id.removesuffix(REPLACES)
            self.changes.append(Change(None, old))
            return
        for change in reversed(self.changes):
            if change.event and change.event.id == old.id:
                self._undone[retract.id] = change
                self.changes = [each for each in self.changes if each is not change]
                return

    def _restore(self, event: Event) -> bool:
        """Let an event stand for the one that it restores; False if it restores none."""
        undone = self._undone.pop(event.id.removesuffix(RESTORES), None)
        if undone is None and self.changes and self.changes[-1].event is None:
            undone = self.changes.pop()  # an annotation was only taken back, so its undo retracts nothing
        old = undone.before if undone else None
        if old is None:
            return False
        self.changes = [replace(each, event=event) if each.event and each.event.id == old.id else each
                        for each in self.changes]
        return True
