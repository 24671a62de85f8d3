"""Gemma 1, 2 and 3 (text). llama.cpp stores their norms with 1 added. The output layer is the embedding."""

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
from rlhf_engine.gguf.weights import Plan

FOUR_NORMS = {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
              "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
LAYERS_27B = {"gemma2": 46, "gemma3": 62}
"""The sizes whose attention is scaled by the width over the heads in place of the head's; the file does not say it."""
LOCAL_THETA = 10000.0
"""The base of the positions in Gemma 3's local layers; older files do not say it."""
PERIOD = 6
"""One layer of so many of Gemma 3 is global."""


def plan_gemma(m: Metadata, tensors: Tensors) -> Plan:
    """Gemma 1."""
    config = gemma_config(m, tensors, "gemma", "GemmaForCausalLM")
    config["rope_parameters"] = read_rope(m, tensors, config["head_dim"])
    return make_plan(config, tensors, NORMS)


def plan_gemma2(m: Metadata, tensors: Tensors) -> Plan:
    """Gemma 2: caps on logits, four norms a layer, and a window in every other layer."""
    config = gemma_config(m, tensors, "gemma2", "Gemma2ForCausalLM")
    config |= {"attn_logit_softcapping": m.factor("attn_logit_softcapping"),
               "final_logit_softcapping": m.factor("final_logit_softcapping"),
               "sliding_window": m.size("attention.sliding_window"), "query_pre_attn_scalar": attention_scale(config),
               "rope_parameters": read_rope(m, tensors, config["head_dim"])}
    return make_plan(config, tensors, FOUR_NORMS)


def plan_gemma3(m: Metadata, tensors: Tensors) -> Plan:
    """Gemma 3: norms of queries and keys, and a global layer after five local ones, which rotate by another base."""
    config = gemma_config(m, tensors, "gemma3_text", "Gemma3ForCausalLM")
    m.must_be("attention.sliding_window_pattern", PERIOD)
    local = {"rope_type": "default", "rope_theta": m.factor("rope.freq_base_swa", LOCAL_THETA)}
    m.must_be("attn_logit_softcapping", 0.0)
    cap = m.factor("final_logit_softcapping", 0.0)
    config |= {"sliding_window": m.size("attention.sliding_window"), "query_pre_attn_scalar": attention_scale(config),
               "final_logit_softcapping": cap or None, "attn_logit_softcapping": None,
               "layer_types": ["full_attention" if (number + 1) % PERIOD == 0 else "sliding_attention"
                               for number in range(config["num_hidden_layers"])],
               "rope_parameters": {"full_attention": read_rope(m, tensors, config["head_dim"]),
                                   "sliding_attention": local}}
    return make_plan(config, tensors, FOUR_NORMS | HEAD_NORMS)


def gemma_config(m: Metadata, tensors: Tensors, model_type: str, class_name: str) -> dict[str, Any]:
    """What all of them have."""
    config = decoder_config(m, tensors, model_type, class_name) | head_sizes(m)
    whole_rotation(m, config["head_dim"])
    return config | {"intermediate_size": m.size("feed_forward_length"), "attention_bias": False,
                     "rms_norm_eps": m.factor("attention.layer_norm_rms_epsilon"),
                     "hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}


def attention_scale(config: dict[str, Any]) -> int:
    """What the attention is divided by the root of."""
    kind = config["model_type"].removesuffix("_text")
    if config["num_hidden_layers"] == LAYERS_27B[kind]:
        return config["hidden_size"] // config["num_attention_heads"]
    return config["head_dim"]


def make_plan(config: dict[str, Any], tensors: Tensors, norms: dict[str, str]) -> Plan:
    """The plan of one of them, which takes the 1 from its norms."""
    rows = outer_rows(tensors, add=-1.0) + layer_rows(tensors, norms | ATTENTION | MLP, add=-1.0)
    return Plan(config, rows, config["num_hidden_layers"])
