"""A trainer's state on disk: JSON and safetensors, no pickle."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rlhf_engine.model.backbone import Backbone


def save_checkpoint(folder: Path, backbone: Backbone, roles: tuple[str, ...], state: dict) -> None:
    """A checkpoint: one PEFT folder per role that the backbone has, and the trainer's state as safetensors and JSON."""
    for role in roles:
        if role in backbone.roles:
            backbone.save_role(role, folder / role)
    save_state(folder, state)


def load_checkpoint(folder: Path, backbone: Backbone, roles: tuple[str, ...]) -> dict:
    """The state of a checkpoint, whose weights are copied into the roles that the backbone has."""
    for role in roles:
        if role in backbone.roles:
            backbone.fill_role(role, folder / role)
    return load_state(folder)


def save_state(folder: Path, state: dict) -> None:
    """Write trainer.json (structure and numbers; floats survive exactly) and trainer.safetensors (tensors)."""
    tensors: dict[str, torch.Tensor] = {}
    (folder / "trainer.json").write_text(json.dumps(_pack(state, "state", tensors)), encoding="utf-8")
    save_file(tensors, str(folder / "trainer.safetensors"))


def load_state(folder: Path) -> dict:
    # Copies: tensors of a mapped file begin anywhere, and with where they begin products round differently on some processors.
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "trainer.safetensors").items()}
    return _unpack(json.loads((folder / "trainer.json").read_text(encoding="utf-8")), tensors)


def _pack(value, path: str, tensors: dict):
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors)} {path}"  # the number tells names apart that read alike
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):  # pairs, because JSON would turn the optimiser's integer keys into strings
        return {"pairs": [[key, _pack(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    return value


def _unpack(value, tensors: dict):
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(item, tensors) for key, item in value["pairs"]}
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    return value
