"""What MODEL and ADAPTER mean: bundled, Hub id, local folder or run folder; and the fingerprint that ties an adapter to its base."""

import hashlib
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.files import read_json_or_none

ASSETS = Path(__file__).resolve().parents[2] / "assets"
BUNDLED_MODEL = ASSETS / "storyteller"
BUNDLED_ADAPTER = ASSETS / "adapters" / "sft"


Report = Callable[[int, int], None]
"""Told (bytes that have come, bytes in all) while something is fetched."""


def resolve_model(model: str, report: Report | None = None) -> Path:
    """The local folder of MODEL: `bundled`, a directory, or a Hub id (downloaded: safetensors and JSON only)."""
    if model == "bundled":
        folder = bundled(BUNDLED_MODEL)
    elif model and Path(model).is_dir():
        folder = Path(model)
    elif Path(model).exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise UserError(f"{model}: no such model; give `bundled`, a Hub id (owner/name) or a local folder")
    else:
        folder = download(model, report)
    if not (folder / "config.json").exists():
        raise UserError(f"{model}: holds no config.json, so it is no transformers model")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{model}: holds no .safetensors weights; pickled weights are never loaded, convert them first")
    refuse_code(folder, model)
    return folder


def refuse_code(folder: Path, model: str) -> None:
    """Raises UserError for a model that only runs with code of its own, of an architecture that transformers does not have."""
    config = read_json_or_none(folder / "config.json")
    if isinstance(config, dict) and "auto_map" in config:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
        if config.get("model_type") not in CONFIG_MAPPING_NAMES:
            raise code_needed(model)


def code_needed(model: str) -> UserError:
    return UserError(f"{model}: needs code of its own, which is never run; choose a model whose architecture transformers has, "
                     "such as Llama, Qwen, Mistral or GPT-2")


def bundled(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"bundled: {folder} is missing from this installation; clone the repository anew, or give --model and --adapter")
    return folder


def download(model: str, report: Report | None = None) -> Path:
    """Fetch safetensors, JSON and tokenizer files of a Hub model. Raises UserError that says the way out."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    try:
        refuse_code(Path(snapshot_download(model, allow_patterns="config.json")), model)  # before gigabytes come for nothing
        return Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"],
                                      tqdm_class=reporting(report) if report else None))
    except UserError:
        raise
    except GatedRepoError:
        raise UserError(f"{model}: is gated; accept its licence on the Hub and log in with `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"{model}: there is no such model on the Hub, or it is private; check the name "
                        "or log in with `hf auth login`") from None
    except HFValidationError as error:
        raise UserError(f"{model}: is no name on the Hub ({first_line(error)}); give owner/name or a local folder") from None
    except Exception as error:  # of the file system, and of an HTTP client that changes with the version of huggingface_hub
        raise UserError(f"{model}: cannot be fetched from the Hub ({first_line(error)}); try again, or give a local folder") from None


def reporting(report: Report) -> type:
    """A progress bar for huggingface_hub that shows nothing and tells `report` of the bytes."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **options | {"file": io.StringIO()})

        def update(self, n=1):
            shown = super().update(n)
            if self.unit == "B":
                report(int(self.n), int(self.total or 0))
            return shown
    return Bar


def resolve_adapter(adapter: str, model: str = "", *, role: str = "policy") -> Path | None:
    """The PEFT folder of ADAPTER: None for `none`, the shipped SFT adapter for `bundled`, a run folder's newest `role`."""
    if adapter in ("none", ""):
        return None
    if adapter == "bundled":
        if model != "bundled":
            raise UserError(f"--adapter bundled belongs to --model bundled, not to {model}; give `none`, a run folder or a PEFT folder")
        return bundled(BUNDLED_ADAPTER)
    folder = Path(adapter)
    if (folder / "adapter_config.json").exists():
        return folder
    if (folder / "config.yaml").exists():
        if not (folder / "checkpoints" / "last").exists():
            raise UserError(f"{folder}: this run has no checkpoint yet; wait for its first, or resume it")
        inside = folder / "checkpoints" / "last" / role
        if not inside.exists():
            raise UserError(f"{folder}: this run holds no {role} adapter; name a run that trained one")
        return inside
    if (folder / role / "adapter_config.json").exists():
        return folder / role
    raise UserError(f"{adapter}: no such adapter; give `none`, a run folder, or a PEFT folder with adapter_config.json")


def resolve_reward(spec: str, flag: str) -> Path:
    """The folder of a trained reward model, from a reward run or one of its checkpoints; `flag` is named in messages."""
    if not spec or not Path(spec).is_dir():
        raise UserError(f"{flag} is {spec or 'missing'}: name a reward run folder, or FILE.py:FUNCTION")
    return resolve_adapter(spec, role="reward")


def check_adapter(folder: Path, expected: str) -> None:
    """Format and base of a PEFT folder. Raises UserError for pickled weights and for an adapter made on another base."""
    if not (folder / "adapter_model.safetensors").exists():
        raise UserError(f"{folder}: holds no adapter_model.safetensors; pickled adapters are never loaded")
    if (folder / "base.json").exists():
        try:
            base = json.loads((folder / "base.json").read_text(encoding="utf-8"))
            model, made_for = str(base["model"]), str(base["fingerprint"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{folder}: its base.json is broken; name another checkpoint, or take the file out") from None
        if made_for != expected:
            raise UserError(f"{folder}: was trained on another base ({model}, fingerprint {made_for[:12]}, "
                            f"this one is {expected[:12]}); load it with that model")


def fingerprint(folder: Path) -> str:
    """A hash of the weight files: names, sizes, headers and evenly spaced samples, the same for every dtype it is loaded in."""
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
    """ADAPTER or a reward as a page names it, spelled as a path: a run's name, a gallery name, a path; each may end in
    `@step-000050`. Words such as `none`, and what names nothing, stay as they are."""
    base, at, step = name.rpartition("@step-")
    folder = Path(base if at else name)
    if len(folder.parts) == 1:
        for parent in (home / "runs", ASSETS / "adapters"):
            if folder.name not in ("none", "bundled", "auto") and (parent / folder).is_dir():
                folder = parent / folder
                break
        else:
            return name
    return str(folder / "checkpoints" / f"step-{step}") if at else str(folder)


def place_run(home: Path, stage: str, output: str) -> str:
    """The run folder that "output" means. Raises UserError for any place but directly under `home/runs`."""
    runs = (home / "runs").resolve()
    if not output:
        name = f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}"
        fresh = (runs / (name if n == 1 else f"{name}-{n}") for n in range(1, 1000))
        return str(next(path for path in fresh if not path.exists()))
    path = Path(output)
    path = runs / path if len(path.parts) == 1 else path
    if path.parent.resolve() != runs or path.resolve().parent != runs:
        raise UserError(f"--output is {output!r}, which is not in {runs}: give a name without folders; "
                        "only the command line writes elsewhere")
    if not re.fullmatch(r"\w[\w.+-]{0,99}", path.name):
        raise UserError(f"--output is {output!r}: name a run with letters, digits and . _ + - and begin with a letter or digit")
    return str(path)
