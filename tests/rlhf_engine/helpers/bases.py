"""Copies of a tiny base that are spoilt in one way each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone

Weights = dict[str, torch.Tensor]
GONE = object()
"""In place of a value: the key is taken out."""


def spoilt(base: Path, folder: Path, change: Callable[[Weights], Weights] | None = None, **config) -> Path:
    """A copy of `base` whose weights are what `change` makes of them, and whose config.json has other values."""
    copy = shutil.copytree(base, folder, dirs_exist_ok=True)
    if change:
        write_weights(copy / "model.safetensors", change(load_file(copy / "model.safetensors")))
    return edit_json(copy / "config.json", **config).parent


def write_weights(path: Path, weights: Weights) -> None:
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, metadata={"format": "pt"})


def edit_json(path: Path, **values) -> Path:
    """Set or take out (GONE) keys of a JSON file, which need not exist."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content = {name: value for name, value in (content | values).items() if value is not GONE}
    path.write_text(json.dumps(content))
    return path


def in_shards(folder: Path) -> Path:
    """Cut model.safetensors in two files and their index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    table, names = {}, sorted(weights)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        write_weights(folder / file, {name: weights[name] for name in part})
        table |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return folder


def refusal(model: Path | str, dtype: str = "fp32") -> str:
    """The one line with which a base is refused."""
    with pytest.raises(UserError) as caught:
        Backbone.load(str(model), dtype=dtype)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"{model}: ") and 40 < len(line) < 900
    return line
