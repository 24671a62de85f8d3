"""Qwen 2 and 3, dense and with experts."""

from rlhf_engine.gguf.architectures.common import (
    ATTENTION,
    HEAD_NORMS,
    MLP,
    NORMS,
    Tensors,
    decoder_config,
    has_bias,
    head_sizes,
    layer_rows,
    outer_rows,
    whole_rotation,
)
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.rope import read_rope
from rlhf_engine.gguf.weights import Plan, Row

INPUTS = ("attn_q", "attn_k", "attn_v")
EXPERTS = "model.layers.{n}.mlp.experts.{e}."


def plan_qwen2(m: Metadata, tensors: Tensors) -> Plan:
    """Qwen 2 and 2.5: queries, keys and values have biases."""
    config = qwen_config(m, tensors, "qwen2", "Qwen2ForCausalLM")
    config["intermediate_size"] = m.size("feed_forward_length")
    rows = layer_rows(tensors, NORMS | ATTENTION | MLP) + input_biases()
    return Plan(config, outer_rows(tensors) + rows, config["num_hidden_layers"])


def plan_qwen3(m: Metadata, tensors: Tensors) -> Plan:
    """Qwen 3: queries and keys are normed head by head."""
    config = qwen_config(m, tensors, "qwen3", "Qwen3ForCausalLM")
    config |= {"intermediate_size": m.size("feed_forward_length"), "attention_bias": has_bias(tensors, "attn_q")}
    rows = layer_rows(tensors, NORMS | HEAD_NORMS | ATTENTION | MLP, biases=ATTENTION)
    return Plan(config, outer_rows(tensors) + rows, config["num_hidden_layers"])


def plan_qwen2moe(m: Metadata, tensors: Tensors) -> Plan:
    """Qwen 1.5 and 2 with experts, one of which all tokens share."""
    config = moe_config(m, tensors, "qwen2_moe", "Qwen2MoeForCausalLM")
    config |= {"norm_topk_prob": False, "shared_expert_intermediate_size":
               tensors["blk.0.ffn_up_shexp.weight"].shape[0] if "blk.0.ffn_up_shexp.weight" in tensors else 0}
    m.must_be("expert_shared_feed_forward_length", config["shared_expert_intermediate_size"])
    m.must_be("expert_weights_norm", False)
    shared = {f"ffn_{part}_shexp": f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")}
    rows = layer_rows(tensors, NORMS | ATTENTION | shared) + input_biases() + expert_rows()
    rows.append(Row(("blk.{n}.ffn_gate_inp_shexp.weight",), "model.layers.{n}.mlp.shared_expert_gate.weight",
                    lambda values: values.reshape(1, -1)))
    return Plan(config, outer_rows(tensors) + rows, config["num_hidden_layers"], config["num_experts"])


def plan_qwen3moe(m: Metadata, tensors: Tensors) -> Plan:
    """Qwen 3 with experts. Their weights sum to 1, as llama.cpp has them too."""
    config = moe_config(m, tensors, "qwen3_moe", "Qwen3MoeForCausalLM")
    m.must_be("expert_weights_norm", True)
    config |= {"norm_topk_prob": True, "attention_bias": has_bias(tensors, "attn_q")}
    rows = layer_rows(tensors, NORMS | HEAD_NORMS | ATTENTION, biases=ATTENTION) + expert_rows()
    return Plan(config, outer_rows(tensors) + rows, config["num_hidden_layers"], config["num_experts"])


def qwen_config(m: Metadata, tensors: Tensors, model_type: str, class_name: str) -> dict:
    """What all of them have."""
    config = decoder_config(m, tensors, model_type, class_name) | head_sizes(m)
    whole_rotation(m, config["head_dim"])
    return config | {"rms_norm_eps": m.factor("attention.layer_norm_rms_epsilon"), "hidden_act": "silu",
                     "use_sliding_window": False, "rope_parameters": read_rope(m, tensors, config["head_dim"])}


def moe_config(m: Metadata, tensors: Tensors, model_type: str, class_name: str) -> dict:
    """What those with experts have. Every layer has experts."""
    config = qwen_config(m, tensors, model_type, class_name)
    down = tensors.get("blk.0.ffn_down_exps.weight")
    width = m.size("expert_feed_forward_length", down.shape[-1] if down else None)
    m.must_be("expert_gating_func", 1)  # softmax
    m.must_be("expert_weights_scale", 1.0, 0.0)
    return config | {"intermediate_size": m.size("feed_forward_length", width), "moe_intermediate_size": width,
                     "num_experts": m.size("expert_count"), "num_experts_per_tok": m.size("expert_used_count"),
                     "decoder_sparse_step": 1, "mlp_only_layers": []}


def input_biases() -> list[Row]:
    """The biases of queries, keys and values."""
    return [Row((f"blk.{{n}}.{part}.bias",), f"model.layers.{{n}}.{ATTENTION[part]}.bias") for part in INPUTS]


def expert_rows() -> list[Row]:
    """The router and the experts, which are stacked in the file and stand one by one in the folder."""
    rows = [Row(("blk.{n}.ffn_gate_inp.weight",), "model.layers.{n}.mlp.gate.weight")]
    return rows + [Row((f"blk.{{n}}.ffn_{part}_exps.weight",), f"{EXPERTS}{part}_proj.weight")
                   for part in ("gate", "up", "down")]
