"""A LoRA adapter's weights between PEFT's file and a role's parameters: every tensor has one place, or it is refused.

PEFT itself leaves a weight that its file lacks as it was drawn at random, and drops one that has no place.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from safetensors.torch import save_file
from torch import nn

from rlhf_engine.model.adapters import read_tensors
from rlhf_engine.model.checks.weights import WRAPPERS
from rlhf_engine.model.lora.options import MERGE, PREFIX
from rlhf_engine.runs.adapter_folder import WEIGHTS_FILE

ANY_NAME = "adapter"
"""Stands for the adapter's name while PEFT converts names. It is in no result."""
HINTS = {
    "lora_": "",
    ".bias": f"the adapter trained biases of its base, which all roles share; {MERGE}",
    "score": "the adapter is a classifier or a reward model of another library; train a reward model here on its "
             "preference data",
    "classifier": "the adapter is a classifier; train a reward model here on its preference data",
    "": f"the adapter brings whole weights of its base, as one with a resized vocabulary does; {MERGE}",
}
"""Part of a name that has no place -> what that means and what to do; the first that fits."""
EMPTY = (": empty tensors come from DeepSpeed ZeRO-3, so gather the weights before you save "
         "(stage3_gather_16bit_weights_on_model_save)")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a PEFT folder, under their names in the base. Raises UserError for a broken file."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in read_tensors(folder / WEIGHTS_FILE).items()}


def write_weights(folder: Path, parameters: dict[str, nn.Parameter]) -> None:
    """Write a role's parameters as PEFT writes them."""
    tensors = {PREFIX + name: value.detach().cpu().contiguous() for name, value in parameters.items()}
    save_file(tensors, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})


def convert_names(peft: PeftModel, config: LoraConfig, weights: dict[str, torch.Tensor],
                  parameters: Iterable[str]) -> dict[str, torch.Tensor]:
    """Weights under the names of this version of transformers, which holds the experts of many models in one tensor.

    An adapter from an earlier version has a matrix for each expert. One that has all the names of the role's
    `parameters` is left alone: PEFT would convert some names a second time (Laguna's shared experts).
    """
    if all(name in weights for name in parameters):
        return weights
    named = {PREFIX + name: tensor for name, tensor in weights.items()}
    converted = convert_peft_adapter_state_dict_for_transformers(peft, config, named, ANY_NAME)
    return {name.removeprefix(PREFIX): tensor for name, tensor in converted.items()}


def fitting_weights(weights: dict[str, torch.Tensor], parameters: dict[str, nn.Parameter],
                    base: Any) -> dict[str, torch.Tensor]:
    """The weights without those that only repeat the base's own, which PEFT adds where it adapts an embedding.

    Raises ValueError, with a name, unless each weight has a parameter of its shape and each parameter a weight.
    """
    kept = {name: tensor for name, tensor in weights.items()
            if name in parameters or not is_copy_of_base(name, tensor, base)}
    extra, missing = sorted(set(kept) - set(parameters)), sorted(set(parameters) - set(kept))
    if extra:
        hint = explain_name(extra[0])
        raise ValueError(f"its file holds {name_some(extra)}, for which the base has no place" +
                         (f": {hint}" if hint else ""))
    if missing:
        raise ValueError(f"its file lacks {name_some(missing)}, which its configuration asks for")
    for name, parameter in parameters.items():
        if parameter.shape != kept[name].shape:
            hint = EMPTY if kept[name].numel() == 0 else ""
            raise ValueError(f"{name} has shape {tuple(kept[name].shape)}, the base needs {tuple(parameter.shape)}"
                             + hint)
    return kept


def explain_name(name: str) -> str:
    """What a weight that has no place says of its file, and what to do; empty where nothing is known."""
    parts = name.split(".")
    for wrapper, origin in WRAPPERS.items():
        if wrapper in parts:
            return f"the names still have `{wrapper}.` in them, from {origin}; save the model that is inside of it"
    if "base_model" in parts:
        return "PEFT was put on a model that it was on already; save the inner one, or train on the bare base"
    named = re.search(r"\.lora_[AB]\.(\w+)\.weight$", name)
    if named:
        return f"the names still hold the adapter's name, {named[1]}; write it with PEFT's save_pretrained"
    return next(text for part, text in HINTS.items() if part in name)


def is_copy_of_base(name: str, tensor: torch.Tensor, base: Any) -> bool:
    """Whether a weight is one of the base's own, as it stands there, up to the rounding of either."""
    try:
        own = base.get_parameter(name).detach().cpu()
    except AttributeError:
        return False
    if own.shape != tensor.shape:
        return False
    return torch.equal(own.to(tensor.dtype), tensor) or torch.equal(own, tensor.to(own.dtype))


def name_some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
