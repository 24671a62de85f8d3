"""Llama, and what llama.cpp writes under its name: Mistral, SmolLM, Mixtral and others."""

from rlhf_engine.errors import UserError
from rlhf_engine.gguf.architectures.common import (
    ATTENTION,
    MLP,
    NORMS,
    Tensors,
    decoder_config,
    has_bias,
    head_sizes,
    layer_rows,
    outer_rows,
    unpermuted_heads,
    whole_rotation,
)
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.rope import FACTORS, read_rope
from rlhf_engine.gguf.weights import Plan, Row

LAYOUT = "Meta AI original pth"
"""What old files say about the order of the rows; it is the one that files have today."""


def plan_llama(m: Metadata, tensors: Tensors) -> Plan:
    """Llama and Mixtral, which is Llama with experts."""
    plan = plan_dense(m, tensors, "llama", "LlamaForCausalLM")
    m.must_be("tensor_data_layout", LAYOUT)
    experts = m.size("expert_count", 0)
    m.must_be("expert_used_count", *((0,) if not experts else (m.size("expert_used_count"),)))
    return plan_mixtral(m, tensors, experts) if experts else plan


def plan_dense(m: Metadata, tensors: Tensors, model_type: str, class_name: str) -> Plan:
    """A decoder of Llama's kind without experts."""
    config = decoder_config(m, tensors, model_type, class_name) | head_sizes(m)
    whole_rotation(m, config["head_dim"])
    config |= {"rms_norm_eps": m.factor("attention.layer_norm_rms_epsilon"), "hidden_act": "silu",
               "intermediate_size": m.size("feed_forward_length"), "attention_bias": has_bias(tensors, "attn_q"),
               "mlp_bias": has_bias(tensors, "ffn_up"),
               "rope_parameters": read_rope(m, tensors, config["head_dim"])}
    biases = (*ATTENTION, *MLP)
    rows = layer_rows(tensors, NORMS | ATTENTION | MLP, moves=unpermuted_heads(config), biases=biases)
    for group, wanted in ((ATTENTION, config["attention_bias"]), (MLP, config["mlp_bias"])):
        if any(has_bias(tensors, part) != wanted for part in group):
            with_bias = [part for part in group if has_bias(tensors, part)]
            raise UserError(f"{m.model}: only {', '.join(with_bias)} have a bias, and a {model_type} model has one in "
                            "all such layers or in none; choose another model")
    return Plan(config, outer_rows(tensors) + rows, config["num_hidden_layers"], read={FACTORS} & set(tensors))


def plan_mixtral(m: Metadata, tensors: Tensors, experts: int) -> Plan:
    """Mixtral. Its experts are stacked in the file, and stand one by one in the folder."""
    config = decoder_config(m, tensors, "mixtral", "MixtralForCausalLM") | head_sizes(m)
    config |= {"rms_norm_eps": m.factor("attention.layer_norm_rms_epsilon"), "hidden_act": "silu",
               "intermediate_size": m.size("feed_forward_length"), "num_local_experts": experts,
               "num_experts_per_tok": m.size("expert_used_count"), "sliding_window": None,
               "rope_parameters": read_rope(m, tensors, config["head_dim"])}
    moe = "model.layers.{n}.block_sparse_moe."
    rows = outer_rows(tensors) + layer_rows(tensors, NORMS | ATTENTION, moves=unpermuted_heads(config))
    rows.append(Row(("blk.{n}.ffn_gate_inp.weight",), f"{moe}gate.weight"))
    for part, name in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
        rows.append(Row((f"blk.{{n}}.ffn_{part}_exps.weight",), f"{moe}experts.{{e}}.{name}.weight"))
    return Plan(config, rows, config["num_hidden_layers"], experts, {FACTORS} & set(tensors))
