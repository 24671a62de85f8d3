"""A decoder for small models of the Llama family on a CPU, where a token costs more Python than arithmetic.

It holds a copy of the base in fp32, with the role in use added and with projections of the same input joined, and a KV
cache of fixed size. It never touches the base itself. Whether it computes what the model computes is measured when a
model is first decoded. A model that it does not fit, or whose numbers it misses, is decoded by transformers instead.
"""

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from rlhf_engine.model.batching import out_of_memory
from rlhf_engine.model.fast_layers import is_small
from rlhf_engine.model.lora.layers import roles_are_plain

BLOCKS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
"""Classes of transformers' blocks that this decoder computes."""
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embeddings that do not depend on the length of the text."""
TOLERANCE = 0.02
"""Relative error of the logits that bf16 and 4-bit arithmetic explain (in fp32 it is below 1e-4)."""
VERDICTS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a base may be decoded by `CpuDecoder`, once that was measured."""


def cpu_decoder(base: Any, rows: int, length: int) -> "CpuDecoder | None":
    """A decoder under the role in use, for `rows` rows of up to `length` tokens. None if transformers must decode.

    The first call on a base measures which it is. `CpuDecoder` lets every token see all tokens before it, so rows that
    are longer than an attention window of the model are decoded by transformers. So is a role that does more than add
    products to linear layers.
    """
    if length > smallest_window(base) or not roles_are_plain(base):
        return None
    if base not in VERDICTS:
        VERDICTS[base] = supports(base) and matches_model(base)
    return CpuDecoder(base, rows, length) if VERDICTS[base] else None


def smallest_window(base: Any) -> float:
    """Tokens of the shortest attention window or chunk that a model's configuration or a layer of it names; infinity
    without one.

    A configuration may name a window that no layer uses. Its rows are then decoded by transformers for nothing.
    """
    settings = base.config.get_text_config().to_dict()
    sizes = [value for name, value in settings.items()
             if ("window" in name or "chunk" in name) and "layers" not in name]
    sizes += [getattr(module, "sliding_window", None) for module in base.modules()]
    return min((size for size in sizes if type(size) is int and size > 0), default=math.inf)


def supports(base: Any) -> bool:
    """Whether a model is small, on the CPU, and built as `CpuDecoder` expects."""
    config, decoder = base.config.get_text_config(), base.get_decoder()
    layers = getattr(decoder, "layers", None)
    if not layers or not is_small(base):  # in a larger model arithmetic outweighs Python
        return False
    if any(type(layer).__name__ not in BLOCKS for layer in layers):
        return False
    rope = getattr(getattr(decoder, "rotary_emb", None), "rope_type", None)
    return rope in STATIC_ROPE and config.hidden_act == "silu"


@torch.no_grad()
def matches_model(base: Any) -> bool:
    """Whether the logits are the model's own, at the end of a prompt with padding and after one more token.

    False for a model whose weights have other shapes than `CpuDecoder` expects.
    """
    vocabulary = base.get_output_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = base(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits.float()
    try:
        decoder = CpuDecoder(base, 2, 9)
        after_prompt = decoder(ids[:, :8], positions[:, :8], mask[:, :8] == 0)
        after_token = decoder(ids[:, 8:], positions[:, 8:])
    except (RuntimeError, AttributeError, TypeError) as error:  # a rotary embedding of half the head, for example
        if out_of_memory(error):
            raise
        return False
    return is_close(after_prompt, expected[:, 7]) and is_close(after_token, expected[:, 8])


def is_close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors differ by less than `TOLERANCE`, relative to the second."""
    return bool((ours - theirs).norm() <= TOLERANCE * theirs.norm())


# -- the forward pass --------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Linear:
    """`x @ weight + bias`. The weight is stored as [in, out], which thin batches multiply faster."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        """[N, in] -> [N, out], added to `onto` [N, out] if that is given."""
        if self.bias is not None:
            onto = self.bias if onto is None else onto + self.bias
        return x @ self.weight if onto is None else torch.addmm(onto, x, self.weight)


@dataclass(frozen=True)
class Layer:
    """Weights of one block. The norms before `qkv` and `gate_up` are multiplied into those."""

    qkv: Linear
    query_norm: torch.Tensor | None
    """Qwen3 has norms of queries and keys."""
    key_norm: torch.Tensor | None
    out: Linear
    gate_up: Linear
    down: Linear


class CpuDecoder:
    """The forward pass of a model under one role, token by token, with a KV cache for `rows` rows of `length`
    positions.

    `cpu_decoder` makes it in the scope of a role; later changes to the role do not reach it. Queries and keys hold the
    two parts of each rotated pair side by side, so that the rotation is one complex product. Their scalar products
    stay the same.
    """

    @torch.no_grad()
    def __init__(self, base: Any, rows: int, length: int):
        decoder, config = base.get_decoder(), base.config.get_text_config()
        attention = decoder.layers[0].self_attn
        self.head_dim = attention.head_dim
        self.scale = attention.scaling
        self.epsilon = torch.tensor(config.rms_norm_eps)
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        """Numbers of query heads, and of key and value heads."""
        self.layers = [read_layer(layer) for layer in decoder.layers]
        self.embedding = base.get_input_embeddings().weight.float()
        self.output = join_linear(base.get_output_embeddings(), norm=decoder.norm)
        cos, sin = decoder.rotary_emb(torch.zeros(1), torch.arange(length)[None])
        self.rotation = torch.complex(cos, sin)[0, :, None, :self.head_dim // 2]
        """[length, 1, head_dim / 2]"""
        dtype = torch.float32 if base.dtype == torch.float32 else torch.bfloat16
        self.cache = torch.zeros(len(self.layers), rows, 2, self.groups, length, self.head_dim, dtype=dtype)
        self.hidden = torch.zeros(rows, length, dtype=torch.bool)
        """[B, length]: true at the padding on the left, which no token may attend to."""
        self.padded = False
        self.done = 0
        """Tokens read so far."""

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, V] after the next tokens `ids` [B, T] at `positions` [B, T]. `hidden` [B, T] is true at
        padding."""
        start, end = self.done, self.done + ids.shape[1]
        if hidden is not None:
            self.hidden[:, start:end] = hidden
            self.padded = bool(self.hidden.any())
        rotation, mask = self.rotation[positions], self._mask(start, end)
        x = F.embedding(ids.flatten(), self.embedding)  # [B * T, d] from here on
        for layer, cache in zip(self.layers, self.cache):
            x = layer.out(self._attend(layer, self._normed(x), cache, rotation, mask, start, end), onto=x)
            gate, up = layer.gate_up(self._normed(x)).chunk(2, dim=-1)
            x = layer.down(F.silu(gate).mul_(up), onto=x)
        self.done = end
        return self.output(self._normed(x.view(*ids.shape, -1)[:, -1]))

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows (an index vector, which may repeat rows) and drop the others."""
        self.cache = self.cache[:, rows]
        self.hidden = self.hidden[rows]
        self.padded = bool(self.hidden.any())

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        """RMS norm without its weight over the last dimension. PyTorch's own takes seven passes on a CPU."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self.epsilon, length, length, value=1 / x.shape[-1]).rsqrt_()

    def _mask(self, start: int, end: int) -> torch.Tensor | None:
        """[B or 1, 1, T, end], true where a token may attend; None if that is everywhere."""
        width = end - start
        if not self.padded:
            return None if width == 1 else torch.ones(width, end, dtype=torch.bool).tril(start)[None, None]
        if width == 1:  # the newest token is never padding
            return ~self.hidden[:, None, None, :end]
        # A padding token attends to itself: a softmax over nothing is NaN, which would spread to real rows' caches.
        visible = torch.ones(width, end, dtype=torch.bool).tril(start) & ~self.hidden[:, None, None, :end]
        return visible | torch.eye(end, dtype=torch.bool)[start:]

    def _attend(self, layer: Layer, x: torch.Tensor, cache: torch.Tensor, rotation: torch.Tensor,
                mask: torch.Tensor | None, start: int, end: int) -> torch.Tensor:
        """Attention of the tokens from `start` to `end`: x [B * T, d] -> [B * T, heads * head_dim].

        Writes their keys and values into `cache` [B, 2, groups, length, head_dim].
        """
        rows, width = rotation.shape[:2]
        heads, groups, head_dim = self.heads, self.groups, self.head_dim
        qkv = layer.qkv(x).view(rows, width, -1, head_dim)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = qkv[:, :, :heads], qkv[:, :, heads:heads + groups]
            query.copy_(self._normed(query) * layer.query_norm)
            key.copy_(self._normed(key) * layer.key_norm)
        pairs = torch.view_as_complex(qkv.view(rows, width, -1, head_dim // 2, 2))
        pairs[:, :, :heads + groups].mul_(rotation)
        cache[:, :, :, start:end] = qkv[:, :, heads:].view(rows, width, 2, groups, head_dim).permute(0, 2, 3, 1, 4)
        keys, values = cache[:, :, :, :end].unbind(1)
        query = qkv[:, :, :heads].transpose(1, 2).to(cache.dtype)
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=self.scale,
                                               enable_gqa=groups < heads)
        return mixed.transpose(1, 2).reshape(rows * width, -1).to(x.dtype)


# -- reading the weights -----------------------------------------------------------------------------------------------

def read_layer(layer: Any) -> Layer:
    """The weights of one of transformers' blocks, with the role in use added."""
    attention, mlp = layer.self_attn, layer.mlp
    head_dim = attention.head_dim
    return Layer(
        qkv=join_linear(attention.q_proj, attention.k_proj, attention.v_proj, norm=layer.input_layernorm,
                        head_dim=head_dim, rotated=2),
        query_norm=read_norm(getattr(attention, "q_norm", None), head_dim),
        key_norm=read_norm(getattr(attention, "k_norm", None), head_dim),
        out=join_linear(attention.o_proj),
        gate_up=join_linear(mlp.gate_proj, mlp.up_proj, norm=layer.post_attention_layernorm),
        down=join_linear(mlp.down_proj))


def read_norm(norm: Any, head_dim: int) -> torch.Tensor | None:
    """The weight [head_dim] of a norm of queries or keys, in the order of `interleave_rotary`."""
    return interleave_rotary(norm.weight.float(), head_dim) if norm else None


def interleave_rotary(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """[..., heads * head_dim] with the parts of a rotated pair half a head apart -> the same with them side by side."""
    return x.unflatten(-1, (-1, 2, head_dim // 2)).transpose(-1, -2).flatten(-3)


def join_linear(*modules: Any, norm: Any = None, head_dim: int = 0, rotated: int = 0) -> Linear:
    """Linear layers of the same input as one layer in fp32, with the role in use added.

    Args:
        modules: the linear layers.
        norm: a norm before them, whose weight is multiplied in.
        head_dim: size of a head.
        rotated: the outputs of this many of the first modules are put in the order of `interleave_rotary`.
    """
    sizes = [module.out_features for module in modules]
    weight = torch.empty(modules[0].in_features, sum(sizes))
    for i, (module, part) in enumerate(zip(modules, weight.split(sizes, dim=1))):
        merged = merged_weight(module)
        part.copy_(interleave_rotary(merged, head_dim) if i < rotated else merged)
    if norm is not None:
        weight *= norm.weight[:, None]
    biases = [getattr(module, "base_layer", module).bias for module in modules]
    if all(bias is None for bias in biases):
        return Linear(weight, None)
    for i, size in enumerate(sizes):
        bias = torch.zeros(size) if biases[i] is None else biases[i].float()
        biases[i] = interleave_rotary(bias, head_dim) if i < rotated else bias
    return Linear(weight, torch.cat(biases))


def merged_weight(module: Any) -> torch.Tensor:
    """The weight of a linear layer with the role in use added, in fp32, as [in, out]."""
    if not isinstance(module, LoraLayer):
        return dequantize_module_weight(module).float().T
    layer: Any = module  # PEFT declares `get_delta_weight` on each subclass, not on LoraLayer
    weight = dequantize_module_weight(layer.get_base_layer()).float()
    for adapter in [] if layer.disable_adapters else layer.active_adapters:
        if adapter in layer.lora_A:  # a role may adapt only some layers
            weight = weight + layer.get_delta_weight(adapter)
    return weight.T
