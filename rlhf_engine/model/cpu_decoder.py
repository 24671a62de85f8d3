"""A decoder for models of the Llama family on a CPU, where thin batches read many weights for little arithmetic.

It holds a copy of the weights in a layout that is read fast (`decoding.weights`), with projections of the same input
joined, and a KV cache of fixed size. It never touches the base itself. Whether it computes what the model computes is
measured when a model is first decoded. A model that it does not fit, or whose numbers it misses, is decoded by
transformers instead.
"""

import math
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from rlhf_engine.model.batching import out_of_memory
from rlhf_engine.model.decoding.products import can_pack
from rlhf_engine.model.decoding.weights import Layer, read_weights
from rlhf_engine.model.fast_layers import is_packable, is_small
from rlhf_engine.model.lora.layers import roles_are_plain

BLOCKS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
"""Classes of transformers' blocks that this decoder computes."""
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embeddings that do not depend on the length of the text."""
TOLERANCE, ROUNDED = 0.02, 0.05
"""Relative error of the logits that the model's own bf16 and 4-bit arithmetic explains (in fp32 it is below 1e-4), and
that two passes in bf16 explain, where the decoder rounds as well."""
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
    """Whether a model is on the CPU, small enough for a copy of its weights, and built as `CpuDecoder` expects."""
    config, decoder = base.config.get_text_config(), base.get_decoder()
    layers = getattr(decoder, "layers", None)
    if not layers or not (is_small(base) or (is_packable(base) and can_pack(base.dtype))):
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
    tolerance = TOLERANCE if after_prompt.dtype == torch.float32 else ROUNDED
    found, truth = torch.cat([after_prompt, after_token]).float(), torch.cat([expected[:, 7], expected[:, 8]])
    return bool((found - truth).norm() <= tolerance * truth.norm())


# -- the forward pass --------------------------------------------------------------------------------------------------

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
        self.weights = read_weights(base, rows)
        cos, sin = decoder.rotary_emb(torch.zeros(1), torch.arange(length)[None])
        self.rotation = torch.complex(cos, sin)[0, :, None, :self.head_dim // 2]
        """[length, 1, head_dim / 2]"""
        dtype = torch.float32 if base.dtype == torch.float32 else torch.bfloat16
        self.cache = torch.zeros(len(decoder.layers), rows, 2, self.groups, length, self.head_dim, dtype=dtype)
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
        x = F.embedding(ids.flatten(), self.weights.embedding)  # [B * T, d] from here on
        for layer, cache in zip(self.weights.layers, self.cache):
            states = self._normed(x, layer.input_norm)
            x = layer.out(self._attend(layer, states, cache, rotation, mask, start, end), onto=x)
            gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = layer.down(F.silu(gate).mul_(up), onto=x)
        self.done = end
        return self.weights.output(self._normed(x.view(*ids.shape, -1)[:, -1], self.weights.norm))

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows (an index vector, which may repeat rows) and drop the others."""
        if len(rows) > self.cache.shape[1]:
            self.weights = self.weights.pack()
        self.cache = self.cache[:, rows]
        self.hidden = self.hidden[rows]
        self.padded = bool(self.hidden.any())

    def _normed(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """RMS norm over the last dimension, in fp32 inside. PyTorch's own takes seven passes on a CPU."""
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        normed = (wide * torch.addcmul(self.epsilon, length, length, value=1 / x.shape[-1]).rsqrt_()).to(x.dtype)
        return normed if weight is None else normed.mul_(weight)

    def _mask(self, start: int, end: int) -> torch.Tensor | None:
        """[B or 1, 1, T, end], true where a token may attend; None if that is everywhere.

        T is repeated for each of the heads that share keys and values, except where it is 1.
        """
        width = end - start
        shared = self.heads // self.groups
        if width == 1:  # the newest token is never padding
            return ~self.hidden[:, None, None, :end] if self.padded else None
        causal = torch.ones(width, end, dtype=torch.bool).tril(start)
        if not self.padded:
            return causal.repeat(shared, 1)[None, None]
        # A padding token attends to itself: a softmax over nothing is NaN, which would spread to real rows' caches.
        visible = causal & ~self.hidden[:, None, None, :end] | torch.eye(end, dtype=torch.bool)[start:]
        return visible.repeat(1, 1, shared, 1)

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
            query.copy_(self._normed(query, layer.query_norm))
            key.copy_(self._normed(key, layer.key_norm))
        rotate(qkv[:, :, :heads + groups], rotation)
        cache[:, :, :, start:end] = qkv[:, :, heads:].view(rows, width, 2, groups, head_dim).permute(0, 2, 3, 1, 4)
        keys, values = cache[:, :, :, :end].unbind(1)
        # The heads that share keys and values become further queries of one head, so that these are read once.
        query = qkv[:, :, :heads].view(rows, width, groups, -1, head_dim).permute(0, 2, 3, 1, 4)
        query = query.reshape(rows, groups, -1, head_dim).to(cache.dtype)
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=self.scale)
        mixed = mixed.view(rows, groups, -1, width, head_dim).permute(0, 3, 1, 2, 4)
        return mixed.reshape(rows * width, -1).to(x.dtype)


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> None:
    """Turn the pairs of x [B, T, heads, head_dim] in place by the angles of `rotation` [B, T, 1, head_dim / 2]."""
    wide = x.float()
    torch.view_as_complex(wide.unflatten(-1, (-1, 2))).mul_(rotation)
    if wide.dtype != x.dtype:
        x.copy_(wide)
