"""Feedback events made by hand, and a disk that is soon full."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from rlhf_engine.feedback.events import Event

CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
        {"role": "user", "content": "r"}]
VALUES = {"comparison": "left", "ranking": (1, 2, 2, 2), "thumb": "up", "score": 7, "edit": "better", "retract": "e1"}
RESPONSES = {"comparison": ("a", "b"), "ranking": ("a", "b", "c", "d"), "retract": ()}


def vote(name: str = "e1", kind: str = "comparison", **changes) -> Event:
    """A valid event of a kind, except for what `changes` makes invalid."""
    fields = {"prompt": "" if kind == "retract" else "Once", "responses": RESPONSES.get(kind, ("a",)), "value": VALUES.get(kind)}
    return Event(id=name, kind=kind, **{**fields, **changes})


def ids(events) -> list[str]:
    return [event.id for event in events]


@contextlib.contextmanager
def small_disk(size: str):
    """A file system of its own that is soon full. The test skips where none can be mounted."""
    folder = tempfile.mkdtemp()
    mounted = shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True).returncode == 0
    if not mounted:
        os.rmdir(folder)
        pytest.skip("needs the right to mount a small disk")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
        os.rmdir(folder)
