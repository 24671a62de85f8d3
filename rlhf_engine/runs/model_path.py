"""What is wrong with a MODEL that names no folder of this machine, or a folder that holds no model. No torch."""

import difflib
from pathlib import Path

from rlhf_engine.errors import UserError
from rlhf_engine.runs.gguf_files import ENDING

MODEL_ADVICE = "give `bundled`, `smollm2`, a Hub id (owner/name), a .gguf file or a local folder"
NO_OWNERS = ("models", "datasets", "spaces", "api", "docs")
"""First parts of the Hub's own addresses. No owner can have one as a name, so `models/x` is always a folder."""
FILE_ENDINGS = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".zip", ".tar", ".gz")
HUB_ADDRESSES = ("https://huggingface.co/", "http://huggingface.co/", "huggingface.co/", "hf.co/", "https://hf.co/")


def is_hub_id(model: str) -> bool:
    """Whether a MODEL that is no folder here may be asked for on the Hub. Everything else can only be a path."""
    owner, _, name = model.partition("/")
    has_two_parts = bool(owner and name) and "/" not in name
    looks_like_path = model.startswith((".", "~")) or "\\" in model or owner in NO_OWNERS
    return has_two_parts and not looks_like_path and not name.lower().endswith(FILE_ENDINGS)


def no_such_model(model: str) -> UserError:
    """The error for a MODEL that is no folder here and cannot be a Hub id."""
    if model.startswith(HUB_ADDRESSES):
        parts = model.partition("://")[2].split("/")[1:3] if "://" in model else model.split("/")[1:3]
        return UserError(f"{model}: no such model; of a Hub address, give the id alone: {'/'.join(parts)}")
    if model.lower().endswith(".gguf"):
        return UserError(f"{model}: no such model; there is no such file here{near_names(Path(model), ENDING)}; "
                         "a GGUF file of the Hub is downloaded first: hf download OWNER/NAME FILE.gguf --local-dir .")
    path = Path(model.replace("\\", "/"))
    if model and path.is_file():
        return UserError(f"{model}: no such model, this is a file; give the folder that holds the whole model"
                         + (f", such as {path.parent}" if (path.parent / "config.json").exists() else ""))
    return UserError(f"{model or 'MODEL is empty'}: no such model; there is no such folder here{near_names(path)}; "
                     f"{MODEL_ADVICE}")


def near_names(path: Path, ending: str = "") -> str:
    """Folders here whose names are like that of a missing one, in brackets; nothing if there are none. With an
    `ending`, files that have it."""
    parent = path.parent
    missing = path
    while not parent.is_dir() and parent != parent.parent:
        missing, parent = parent, parent.parent
    try:
        names = [place.name for place in parent.iterdir()
                 if (place.name.lower().endswith(ending) if ending else place.is_dir())]
    except OSError:
        return ""
    near = difflib.get_close_matches(missing.name, names, n=1)
    return f" (is {parent / near[0]} meant?)" if near else ""


def no_model_in(folder: Path, model: str) -> UserError:
    """The error for a folder without a config.json."""
    error = f"{model}: holds no config.json, so it is no transformers model"
    if not Path(model).is_dir():  # a model of the Hub, of which only some files were fetched
        return UserError(f"{error}; choose another model, or if it is a repository of GGUF files, download one "
                         f"(hf download {model} FILE.gguf --local-dir .) and give its path")
    names = sorted(file.name for file in folder.iterdir())
    if not names:
        return UserError(f"{error}: the folder is empty; {MODEL_ADVICE}")
    models = [file.parent for pattern in ("*/config.json", "*/*/config.json") for file in sorted(folder.glob(pattern))]
    if models:
        where = "a folder of the Hub's cache" if "snapshots" in names else "a folder around a model"
        return UserError(f"{error}: it is {where}; give {models[-1]}")
    return UserError(f"{error}: download or save the whole model, or name another folder")


def no_weights_in(folder: Path, model: str) -> UserError:
    """The error for a model folder without any .safetensors file."""
    error = f"{model}: holds no .safetensors weights"
    if files := sorted(folder.glob("*.gguf")):
        return UserError(f"{error} but GGUF files; give one of them, such as {files[0]}")
    if any(folder.glob("**/*.incomplete")):
        return UserError(f"{error}: a download of it broke off; download it again")
    below = sorted(folder.glob("*/model*.safetensors"))
    if below:
        return UserError(f"{error}, but {below[0].parent.name} in it does; give a folder that holds config.json, the "
                         "tokenizer and the weights together")
    return UserError(f"{error}; pickled weights are never loaded, convert them first: load the model with "
                     "transformers where you trust it, and call its save_pretrained")
