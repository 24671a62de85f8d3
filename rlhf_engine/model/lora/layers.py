"""LoRA's layers in a base: which tensors belong to a role, a forward pass in one step, and taking the layers out.

A role's tensors are found by the layers that hold them, never by a search for the role's name in a parameter's name: a
module of the base may have that name, too (`attention.self.value` in BERT).
"""

import types
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

QUANTISED = ("Linear4bit", "Linear8bitLt")
"""bitsandbytes' classes of linear layers."""
PLAIN = ("Linear", "Linear4bit")
"""PEFT's classes whose forward pass is `base(x) + scaling * B(A(x))`. Its others adapt embeddings, or single parameters
of a module that is no linear layer (the router and the experts of a mixture of experts)."""


# -- making and removing layers ----------------------------------------------------------------------------------------

def add_layers(model: Any, role: str, config: LoraConfig, *, empty: bool) -> PeftModel:
    """Let PEFT put a role's layers around those of a base.

    Args:
        model: the base, or what this function returned for it.
        role: the adapter's name.
        config: its options.
        empty: make weights without memory (`make_room` gives them some) instead of fresh ones in fp32.

    Raises whatever PEFT does, with a part of the layers made, and ValueError for a layer that PEFT cannot adapt.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    unfit = layers_without_tensor(base)
    if unfit and config.target_modules == "all-linear" and not isinstance(config.exclude_modules, str):
        excluded: set[str] = {*(config.exclude_modules or []), *unfit}
        config.exclude_modules = sorted(excluded)
    if isinstance(model, PeftModel):
        model.add_adapter(role, config, low_cpu_mem_usage=empty)
    else:
        model = get_peft_model(base, config, adapter_name=role, low_cpu_mem_usage=empty)
    wrong = [name for name in unfit if isinstance(base.get_submodule(name), LoraLayer)]
    if wrong:
        raise ValueError(f"{wrong[0]} gives more than one tensor, so it cannot be adapted")
    if not empty:
        for parameter in role_parameters(base, role).values():
            parameter.data = parameter.data.float()
    return model


@torch.no_grad()
def layers_without_tensor(base: nn.Module) -> list[str]:
    """Names of the linear layers that give something else than one tensor, as PhiMoE's router does, or that take no
    plain rows, as DeepSeek-V4's grouped ones. PEFT cannot adapt them."""
    names = []
    for name, module in base.named_modules():
        has_own_forward = isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward
        if has_own_forward and type(module).__name__ not in QUANTISED:
            weight: Any = module.weight
            inputs: Any = module.in_features
            x = torch.zeros(1, inputs, dtype=weight.dtype, device=weight.device)
            try:
                fits = isinstance(module(x), torch.Tensor)
            except (RuntimeError, TypeError, ValueError):
                fits = False
            if not fits:
                names.append(name.removesuffix(".base_layer"))
    return names


def forget_role(base: nn.Module, role: str) -> None:
    """Take a role out of the layers, and the layers that hold no other role out of the base."""
    for layer in lora_layers(base).values():
        layer.delete_adapter(role)
    remove_layers(base, only_empty=True)


def remove_layers(base: nn.Module, *, only_empty: bool = False) -> None:
    """Put the base's own layers back in the place of LoRA's, or of those that hold no role any more."""
    for name, layer in reversed(lora_layers(base).items()):  # of several around one layer, the inner ones first
        if not (only_empty and layer.r):
            parent, _, last = name.rpartition(".")
            setattr(base.get_submodule(parent), last, layer.base_layer)


# -- a role's tensors --------------------------------------------------------------------------------------------------

def lora_layers(base: nn.Module) -> dict[str, Any]:
    """The LoRA layers of a base under their names in it."""
    return {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}


def role_parts(layer: Any, role: str) -> Iterator[tuple[str, Any]]:
    """(kind, container) for each of a layer's containers that holds something for a role. Kinds are PEFT's, such as
    `lora_A`."""
    for kind in LoraLayer.adapter_layer_names:
        container = getattr(layer, kind)
        if role in container:
            yield kind, container


def role_parameters(base: nn.Module, role: str) -> dict[str, nn.Parameter]:
    """The parameters of a role's adapter, under the names that PEFT's files give them in the base."""
    parameters = {}
    for name, layer in lora_layers(base).items():
        for kind, container in role_parts(layer, role):
            part = container[role]
            if isinstance(part, nn.Parameter):
                parameters[f"{name}.{kind}"] = part
            elif kind == "lora_magnitude_vector":  # DoRA's; its files are older than the module that holds it now
                parameters[f"{name}.{kind}"] = part.weight
            else:
                parameters.update({f"{name}.{kind}.{key}": value for key, value in part.named_parameters()})
    return parameters


@torch.no_grad()
def make_room(base: nn.Module, role: str, device: torch.device) -> None:
    """Give memory on `device`, in fp32, to a role's parameters that were made without any."""
    for layer in lora_layers(base).values():
        for _, container in role_parts(layer, role):
            part = container[role]
            if isinstance(part, nn.Parameter):
                container[role] = nn.Parameter(torch.empty(part.shape, dtype=torch.float32, device=device))
            else:
                part.to_empty(device=device).float()


# -- the forward pass --------------------------------------------------------------------------------------------------

def speed_up(layer: Any) -> None:
    """Let a LoRA layer add its product in one pass over the output, in the base's dtype, instead of three.

    Layers of other kinds keep PEFT's forward pass.
    """
    if is_linear(layer):
        layer.forward = types.MethodType(lora_forward, layer)


def is_linear(layer: Any) -> bool:
    """Whether a LoRA layer adapts a linear layer, in full precision or in 4 bits."""
    return isinstance(layer, LoraLayer) and type(layer).__name__ in PLAIN


def is_plain(layer: Any, role: str) -> bool:
    """Whether a layer of `is_linear` computes `base(x) + scaling * B(A(x))` for a role: no DoRA, bias or dropout."""
    return (role not in layer.lora_variant and not layer.lora_bias[role]
            and isinstance(layer.lora_dropout[role], nn.Identity))


def roles_are_plain(base: nn.Module) -> bool:
    """Whether the role in use does nothing but add products to the weights of linear layers. Dropout is off, so it does
    not count."""
    for layer in lora_layers(base).values():
        for role in [] if layer.disable_adapters else layer.active_adapters:
            has_role = any(True for _ in role_parts(layer, role))
            if has_role and (not is_linear(layer) or role in layer.lora_variant or layer.lora_bias[role]):
                return False
    return True


def lora_forward(layer: Any, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    """`base(x) + scaling * B(A(x))` for the one adapter in use: [..., in] -> [..., out].

    Adapters are kept in fp32 and multiplied in the base's dtype. What is not plain LoRA (DoRA, dropout) goes through
    PEFT.
    """
    if layer.disable_adapters:
        return layer.base_layer(x, *args, **options)
    role, = layer.active_adapters
    if role not in layer.lora_A:
        return layer.base_layer(x, *args, **options)
    if not is_plain(layer, role):
        return type(layer).forward(layer, x, *args, **options)
    out = layer.base_layer(x, *args, **options)
    down = layer.lora_A[role].weight.to(out.dtype)
    up = layer.lora_B[role].weight.to(out.dtype)
    low = F.linear(x.to(out.dtype), down).flatten(0, -2)
    return torch.addmm(out.flatten(0, -2), low, up.T, alpha=layer.scaling[role]).view(out.shape)
