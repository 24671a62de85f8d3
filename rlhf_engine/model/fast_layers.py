"""Layers of stock models computed with fewer passes over memory: LoRA's sum, RMS norms, and on a CPU attention over short rows and
4-bit layers.

They give what PEFT, PyTorch and bitsandbytes give, to rounding; tests hold them against each other. Measured in benchmarks/README.md.
"""

import functools
import types

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SMALL = 100_000_000
"""Parameters up to which a CPU trades memory for time: it keeps 4-bit weights unpacked, too, and decodes with a copy in fp32."""
ATTENTION = "short_rows"
SHORT = 256
"""Positions up to which plain products beat PyTorch's CPU kernel in bf16, whose backward pass is four times slower there."""
MASKED = 1024
"""The same where a mask has to be added, with which that kernel skips nothing."""


def attend(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
           scaling: float | None = None, **options) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [B, H, T, d], key and value [B, G, S, d] -> [B, T, H, d].

    Whole rows of bf16 on a CPU go through plain products, with a mask if it is one to add (`shared.pack`), all else through PyTorch's
    fused attention. The choice hangs on shapes alone, never on gradients: scoring and training have to give the same log-probabilities.
    """
    rows, heads, length, width = query.shape
    longest = SHORT if attention_mask is None else MASKED if attention_mask.dtype == query.dtype else 0
    if (query.dtype != torch.bfloat16 or query.device.type != "cpu" or not 1 < length <= longest or key.shape[2] != length
            or options.get("dropout")):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    shared = heads // key.shape[1]
    query, key, value = (x.reshape(-1, length, width) for x in (query, repeat_kv(key, shared), repeat_kv(value, shared)))
    if attention_mask is None:
        hidden = torch.full((length, length), torch.finfo(query.dtype).min, dtype=query.dtype).triu(1)
    else:
        hidden = attention_mask.expand(rows, heads, length, length).reshape(-1, length, length)
    scores = torch.baddbmm(hidden, query, key.transpose(1, 2), alpha=width ** -0.5 if scaling is None else scaling)
    seen = torch.bmm(scores.softmax(-1), value)  # softmax of bf16 is computed in fp32 inside
    return seen.view(rows, heads, length, width).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class FrozenNorm(torch.autograd.Function):
    """RMS norm [..., d] of Zhang & Sennrich 2019 with a weight that is not trained, as Llama's: the mean square in fp32, all else in the
    dtype of `x`. Its backward pass reads two tensors where autograd reads six."""

    @staticmethod
    def forward(ctx, x, weight, epsilon):
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normed = (wide * scale).to(x.dtype)
        ctx.save_for_backward(normed, scale, weight)
        return weight * normed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        normed, scale, weight = ctx.saved_tensors
        grad, wide = (grad * weight).float(), normed.float()
        return ((grad - wide * (grad * wide).mean(-1, keepdim=True)) * scale).to(normed.dtype), None, None


def use_frozen_norms(base: nn.Module) -> None:
    """Let the norms of the Llama family use `FrozenNorm`. Others have the same name and another formula (Gemma adds 1 to the weight)."""
    for module in base.modules():
        if type(module).__name__ in ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"):
            module.forward = functools.partial(normed, module.weight, module.variance_epsilon)


def normed(weight: torch.Tensor, epsilon: float, hidden_states: torch.Tensor) -> torch.Tensor:
    return FrozenNorm.apply(hidden_states, weight, epsilon)


def use_short_rows(base: nn.Module) -> None:
    """Let a model on a CPU that uses PyTorch's attention use `attend`."""
    if base.device.type == "cpu" and base.config._attn_implementation == "sdpa":
        base.set_attn_implementation(ATTENTION)


def is_small(base: nn.Module) -> bool:
    """Whether a model on a CPU is small enough to hold twice."""
    return base.device.type == "cpu" and base.num_parameters() <= SMALL


def unpack(base: nn.Module) -> None:
    """Let the 4-bit layers of a small model on a CPU multiply with weights that are unpacked once instead of in every pass."""
    for layer in base.modules():
        if type(layer).__name__ == "Linear4bit":
            layer.forward = functools.partial(unpacked, dequantize_module_weight(layer).to(torch.bfloat16), layer.bias)


def unpacked(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype)).to(x.dtype)


def speed_up(layer: nn.Module) -> None:
    """Let a LoRA layer add its product in one pass over the output, in the base's dtype, instead of three."""
    if isinstance(layer, LoraLayer) and hasattr(layer.get_base_layer(), "weight") and not isinstance(layer.get_base_layer(), nn.Embedding):
        layer.forward = types.MethodType(lora_forward, layer)


def lora_forward(layer: LoraLayer, x: torch.Tensor, *args, **options) -> torch.Tensor:
    """`base(x) + scaling * B(A(x))` for the one adapter in use, [..., in] -> [..., out].

    Adapters are kept in fp32 and multiplied in the base's dtype. What is not plain LoRA (DoRA, dropout) goes through PEFT.
    """
    if layer.disable_adapters:
        return layer.base_layer(x, *args, **options)
    role, = layer.active_adapters
    if role not in layer.lora_A:
        return layer.base_layer(x, *args, **options)
    if role in layer.lora_variant or layer.lora_bias[role] or not isinstance(layer.lora_dropout[role], nn.Identity):
        return type(layer).forward(layer, x, *args, **options)
    out = layer.base_layer(x, *args, **options)
    down, up = (part[role].weight.to(out.dtype) for part in (layer.lora_A, layer.lora_B))
    low = F.linear(x.to(out.dtype), down).flatten(0, -2)
    return torch.addmm(out.flatten(0, -2), low, up.T, alpha=layer.scaling[role]).view(out.shape)
