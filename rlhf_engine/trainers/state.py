"""Checkpoints on disk: adapters, and a trainer's state as JSON and safetensors.

There is no pickle: loading a checkpoint never runs code.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.files import json_text
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.checks.finite import check_role

JSON_FILE, TENSOR_FILE = "trainer.json", "trainer.safetensors"


def save_checkpoint(folder: Path, backbone: Backbone, roles: tuple[str, ...], state: dict[str, Any]) -> None:
    """Write a checkpoint: one PEFT folder per role that the backbone has, and the trainer's state.

    Raises NotFinite, and writes nothing, where a weight is NaN or infinite: no checkpoint ever holds one.
    """
    present = [role for role in roles if role in backbone.roles]
    for role in present:
        check_role(backbone, role)
    for role in present:
        backbone.save_role(role, folder / role)
    save_state(folder, state)


def load_checkpoint(folder: Path, backbone: Backbone, roles: tuple[str, ...]) -> dict[str, Any]:
    """Copy the weights of a checkpoint into the roles that the backbone has, and return the trainer's state.

    Raises UserError for an adapter that is not the one that the run began with.
    """
    for role in roles:
        if role in backbone.roles:
            try:
                backbone.fill_role(role, folder / role)
            except UserError:
                raise
            except ValueError as error:
                raise UserError(f"{folder / role}: is another adapter than the one this run began with "
                                f"({first_line(error)}); start a new run from it with --adapter") from None
    return load_state(folder)


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` into `folder`: structure and numbers as JSON (floats come back exactly), tensors as safetensors.

    It may nest dictionaries, lists and tuples of tensors, numbers, texts, booleans and None. Raises TypeError for
    anything else.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json_text(_pack(state, "state", tensors))
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
    save_file(tensors, str(folder / TENSOR_FILE))


def load_state(folder: Path) -> dict[str, Any]:
    """What `save_state` wrote into `folder`. Tensors are on the CPU, tuples have become lists."""
    # Copies: the tensors of a mapped file begin at any address, and on some processors products are rounded
    # differently by the address at which they begin.
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / TENSOR_FILE).items()}
    return _unpack(json.loads((folder / JSON_FILE).read_text(encoding="utf-8")), tensors)


def _pack(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON can hold it. Its tensors move to `tensors`, under names made of a number and their path."""
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors)} {path}"  # two paths may read alike; the number tells them apart
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):  # as pairs, because JSON would turn the optimiser's integer keys into strings
        return {"pairs": [[key, _pack(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no literal for it
        return {"float": repr(value)}
    return value


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `_pack`."""
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        if "float" in value:  # earlier versions wrote Infinity and NaN, which Python's JSON reads as they are
            return float(value["float"])
        return {key: _unpack(item, tensors) for key, item in value["pairs"]}
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    return value
