"""Phi 2 and Phi 3 (3.5 and 4, too)."""

from typing import Any

from rlhf_engine.errors import UserError
from rlhf_engine.gguf.architectures.common import (
    EMBEDDING,
    OUTPUT,
    Tensors,
    decoder_config,
    head_sizes,
    layer_rows,
    outer_rows,
)
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.numbers import read_numbers
from rlhf_engine.gguf.rope import SCALING, read_rope
from rlhf_engine.gguf.weights import Plan, Row

SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"
PHI3 = {"attn_norm": "input_layernorm", "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm", "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}
PHI2 = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}


def plan_phi3(m: Metadata, tensors: Tensors) -> Plan:
    """Phi 3. Gate and up stand in one tensor, queries, keys and values in another, as transformers has them."""
    config = decoder_config(m, tensors, "phi3", "Phi3ForCausalLM") | head_sizes(m)
    config |= {"intermediate_size": m.size("feed_forward_length"), "hidden_act": "silu",
               "rms_norm_eps": m.factor("attention.layer_norm_rms_epsilon"),
               "sliding_window": m.size("attention.sliding_window") or None,
               "original_max_position_embeddings": m.size(f"{SCALING}original_context_length",
                                                          config["max_position_embeddings"])}
    del config["head_dim"]  # transformers has it from the width
    config["rope_parameters"] = phi3_rope(m, tensors, config)
    rows = outer_rows(tensors) + layer_rows(tensors, PHI3)
    return Plan(config, rows, config["num_hidden_layers"], read={SHORT, LONG} & set(tensors))


def phi3_rope(m: Metadata, tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:
    """Phi 3's positions: the models for long texts have factors for short and for long ones."""
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    turned = m.size("rope.dimension_count", head_dim)
    share = {"partial_rotary_factor": turned / head_dim}
    if SHORT not in tensors and LONG not in tensors:
        return read_rope(m, tensors, turned) | share
    if SHORT not in tensors or LONG not in tensors:
        raise UserError(f"{m.model}: holds only one of {SHORT} and {LONG}; download or convert the file again")
    m.must_be(f"{SCALING}type", "longrope", "none")
    rope: dict[str, Any] = {"rope_type": "longrope", "rope_theta": m.factor("rope.freq_base", 10000.0),
                            "original_max_position_embeddings": config["original_max_position_embeddings"], **share}
    rope |= {"short_factor": read_numbers(tensors[SHORT], m.model).tolist(),
             "long_factor": read_numbers(tensors[LONG], m.model).tolist()}
    if m.has(f"{SCALING}attn_factor"):
        rope["attention_factor"] = m.factor(f"{SCALING}attn_factor")
    return rope


def plan_phi2(m: Metadata, tensors: Tensors) -> Plan:
    """Phi 1.5 and 2: attention and MLP side by side, biases everywhere."""
    config = decoder_config(m, tensors, "phi", "PhiForCausalLM") | head_sizes(m)
    head_dim = config.pop("head_dim")
    turned = m.size("rope.dimension_count", head_dim)
    config |= {"intermediate_size": m.size("feed_forward_length"), "hidden_act": "gelu_new",
               "layer_norm_eps": m.factor("attention.layer_norm_epsilon"), "tie_word_embeddings": False,
               "rope_parameters": read_rope(m, tensors, turned) | {"partial_rotary_factor": turned / head_dim}}
    rows = [Row((EMBEDDING,), "model.embed_tokens.weight"), Row((OUTPUT,), "lm_head.weight"),
            Row(("output.bias",), "lm_head.bias"), Row(("output_norm.weight",), "model.final_layernorm.weight"),
            Row(("output_norm.bias",), "model.final_layernorm.bias")]
    return Plan(config, rows + layer_rows(tensors, PHI2, biases=PHI2), config["num_hidden_layers"])
