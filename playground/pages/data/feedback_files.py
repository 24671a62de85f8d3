"""Feedback as files: out of the store in every form that the engine has, and into it."""

from pathlib import Path

from playground.pages.data import text
from playground.workspace import fresh
from rlhf_engine.data.readers import read_preferences
from rlhf_engine.data.tables import read_table
from rlhf_engine.errors import UserError
from rlhf_engine.feedback import datasets, exchange
from rlhf_engine.feedback.events import Event, without_retracted
from rlhf_engine.feedback.store import Store


def export(events: list[Event], what: str, ending: str, folder: Path) -> tuple[Path, str]:
    """(a file with rows of a kind of `EXPORTS`, what is in it); it lies in a new folder of an unguessable name inside `folder`.

    Raises UserError where there are no such rows.
    """
    if what not in text.EXPORTS or ending not in text.EXPORT_FILES:
        raise UserError(text.NO_SUCH_EXPORT.format(what=what, ending=ending))
    votes = without_retracted(events)
    rows = events if what == "events" else getattr(datasets, what)(events)
    if not rows:
        raise UserError(text.EXPORT_NOTHING.format(votes=len(votes)))
    path = fresh(folder, "feedback") / f"{what}.{ending}"
    if what == "events":
        exchange.export(events, path)
        return path, text.EXPORTED.format(rows=len(rows), votes=len(votes))
    exchange.export_rows(rows, path)
    left = sum(not getattr(datasets, what)([event]) for event in votes)
    told = text.EXPORTED.format(rows=len(rows), votes=len(votes) - left)
    return path, f"{told} {text.EXPORT_LEFT.format(left=left)}" if left else told


def import_file(path: Path, store: Path) -> str:
    """Add the preferences of a file, or the events of an export, to a store: all or none. Returns what was taken and what was not.

    Raises UserError as the readers do, with the name of the file instead of where it lies.
    """
    try:
        (columns, _), _, _ = read_table(str(path), None, None, ())
        if {"id", "kind", "responses", "value"} <= set(columns):
            what, events = "events", exchange.read_events(path)
            count, new, notes = len(events), Store(store).add_all(events), []
        else:
            what, rows = "preferences", read_preferences(str(path))
            count, new, notes = len(rows), exchange.import_preferences(Store(store), str(path)), rows.notes
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from None
    told = [text.IMPORTED.format(name=path.name, new=new, count=count, what=text.IMPORT_KINDS[what])]
    if new < count:
        told.append(text.IMPORT_KNOWN.format(known=count - new))
    return "; ".join([*told, *notes]) + "."
