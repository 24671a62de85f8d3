"""The files of an adapter's folder, and what is wrong with a MODEL that names such a folder or a run. No torch."""

from pathlib import Path

from rlhf_engine.errors import UserError, one_line
from rlhf_engine.files import read_json_or_none
from rlhf_engine.runs.folder import Run

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""PEFT's names."""
HEAD_FILE, BASE_FILE = "head.safetensors", "base.json"
"""What the engine writes beside them: the scalar head, and the name and fingerprint of the base."""


def refuse_as_model(folder: Path, model: str) -> None:
    """Raises UserError for a folder of an adapter or of a run, and says what to give instead.

    transformers takes such a folder for the base that its adapter_config.json names, with the adapter on it.
    """
    if (folder / CONFIG_FILE).exists():
        config = read_json_or_none(folder / CONFIG_FILE)
        named = config.get("base_model_name_or_path") if isinstance(config, dict) else None
        base = f"--model {one_line(named)}" if named else "its base as --model"
        if (folder / "config.json").exists() and any(folder.glob("model*.safetensors")):
            raise UserError(f"{model}: holds a model and an adapter; move {CONFIG_FILE} elsewhere for the model "
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
