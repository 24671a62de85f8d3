"""What makes an event valid. Each check gives one line that says what is wrong and what to do."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import kind_of
from rlhf_engine.feedback.checks import MAX_NAME, MAX_TEXT, is_number, is_whole, text_errors
from rlhf_engine.feedback.kinds import KINDS

if TYPE_CHECKING:
    from rlhf_engine.feedback.events import Event

LISTS = ("responses", "shown", "scores", "roles", "checkpoints")
"""Fields that hold one value for each response, or none at all."""


def event_errors(event: "Event") -> Iterator[str]:
    """What is wrong with an event. Only the first error counts, because each check relies on the ones before."""
    for name in ("id", "kind", "run", "checkpoint", "voter", "query"):
        yield from text_errors(name, getattr(event, name), MAX_NAME)
    if not event.id:
        yield "the id is empty; make a new one for each vote"
    if event.kind not in KINDS:
        yield f"the kind is {event.kind!r}, but must be one of {', '.join(KINDS)}"
    for name in LISTS:
        if not isinstance(getattr(event, name), tuple):
            yield f"{name} is {kind_of(getattr(event, name))}, but must be a list"
    yield from response_errors(event)
    if event.kind != "retract":
        yield from prompt_errors(event.prompt)
    elif event.prompt:
        yield "a retract has no prompt"
    yield from KINDS[event.kind].value_errors(event)
    yield from context_errors(event)
    yield from number_errors(event)
    yield from sampling_errors(event.sampling)


def response_errors(event: "Event") -> Iterator[str]:
    kind, count = KINDS[event.kind], len(event.responses)
    if not kind.fewest <= count <= kind.most:
        number = str(kind.fewest) if kind.fewest == kind.most else f"{kind.fewest} to {kind.most}"
        yield f"a {event.kind} has {number} responses, not {count}"
    for text in event.responses:
        yield from text_errors("a response", text, MAX_TEXT)


def context_errors(event: "Event") -> Iterator[str]:
    """What is wrong with the fields that say how the responses were made and shown."""
    count = len(event.responses)
    if event.shown and (not all(map(is_whole, event.shown)) or sorted(event.shown) != list(range(count))):
        yield f"shown must name each of the {count} responses once, counted from 0"
    if event.scores and (len(event.scores) != count or not all(map(is_number, event.scores))):
        yield f"scores must be {count} finite numbers, or none"
    for name in ("roles", "checkpoints"):
        names = getattr(event, name)
        for each in names:
            yield from text_errors(f"one of the {name}", each, MAX_NAME)
        if names and len(names) != count:
            yield f"{name} must be {count} names, or none"
    for name in ("blind", "stopped"):
        if not isinstance(getattr(event, name), bool):
            yield f"{name} is {kind_of(getattr(event, name))}, but must be true or false"
    if event.position and not event.query:
        yield "position counts the responses of a query; name the query"


def number_errors(event: "Event") -> Iterator[str]:
    for name in ("seconds", "time"):
        value = getattr(event, name)
        if not is_number(value) or value < 0:
            yield f"{name} is {str(value)[:60]!r}, but must be a number, at least 0"
    for name in ("step", "position"):
        value = getattr(event, name)
        if not is_whole(value) or not 0 <= value < 2**53:
            yield f"{name} is {str(value)[:60]!r}, but must be a whole number, at least 0"


def prompt_errors(prompt: Prompt) -> Iterator[str]:
    """What keeps a prompt from being read by the project's readers, which have to read exported rows."""
    if not isinstance(prompt, list):
        yield from text_errors("the prompt", prompt, MAX_TEXT)
        if not prompt.strip():
            yield "the prompt is empty"
        return
    if not all(isinstance(turn, dict) and set(turn) == {"role", "content"} for turn in prompt):
        yield 'the prompt is neither a text nor a list of messages {"role": ..., "content": ...}'
    for turn in prompt:
        yield from text_errors("a turn of the prompt", turn["content"], MAX_TEXT)
    if sum(len(turn["content"]) for turn in prompt) > MAX_TEXT:
        yield f"the prompt has more than {MAX_TEXT:,} characters; shorten it"
    roles = [turn["role"] for turn in prompt]
    if roles[:1] == ["system"]:
        del roles[0]
    alternating = (["user", "assistant"] * len(roles))[:len(roles)]
    if not roles or roles[-1] != "user" or roles != alternating:
        yield ("in the prompt, after at most one system turn, user and assistant alternate, and the user has the first "
               "and the last turn")
    if not prompt[-1]["content"].strip():
        yield "the last turn of the prompt is empty"


def sampling_errors(sampling: dict) -> Iterator[str]:
    text = ""
    try:
        text = json.dumps(sampling, ensure_ascii=False, allow_nan=False)
        exact = isinstance(sampling, dict) and json.loads(text) == sampling
    except (TypeError, ValueError, RecursionError):
        exact = False
    if not exact:
        yield "sampling must be an object of what JSON holds: texts, finite numbers, lists, objects"
    yield from text_errors("sampling", text, MAX_TEXT)
