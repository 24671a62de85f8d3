"""A lean decoder for small models of the Llama family on a CPU: where a token costs more Python than arithmetic.

It holds the base with the role in use added, in fp32, with the projections that read the same input joined, and a KV cache of
fixed size. The base itself is never touched. Whether it computes what the model computes is measured when a model is
first decoded; a model that it does not fit, or whose numbers it misses, goes through transformers instead.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn

LARGEST = 100_000_000
"""Parameters of the largest model worth a copy in fp32; beyond it arithmetic outweighs Python."""
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
TOLERANCE = 0.02
"""Relative error of the logits that bf16 and 4-bit arithmetic explain (in fp32 it is below 1e-4)."""


@dataclass(frozen=True)
class Layer:
    """Weights of one block. Linear layers are (weight, bias or None); `query_norm` and `key_norm` are Qwen3's."""

    attention_norm: torch.Tensor
    qkv: tuple
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    out: tuple
    mlp_norm: torch.Tensor
    gate_up: tuple
    down: tuple


class LeanDecoder:
    """The forward pass of a model under one role, token by token, with a KV cache for `rows` rows of `length` positions.

    Made by `lean_decoder`, in the scope of a role; later changes to the role do not reach it.
    """

    @torch.autocast("cpu", enabled=False)
    def __init__(self, base, rows: int, length: int):
        decoder, config = base.get_decoder(), base.config.get_text_config()
        attention = decoder.layers[0].self_attn
        self.head, self.epsilon, self.scale = attention.head_dim, config.rms_norm_eps, attention.scaling
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.layers = [read_layer(layer) for layer in decoder.layers]
        self.embedding = base.get_input_embeddings().weight.float()
        self.norm = decoder.norm.weight.float()
        self.output = linear(base.get_output_embeddings())
        cos, sin = decoder.rotary_emb(torch.zeros(1), torch.arange(length)[None])
        sin[..., :self.head // 2] *= -1  # so that rotating is x * cos + swapped halves of x * sin
        self.cos, self.sin = cos[0], sin[0]
        self.cache = torch.zeros(len(self.layers), 2, rows, self.groups, length, self.head)
        self.hidden = torch.zeros(rows, length, dtype=torch.bool)
        """[B, length]: positions that nobody may look at, the padding on the left."""
        self.done = 0

    @torch.autocast("cpu", enabled=False)
    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, V] after the next tokens `ids` [B, T] at `positions` [B, T]; `hidden` [B, T] marks padding."""
        start, end = self.done, self.done + ids.shape[1]
        if hidden is not None:
            self.hidden[:, start:end] = hidden
        cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]  # [B, T, 1, d]
        mask = self._mask(start, end)
        x = F.embedding(ids, self.embedding)
        for layer, (keys, values) in zip(self.layers, self.cache):
            x = x + F.linear(self._attend(layer, F.rms_norm(x, x.shape[-1:], layer.attention_norm, self.epsilon), keys, values,
                                          cos, sin, mask, start, end), *layer.out)
            gate, up = F.linear(F.rms_norm(x, x.shape[-1:], layer.mlp_norm, self.epsilon), *layer.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate).mul_(up), *layer.down)
        self.done = end
        return F.linear(F.rms_norm(x[:, -1], x.shape[-1:], self.norm, self.epsilon), *self.output)

    def keep(self, rows: torch.Tensor) -> None:
        """Let go of all rows but these."""
        self.cache = self.cache[:, :, rows]
        self.hidden = self.hidden[rows]

    def _mask(self, start: int, end: int) -> torch.Tensor | None:
        """[B or 1, 1, T, end], true where a token may look; None if everywhere."""
        width, padded = end - start, self.hidden[:, :end].any()
        if width == 1 and not padded:
            return None
        mask = torch.ones(width, end, dtype=torch.bool).tril(start)[None, None]
        if padded:
            # A padding token looks at itself, for a softmax over nothing is NaN, which would spread to real rows' caches.
            mask = mask & ~self.hidden[:, None, None, :end] | torch.eye(end, dtype=torch.bool)[start:][None, None]
        return mask

    def _attend(self, layer: Layer, x: torch.Tensor, keys, values, cos, sin, mask, start: int, end: int) -> torch.Tensor:
        rows, width, _ = x.shape
        qkv = F.linear(x, *layer.qkv).view(rows, width, self.heads + 2 * self.groups, self.head)
        query, key, value = qkv.split((self.heads, self.groups, self.groups), dim=2)
        if layer.query_norm is not None:
            query = F.rms_norm(query, (self.head,), layer.query_norm, self.epsilon)
            key = F.rms_norm(key, (self.head,), layer.key_norm, self.epsilon)
        query = torch.addcmul(query * cos, query.roll(self.head // 2, -1), sin)
        keys[:, :, start:end] = torch.addcmul(key * cos, key.roll(self.head // 2, -1), sin).transpose(1, 2)
        values[:, :, start:end] = value.transpose(1, 2)
        seen = F.scaled_dot_product_attention(query.transpose(1, 2), keys[:, :, :end], values[:, :, :end], attn_mask=mask,
                                              scale=self.scale, enable_gqa=self.groups < self.heads)
        return seen.transpose(1, 2).reshape(rows, width, -1)


def fits(base) -> bool:
    """Whether a model is small, on the CPU, and built as the lean decoder expects."""
    config, decoder = base.config.get_text_config(), base.get_decoder()
    layers = getattr(decoder, "layers", None)
    if not layers or base.device.type != "cpu" or sum(p.numel() for p in base.parameters()) > LARGEST:
        return False
    blocks = all(type(layer).__name__ in ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
                 and getattr(layer.self_attn, "sliding_window", None) is None for layer in layers)
    rope = getattr(getattr(decoder, "rotary_emb", None), "rope_type", None)
    return blocks and rope in STATIC_ROPE and config.hidden_act == "silu"


def lean_decoder(base, rows: int, length: int) -> LeanDecoder | None:
    """A decoder under the role in use, or None where transformers has to do it. The first call on a model measures whether it may."""
    if not hasattr(base, "lean_fits"):
        base.lean_fits = fits(base) and agrees(base)
    return LeanDecoder(base, rows, length) if base.lean_fits else None


@torch.no_grad()
def agrees(base) -> bool:
    """Whether the logits are the model's own, in a prompt with padding and for a token after it."""
    vocabulary = base.get_output_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = base(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits.float()
    lean = LeanDecoder(base, 2, 9)
    ours = [lean(ids[:, :8], positions[:, :8], mask[:, :8] == 0), lean(ids[:, 8:], positions[:, 8:])]
    return all((mine - theirs).norm() <= TOLERANCE * theirs.norm() for mine, theirs in zip(ours, expected[:, 7:].unbind(1)))


def read_layer(layer) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    query_norm, key_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return Layer(layer.input_layernorm.weight.float(), linear(attention.q_proj, attention.k_proj, attention.v_proj),
                 query_norm.weight.float() if query_norm else None, key_norm.weight.float() if key_norm else None,
                 linear(attention.o_proj), layer.post_attention_layernorm.weight.float(),
                 linear(mlp.gate_proj, mlp.up_proj), linear(mlp.down_proj))


@torch.no_grad()
def linear(*modules: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(weight, bias) in fp32 of linear layers that read the same input, one below the other, with the adapter in use added."""
    weights, biases, has_bias = [], [], False
    for module in modules:
        base = module.get_base_layer() if isinstance(module, LoraLayer) else module
        weight = dequantize_module_weight(base).float()
        if isinstance(module, LoraLayer) and not module.disable_adapters:
            for adapter in module.active_adapters:
                weight = weight + module.get_delta_weight(adapter)
        weights.append(weight)
        biases.append(torch.zeros(len(weight)) if base.bias is None else base.bias.float())
        has_bias |= base.bias is not None
    return torch.cat(weights), torch.cat(biases) if has_bias else None
