"""What MODEL and ADAPTER mean: `bundled`, `smollm2`, a Hub id, a GGUF file, a local folder or a run folder.

Also the fingerprint of a base, by which an adapter is refused on another base than the one it was trained on.
"""

import hashlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.files import ASSETS, expand_user
from rlhf_engine.runs import smollm2
from rlhf_engine.runs.adapter_folder import BASE_FILE, CONFIG_FILE, WEIGHTS_FILE, refuse_as_model
from rlhf_engine.runs.gguf_files import find_gguf
from rlhf_engine.runs.model_files import check_config, read_object
from rlhf_engine.runs.model_path import is_hub_id, near_names, no_model_in, no_such_model, no_weights_in

BUNDLED_MODEL = ASSETS / "storyteller"
BUNDLED_ADAPTER = ASSETS / "adapters" / "sft"

Report = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all) while files are downloaded."""


def resolve_model(model: str, report: Report | None = None) -> Path:
    """The local folder of MODEL: `bundled`, `smollm2`, a directory, a GGUF file, or a Hub id.

    Of a Hub id, safetensors and JSON files are downloaded. A GGUF file is converted into a folder of the cache, once.

    Raises UserError for a model that is missing, has no safetensors weights, or needs code of its own.
    """
    model = expand_user(model)
    if model == smollm2.NAME:
        place = smollm2.find_place(lambda: download_model(smollm2.HUB_ID, report))
        folder = place if place.is_dir() else convert_gguf(place, model)
    elif model == "bundled":
        folder = bundled_folder(BUNDLED_MODEL)
    elif file := find_gguf(model):
        folder = convert_gguf(file, model)
    elif model and Path(model).is_dir():
        folder = Path(model)
    elif Path(model).exists() or not is_hub_id(model):
        raise no_such_model(model)
    else:
        folder = download_model(model, report)
    refuse_as_model(folder, model)
    if not (folder / "config.json").exists():
        raise no_model_in(folder, model)
    if not any(folder.glob("*.safetensors")):
        raise no_weights_in(folder, model)
    refuse_code(folder, model)
    return folder


def convert_gguf(file: Path, model: str) -> Path:
    """The folder of a GGUF file. The console is told when it is converted. Raises UserError."""
    from rlhf_engine.gguf.cache import cached_folder
    return cached_folder(file, model, lambda line: print(line, file=sys.stderr, flush=True))


def is_on_hub(model: str) -> bool:
    """Whether MODEL is a Hub id: what is on this machine, or ships with the project, is none."""
    model = expand_user(model)
    return model not in ("bundled", smollm2.NAME) and not os.path.exists(model)


def describe_base(model: str, folder: Path) -> str:
    """What MODEL stands for, in a line, where its name does not say it; else empty."""
    model = expand_user(model)
    if model == smollm2.NAME:
        return smollm2.describe(smollm2.find_place(lambda: folder))
    file = find_gguf(model) if os.path.exists(model) else None
    return f"{model}: {file.name}, unpacked in {folder}" if file else ""


def refuse_code(folder: Path, model: str) -> None:
    """Raises UserError for a model that brings code of its own, because transformers does not have its architecture,
    and for a config.json that is broken."""
    config = read_object(folder / "config.json", model)
    if "auto_map" in config:
        from transformers.models.auto import configuration_auto
        # transformers exports this name from no public module.
        known = configuration_auto.CONFIG_MAPPING_NAMES  # pyright: ignore[reportPrivateImportUsage]
        if str(config.get("model_type")) not in known:
            raise code_needed(model)


def code_needed(model: str) -> UserError:
    """The error for a model that needs code of its own."""
    return UserError(f"{model}: needs code of its own, which is never run; "
                     "choose a model whose architecture transformers has, such as Llama, Qwen, Mistral or GPT-2")


def bundled_folder(folder: Path) -> Path:
    """A folder that ships with the project. Raises UserError if it is missing."""
    if not folder.is_dir():
        raise UserError(f"bundled: {folder} is missing from this installation; "
                        "clone the repository anew, or give --model and --adapter")
    return folder


def download_model(model: str, report: Report | None = None) -> Path:
    """Download the safetensors, JSON and tokenizer files of a Hub model. Raises UserError, which says what to do."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    absent = f"there is no such folder here{near_names(Path(model))}, and"
    patterns = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
    try:
        config_only = snapshot_download(model, allow_patterns="config.json")
        refuse_code(Path(config_only), model)  # before gigabytes are downloaded for nothing
        check_config(read_object(Path(config_only) / "config.json", model), model)
        progress_bar = reporting_bar(report) if report else None
        return Path(snapshot_download(model, allow_patterns=patterns, tqdm_class=progress_bar))
    except UserError:
        raise
    except GatedRepoError:
        raise UserError(f"{model}: is gated; accept its licence on the Hub and log in with `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"{model}: {absent} there is no such model on the Hub, or it is private; check the name "
                        "or log in with `hf auth login`") from None
    except HFValidationError as error:
        raise UserError(f"{model}: is no name on the Hub ({first_line(error)}); "
                        "give owner/name or a local folder") from None
    except Exception as error:  # of the file system, or of an HTTP client, which is another with each huggingface_hub
        raise UserError(f"{model}: {absent} it cannot be fetched from the Hub ({first_line(error)}); "
                        "try again, or give a local folder") from None


def reporting_bar(report: Report) -> type:
    """The class of a progress bar for huggingface_hub which shows nothing and calls `report` with the bytes."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args, **options):
            options["file"] = io.StringIO()
            super().__init__(*args, **options)

        def update(self, n=1):
            displayed = super().update(n)
            if self.unit == "B":
                report(int(self.n), int(self.total or 0))
            return displayed
    return Bar


def resolve_adapter(adapter: str, model: str = "", *, role: str = "policy") -> Path | None:
    """The PEFT folder of ADAPTER: None for `none`, the shipped SFT adapter for `bundled`, the newest `role` of a run
    folder.

    Raises UserError if there is no such adapter.
    """
    if adapter in ("none", ""):
        return None
    if adapter == "bundled":
        if model != "bundled":
            raise UserError(f"--adapter bundled belongs to --model bundled, not to {model}; "
                            "give `none`, a run folder or a PEFT folder")
        return bundled_folder(BUNDLED_ADAPTER)
    folder = Path(expand_user(adapter))
    if (folder / CONFIG_FILE).exists():
        return folder
    if (folder / "config.yaml").exists():
        last = newest_checkpoint(folder)
        if last is None:
            raise UserError(f"{folder}: this run has no checkpoint yet; wait for its first, or resume it")
        newest = last / role
        if not newest.exists():
            raise UserError(f"{folder}: this run holds no {role} adapter; name a run that trained one")
        return newest
    if (folder / role / CONFIG_FILE).exists():
        return folder / role
    if (folder / "config.json").exists():
        raise UserError(f"{adapter}: is a model, not an adapter; give it as --model, and --adapter none")
    steps = sorted(folder.glob(f"checkpoint-*/{CONFIG_FILE}"), key=lambda file: (len(file.parent.name), str(file)))
    if steps:
        raise UserError(f"{adapter}: holds the checkpoints of a training, but no adapter; give one of them, such as "
                        f"{steps[-1].parent}")
    if folder.is_file():
        raise UserError(f"{adapter}: no such adapter, this is a file; give the folder that holds the whole adapter, "
                        f"such as {folder.parent}")
    hint = ""
    if not folder.exists() and is_hub_id(adapter):
        hint = (f"; an adapter of the Hub is downloaded first: hf download {adapter} --local-dir "
                f"{adapter.partition('/')[2]}")
    raise UserError(f"{adapter}: no such adapter; give `none`, a run folder, or a PEFT folder with "
                    f"adapter_config.json{hint}")


def newest_checkpoint(run: Path) -> Path | None:
    """The last checkpoint of a run folder; None if there is none.

    A copy of a run folder may lack the link `last`, or have one that leads nowhere: then it is the newest step's.
    """
    last = run / "checkpoints" / "last"
    if last.exists():
        return last
    steps = sorted((run / "checkpoints").glob("step-*"), key=lambda folder: (len(folder.name), folder.name))
    return steps[-1] if steps else None


def resolve_reward(spec: str, flag: str) -> Path:
    """The folder of a trained reward model, from a reward run or one of its checkpoints.

    Messages name `flag`. Raises UserError.
    """
    spec = expand_user(spec)
    folder = resolve_adapter(spec, role="reward") if spec and Path(spec).is_dir() else None
    if folder is None:
        raise UserError(f"{flag} is {spec or 'missing'}: name a reward run folder, or FILE.py:FUNCTION")
    return folder


def check_adapter(folder: Path, expected: str) -> None:
    """Check a PEFT folder: its format, and that it was trained on the base with the fingerprint `expected`.

    Raises UserError for pickled weights and for an adapter of another base.
    """
    if (folder / "adapters.safetensors").exists() and not (folder / WEIGHTS_FILE).exists():
        raise UserError(f"{folder}: holds an adapter of MLX (adapters.safetensors), not PEFT's; fuse it with its base "
                        "(mlx_lm.fuse), and give the result as --model")
    if not (folder / WEIGHTS_FILE).exists():
        raise UserError(f"{folder}: holds no adapter_model.safetensors; pickled adapters are never loaded: load it "
                        "with PEFT where you trust it, and call its save_pretrained")
    if not (folder / BASE_FILE).exists():
        return
    try:
        base = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
        model, made_for = str(base["model"]), str(base["fingerprint"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder}: its base.json is broken; name another checkpoint, or take the file out") from None
    if made_for != expected:
        raise UserError(f"{folder}: was trained on another base ({model}, fingerprint {made_for[:12]}, "
                        f"this one is {expected[:12]}); {what_to_load(model, expected)}")


def what_to_load(model: str, given: str) -> str:
    """What to do about an adapter of the base `model`, which is not the one with the fingerprint `given`."""
    if model == smollm2.NAME:
        return smollm2.TWO_KINDS
    if model == "bundled" and given == fingerprint(BUNDLED_MODEL):
        return ("the bundled model has been replaced since: train it anew, or use the version of this project that it "
                "was made with")
    return "load it with that model"


def fingerprint(folder: Path) -> str:
    """A hash of a model's weight files: their names, their sizes, and 256 evenly spaced samples of 4096 bytes each.

    It is the same for every dtype in which the model is loaded.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with open(file, "rb") as handle:
            for part in range(256):
                handle.seek(size * part // 256)
                digest.update(handle.read(4096))
    return digest.hexdigest()


def locate(home: Path, name: str) -> str:
    """The path of an adapter or a reward that is given as a run's name, a gallery name or a path in the workspace
    `home`.

    Each may end in `@step-000050`. Words such as `none`, and names of nothing, are returned as they are.
    """
    base, at, step = expand_user(name).rpartition("@step-")
    folder = Path(base if at else name)
    if len(folder.parts) == 1:
        named = find_by_name(home, folder.name)
        if named is None:
            return name
        folder = named
    return str(folder / "checkpoints" / f"step-{step}") if at else str(folder)


def find_by_name(home: Path, name: str) -> Path | None:
    """The folder of a run in the workspace, or of an adapter in the gallery; None if there is neither."""
    if name in ("none", "bundled", "auto"):
        return None
    for parent in (home / "runs", ASSETS / "adapters"):
        if (parent / name).is_dir():
            return parent / name
    return None


def resolve_output(home: Path, stage: str, output: str) -> str:
    """The run folder that "output" means; an empty one gets a new name.

    Raises UserError for any place but directly under `home/runs`.
    """
    runs = Path(os.path.realpath(home / "runs"))
    if not output:
        return str(new_run_folder(runs, stage))
    path = Path(output)
    path = runs / path if len(path.parts) == 1 else path
    path = Path(os.path.realpath(path.parent)) / path.name
    if path.parent != runs or os.path.realpath(path) != str(path):
        raise UserError(f"--output is {output!r}, which is not in {runs}: give a name without folders; "
                        "only the command line writes elsewhere")
    if not re.fullmatch(r"\w[\w.+-]{0,99}", path.name):
        raise UserError(f"--output is {output!r}: name a run with letters, digits and . "
                        "_ + - and begin with a letter or digit")
    return str(path)


def new_run_folder(runs: Path, stage: str) -> Path:
    """A folder in `runs` that does not exist yet, named after the stage and the time."""
    name = f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = runs / name, 1
    while folder.exists():
        number += 1
        folder = runs / f"{name}-{number}"
    return folder
