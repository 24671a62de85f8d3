"""Feedback as files: out of the store in every form that the engine has, and into it."""

import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from playground import strings as s
from rlhf_engine import feedback_export
from rlhf_engine.config import UserError
from rlhf_engine.data import read_preferences
from rlhf_engine.events import Event
from rlhf_engine.feedback import Store
from rlhf_engine.sources import read_table

KEPT = 3600.0
"""Seconds after which a file that was made for a download is removed, when the next one is made."""


def export(events: list[Event], what: str, ending: str, folder: Path) -> tuple[Path, str]:
    """(a file with rows of a kind of `EXPORTS`, what is in it); it lies in a new folder of an unguessable name inside `folder`.

    Raises UserError where there are no such rows.
    """
    if what not in s.EXPORTS or ending not in s.EXPORT_FILES:
        raise UserError(s.NO_SUCH_EXPORT.format(what=what, ending=ending))
    votes = feedback_export.live(events)
    rows = events if what == "events" else getattr(feedback_export, what)(events)
    if not rows:
        raise UserError(s.EXPORT_NOTHING.format(votes=len(votes)))
    path = fresh(folder, "feedback") / f"{what}.{ending}"
    if what == "events":
        feedback_export.export(events, path)
        return path, s.EXPORTED.format(rows=len(rows), votes=len(votes))
    feedback_export.export_rows(rows, path)
    left = sum(not getattr(feedback_export, what)([event]) for event in votes)
    told = s.EXPORTED.format(rows=len(rows), votes=len(votes) - left)
    return path, f"{told} {s.EXPORT_LEFT.format(left=left)}" if left else told


def fresh(folder: Path, kind: str) -> Path:
    """A new folder for a download inside `folder`, of an unguessable name; old ones of its kind are removed. Raises UserError."""
    place = folder / f"{kind}-{secrets.token_hex(16)}"
    for old in folder.glob(f"{kind}-*"):
        with suppress(OSError):  # another request may have removed it
            if time.time() - old.stat().st_mtime > KEPT:
                shutil.rmtree(old)
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise UserError(s.NO_EXPORT.format(error=error.strerror)) from None
    return place


def take_in(path: Path, store: Path) -> str:
    """Add the preferences of a file, or the events of an export, to a store: all or none. Returns what was taken and what was not.

    Raises UserError as the readers do, with the name of the file instead of where it lies.
    """
    try:
        (columns, _), _, _ = read_table(str(path), None, None, ())
        if {"id", "kind", "responses", "value"} <= set(columns):
            what, events = "events", feedback_export.read_events(path)
            count, new, notes = len(events), Store(store).add_all(events), []
        else:
            what, rows = "preferences", read_preferences(str(path))
            count, new, notes = len(rows), feedback_export.import_preferences(Store(store), str(path)), rows.notes
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from None
    told = [s.IMPORTED.format(name=path.name, new=new, count=count, what=s.IMPORT_KINDS[what])]
    if new < count:
        told.append(s.IMPORT_KNOWN.format(known=count - new))
    return "; ".join([*told, *notes]) + "."
