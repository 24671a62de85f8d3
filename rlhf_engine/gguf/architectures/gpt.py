"""GPT-2 and its kind: GPT-NeoX (Pythia), BLOOM, Falcon. Queries, keys and values stand in one tensor."""

from collections.abc import Mapping

import numpy as np

from rlhf_engine.gguf.architectures.common import (
    EMBEDDING,
    Tensors,
    decoder_config,
    head_sizes,
    layer_rows,
    output_rows,
    transpose,
)
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.rope import read_rope
from rlhf_engine.gguf.weights import Move, Plan, Row

GPT2 = {"attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
NEOX = {"attn_norm": "input_layernorm", "attn_qkv": "attention.query_key_value", "attn_output": "attention.dense",
        "ffn_norm": "post_attention_layernorm", "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"}
BLOOM = NEOX | {"attn_qkv": "self_attention.query_key_value", "attn_output": "self_attention.dense"}
FALCON = {"attn_qkv": "self_attention.query_key_value", "attn_output": "self_attention.dense",
          "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"}


def plan_gpt2(m: Metadata, tensors: Tensors) -> Plan:
    """GPT-2: learned positions, and weights that are the other way round in transformers."""
    config = decoder_config(m, tensors, "gpt2", "GPT2LMHeadModel")
    config |= {"n_embd": m.size("embedding_length"), "n_layer": m.size("block_count"),
               "n_head": m.size("attention.head_count"), "n_positions": m.size("context_length"),
               "n_inner": m.size("feed_forward_length"), "activation_function": "gelu_new",
               "layer_norm_epsilon": m.factor("attention.layer_norm_epsilon")}
    m.must_be("attention.head_count_kv", config["n_head"])
    moves = {part: transpose for part in GPT2 if not part.endswith("norm")}
    rows = [*outer(tensors, {EMBEDDING: "transformer.wte.weight", "position_embd.weight": "transformer.wpe.weight"},
                   "transformer.ln_f"),
            *layer_rows(tensors, GPT2, moves=moves, biases=GPT2, prefix="transformer.h.{n}.")]
    return Plan(config, rows, config["n_layer"])


def plan_gptneox(m: Metadata, tensors: Tensors) -> Plan:
    """GPT-NeoX and Pythia."""
    config = decoder_config(m, tensors, "gpt_neox", "GPTNeoXForCausalLM") | head_sizes(m)
    head_dim = config.pop("head_dim")
    del config["num_key_value_heads"]
    turned = m.size("rope.dimension_count", head_dim)
    config |= {"intermediate_size": m.size("feed_forward_length"), "hidden_act": "gelu",
               "layer_norm_eps": m.factor("attention.layer_norm_epsilon"),
               "use_parallel_residual": m.flag(m.name("use_parallel_residual"), True),
               "rope_parameters": read_rope(m, tensors, turned) | {"partial_rotary_factor": turned / head_dim}}
    rows = [*outer(tensors, {EMBEDDING: "gpt_neox.embed_in.weight"}, "gpt_neox.final_layer_norm", "embed_out.weight"),
            *layer_rows(tensors, NEOX, moves={"attn_qkv": interleave(config["num_attention_heads"])}, biases=NEOX,
                        prefix="gpt_neox.layers.{n}.")]
    return Plan(config, rows, config["num_hidden_layers"])


def plan_bloom(m: Metadata, tensors: Tensors) -> Plan:
    """BLOOM: no positions but a slope in the attention, and a norm right after the embedding."""
    config = decoder_config(m, tensors, "bloom", "BloomForCausalLM")
    config |= {"hidden_size": m.size("embedding_length"), "n_layer": m.size("block_count"),
               "n_head": m.size("attention.head_count"), "seq_length": m.size("context_length"),
               "layer_norm_epsilon": m.factor("attention.layer_norm_epsilon")}
    m.must_be("attention.head_count_kv", config["n_head"])
    m.must_be("feed_forward_length", 4 * config["hidden_size"])
    rows = [*outer(tensors, {EMBEDDING: "transformer.word_embeddings.weight"}, "transformer.ln_f"),
            *(Row((f"token_embd_norm.{kind}",), f"transformer.word_embeddings_layernorm.{kind}")
              for kind in ("weight", "bias")),
            *layer_rows(tensors, BLOOM, moves={"attn_qkv": interleave(config["n_head"])}, biases=BLOOM,
                        prefix="transformer.h.{n}.")]
    return Plan(config, rows, config["n_layer"])


def plan_falcon(m: Metadata, tensors: Tensors) -> Plan:
    """Falcon 7B, with one head of keys, and 40B, with several and two norms a layer."""
    config = decoder_config(m, tensors, "falcon", "FalconForCausalLM") | head_sizes(m)
    groups = config.pop("num_key_value_heads")
    head_dim, heads = config.pop("head_dim"), config["num_attention_heads"]
    m.must_be("tensor_data_layout", "jploski")
    m.must_be("rope.dimension_count", head_dim)
    two_norms, new = "blk.0.attn_norm_2.weight" in tensors, groups > 1
    config |= {"num_kv_heads": groups, "multi_query": not new, "new_decoder_architecture": new, "parallel_attn": True,
               "bias": "blk.0.attn_qkv.bias" in tensors, "alibi": False,
               "ffn_hidden_size": m.size("feed_forward_length"),
               "layer_norm_epsilon": m.factor("attention.layer_norm_epsilon"),
               "num_ln_in_parallel_attn": (2 if two_norms else 1) if new else None,
               "rope_parameters": read_rope(m, tensors, head_dim)}
    names = {"attn_norm": "ln_mlp", "attn_norm_2": "ln_attn"} if two_norms else {"attn_norm": "input_layernorm"}
    rows = layer_rows(tensors, FALCON, moves={"attn_qkv": group(heads, groups)}, biases=FALCON,
                      prefix="transformer.h.{n}.")
    for part, name in names.items():
        rows += [Row((f"blk.{{n}}.{part}.{kind}",), f"transformer.h.{{n}}.{name}.{kind}")
                 for kind in ("weight", "bias")]
    return Plan(config, outer(tensors, {EMBEDDING: "transformer.word_embeddings.weight"}, "transformer.ln_f") + rows,
                config["num_hidden_layers"])


def outer(tensors: Tensors, embeddings: Mapping[str, str], norm: str, output: str = "lm_head.weight") -> list[Row]:
    """The embeddings, the last norm with its bias, and the output layer if there is one."""
    rows = [Row((source,), target) for source, target in embeddings.items()]
    rows += [Row((f"output_norm.{kind}",), f"{norm}.{kind}") for kind in ("weight", "bias")]
    return rows + output_rows(tensors, output)


def interleave(heads: int) -> Move:
    """Head by head its query, key and value: the order in transformers. In the file all queries come first."""
    def move(values: np.ndarray) -> np.ndarray:
        parts = values.reshape(3, heads, -1, *values.shape[1:])
        return parts.swapaxes(0, 1).reshape(values.shape)
    return move


def group(heads: int, groups: int) -> Move:
    """Group by group its queries, its key and its value, as Falcon has them in transformers."""
    def move(values: np.ndarray) -> np.ndarray:
        size = values.shape[0] // (heads + 2 * groups)
        blocks = values.reshape(heads + 2 * groups, size, *values.shape[1:])
        queries = blocks[:heads].reshape(groups, heads // groups, size, *values.shape[1:])
        keys, rest = blocks[heads:heads + groups, None], blocks[heads + groups:, None]
        return np.concatenate([queries, keys, rest], axis=1).reshape(values.shape)
    return move
