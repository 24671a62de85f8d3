"""Mixtures of experts beside Qwen's and Mixtral: OLMoE and Granite."""

from rlhf_engine.gguf.architectures.common import (
    ATTENTION,
    HEAD_NORMS,
    NORMS,
    Tensors,
    decoder_config,
    head_sizes,
    layer_rows,
    outer_rows,
    unpermuted_heads,
    whole_rotation,
)
from rlhf_engine.gguf.architectures.others import granite_factors
from rlhf_engine.gguf.architectures.qwen import expert_rows
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.rope import read_rope
from rlhf_engine.gguf.weights import Plan, Row


def plan_olmoe(m: Metadata, tensors: Tensors) -> Plan:
    """OLMoE: norms of all queries and keys; the weights of its experts do not sum to 1."""
    config = moe_config(m, tensors, "olmoe", "OlmoeForCausalLM", "num_experts")
    config |= {"norm_topk_prob": False, "clip_qkv": m.factor("attention.clamp_kqv", 0.0) or None}
    rows = layer_rows(tensors, NORMS | HEAD_NORMS | ATTENTION) + expert_rows()
    return Plan(config, outer_rows(tensors) + rows, config["num_hidden_layers"], config["num_experts"])


def plan_granitemoe(m: Metadata, tensors: Tensors) -> Plan:
    """Granite with experts, which are stacked in transformers as well, gate and up in one tensor."""
    config = moe_config(m, tensors, "granitemoe", "GraniteMoeForCausalLM", "num_local_experts")
    config |= granite_factors(m, config["hidden_size"] // config["num_attention_heads"])
    moe = "model.layers.{n}.block_sparse_moe."
    rows = layer_rows(tensors, NORMS | ATTENTION, moves=unpermuted_heads(config))
    rows += [Row(("blk.{n}.ffn_gate_inp.weight",), f"{moe}router.layer.weight"),
             Row(("blk.{n}.ffn_gate_exps.weight", "blk.{n}.ffn_up_exps.weight"), f"{moe}input_linear.weight", axis=1),
             Row(("blk.{n}.ffn_down_exps.weight",), f"{moe}output_linear.weight")]
    return Plan(config, outer_rows(tensors) + rows, config["num_hidden_layers"])


def moe_config(m: Metadata, tensors: Tensors, model_type: str, class_name: str, experts: str) -> dict:
    """What both have. `experts`: the name of their number in the config."""
    config = decoder_config(m, tensors, model_type, class_name) | head_sizes(m)
    whole_rotation(m, config.pop("head_dim"))
    m.must_be("expert_gating_func", 1)  # softmax
    m.must_be("expert_weights_norm", False)
    return config | {"intermediate_size": m.size("feed_forward_length"), "hidden_act": "silu", "attention_bias": False,
                     "rms_norm_eps": m.factor("attention.layer_norm_rms_epsilon"), experts: m.size("expert_count"),
                     "num_experts_per_tok": m.size("expert_used_count"),
                     "rope_parameters": read_rope(m, tensors, config["hidden_size"] // config["num_attention_heads"])}
