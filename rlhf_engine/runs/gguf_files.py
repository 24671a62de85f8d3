"""MODEL as a GGUF file: which file it names, and what is known of it before it is converted. No torch."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf_engine.errors import UserError
from rlhf_engine.runs.model_files import broken_kind

ENDING = ".gguf"
MAGIC = b"GGUF"


def begins_as_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does, whatever its name is. Ollama's files have no ending."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def find_gguf(model: str) -> Path | None:
    """The GGUF file that MODEL names, as a file or as a folder that holds one and no model of another form.

    None for any other MODEL. Raises UserError for a file that is none in spite of its ending, and for a folder with
    several.
    """
    path = Path(model)
    if not model:
        return None
    if path.is_file():
        if begins_as_gguf(path):
            return path
        if model.lower().endswith(ENDING):
            raise UserError(f"{model}: is no GGUF file ({broken_kind(path)}); download or copy the file again")
        return None
    if not path.is_dir() or (path / "config.json").exists() or any(path.glob("*.safetensors")):
        return None
    files = [file for file in sorted(path.iterdir()) if file.name.lower().endswith(ENDING) and file.is_file()]
    files = [file for file in files if "mmproj" not in file.name.lower() and not is_later_part(file)]
    if len(files) > 1:
        raise UserError(f"{model}: holds {len(files)} GGUF files; give one of them, such as {files[0]}")
    if files and not begins_as_gguf(files[0]):
        raise UserError(f"{files[0]}: is no GGUF file ({broken_kind(files[0])}); download or copy the file again")
    return files[0] if files else None


def is_later_part(file: Path) -> bool:
    """Whether a file is the second or a later part of a model that was split."""
    from rlhf_engine.gguf.parts import PART
    found = PART.fullmatch(file.name)
    return bool(found) and int(found[2]) > 1


def read_gguf_config(file: Path, model: str) -> tuple[dict[str, Any], bool]:
    """(the config.json that a GGUF file will get, whether it has a chat template). Only its header is read.

    Raises UserError for a file that cannot be converted, as far as its header shows it.
    """
    state = file.stat()
    config, has_template = _read_config(file, model, state.st_mtime_ns, state.st_ctime_ns, state.st_size)
    return dict(config), has_template


@lru_cache(maxsize=16)
def _read_config(file: Path, model: str, *_state: int) -> tuple[dict[str, Any], bool]:
    from rlhf_engine.gguf.architectures import make_plan
    from rlhf_engine.gguf.metadata import Metadata
    from rlhf_engine.gguf.parts import read_model
    gguf = read_model(file, model)
    metadata = Metadata(gguf.metadata, model)
    return make_plan(metadata, gguf.tensors).config, bool(metadata.raw("tokenizer.chat_template"))
