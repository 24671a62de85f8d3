"""Votes as training data: a store, or a file of exported events, read as the kind of data that a stage wants.

A store goes on growing while somebody votes. A resumed run reads the events that it began with.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from rlhf_engine.data.examples import Demonstration, Preference, Ranking, Thumb
from rlhf_engine.data.readers import Rows, read_rows
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event, without_retracted
from rlhf_engine.feedback.exchange import read_events
from rlhf_engine.feedback.store import Store

Example = Prompt | Demonstration | Preference | Ranking | Thumb
SQLITE = b"SQLite format 3\0"
"""How the file of a store begins."""
EVENT_FIELDS = {"id", "kind", "responses", "value"}
"""Fields of an event that no row of training data has all of."""
LONGEST_LINE = 1 << 20
"""Characters of the first line of a file that are read to see whether it is an event."""


def read_training_rows(source: str, kind: str = "", *, subset: str | None = None, split: str | None = None,
                       limit: int | None = None, model: str = "bundled", votes_upto: int | None = None) -> Rows:
    """Rows of a kind, as `readers.read_rows` gives them; a store or a file of exported events is a source, too.

    Of a store, the events up to the number `votes_upto` are read as they counted then, or all as they count now.
    Of votes, comparisons, rankings and edits make rankings, ties included. As thumbs, every response that somebody
    called good or bad counts: by a thumb, a score above or below the middle, a rank nearer to the best or to the worst,
    or an edit, whose text is good and whose response is bad. Edits make demonstrations. Votes that were taken back make
    nothing. Raises UserError.
    """
    events = find_events(source, votes_upto)
    if events is None:
        return read_rows(source, kind, subset=subset, split=split, limit=limit, model=model)
    if subset or split not in (None, "", "train"):
        raise UserError(f"{source}: votes have no subsets or splits; leave --subset and --split out")
    return rows_of_votes(events, kind or "preferences", source, limit)


def find_events(source: str, upto: int | None = None) -> list[Event] | None:
    """The events of a store (up to the number `upto`, or all) or of a file of exported events; None for any other
    source. Raises UserError."""
    path = Path(os.path.expanduser(source))
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        beginning = file.read(len(SQLITE))
    if beginning == SQLITE:
        return Store(path).events(upto=upto)
    return read_events(path) if first_fields(path) >= EVENT_FIELDS else None


def first_fields(path: Path) -> set[str]:
    """The fields of the first row of a .jsonl or .parquet file; none for a file of another kind, or a broken one."""
    if path.suffix.lower() == ".parquet":
        import pyarrow
        from pyarrow.parquet import read_schema
        try:
            return set(read_schema(path).names)
        except (pyarrow.ArrowException, OSError):
            return set()
    if path.suffix.lower() != ".jsonl":
        return set()
    try:
        with open(path, encoding="utf-8") as file:
            row = json.loads(file.readline(LONGEST_LINE))
    except (OSError, ValueError):
        return set()
    return set(row) if isinstance(row, dict) else set()


def rows_of_votes(events: list[Event], kind: str, source: str, limit: int | None = None) -> Rows:
    """The rows of a kind that follow from events. `source` is what messages call them. Raises UserError if none does.
    """
    form, convert, wanted = CONVERTERS[kind]
    live = without_retracted(events)
    rows = Rows(kind=kind, form=form, columns=form.split(" + "), total=len(live))
    silent = 0
    for number, event in enumerate(live, 1):
        examples = list(convert(event))
        silent += not examples
        rows += examples
        rows.numbers += [number] * len(examples)
    if not rows:
        other = "; the loss kto of the stage dpo learns from thumbs" if kind == "preferences" else ""
        raise UserError(f"{source}: none of its {len(live):,} votes {wanted}; vote first, or choose other data{other}")
    if limit:
        del rows[limit:], rows.numbers[limit:]
    rows.notes.append(f"{len(live):,} votes, of which {len(live) - silent:,} make {len(rows):,} rows")
    return rows


def rankings_of(event: Event) -> Iterator[Ranking]:
    """The ranking of an event, or the pairs of one that ranks nothing and prefers something, such as an edit."""
    if event.ranks:
        yield Ranking(event.prompt, event.responses, tuple(map(float, event.ranks)))
        return
    for better, worse in event.rules.preferences(event):
        yield Ranking(event.prompt, (better, worse), (1.0, 2.0))


def thumbs_of_event(event: Event) -> Iterator[Thumb]:
    """A thumb for each text that an event calls good or bad."""
    for text, verdict in zip(event.responses, event.rules.verdicts(event)):
        if verdict:
            yield Thumb(event.prompt, text, verdict > 0)
    written = event.rules.demonstration(event)
    if written is not None:
        yield Thumb(event.prompt, written, True)


def demonstrations_of(event: Event) -> Iterator[Demonstration]:
    """The answer that a person wrote."""
    written = event.rules.demonstration(event)
    if written is not None:
        yield Demonstration(event.prompt, written)


def prompts_of(event: Event) -> Iterator[Prompt]:
    yield event.prompt


CONVERTERS: dict[str, tuple[str, Callable[[Event], Iterator[Example]], str]] = {
    "prompts": ("prompt", prompts_of, "has a prompt"),
    "demonstrations": ("prompt + completion", demonstrations_of, "is an edit, which is what demonstrations come from"),
    "preferences": ("prompt + responses + ranking", rankings_of, "compares responses"),
    "thumbs": ("prompt + completion + label", thumbs_of_event, "calls a response good or bad")}
"""For each kind of data: the format of `data.formats` that describes its rows, what makes them of an event, and what no
event does where there are none."""
