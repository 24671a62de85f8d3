"""Files that a reader never sees half-written: atomic writes, JSON in and out."""

import json
import os
from pathlib import Path

from rlhf_engine.errors import UserError


def read_json_or_none(path: Path):
    """What a file holds; None if it is none, or broken, which whoever loads the model tells better."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_text(path: Path, text: str) -> None:
    """Replace a file in one motion: a reader sees the old text or the new, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, default=None):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default


def read_lines(path: Path) -> list[dict]:
    """The complete rows of a .jsonl file; a torn last line (a kill in mid-write) is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:  # bytes: what is torn may be a character
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def check_place(path: Path) -> None:
    """Whether a folder can be made at `path`. Raises UserError."""
    parent = next(folder for folder in (path, *path.absolute().parents) if os.path.exists(folder))
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{path} cannot be made: {parent} is no folder in which you may write; name another one with --output")
