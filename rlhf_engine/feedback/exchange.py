"""Feedback as files and on the Hub: events and training rows out of a store, events and preferences into it."""

import dataclasses
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from rlhf_engine.data.readers import Preference, read_preferences
from rlhf_engine.data.tables import read_table
from rlhf_engine.errors import UserError, first_line
from rlhf_engine.feedback.datasets import demonstrations, groups, pairs, ratings, thumbs
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.store import Store
from rlhf_engine.files import atomic_file, json_text

# -- files -------------------------------------------------------------------------------------------------------------

JSON_COLUMNS = ("prompt", "value", "sampling")
"""Fields whose type differs from event to event. Arrow has one type a column, so they are JSON there."""


def export(events: Iterable[Event], path: str | Path) -> None:
    """Write whole events into a .jsonl or .parquet file, atomically; `read_events` reads either back. Raises UserError.

    `Store.events(retracted=True)` gives all there is to export.
    """
    path, events = Path(path), list(events)
    with _atomic_write(path) as temporary:
        if path.suffix.lower() == ".jsonl":
            temporary.write_text("".join(map(_line, events)), encoding="utf-8")
        else:
            import pyarrow
            from pyarrow.parquet import write_table
            table = pyarrow.Table.from_pylist([_arrow_row(event) for event in events], schema=_arrow_schema())
            write_table(table, temporary)


def export_rows(rows: list[dict], path: str | Path) -> None:
    """Write training rows, such as those of `pairs`, into a .jsonl or .parquet file, atomically. Raises UserError."""
    path = Path(path)
    with _atomic_write(path) as temporary:
        if path.suffix.lower() == ".jsonl":
            lines = [json_text(row) + "\n" for row in rows]
            temporary.write_text("".join(lines), encoding="utf-8")
        else:
            import pyarrow
            from pyarrow.parquet import write_table
            write_table(pyarrow.Table.from_pylist(_with_one_prompt_type(rows)), temporary)


def read_events(path: str | Path) -> list[Event]:
    """The events of an exported file, in its order. Raises UserError with the row that is wrong.

    Files of the first version are read too: they lack the newer fields, and keep some of them in `sampling`.
    """
    suffix = _checked_suffix(Path(path))
    (_, rows), _, _ = read_table(str(path), None, None, [field.name for field in dataclasses.fields(Event)])
    events = []
    for number, row in enumerate(rows, 1):
        try:
            if suffix == ".parquet":
                row = dict(row)
                for name in JSON_COLUMNS:
                    if name in row:
                        row[name] = json.loads(row[name])
            events.append(Event.from_dict(row).validate())
        except (UserError, TypeError, ValueError) as error:  # a UserError says more, and is a ValueError
            raise UserError(f"{path}, row {number}: {first_line(error)}") from None
    return events


def import_events(store: Store, path: str | Path) -> int:
    """Add the events of an exported file that the store does not have, in their order; returns their number.

    They keep their times, and get new numbers (`seq`). Raises UserError, and adds none then.
    """
    return store.add_all(read_events(path))


def import_preferences(store: Store, source: str, *, voter: str = "import", run: str = "", subset: str | None = None,
                       split: str | None = None, limit: int | None = None) -> int:
    """Add preferences in any format that `read_preferences` reads; returns the number of those that are new.

    Pairs become comparisons, the rest rankings. Ids are made from the content, so a row that is imported twice, or
    stands twice in the source, is one event. Margins and the scores behind a ranking are not kept. Raises UserError,
    and adds none then.
    """
    events = []
    for number, row in enumerate(read_preferences(source, subset=subset, split=split, limit=limit), 1):
        if isinstance(row, Preference):
            vote = {"kind": "comparison", "responses": [row.chosen, row.rejected], "value": "left"}
        else:  # ranks of any scale, with gaps or without, become 1, 2, 2, 4
            ranks = [1 + sum(other < rank for other in row.ranks) for rank in row.ranks]
            vote = {"kind": "ranking", "responses": list(row.responses), "value": ranks}
        vote.update(prompt=row.prompt, run=run, voter=voter)
        name = hashlib.sha256(json.dumps(vote, sort_keys=True).encode()).hexdigest()
        try:
            events.append(Event(id=f"import-{name}", **vote).validate())
        except UserError as error:
            raise UserError(f"{source}, preference {number}: {error}") from None
    return store.add_all(events)


def _line(event: Event) -> str:
    return json_text(dataclasses.asdict(event)) + "\n"


def _arrow_row(event: Event) -> dict:
    row = dataclasses.asdict(event)
    for name in JSON_COLUMNS:
        row[name] = json_text(row[name])
    return row


def _arrow_schema():
    import pyarrow as pa
    types = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_(),
             tuple[str, ...]: pa.list_(pa.string()), tuple[int, ...]: pa.list_(pa.int64()),
             tuple[float, ...]: pa.list_(pa.float64())}
    columns = []
    for field in dataclasses.fields(Event):
        columns.append((field.name, pa.string() if field.name in JSON_COLUMNS else types[field.type]))
    return pa.schema(columns)


def _checked_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".parquet"):
        raise UserError(f"{path}: events are kept in .jsonl or .parquet files; name one of these")
    return suffix


@contextmanager
def _atomic_write(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when all is written. Raises UserError."""
    _checked_suffix(path)
    try:
        with atomic_file(path) as temporary:
            yield temporary
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"{path}: cannot be written ({reason}); choose another folder, or make room") from None


# -- the Hub -----------------------------------------------------------------------------------------------------------

def push_to_hub(events: Iterable[Event], repo_id: str, *, private: bool = True) -> None:
    """Push the events to a data set on the Hub, as the subset `events`. Raises UserError.

    The training rows that follow from them are pushed too, each kind as a subset of its own, if it has any rows:
    `pairs`, `groups`, `thumbs`, `demonstrations`, `ratings`. `private` counts when the data set is made; a data set
    that exists stays as it is.
    """
    events = list(events)
    if not events:
        raise UserError(f"{repo_id}: there are no events to push; vote first")
    import datasets
    features = datasets.Features.from_arrow_schema(_arrow_schema())
    tables = {"events": datasets.Dataset.from_list([_arrow_row(event) for event in events], features=features)}
    for convert in (pairs, groups, thumbs, demonstrations, ratings):
        rows = convert(events)
        if rows:
            tables[convert.__name__] = datasets.Dataset.from_list(_with_one_prompt_type(rows))
    try:
        for name, table in tables.items():
            table.push_to_hub(repo_id, config_name=name, private=private)
    except Exception as error:  # of the HTTP client and of huggingface_hub, which change with the version
        raise _hub_error(repo_id, error) from None


def _with_one_prompt_type(rows: list[dict]) -> list[dict]:
    """Rows whose prompts are all texts or all conversations, because Arrow has one type a column.

    Where some prompts are conversations, a text becomes one user turn, as in chat templates.
    """
    texts = [isinstance(row["prompt"], str) for row in rows]
    if all(texts):
        return rows
    return [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} if is_text else row
            for row, is_text in zip(rows, texts)]


def _hub_error(repo_id: str, error: Exception) -> UserError:
    return UserError(f"{repo_id}: cannot be pushed to ({first_line(error)}); check name and network, "
                     "and log in with `hf auth login`")


class Sync:
    """Sends events to a data set on the Hub: for a hosted Space, which loses its disk at a restart.

    Events are appended to a .jsonl file of this process, in a folder that a thread pushes every few minutes and at
    exit. `import_events` reads such a file back. Only .jsonl files of the folder are pushed, so never a store. Raises
    UserError if the data set cannot be reached or made.
    """

    def __init__(self, folder: str | Path, repo_id: str, every_minutes: float = 5.0, *, private: bool = True):
        from huggingface_hub import CommitScheduler
        self.path = Path(folder) / f"events-{uuid4().hex}.jsonl"
        try:
            self.scheduler = CommitScheduler(repo_id=repo_id, repo_type="dataset", folder_path=folder,
                                             every=every_minutes, private=private, allow_patterns=["*.jsonl"])
        except Exception as error:  # as in push_to_hub
            raise _hub_error(repo_id, error) from None

    def append(self, events: Iterable[Event]) -> None:
        """Write one line for each event: all of them, or none. Raises UserError if they cannot be written."""
        stamped = [event if event.time else dataclasses.replace(event, time=time.time()) for event in events]
        data = "".join(map(_line, stamped)).encode()
        try:
            with self.scheduler.lock, open(self.path, "ab", buffering=0) as file:  # one write: a kill tears no line
                end = file.tell()
                if file.write(data) < len(data):
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); "
                            "make room, or choose another folder") from None
