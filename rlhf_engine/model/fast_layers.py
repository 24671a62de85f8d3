"""Layers of stock models, computed with fewer passes over memory: RMS norms, and on a CPU attention over short rows and
4-bit layers.

They give what transformers, PyTorch and bitsandbytes give, to rounding; tests compare them. benchmarks/README.md has
the measurements.
"""

import functools
import inspect
import re
import sys
from typing import Any

import torch
import torch.nn.functional as F
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SMALL = 100_000_000
"""Parameters up to which memory is traded for time on a CPU: 4-bit weights are also kept unpacked, and a copy in fp32
decodes whatever the format of the base is."""
PACKED = 5
"""Times `SMALL`: parameters up to which a packed copy of the base decodes on a CPU, in the format of the base."""
ATTENTION = "short_rows"
"""Name under which transformers finds `attend`."""
SHORT = 256
"""Positions up to which plain products are faster than PyTorch's CPU kernel in bf16, whose backward pass is four times
slower there."""
MASKED = 1024
"""The same where a mask has to be added: with one, that kernel skips nothing."""
PLAIN_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Norms that `FrozenNorm` computes. Others have similar names and another formula (Gemma adds 1 to the weight)."""


def is_small(base: Any) -> bool:
    """Whether a model is on a CPU and small enough to hold twice."""
    return base.device.type == "cpu" and base.num_parameters() <= SMALL


def is_packable(base: Any) -> bool:
    """Whether a model is on a CPU, in a format that is packed, and small enough for a packed copy of its weights."""
    on_cpu = base.device.type == "cpu" and base.dtype in (torch.float32, torch.bfloat16)
    return on_cpu and base.num_parameters() <= PACKED * SMALL


# -- attention ---------------------------------------------------------------------------------------------------------

def use_short_rows(base: Any) -> None:
    """Let a model on a CPU that uses PyTorch's attention use `attend`."""
    if base.device.type == "cpu" and base.config._attn_implementation == "sdpa" and not names_its_attention(base):
        base.set_attn_implementation(ATTENTION)


def names_its_attention(base: Any) -> bool:
    """Whether a model's code asks if its attention is called "sdpa".

    DeepSeek-V3.2 and its kin then mask what their index left out, which shows only in rows longer than the index takes.
    Under another name for the same attention they would not.
    """
    modules = {type(module).__module__ for module in base.modules()}
    sources = [inspect.getsource(sys.modules[name]) for name in modules if name.startswith("transformers.models.")]
    return any(re.search(r"""_attn_implementation.*["']sdpa["']""", source) for source in sources)


def use_stock_layers(base: Any) -> None:
    """Take back what `use_short_rows` and `use_frozen_norms` did."""
    if base.config._attn_implementation == ATTENTION:
        base.set_attn_implementation("sdpa")
    for module in base.modules():
        if type(module).__name__ in PLAIN_NORMS:
            module.__dict__.pop("forward", None)


def attend(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
           attention_mask: torch.Tensor | None, scaling: float | None = None,
           **options: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention in transformers' interface: query [B, H, T, d], key [B, G, S, d], value [B, G, S, v] -> [B, T, H, v].

    Whole rows of bf16 on a CPU go through plain products, also with a mask that is added (`prefix_packing.pack`). All
    else goes through PyTorch's fused attention. The choice depends on shapes alone, never on whether there are
    gradients: scoring and training must give the same log-probabilities.
    """
    rows, heads, length, width = query.shape
    whole_rows = 1 < length <= longest_plain(query, attention_mask) and key.shape[2] == length
    on_cpu = query.dtype == torch.bfloat16 and query.device.type == "cpu"
    if not on_cpu or not whole_rows or options.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    shared = heads // key.shape[1]
    query = query.reshape(-1, length, width)
    key = repeat_kv(key, shared).reshape(-1, length, width)
    value = repeat_kv(value, shared).reshape(-1, length, value.shape[-1])  # DeepSeek's are narrower than its keys
    if attention_mask is None:
        hidden = torch.full((length, length), torch.finfo(query.dtype).min, dtype=query.dtype).triu(1)
    else:
        hidden = attention_mask.expand(rows, heads, length, length).reshape(-1, length, length)
    scores = torch.baddbmm(hidden, query, key.transpose(1, 2), alpha=width ** -0.5 if scaling is None else scaling)
    mixed = torch.bmm(scores.softmax(-1), value)  # inside, softmax of bf16 is computed in fp32
    return mixed.view(rows, heads, length, -1).transpose(1, 2), None


def longest_plain(query: torch.Tensor, attention_mask: torch.Tensor | None) -> int:
    """Positions of the longest row that `attend` computes itself; 0 with a mask that is not one to add."""
    if attention_mask is None:
        return SHORT
    return MASKED if attention_mask.dtype == query.dtype else 0


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


# -- the output layer --------------------------------------------------------------------------------------------------

def use_whole_rows(base: Any) -> None:
    """Let the output layer of a model read its input from one piece of memory.

    A model that computes the logits of the last positions alone cuts them out of the states of all. Of such a cut with
    gaps PyTorch makes one product per row, each with a copy of the whole weight.
    """
    base.get_output_embeddings().register_forward_pre_hook(whole_rows)


def whole_rows(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs of a module, the first of them in one piece."""
    return (inputs[0].contiguous(), *inputs[1:]) if inputs else inputs


# -- norms -------------------------------------------------------------------------------------------------------------

def use_frozen_norms(base: Any) -> None:
    """Let the norms of the Llama family use `FrozenNorm`."""
    for module in base.modules():
        if type(module).__name__ in PLAIN_NORMS:
            module.forward = functools.partial(normed, module.weight, module.variance_epsilon)


def normed(weight: torch.Tensor, epsilon: float, hidden_states: torch.Tensor) -> torch.Tensor:
    """`FrozenNorm` with the arguments in the order of a partial application."""
    return FrozenNorm.apply(hidden_states, weight, epsilon)


class FrozenNorm(torch.autograd.Function):
    """RMS norm [..., d] (Zhang & Sennrich 2019) with a weight that is not trained, computed as in Llama.

    The mean square is in fp32, all else in the dtype of `x`. The backward pass reads two tensors where autograd reads
    six.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.float()
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        result = (wide * scale).to(x.dtype)
        ctx.save_for_backward(result, scale, weight)
        return weight * result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        result, scale, weight = ctx.saved_tensors
        grad, wide = (grad * weight).float(), result.float()
        return ((grad - wide * (grad * wide).mean(-1, keepdim=True)) * scale).to(result.dtype), None, None


# -- 4-bit layers on a CPU ---------------------------------------------------------------------------------------------

def unpack(base: Any) -> None:
    """Unpack the weights of a model's 4-bit layers once, instead of in every pass. For a small model on a CPU."""
    for layer in base.modules():
        if type(layer).__name__ == "Linear4bit":
            weight = dequantize_module_weight(layer).to(torch.bfloat16)
            layer.forward = functools.partial(unpacked_linear, weight, layer.bias)


def unpacked_linear(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """A linear layer [..., in] -> [..., out], computed in the weight's dtype."""
    bias = None if bias is None else bias.to(weight.dtype)
    return F.linear(x.to(weight.dtype), weight, bias).to(x.dtype)
