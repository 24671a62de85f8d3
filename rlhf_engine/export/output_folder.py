"""The folder of an export: it is new, it appears when it is complete, and it holds no paths of this machine."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.files import atomic_folder, check_place, read_json_or_none, write_json

LOCAL_KEYS = ("auto_map", "_name_or_path", "name_or_path", "is_local", "local_files_only")
"""Keys of transformers' configurations that point to code of the base's repository, or to a folder of this machine."""


def check_output(output: Path) -> None:
    """Raises UserError if `output` exists already (an empty folder aside), or cannot be made."""
    is_taken = output.exists() and (not output.is_dir() or any(output.iterdir()))
    if output.is_symlink() or is_taken:
        raise UserError(f"{output} is there already, and nothing is overwritten: name a new folder with --output")
    check_place(output)


def existing_parent(path: Path) -> Path:
    """The nearest folder above a path (or the path itself) that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


@contextmanager
def output_folder(output: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `output` when all is written, and is removed if anything fails.

    Raises UserError if it cannot be written.
    """
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output.parent)
    partial = output.parent / f".export-{output.name}-{os.getpid()}"
    try:
        with atomic_folder(output, partial) as folder:
            yield folder
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{output}: cannot be written ({reason}); make room, or name another folder with "
                        "--output") from None


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished exports of processes that were killed."""
    for leftover in folder.glob(".export-*"):
        pid = leftover.name.rpartition("-")[2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(leftover, ignore_errors=True)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer's files, without paths of this machine."""
    tokenizer.save_pretrained(folder)
    strip_local_paths(folder / "tokenizer_config.json")


def strip_local_paths(path: Path) -> None:
    """Take out of a configuration file what points to code of the base's repository, or to a folder of this machine."""
    values = read_json_or_none(path) or {}
    write_json(path, {name: value for name, value in values.items() if name not in LOCAL_KEYS})
