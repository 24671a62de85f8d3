"""What the architectures share: sizes, special tokens, and rows of their plans."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rlhf_engine.errors import UserError
from rlhf_engine.gguf.header import Tensor
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.weights import Move, Row

Tensors = Mapping[str, Tensor]
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
SPECIAL = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
"""Names in a config -> names in the metadata."""


def decoder_config(m: Metadata, tensors: Tensors, model_type: str, class_name: str) -> dict[str, Any]:
    """The part of a config that all architectures have. Raises UserError for a model that is no decoder."""
    if EMBEDDING not in tensors:
        raise UserError(f"{m.model}: holds no {EMBEDDING}, so it is no language model; give the file of the "
                        "whole model")
    m.must_be("attention.causal", True)
    m.must_be("pooling_type", 0)  # others make an embedding of a text
    m.must_be("nextn_predict_layers", 0)
    rows = tensors[EMBEDDING].shape[0]
    m.must_be("vocab_size", rows)
    config: dict[str, Any] = {"model_type": model_type, "architectures": [class_name], "vocab_size": rows,
                              "tie_word_embeddings": OUTPUT not in tensors, "use_cache": True}
    for name, key in SPECIAL.items():
        number = m.raw(f"tokenizer.ggml.{key}")
        config[name] = number if type(number) is int and 0 <= number < rows else None
    return config


def head_sizes(m: Metadata) -> dict[str, Any]:
    """Width, layers and heads in the words of Llama's config."""
    hidden, heads = m.size("embedding_length"), m.size("attention.head_count")
    head_dim = m.size("attention.key_length", hidden // max(heads, 1))
    m.must_be("attention.value_length", head_dim)
    return {"hidden_size": hidden, "num_hidden_layers": m.size("block_count"), "num_attention_heads": heads,
            "num_key_value_heads": m.size("attention.head_count_kv", heads), "head_dim": head_dim,
            "max_position_embeddings": m.size("context_length")}


def whole_rotation(m: Metadata, head_dim: int) -> None:
    """Raises UserError for a model that rotates only a part of each head."""
    m.must_be("rope.dimension_count", head_dim)


def has_bias(tensors: Tensors, part: str) -> bool:
    """Whether a part of the first layer has a bias; then the same part of each layer must have one."""
    return f"blk.0.{part}.bias" in tensors


def outer_rows(tensors: Tensors, prefix: str = "model", norm: str = "norm", *, add: float = 0.0) -> list[Row]:
    """The embedding, the last norm and the output layer, which many models do not have: theirs is the embedding."""
    return [Row((EMBEDDING,), f"{prefix}.embed_tokens.weight"),
            Row(("output_norm.weight",), f"{prefix}.{norm}.weight", add=add), *output_rows(tensors)]


def output_rows(tensors: Tensors, name: str = "lm_head.weight") -> list[Row]:
    """The output layer, where the file has one."""
    return [Row((OUTPUT,), name)] if OUTPUT in tensors else []


def layer_rows(tensors: Tensors, parts: Mapping[str, str], *, moves: Mapping[str, Move] | None = None,
               biases: Iterable[str] = (), add: float = 0.0, prefix: str = "model.layers.{n}.") -> list[Row]:
    """Rows of the parts of a layer: their weights, and the biases of those in `biases` where the file has them.

    `add` is added to the norms, of which the names end in `norm`.
    """
    rows, moves = [], moves or {}
    for part, name in parts.items():
        shift = add if part.endswith("norm") else 0.0
        rows.append(Row((f"blk.{{n}}.{part}.weight",), f"{prefix}{name}.weight", moves.get(part), shift))
        if part in biases and has_bias(tensors, part):
            rows.append(Row((f"blk.{{n}}.{part}.bias",), f"{prefix}{name}.bias", moves.get(part)))
    return rows


def unpermute(heads: int) -> Move:
    """Undoes llama.cpp's order of the rows of queries and keys. It turns pairs of neighbours, transformers the two
    halves of a head."""
    def move(values: np.ndarray) -> np.ndarray:
        rows = values.shape[0]
        pairs = values.reshape(heads, rows // heads // 2, 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)
    return move


def unpermuted_heads(config: Mapping[str, Any]) -> dict[str, Move]:
    """For `layer_rows`: queries and keys in the order of transformers."""
    return {"attn_q": unpermute(config["num_attention_heads"]), "attn_k": unpermute(config["num_key_value_heads"])}


def transpose(values: np.ndarray) -> np.ndarray:
    """The weights of GPT-2's `Conv1D`, which are the other way round than those of a linear layer."""
    return values.T if values.ndim == 2 else values


ATTENTION = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj"}
MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
