"""Command R (Cohere 1 and 2), whose attention and MLP stand side by side, and Nemotron."""

from typing import Any

from rlhf_engine.gguf.architectures.common import (
    ATTENTION,
    HEAD_NORMS,
    MLP,
    NORMS,
    Tensors,
    decoder_config,
    head_sizes,
    layer_rows,
    outer_rows,
    whole_rotation,
)
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.rope import read_rope
from rlhf_engine.gguf.weights import Plan, Row

PERIOD = 4
"""One layer of so many of Cohere 2 is global; the file does not say it."""
PARTS = {"attn_norm": NORMS["attn_norm"]} | ATTENTION | MLP
NEMOTRON_MLP = {"ffn_up": MLP["ffn_up"], "ffn_down": MLP["ffn_down"]}


def plan_command_r(m: Metadata, tensors: Tensors) -> Plan:
    """Command R: some sizes norm queries and keys."""
    config = cohere_config(m, tensors, "cohere", "CohereForCausalLM")
    normed = "blk.0.attn_q_norm.weight" in tensors
    whole_rotation(m, config.pop("head_dim"))
    config["use_qk_norm"] = normed
    rows = layer_rows(tensors, PARTS | (HEAD_NORMS if normed else {}))
    return Plan(config, outer_rows(tensors) + rows, config["num_hidden_layers"])


def plan_cohere2(m: Metadata, tensors: Tensors) -> Plan:
    """Command R7B: a window in three of four layers."""
    config = cohere_config(m, tensors, "cohere2", "Cohere2ForCausalLM")
    whole_rotation(m, config["head_dim"])
    config |= {"sliding_window": m.size("attention.sliding_window"),
               "layer_types": ["full_attention" if (number + 1) % PERIOD == 0 else "sliding_attention"
                               for number in range(config["num_hidden_layers"])]}
    return Plan(config, outer_rows(tensors) + layer_rows(tensors, PARTS), config["num_hidden_layers"])


def cohere_config(m: Metadata, tensors: Tensors, model_type: str, class_name: str) -> dict[str, Any]:
    """What both have."""
    config = decoder_config(m, tensors, model_type, class_name) | head_sizes(m)
    return config | {"intermediate_size": m.size("feed_forward_length"), "hidden_act": "silu", "attention_bias": False,
                     "layer_norm_eps": m.factor("attention.layer_norm_epsilon"), "logit_scale": m.factor("logit_scale"),
                     "rope_parameters": read_rope(m, tensors, config["head_dim"])}


def plan_nemotron(m: Metadata, tensors: Tensors) -> Plan:
    """Nemotron: the square of a ReLU, and norms that are stored with 1 added."""
    config = decoder_config(m, tensors, "nemotron", "NemotronForCausalLM") | head_sizes(m)
    turned = m.size("rope.dimension_count", config["head_dim"])
    config |= {"intermediate_size": m.size("feed_forward_length"), "hidden_act": "relu2", "attention_bias": False,
               "norm_eps": m.factor("attention.layer_norm_epsilon"), "mlp_bias": False,
               "rope_parameters": read_rope(m, tensors, turned)
               | {"partial_rotary_factor": turned / config["head_dim"]}}
    m.must_be("attention.layer_norm_rms_epsilon", config["norm_eps"])  # the converter writes the same number twice
    rows = [*outer_rows(tensors, add=-1.0), Row(("output_norm.bias",), "model.norm.bias"),
            *layer_rows(tensors, NORMS | ATTENTION | NEMOTRON_MLP, biases=NORMS, add=-1.0)]
    return Plan(config, rows, config["num_hidden_layers"])
