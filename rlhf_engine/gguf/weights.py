"""The plan by which the tensors of a GGUF file become those of a model folder, and the file of weights it writes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_engine.errors import UserError
from rlhf_engine.gguf.header import Tensor
from rlhf_engine.gguf.numbers import as_floats, read_raw

Move = Callable[[np.ndarray], np.ndarray]
"""Puts the numbers of a tensor into another order or shape, and changes none."""
HEADER_ROW = 160
"""Bytes of the header that are kept free for each tensor, beside its name."""


@dataclass(frozen=True)
class Row:
    """One line of a plan: which tensors of the GGUF file become which tensor of the folder.

    `{n}` in the names stands for each layer, `{e}` in the target for each expert, which are stacked in the file.
    """

    sources: tuple[str, ...]
    """Several are joined along `axis`."""
    target: str
    move: Move | None = None
    add: float = 0.0
    """Added to each number. llama.cpp stores the norms of Gemma with 1 added."""
    axis: int = 0


@dataclass
class Plan:
    """What a file becomes: the config of the model, and where each tensor goes."""

    config: dict[str, Any]
    rows: list[Row]
    layers: int
    experts: int = 0
    read: set[str] = field(default_factory=set)
    """Tensors that the config was read from, which are no weights of the model."""


@dataclass(frozen=True)
class Step:
    """A row for one layer: the tensors, the names they get, and what is done in between."""

    sources: list[Tensor]
    targets: list[str]
    row: Row


def make_steps(plan: Plan, tensors: Mapping[str, Tensor], model: str) -> list[Step]:
    """The steps of a plan, layer by layer.

    Raises UserError, which names them, for tensors that are missing and for those that have no place.
    """
    steps, used, missing = [], set(plan.read), []
    for row in plan.rows:
        for layer in range(plan.layers) if "{n}" in row.target else (0,):
            names = [name.replace("{n}", str(layer)) for name in row.sources]
            target = row.target.replace("{n}", str(layer))
            missing += [name for name in names if name not in tensors]
            if missing:
                continue
            targets = [target.replace("{e}", str(number)) for number in range(plan.experts)] if "{e}" in target \
                else [target]
            used.update(names)
            steps.append(Step([tensors[name] for name in names], targets, row))
    if missing:
        raise UserError(f"{model}: lacks the {words(missing)}; download or convert the file again, or choose another")
    if left := [name for name in tensors if name not in used]:
        raise UserError(f"{model}: holds the {words(left)}, for which a {plan.config['model_type']} model has no "
                        "place, and without which it would come out wrong; choose another file of this model, or its "
                        "safetensors")
    return steps


def check_shapes(plan: Plan, steps: list[Step], model: str) -> None:
    """Raises UserError for a matrix whose size is not the one that the metadata give it, where their names say it."""
    config = plan.config
    width, inner = config.get("hidden_size"), config.get("intermediate_size")
    heads = config.get("num_attention_heads") or 1
    size = config.get("head_dim") or (width or 0) // heads
    queries, keys = heads * size, (config.get("num_key_value_heads") or heads) * size
    wanted = {"q_proj": (queries, width), "k_proj": (keys, width), "v_proj": (keys, width), "o_proj": (width, queries),
              "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner),
              "embed_tokens": (config["vocab_size"], width), "lm_head": (config["vocab_size"], width)}
    for step in steps:
        part = step.row.target.removesuffix(".weight")
        shape = next((shape for name, shape in wanted.items() if f".{part}".endswith(f".{name}")), None)
        found = step.sources[0].shape
        if shape and None not in shape and "{e}" not in part and part != step.row.target and found != shape:
            raise UserError(f"{model}: the tensor {step.sources[0].name} is {list(found)}, and by its metadata "
                            f"{list(shape)}; download or convert the file again")


def words(names: list[str]) -> str:
    """The first of some tensors, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"tensor {names[0]}{more}"


# -- numbers -----------------------------------------------------------------------------------------------------------

def converted(step: Step, model: str) -> tuple[list[np.ndarray], str]:
    """(the arrays of a step's targets, their format). Raises UserError where sizes do not fit."""
    parts = [read_raw(tensor, model) for tensor in step.sources]
    form = parts[0][1] if len({form for _, form in parts}) == 1 else "F32"
    if step.row.add or len({form for _, form in parts}) > 1:
        parts, form = [(as_floats(values, kind), "F32") for values, kind in parts], "F32"
    try:
        values = parts[0][0] if len(parts) == 1 else np.concatenate([part for part, _ in parts], axis=step.row.axis)
        if step.row.move:
            values = step.row.move(values)
    except (ValueError, IndexError):
        raise UserError(f"{model}: the tensor {step.sources[0].name} has the shape {list(step.sources[0].shape)}, "
                        "which does not fit its metadata; download or convert the file again") from None
    if step.row.add:
        values = values + np.float32(step.row.add)
    if "{e}" not in step.row.target:
        return [values], form
    if len(values) != len(step.targets):
        raise UserError(f"{model}: the tensor {step.sources[0].name} holds {len(values)} experts in place of "
                        f"{len(step.targets)}; download or convert the file again")
    return list(values), form


def size_of(steps: list[Step]) -> int:
    """Bytes that the weights will take, at most: 4 for each number of a block."""
    wide = {"F16": 2, "BF16": 2}
    return sum(tensor.count * wide.get(tensor.kind, 4) for step in steps for tensor in step.sources)


def write_weights(path: Path, steps: list[Step], model: str) -> None:
    """Write a .safetensors file, tensor by tensor: only one of them is in memory at a time.

    Format: 8 bytes with the length of a JSON object, the object, then the numbers. Blanks fill the object up.
    """
    names = [name for step in steps for name in step.targets]
    room = sum(len(name.encode()) + HEADER_ROW for name in names) + HEADER_ROW
    room += -room % 8
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    with open(path, "wb") as file:
        file.write(b"\0" * (8 + room))
        offset = 0
        for step in steps:
            arrays, form = converted(step, model)
            for name, values in zip(step.targets, arrays):
                data = np.ascontiguousarray(values)
                file.write(data.data.cast("B"))
                end = offset + data.nbytes
                header[name] = {"dtype": form, "shape": list(data.shape), "data_offsets": [offset, end]}
                offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        file.seek(0)
        file.write(room.to_bytes(8, "little") + text.ljust(room))
