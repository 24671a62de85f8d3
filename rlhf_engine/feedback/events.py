"""Human feedback as typed events.

    comparison  which of two responses is better: left, right, tie or both_bad
    ranking     the rank of each of K responses; "best of four" is the partial ranking 1, 2, 2, 2
    thumb       one response: up or down
    score       one response: 1 to 7
    edit        the person's own better answer in place of one response: a demonstration, and a pair
    retract     takes another event back

`kinds.py` has the rules of each kind, `validation.py` what all events must fulfil.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.checks import is_name, is_whole
from rlhf_engine.feedback.kinds import KINDS, FeedbackKind
from rlhf_engine.feedback.validation import LISTS, event_errors

CLOCKED = ("time", "seq", "seconds")
"""Fields that a clock or a counter fills. The second half of a double click differs in them, and is the same vote."""
OLD_SAMPLING_KEYS = frozenset(("query", "about", "place", "roles", "checkpoints", "blind", "stopped"))
"""What the first version kept inside `Event.sampling`. Today these are
fields; `about` and `place` are `query` and `position`."""


@dataclass(frozen=True)
class Event:
    """One act of feedback. Lists, as JSON has them, become tuples.

    What the first version kept inside `sampling` becomes fields, so an event is the same whether it comes from an old
    or a new store, file or backup.
    """

    id: str
    """Made by the client, unique: sending the same event again changes nothing."""
    kind: str
    """One of `KINDS`."""
    prompt: Prompt = ""
    responses: tuple[str, ...] = ()
    """What is judged, in the order of the models or candidates that made it, whatever the order on the screen."""
    value: str | int | tuple[int, ...] = ""
    """The judgement. comparison: `left` (responses[0] is better), `right` (responses[1] is), `tie` or `both_bad`, the
    last two also of more than two responses; ranking: the rank of each response, 1 is best, equal ranks are ties;
    thumb: `up` or `down`; score: 1 to 7, 7 is best; edit: the better text; retract: the id of the event that is taken
    back."""
    run: str = ""
    """Id of the run that asked. A retract has that of the event it takes back."""
    shown: tuple[int, ...] = ()
    """Order on the screen, first to last, as indices into `responses`; () if unknown."""
    checkpoint: str = ""
    """What made the responses."""
    sampling: dict = field(default_factory=dict)
    """The settings with which the responses were sampled, as JSON."""
    voter: str = ""
    """Anonymous id of the person who judged."""
    seconds: float = 0.0
    """From showing to judging."""
    scores: tuple[float, ...] = ()
    """The reward model's score of each response at that time, or ()."""
    step: int = 0
    """The training step that asked."""
    time: float = 0.0
    """Seconds since 1970; 0 until `Store.add`."""
    seq: int = 0
    """Number in the store, from 1; 0 outside of it. A reader remembers how far it has read as one number."""
    query: str = ""
    """Id of the query that was shown; "" of feedback that no query asked for."""
    position: int = 0
    """Which response of the query an annotation is about, from 1. 0: the event answers the query as a whole."""
    roles: tuple[str, ...] = ()
    """The role (`policy` or `reference`) that wrote each response, or ()."""
    checkpoints: tuple[str, ...] = ()
    """The checkpoint that wrote each response, where they differ; or ()."""
    blind: bool = False
    """Whether the checkpoints were hidden from the voter."""
    stopped: bool = False
    """Whether somebody stopped the response before it was complete."""

    def __post_init__(self):
        for name in (*LISTS, "value"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.sampling, dict) and not OLD_SAMPLING_KEYS.isdisjoint(self.sampling):
            for name, value in fields_of_old_sampling(self).items():
                object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, row: dict) -> "Event":
        """An event, not yet validated, from its fields. Raises UserError for unknown fields and without id and kind."""
        names = [f.name for f in dataclasses.fields(cls)]
        unknown = [name for name in row if name not in names]
        if unknown:
            raise UserError(f"an event has no field {unknown[0]!r}; its fields are {', '.join(names)}")
        missing = {"id", "kind"} - set(row)
        if missing:
            raise UserError(f"the event has no {min(missing)}; give it one")
        return cls(**row)

    def validate(self) -> "Event":
        """The event itself. Raises UserError: one line about the first thing that is wrong."""
        error = next(event_errors(self), None)
        if error:
            raise UserError(f"event {str(self.id)[:60]!r}: {error}")
        return self

    def same_as(self, other: "Event") -> bool:
        """Whether both are one vote: equal in all fields but those that a clock or a counter fills."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in CLOCKED]
        return all(getattr(self, name) == getattr(other, name) for name in names)

    @property
    def rules(self) -> FeedbackKind:
        """The rules of its kind. Raises KeyError for an event that is not valid."""
        return KINDS[self.kind]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each response, 1 is best, from a comparison or a ranking; () from other kinds."""
        return self.rules.ranks(self)

    @property
    def tie(self) -> bool:
        """Whether it ranks responses, and all of them equal."""
        return len(self.ranks) > 1 and len(set(self.ranks)) == 1

    @property
    def answers(self) -> str:
        """Id of the query that it answers; "" of an annotation and of feedback that no query asked for."""
        return "" if self.position else self.query

    @property
    def guessed(self) -> bool | None:
        """Whether the reward model scored one of the best responses highest; None if one of them orders nothing."""
        if len(set(self.ranks)) < 2 or len(set(self.scores)) < 2:
            return None
        highest = max(self.scores)
        return any(rank == 1 and score == highest for rank, score in zip(self.ranks, self.scores))


def without_retracted(events: Iterable[Event]) -> list[Event]:
    """The events that count: no retracts, and nothing that one of them takes back.

    What a store lists is so already; what a file holds may not be.
    """
    events = list(events)
    taken_back = {event.value for event in events if event.kind == "retract"}
    return [event for event in events if event.kind != "retract" and event.id not in taken_back]


def fields_of_old_sampling(event: Event) -> dict[str, Any]:
    """The fields that replace what the first version kept in `sampling`, with the settings that remain there.

    A value that no field could hold stays where it is, and so does one whose field is filled already.
    """
    rest, fields = dict(event.sampling), {}
    if not event.query and is_name(rest.get("query")):
        fields["query"] = rest.pop("query")
    elif not event.query and is_name(rest.get("about")) and is_whole(rest.get("place")) and rest["place"] > 0:
        fields["query"], fields["position"] = rest.pop("about"), rest.pop("place")
    roles = names_of_responses(rest.get("roles"), len(event.responses), fields.get("position", event.position))
    if roles and not event.roles:
        fields["roles"] = roles
        del rest["roles"]
    checkpoints = names_of_responses(rest.get("checkpoints"), len(event.responses))
    if checkpoints and not event.checkpoints:
        fields["checkpoints"] = checkpoints
        del rest["checkpoints"]
    for name in ("blind", "stopped"):
        if isinstance(rest.get(name), bool) and not getattr(event, name):
            fields[name] = rest.pop(name)
    return fields | {"sampling": rest}


def names_of_responses(names: object, count: int, position: int = 0) -> tuple[str, ...]:
    """One name for each of `count` responses; () if `names` are none.

    An annotation is about one response, at `position` of a query, and old ones have the names of all its responses.
    """
    if not isinstance(names, (list, tuple)) or not all(is_name(name) for name in names):
        return ()
    if count == 1 and 0 < position <= len(names):
        return (names[position - 1],)
    return tuple(names) if len(names) == count else ()
