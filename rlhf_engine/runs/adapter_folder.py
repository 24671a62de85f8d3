"""What is wrong with a MODEL that names the folder of an adapter or of a run. No torch."""

from pathlib import Path

from rlhf_engine.errors import UserError, one_line
from rlhf_engine.files import read_json_or_none
from rlhf_engine.runs.folder import Run

ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's name."""


def refuse_as_model(folder: Path, model: str) -> None:
    """Raises UserError for a folder of an adapter or of a run, and says what to give instead.

    transformers takes such a folder for the base that its adapter_config.json names, with the adapter on it.
    """
    if (folder / ADAPTER_CONFIG).exists():
        config = read_json_or_none(folder / ADAPTER_CONFIG)
        named = config.get("base_model_name_or_path") if isinstance(config, dict) else None
        base = f"--model {one_line(named)}" if named else "its base as --model"
        if (folder / "config.json").exists() and any(folder.glob("model*.safetensors")):
            raise UserError(f"{model}: holds a model and an adapter; move {ADAPTER_CONFIG} elsewhere for the model "
                            f"alone, or give {base} and --adapter {folder} for the adapter on its base")
        raise UserError(f"{model}: is an adapter, not a model; give {base} and --adapter {folder}")
    run = find_run(folder)
    if run is not None and not (folder / "config.json").exists():
        base = run.config().get("model")
        named = f"--model {base}" if base else "its base as --model"
        raise UserError(f"{model}: is a run, not a model; give {named} and --adapter {model}")


def find_run(folder: Path) -> Run | None:
    """The run that a folder is, or whose checkpoint it is; None for any other folder."""
    for place in (folder, folder.absolute().parent.parent):
        if (place / "config.yaml").exists() and (place / "checkpoints").is_dir():
            return Run(place)
    return None
