"""Feedback as files: exports of the store in each form that the engine knows, and imports into it."""

from pathlib import Path

from playground.pages.data import text
from playground.workspace import fresh
from rlhf_engine.data.readers import read_preferences
from rlhf_engine.data.tables import read_table
from rlhf_engine.errors import UserError
from rlhf_engine.feedback import datasets, exchange
from rlhf_engine.feedback.events import Event, without_retracted
from rlhf_engine.feedback.store import Store
from rlhf_engine.feedback.training_rows import EVENT_FIELDS

EVENTS = "events"
"""The export that holds all events as they are stored; the others hold rows to train on."""
ROWS = {"pairs": datasets.pairs, "groups": datasets.groups, "thumbs": datasets.thumbs,
        "demonstrations": datasets.demonstrations,
        "ratings": datasets.ratings}
"""The functions that make rows of each kind from events."""


def export_file(events: list[Event], kind: str, ending: str, folder: Path) -> tuple[Path, str]:
    """Write rows of a kind of `text.EXPORTS` into a file: (its path, a sentence about it).

    The file lies in a new folder inside `folder`, whose name nobody can guess. Raises UserError if there are no such
    rows.
    """
    if kind not in text.EXPORTS or ending not in text.EXPORT_FILES:
        raise UserError(text.NO_SUCH_EXPORT.format(what=kind, ending=ending))
    votes = without_retracted(events)
    rows = [] if kind == EVENTS else ROWS[kind](events)
    if not rows and not (kind == EVENTS and events):
        raise UserError(text.EXPORT_NOTHING.format(votes=len(votes)))
    path = fresh(folder, "feedback") / f"{kind}.{ending}"
    if kind == EVENTS:
        exchange.export(events, path)
        return path, text.EXPORTED.format(rows=len(events), votes=len(votes))
    exchange.export_rows(rows, path)
    unused = sum(not ROWS[kind]([event]) for event in votes)
    sentence = text.EXPORTED.format(rows=len(rows), votes=len(votes) - unused)
    return path, f"{sentence} {text.EXPORT_LEFT.format(left=unused)}" if unused else sentence


def import_file(path: Path, store: Path) -> str:
    """Add the preferences of a file, or the events of an export, to a store: all of them or none. Returns a sentence
    about it.

    Raises UserError as the readers do; the message names the file without its folder.
    """
    try:
        (columns, _), _, _ = read_table(str(path), None, None, ())
        if EVENT_FIELDS.issubset(columns):
            kind, events = EVENTS, exchange.read_events(path)
            count, new, notes = len(events), Store(store).add_all(events), []
        else:
            kind, rows = "preferences", read_preferences(str(path))
            count, new, notes = len(rows), exchange.import_preferences(Store(store), str(path)), rows.remarks
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from None
    parts = [text.IMPORTED.format(name=path.name, new=new, count=count, what=text.IMPORT_KINDS[kind])]
    if new < count:
        parts.append(text.IMPORT_KNOWN.format(known=count - new))
    return "; ".join([*parts, *notes]) + "."
