"""Human feedback as typed events.

    comparison  which of two responses is better: left, right, tie or both_bad
    ranking     the rank of each of K responses; "best of four" is the partial ranking 1, 2, 2, 2
    thumb       one response: up or down
    score       one response: 1 to 7
    edit        the person's own better answer in place of one response: a demonstration, and a pair
    retract     takes another event back
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError, kind_of

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

    @property
    def tie(self) -> bool:
        """Whether a vote prefers nothing to anything else."""
        return len(self.ranks) > 1 and len(set(self.ranks)) == 1

    @property
    def guessed(self) -> bool | None:
        """Whether a best response is what the reward model scored highest; None where there was no order to guess, or no opinion."""
        if len(set(self.ranks)) < 2 or len(set(self.scores)) < 2:
            return None
        return any(rank == 1 and score == max(self.scores) for rank, score in zip(self.ranks, self.scores))


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
