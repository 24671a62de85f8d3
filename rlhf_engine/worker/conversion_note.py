"""The note in a workspace that its worker converts a GGUF file. The worker writes it, and a page reads it.

While a run starts or a chat begins, nobody gets an answer from the worker. With the note the page can say what it waits
for.
"""

import os
from contextlib import suppress
from pathlib import Path

from rlhf_engine.files import read_json_or_none, write_json
from rlhf_engine.gguf.progress import CONVERSIONS, Progress
from rlhf_engine.runs.folder import is_alive, process_start
from rlhf_engine.worker.protocol import CONVERSION_FILE


def write_note(home: Path) -> None:
    """Write the note about the oldest conversion of this process, or remove it if there is none.

    Where that fails, the conversion goes on without it.
    """
    with suppress(OSError):
        if not CONVERSIONS:
            (home / CONVERSION_FILE).unlink(missing_ok=True)
            return
        first, pid = CONVERSIONS[0], os.getpid()
        write_json(home / CONVERSION_FILE, {"model": first.model, "folder": str(first.folder), "total": first.total,
                                            "pid": pid, "born": process_start(pid)})


def read_note(home: Path) -> Progress | None:
    """The conversion that the worker of a workspace does now; None if there is none, or its process has ended."""
    try:
        note = read_json_or_none(home / CONVERSION_FILE)
        if note and is_alive(note["pid"], note["born"]):
            return Progress(note["model"], Path(note["folder"]), note["total"])
    except (KeyError, TypeError):
        pass  # the file of something else
    return None
