"""Files: where the project's own are, JSON in and out, and writes that no reader ever sees half done."""

import errno
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlhf_engine.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages and the assets. A child process needs it in its PYTHONPATH."""
ASSETS = PROJECT / "assets"


# -- reading -----------------------------------------------------------------------------------------------------------

def read_json(path: Path, default=None) -> Any:
    """The content of a JSON file of ours; `default` if there is no file.

    Our files are never half-written, so a broken one is news. Raises ValueError for it, and OSError for one that cannot
    be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None


def read_json_or_none(path: Path) -> Any:
    """The content of a JSON file of somebody else's; None if it is missing, broken or not readable.

    The caller says what that means.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_lines(path: Path) -> list[dict]:
    """The complete rows of a .jsonl file.

    A line that is not valid JSON, such as the last one after a kill, is left out, and so is one that is no object.
    """
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:  # bytes, because a kill may have cut a character in half
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


# -- writing -----------------------------------------------------------------------------------------------------------

@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` in one motion when the block ends.

    If the block raises an exception, `path` stays as it was and the temporary file is removed. A kill leaves a file
    `.NAME.RANDOM`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C, too
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """A new folder beside `path` to fill; it is renamed to `path` when the block ends, and removed if anything fails.

    `path` must not exist by then, or be empty. `temporary` is the folder to fill; without it, it is `.NAME`. One that a
    killed process left there is removed first.
    """
    temporary = temporary or path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():  # not every system renames over an empty folder
            path.rmdir()
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C, too
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Replace a file in one motion: a reader sees the old text or the new one.

    `mode` is the file's permissions before the umask.
    """
    with atomic_file(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)


def write_json(path: Path, value, *, mode: int = 0o666) -> None:
    """Replace a JSON file in one motion."""
    write_text(path, json_text(value, indent=1) + "\n", mode=mode)


def write_together(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write some files into a folder, which is made if need be: all of them or none.

    Raises UserError where they cannot be written.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with atomic_file(folder / name) as file:
                file.write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        with suppress(OSError):
            for name in files:
                (folder / name).unlink(missing_ok=True)
            if new:
                folder.rmdir()
        raise UserError(f"{folder} cannot be written ({error.strerror or error}): make room or get the right to write "
                        "there, or name another folder with --output") from None


def json_text(value, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """A value as strict JSON, which knows no NaN and no infinity: each becomes null.

    Half of a character, which no file can hold, stands there by its number (\\ud800).
    """
    options: dict[str, Any] = {"indent": indent, "sort_keys": sort_keys, "allow_nan": False}
    try:
        text = json.dumps(value, ensure_ascii=False, **options)
    except ValueError:  # so that a sound value, which is nearly every one, is not walked through twice
        value = without_nan(value)
        text = json.dumps(value, ensure_ascii=False, **options)
    return text if is_encodable(text) else json.dumps(value, ensure_ascii=True, **options)


def is_encodable(text: str) -> bool:
    """Whether a text can be written to a file in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_nan(value):
    """The same value with None in place of each NaN and infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value


def json_lines(rows: Iterable[dict]) -> str:
    """Rows as the text of a .jsonl file, a line each."""
    return "".join(json_text(row) + "\n" for row in rows)


def append_text(path: Path, text: str) -> None:
    """Add text to the end of a file. Where the disk is full the file stays as it was, without a part of the text."""
    with open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        left = memoryview(text.encode("utf-8"))
        try:
            while left:
                left = left[file.write(left):]
        except OSError:
            file.truncate(end)
            raise


def overwrite_text(path: Path, text: str) -> None:
    """Write over a file in place. It needs no new space on a full disk, but a reader may see half of it."""
    with open(path, "r+b") as file:
        file.write(text.encode("utf-8"))
        file.truncate()


# -- places and disks --------------------------------------------------------------------------------------------------

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The numbers with which a system says that there is no room left."""
FULL_DISK_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "not enough space on the disk")
"""What libraries that are no Python say of it."""


def disk_is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or the user's share of it, is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL_DISK
    return any(words in str(error) for words in FULL_DISK_WORDS)


BROKEN_DISK = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EACCES,
               errno.EPERM, errno.ENOENT, errno.EMFILE, errno.ENFILE)
"""The numbers with which a system says that a file cannot be written or read, though there may be room."""


def disk_fails(error: BaseException) -> bool:
    """Whether an error means that a disk is broken, away or read-only, or that its files are not ours to write."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in BROKEN_DISK
    said = re.search(r"\(os error (\d+)\)", str(error))  # as libraries in Rust say it
    return bool(said) and int(said[1]) in BROKEN_DISK


def what_failed(error: OSError) -> str:
    """What the system refused, where, and what to do: for an error that nobody nearer to it has explained."""
    where = f"{error.filename}: " if error.filename else ""
    mend = "make room on the disk" if disk_is_full(error) else "check the name, and whether you may read and write it"
    return f"{where}{error.strerror or error}; {mend}, then try again"


def expand_user(path: str) -> str:
    """A path whose `~` or `~NAME` at the start is spelled out. Any other text stays as it is."""
    return os.path.expanduser(path) if path.startswith("~") else path


def check_place(path: Path) -> None:
    """Raises UserError unless a folder can be made at `path`."""
    if os.path.islink(path) and not os.path.exists(path):
        raise UserError(f"{path} is a link that leads nowhere: remove it, or name another folder with --output")
    parent = path
    while not os.path.exists(parent):
        parent = parent.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{path} cannot be made: {parent} is no folder in which you may write; "
                        "name another one with --output")
