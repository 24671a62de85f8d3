"""The cache of model folders that were made of GGUF files. A file is converted once, whatever its name and place.

A folder is called after the model and the hash of the file's content. It is filled under another name, and renamed when
it is whole, so no reader ever sees half of one.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from rlhf_engine.errors import UserError
from rlhf_engine.files import atomic_folder, disk_is_full, expand_user
from rlhf_engine.gguf.parts import GgufModel, content_hash, part_files, read_model
from rlhf_engine.gguf.progress import Progress, announce

VARIABLE = "PLAYGROUND_GGUF_CACHE"
"""The environment variable that names another place for the cache."""
VERSION = "1"
"""Changes when another folder is made of the same file. Folders of other versions stay as they are."""
Say = Callable[[str], None]
"""Called with a line for the user."""
_FOLDERS: dict[tuple, Path] = {}
"""The folder of each file that this process has seen, by the file's place, size and times."""


def cache_home() -> Path:
    """Where the folders are: PLAYGROUND_GGUF_CACHE, or else `gguf-as-safetensors` in the home of the Hub's cache."""
    if given := os.environ.get(VARIABLE):
        return Path(expand_user(given))
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(expand_user(caches)) / "huggingface")
    return Path(expand_user(home)) / "gguf-as-safetensors"


def cached_folder(path: Path, model: str, say: Say) -> Path:
    """The model folder of a GGUF file, converted if it is not there yet.

    Args:
        path: the file, or one of its parts.
        model: MODEL, by which messages name it.
        say: is told in one line that a conversion begins, and in another where the folder is.

    Raises UserError for a file that cannot be converted, and where the folder cannot be written.
    """
    try:
        state = (cache_home(), *((str(file.resolve()), *file_state(file)) for file in part_files(path, model)))
        folder = _FOLDERS.get(state)
        if folder is None or not is_whole(folder):
            gguf = read_model(path, model)
            folder = cache_home() / folder_name(gguf)
            if not is_whole(folder):
                make_folder(gguf, folder, say)
            _FOLDERS[state] = folder
    except OSError as error:
        raise UserError(f"{model}: cannot be read ({error.strerror or error}); download or copy the file "
                        "again") from None
    return folder


def folder_name(gguf: GgufModel) -> str:
    """The model's own name and the hash of its files. It says nothing of where they are."""
    given = gguf.metadata.get("general.name")
    name = re.sub(r"[^A-Za-z0-9]+", "-", given if isinstance(given, str) else "").strip("-").lower()[:48] or "model"
    return f"{name}-{content_hash(gguf.files)[:20]}-v{VERSION}"


def file_state(file: Path) -> tuple[int, ...]:
    """What changes when somebody writes a file."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def is_whole(folder: Path) -> bool:
    """Whether a folder is there with all its files. Some cleaners take single files away."""
    from rlhf_engine.gguf.conversion import FILES
    return all((folder / name).is_file() for name in FILES)


def make_folder(gguf: GgufModel, folder: Path, say: Say) -> None:
    """Convert a model, while other processes that want the same one wait. Raises UserError."""
    from rlhf_engine.gguf.conversion import plan_conversion
    conversion = plan_conversion(gguf)
    temporary = folder.with_name(f".{folder.name}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        progress = Progress(gguf.model, temporary, conversion.weight_bytes)
        with announce(progress), FileLock(folder.with_name(f".{folder.name}.lock")):
            if is_whole(folder):  # another process made it meanwhile
                return
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(temporary, ignore_errors=True)
            free = shutil.disk_usage(folder.parent).free
            if conversion.size > free:
                raise no_room(gguf, folder, conversion.size, free)
            say(f"{gguf.model}: is converted once into {folder} ({conversion.size / 1e9:.1f} GB)")
            with atomic_folder(folder, temporary):
                conversion.write(temporary)
    except OSError as error:
        if disk_is_full(error):
            raise no_room(gguf, folder, conversion.size, shutil.disk_usage(existing(folder)).free) from None
        raise UserError(f"{gguf.model}: its folder {folder} cannot be written ({error.strerror or error}); set "
                        f"{VARIABLE} to a folder in which you may write") from None


def no_room(gguf: GgufModel, folder: Path, needed: int, free: int) -> UserError:
    """The error for a disk without room for a model's folder."""
    return UserError(f"{gguf.model}: takes {needed / 1e9:.1f} GB as a folder, and {free / 1e9:.1f} GB are free in "
                     f"{folder.parent}; make room, or set {VARIABLE} to a folder on another disk")


def existing(path: Path) -> Path:
    """The innermost folder of a path that exists."""
    while not path.exists():
        path = path.absolute().parent
    return path
