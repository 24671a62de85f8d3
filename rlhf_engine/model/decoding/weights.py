"""The weights of a model of the Llama family, read for decoding on a CPU, with the role in use.

A small model is read anew whenever a role begins to decode: base and role are added up in fp32. Of a larger model the
base is packed once and kept, and a role's two thin matrices stay beside it. There a copy for each role would take
longer to make than it saves, and in bf16 it would round small changes of the role away.
"""

from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from rlhf_engine.model.decoding.products import Linear, Product, make_product
from rlhf_engine.model.fast_layers import is_small
from rlhf_engine.runs.memory.free import free_memory


@dataclass(frozen=True)
class Layer:
    """Weights of one block."""

    input_norm: torch.Tensor | None
    """None where a norm is multiplied into the weights after it."""
    qkv: Linear
    query_norm: torch.Tensor | None
    """Qwen3 has norms of queries and keys."""
    key_norm: torch.Tensor | None
    out: Linear
    mlp_norm: torch.Tensor | None
    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class Weights:
    """Weights of a model with the role in use. Queries and keys are in the order of `interleave_rotary`."""

    embedding: torch.Tensor
    """[V, d]"""
    layers: list[Layer]
    norm: torch.Tensor | None
    output: Linear

    def pack(self) -> "Weights":
        """The same weights, packed where that is possible."""
        layers = [replace(layer, qkv=layer.qkv.pack(), out=layer.out.pack(), gate_up=layer.gate_up.pack(),
                          down=layer.down.pack()) for layer in self.layers]
        return replace(self, layers=layers, output=self.output.pack())


@dataclass(frozen=True)
class Joint:
    """Linear layers of the same input, computed as one."""

    modules: tuple[Any, ...]
    norm: Any = None
    """The norm before them."""
    head_dim: int = 0
    rotated: int = 0
    """The outputs of this many of the first modules are put in the order of `interleave_rotary`."""

    def order(self, i: int, outputs: torch.Tensor) -> torch.Tensor:
        """What belongs to the outputs [..., out] of module `i`, in the order in which it is computed."""
        return interleave_rotary(outputs, self.head_dim) if i < self.rotated else outputs


MERGED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether base and role are added up, for each base that was decoded. To count its parameters takes milliseconds."""


def read_weights(base: Any, rows: int) -> Weights:
    """The weights of a model under the role in use, for `rows` rows. It must have the blocks of the Llama family.

    For one row the weights of a small model are not packed: that takes longer than a short answer gains by it.
    """
    if base not in MERGED:
        MERGED[base] = is_small(base)
    return read_merged(base, packed=rows > 1) if MERGED[base] else read_apart(base)


def joints_of(block: Any) -> tuple[Joint, Joint, Joint, Joint]:
    """The linear layers of one of transformers' blocks: queries, keys and values; output of the attention; the two
    inputs of the MLP; its output."""
    attention, mlp = block.self_attn, block.mlp
    return (Joint((attention.q_proj, attention.k_proj, attention.v_proj), block.input_layernorm, attention.head_dim, 2),
            Joint((attention.o_proj,)),
            Joint((mlp.gate_proj, mlp.up_proj), block.post_attention_layernorm),
            Joint((mlp.down_proj,)))


def output_joint(base: Any) -> Joint:
    """The output layer, with the last norm."""
    return Joint((base.get_output_embeddings(),), base.get_decoder().norm)


def read_head_norm(norm: Any, head_dim: int, dtype: torch.dtype) -> torch.Tensor | None:
    """The weight [head_dim] of a norm of queries or keys, in the order of `interleave_rotary`."""
    return interleave_rotary(norm.weight.to(dtype), head_dim) if norm else None


def interleave_rotary(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """[..., heads * head_dim] with the parts of a rotated pair half a head apart -> the same with them side by side."""
    return x.unflatten(-1, (-1, 2, head_dim // 2)).transpose(-1, -2).flatten(-3)


# -- small models: base and role in one, in fp32 -----------------------------------------------------------------------

def read_merged(base: Any, *, packed: bool) -> Weights:
    """Weights in fp32 that hold the role in use and the norms."""
    layers = []
    for block in base.get_decoder().layers:
        qkv, out, gate_up, down = [Linear(merged_product(joint, packed)) for joint in joints_of(block)]
        layers.append(Layer(None, qkv, *head_norms(block, torch.float32), out, None, gate_up, down))
    output = Linear(merged_product(output_joint(base), packed))
    return Weights(base.get_input_embeddings().weight.float(), layers, None, output)


def head_norms(block: Any, dtype: torch.dtype) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Weights of the norms of queries and keys, where a block has any."""
    attention = block.self_attn
    return (read_head_norm(getattr(attention, "q_norm", None), attention.head_dim, dtype),
            read_head_norm(getattr(attention, "k_norm", None), attention.head_dim, dtype))


def merged_product(joint: Joint, packed: bool) -> Product:
    """The product of joint layers in fp32, with the role in use and the norm before them multiplied in."""
    weights = [merged_weight(module) for module in joint.modules]
    if joint.norm is not None:
        weights = [weight * joint.norm.weight for weight in weights]
    weight = join_weights(joint, weights, packed)
    return make_product(weight, join_biases(joint, torch.float32), packed=packed)


def merged_weight(module: Any) -> torch.Tensor:
    """The weight [out, in] of a linear layer with the role in use added, in fp32."""
    weight = base_weight(module).float()
    for role in roles_of(module):
        weight = weight + module.get_delta_weight(role)
    return weight


def join_weights(joint: Joint, weights: list[torch.Tensor], packed: bool) -> torch.Tensor:
    """Weights [out, in] of joint layers as one weight [sum of out, in], in the order of its outputs. In memory it lies
    as `make_product` needs it, packed or not."""
    ordered = [joint.order(i, weight.T) for i, weight in enumerate(weights)]
    return torch.cat([part.T for part in ordered]) if packed else torch.cat(ordered, dim=1).contiguous().T


def join_biases(joint: Joint, dtype: torch.dtype) -> torch.Tensor | None:
    """The biases of joint layers as one, with zeros for a layer that has none; None if none has."""
    biases = [getattr(module, "base_layer", module).bias for module in joint.modules]
    if all(bias is None for bias in biases):
        return None
    parts = []
    for i, (module, bias) in enumerate(zip(joint.modules, biases)):
        values = torch.zeros(module.out_features) if bias is None else bias
        parts.append(joint.order(i, values.to(dtype)))
    return torch.cat(parts)


def base_weight(module: Any) -> torch.Tensor:
    """The weight [out, in] of a linear layer without any role. What is in 4 bits is unpacked."""
    inner = module.get_base_layer() if isinstance(module, LoraLayer) else module
    return dequantize_module_weight(inner)


def roles_of(module: Any) -> list[str]:
    """The roles in use that a layer has an adapter for. A role may adapt only some layers."""
    if not isinstance(module, LoraLayer) or module.disable_adapters:
        return []
    return [role for role in module.active_adapters if role in module.lora_A]


# -- larger models: the base packed once, the role beside it -----------------------------------------------------------

@dataclass(frozen=True)
class PackedBase:
    """The packed weights of a base, and what they were read from."""

    blocks: list[list[Product]]
    """The four products of each block, in the order of `joints_of`."""
    output: Product
    source: tuple[tuple[int, int], ...]
    """Address and count of changes of each weight of the base. Other numbers mean another weight."""

    @property
    def bytes(self) -> int:
        """Memory of the packed weights."""
        return self.output.bytes + sum(sum(product.bytes for product in block) for block in self.blocks)


PACKED: WeakKeyDictionary[nn.Module, PackedBase] = WeakKeyDictionary()
"""The packed weights of each larger base, once it was decoded."""


def packed_base(base: Any) -> PackedBase:
    """The packed weights of a base, which are kept for the next time."""
    source = source_of(base)
    kept = PACKED.get(base)
    if kept is None or kept.source != source:
        PACKED.pop(base, None)
        blocks = [[base_product(joint, base.dtype) for joint in joints_of(block)]
                  for block in base.get_decoder().layers]
        PACKED[base] = kept = PackedBase(blocks, base_product(output_joint(base), base.dtype), source)
    return kept


def forget_if_short(base: Any) -> None:
    """Free the packed weights of a base if less memory is free than they take. The next role that decodes packs them
    again, to the same numbers."""
    kept = PACKED.get(base)
    if kept is not None and free_memory() < kept.bytes:
        del PACKED[base]


def source_of(base: Any) -> tuple[tuple[int, int], ...]:
    """Address and count of changes of each weight that is packed."""
    joints = [output_joint(base)]
    for block in base.get_decoder().layers:
        joints += joints_of(block)
    weights = []
    for joint in joints:
        for module in joint.modules:
            weights.append(getattr(module, "base_layer", module).weight)
    return tuple((weight.data_ptr(), weight._version) for weight in weights)


def base_product(joint: Joint, dtype: torch.dtype) -> Product:
    """The product of joint layers of the base in its own format, without a role. What is in 4 bits becomes `dtype`."""
    weight = join_weights(joint, [base_weight(module).to(dtype) for module in joint.modules], packed=True)
    return make_product(weight, join_biases(joint, dtype))


def read_apart(base: Any) -> Weights:
    """The packed weights of a base, and the matrices of the role in use beside them."""
    packed, dtype = packed_base(base), base.dtype
    layers = []
    for block, products in zip(base.get_decoder().layers, packed.blocks):
        pairs = zip(products, joints_of(block))
        qkv, out, gate_up, down = [with_role(product, joint, dtype) for product, joint in pairs]
        query_norm, key_norm = head_norms(block, dtype)
        layers.append(Layer(block.input_layernorm.weight, qkv, query_norm, key_norm, out,
                            block.post_attention_layernorm.weight, gate_up, down))
    output = with_role(packed.output, output_joint(base), dtype)
    return Weights(base.get_input_embeddings().weight, layers, base.get_decoder().norm.weight, output)


def with_role(product: Product, joint: Joint, dtype: torch.dtype) -> Linear:
    """A product of the base with the matrices of the role in use, joined as the layers are."""
    sizes = [module.out_features for module in joint.modules]
    lows, ups = [], []
    for i, module in enumerate(joint.modules):
        for role in roles_of(module):
            low, up = module.lora_A[role].weight, module.lora_B[role].weight * module.scaling[role]
            wide = torch.zeros(up.shape[1], sum(sizes))
            wide.split(sizes, dim=1)[i].copy_(joint.order(i, up.T))
            lows.append(low.T)
            ups.append(wide)
    if not lows:
        return Linear(product)
    return Linear(product, torch.cat(lows, dim=1).to(dtype), torch.cat(ups).to(dtype))
