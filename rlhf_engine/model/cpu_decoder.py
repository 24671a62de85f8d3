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

from rlhf_engine.model.fast_layers import is_small

STATIC_ROPE = ("default", "linear", "llama3", "yarn")
TOLERANCE = 0.02
"""Relative error of the logits that bf16 and 4-bit arithmetic explain (in fp32 it is below 1e-4)."""


@dataclass(frozen=True)
class Linear:
    """`x @ weight + bias`: the weight lies as [in, out], which thin batches multiply faster."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        """[N, in] -> [N, out], added to `onto` [N, out] where there is one."""
        if self.bias is not None:
            onto = self.bias if onto is None else onto + self.bias
        return x @ self.weight if onto is None else torch.addmm(onto, x, self.weight)


@dataclass(frozen=True)
class Layer:
    """Weights of one block. The norms before `qkv` and `gate_up` are inside those; `query_norm` and `key_norm` are Qwen3's."""

    qkv: Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    out: Linear
    gate_up: Linear
    down: Linear


class CpuDecoder:
    """The forward pass of a model under one role, token by token, with a KV cache for `rows` rows of `length` positions.

    Made by `cpu_decoder`, in the scope of a role; later changes to the role do not reach it. Queries and keys hold the two
    parts of each rotated pair side by side, so that rotating is one complex product; their scalar products stay the same.
    """

    @torch.no_grad()
    def __init__(self, base, rows: int, length: int):
        decoder, config = base.get_decoder(), base.config.get_text_config()
        attention = decoder.layers[0].self_attn
        self.head, self.epsilon, self.scale = attention.head_dim, torch.tensor(config.rms_norm_eps), attention.scaling
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.layers = [read_layer(layer) for layer in decoder.layers]
        self.embedding = base.get_input_embeddings().weight.float()
        self.output = linear(base.get_output_embeddings(), norm=decoder.norm)
        cos, sin = decoder.rotary_emb(torch.zeros(1), torch.arange(length)[None])
        self.turn = torch.complex(cos, sin)[0, :, None, :self.head // 2]  # [length, 1, d / 2]
        dtype = torch.float32 if base.dtype == torch.float32 else torch.bfloat16
        self.cache = torch.zeros(len(self.layers), rows, 2, self.groups, length, self.head, dtype=dtype)
        self.hidden = torch.zeros(rows, length, dtype=torch.bool)
        """[B, length]: positions that nobody may look at, the padding on the left."""
        self.padded, self.done = False, 0

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, V] after the next tokens `ids` [B, T] at `positions` [B, T]; `hidden` [B, T] marks padding."""
        start, end = self.done, self.done + ids.shape[1]
        if hidden is not None:
            self.hidden[:, start:end] = hidden
            self.padded = bool(self.hidden.any())
        turn, mask = self.turn[positions], self._mask(start, end)
        x = F.embedding(ids.flatten(), self.embedding)  # [B * T, d] from here on
        for layer, cache in zip(self.layers, self.cache):
            x = layer.out(self._attend(layer, self._normed(x), cache, turn, mask, start, end), onto=x)
            gate, up = layer.gate_up(self._normed(x)).chunk(2, dim=-1)
            x = layer.down(F.silu(gate).mul_(up), onto=x)
        self.done = end
        return self.output(self._normed(x.view(*ids.shape, -1)[:, -1]))

    def keep(self, rows: torch.Tensor) -> None:
        """Let go of all rows but these."""
        self.cache = self.cache[:, rows]
        self.hidden = self.hidden[rows]
        self.padded = bool(self.hidden.any())

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        """RMS norm without its weight over the last dimension; PyTorch's own takes seven passes on a CPU."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self.epsilon, length, length, value=1 / x.shape[-1]).rsqrt_()

    def _mask(self, start: int, end: int) -> torch.Tensor | None:
        """[B or 1, 1, T, end], true where a token may look; None if everywhere."""
        width = end - start
        if not self.padded:
            return None if width == 1 else torch.ones(width, end, dtype=torch.bool).tril(start)[None, None]
        if width == 1:  # the newest token is never padding
            return ~self.hidden[:, None, None, :end]
        # A padding token looks at itself, for a softmax over nothing is NaN, which would spread to real rows' caches.
        seen = torch.ones(width, end, dtype=torch.bool).tril(start) & ~self.hidden[:, None, None, :end]
        return seen | torch.eye(end, dtype=torch.bool)[start:]

    def _attend(self, layer: Layer, x: torch.Tensor, cache, turn, mask, start: int, end: int) -> torch.Tensor:
        """[B * T, d] -> [B * T, heads * d of a head]; writes keys and values into `cache` [B, 2, G, length, d of a head]."""
        rows, width = turn.shape[:2]
        qkv = layer.qkv(x).view(rows, width, -1, self.head)
        if layer.query_norm is not None:
            query, key = qkv[:, :, :self.heads], qkv[:, :, self.heads:self.heads + self.groups]
            query.copy_(self._normed(query) * layer.query_norm)
            key.copy_(self._normed(key) * layer.key_norm)
        torch.view_as_complex(qkv.view(rows, width, -1, self.head // 2, 2))[:, :, :self.heads + self.groups].mul_(turn)
        cache[:, :, :, start:end] = qkv[:, :, self.heads:].view(rows, width, 2, self.groups, self.head).permute(0, 2, 3, 1, 4)
        keys, values = cache[:, :, :, :end].unbind(1)
        query = qkv[:, :, :self.heads].transpose(1, 2).to(cache.dtype)
        seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=self.scale, enable_gqa=self.groups < self.heads)
        return seen.transpose(1, 2).reshape(rows * width, -1).to(x.dtype)


def supports(base) -> bool:
    """Whether a model is small, on the CPU, and built as the lean decoder expects."""
    config, decoder = base.config.get_text_config(), base.get_decoder()
    layers = getattr(decoder, "layers", None)
    if not layers or not is_small(base):  # beyond it arithmetic outweighs Python
        return False
    blocks = all(type(layer).__name__ in ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
                 and getattr(layer.self_attn, "sliding_window", None) is None for layer in layers)
    rope = getattr(getattr(decoder, "rotary_emb", None), "rope_type", None)
    return blocks and rope in STATIC_ROPE and config.hidden_act == "silu"


def cpu_decoder(base, rows: int, length: int) -> CpuDecoder | None:
    """A decoder under the role in use, or None where transformers has to do it. The first call on a model measures whether it may."""
    if not hasattr(base, "lean_fits"):
        base.lean_fits = supports(base) and matches_model(base)
    return CpuDecoder(base, rows, length) if base.lean_fits else None


@torch.no_grad()
def matches_model(base) -> bool:
    """Whether the logits are the model's own, in a prompt with padding and for a token after it."""
    vocabulary = base.get_output_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = base(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits.float()
    lean = CpuDecoder(base, 2, 9)
    ours = [lean(ids[:, :8], positions[:, :8], mask[:, :8] == 0), lean(ids[:, 8:], positions[:, 8:])]
    return all((mine - theirs).norm() <= TOLERANCE * theirs.norm() for mine, theirs in zip(ours, expected[:, 7:].unbind(1)))


def read_layer(layer) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    head = attention.head_dim
    query_norm, key_norm = (interleave_rotary(norm.weight.float(), head) if (norm := getattr(attention, name, None)) else None
                            for name in ("q_norm", "k_norm"))
    return Layer(linear(attention.q_proj, attention.k_proj, attention.v_proj, norm=layer.input_layernorm, turned=(head, 2)),
                 query_norm, key_norm, linear(attention.o_proj),
                 linear(mlp.gate_proj, mlp.up_proj, norm=layer.post_attention_layernorm), linear(mlp.down_proj))


def interleave_rotary(x: torch.Tensor, head: int) -> torch.Tensor:
    """[..., heads * d] with a rotated pair half a head apart -> the same with its two parts side by side."""
    return x.unflatten(-1, (-1, 2, head // 2)).transpose(-1, -2).flatten(-3)


def linear(*modules: nn.Module, norm: nn.Module | None = None, turned: tuple[int, int] = (0, 0)) -> Linear:
    """Linear layers that read the same input as one in fp32, with the adapter in use added and the norm before them multiplied in.

    `turned` is (d of a head, how many of the modules are rotated): the outputs of those are put in `pairs`.
    """
    head, count = turned
    joined = torch.empty(modules[0].in_features, sum(module.out_features for module in modules))
    for i, (module, part) in enumerate(zip(modules, joined.split([module.out_features for module in modules], dim=1))):
        weight = merged_weight(module)
        part.copy_(interleave_rotary(weight, head) if i < count else weight)
    if norm is not None:
        joined *= norm.weight[:, None]
    biases = [getattr(module, "base_layer", module).bias for module in modules]
    if all(bias is None for bias in biases):
        return Linear(joined, None)
    biases = [torch.zeros(module.out_features) if bias is None else bias.float() for bias, module in zip(biases, modules)]
    return Linear(joined, torch.cat([interleave_rotary(bias, head) if i < count else bias for i, bias in enumerate(biases)]))


def merged_weight(module: nn.Module) -> torch.Tensor:
    """The weight of a linear layer with the adapter in use added, in fp32, as [in, out]."""
    if not isinstance(module, LoraLayer):
        return dequantize_module_weight(module).float().T
    weight = dequantize_module_weight(module.get_base_layer()).float()
    for adapter in [] if module.disable_adapters else module.active_adapters:
        weight = weight + module.get_delta_weight(adapter)
    return weight.T
