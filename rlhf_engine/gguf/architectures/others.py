"""Further decoders: Granite, SmolLM3, OLMo 1 and 2, StarCoder 2, StableLM."""

from rlhf_engine.gguf.architectures.common import (
    ATTENTION,
    EMBEDDING,
    HEAD_NORMS,
    MLP,
    NORMS,
    Tensors,
    decoder_config,
    has_bias,
    head_sizes,
    layer_rows,
    outer_rows,
    output_rows,
    unpermuted_heads,
    whole_rotation,
)
from rlhf_engine.gguf.architectures.llama import plan_dense
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.rope import read_rope
from rlhf_engine.gguf.weights import Plan, Row

NO_ROPE_INTERVAL = 4
"""Every so many layers of SmolLM3 know no positions; the file does not say it."""
OLMO2_NORMS = {"post_attention_norm": "post_attention_layernorm",
               "post_ffw_norm": "post_feedforward_layernorm"} | HEAD_NORMS
STARCODER2_MLP = {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}


def plan_granite(m: Metadata, tensors: Tensors) -> Plan:
    """Granite: Llama with factors on embedding, attention, residuals and logits."""
    plan = plan_dense(m, tensors, "granite", "GraniteForCausalLM")
    head_dim = plan.config.pop("head_dim")
    plan.config |= granite_factors(m, head_dim)
    m.must_be("expert_count", 0)
    m.must_be("expert_used_count", 0)
    return plan


def granite_factors(m: Metadata, head_dim: int) -> dict[str, float]:
    """The factors on attention, embedding, residuals and logits."""
    return {"attention_multiplier": m.factor("attention.scale", head_dim ** -0.5),
            "embedding_multiplier": m.factor("embedding_scale", 1.0),
            "residual_multiplier": m.factor("residual_scale", 1.0),
            "logits_scaling": m.factor("logit_scale", 1.0)}


def plan_smollm3(m: Metadata, tensors: Tensors) -> Plan:
    """SmolLM3: Llama with layers that know no positions."""
    plan = plan_dense(m, tensors, "smollm3", "SmolLM3ForCausalLM")
    del plan.config["head_dim"]
    layers = plan.config["num_hidden_layers"]
    plan.config |= {"no_rope_layer_interval": NO_ROPE_INTERVAL, "use_sliding_window": False,
                    "no_rope_layers": [int((number + 1) % NO_ROPE_INTERVAL != 0) for number in range(layers)]}
    return plan


def plan_olmo2(m: Metadata, tensors: Tensors) -> Plan:
    """OLMo 2: norms after attention and MLP, and of all queries and keys."""
    config = decoder_config(m, tensors, "olmo2", "Olmo2ForCausalLM") | head_sizes(m)
    whole_rotation(m, config.pop("head_dim"))
    config |= {"intermediate_size": m.size("feed_forward_length"), "hidden_act": "silu", "attention_bias": False,
               "rms_norm_eps": m.factor("attention.layer_norm_rms_epsilon"),
               "rope_parameters": read_rope(m, tensors, config["hidden_size"] // config["num_attention_heads"])}
    rows = outer_rows(tensors) + layer_rows(tensors, OLMO2_NORMS | ATTENTION | MLP)
    return Plan(config, rows, config["num_hidden_layers"])


def plan_starcoder2(m: Metadata, tensors: Tensors) -> Plan:
    """StarCoder 2: norms with biases, an MLP without a gate."""
    config = decoder_config(m, tensors, "starcoder2", "Starcoder2ForCausalLM") | head_sizes(m)
    whole_rotation(m, config["head_dim"])
    del config["head_dim"]
    config |= {"intermediate_size": m.size("feed_forward_length"), "hidden_act": "gelu_pytorch_tanh",
               "norm_epsilon": m.factor("attention.layer_norm_epsilon"), "use_bias": has_bias(tensors, "attn_q"),
               "sliding_window": None,
               "rope_parameters": read_rope(m, tensors, config["hidden_size"] // config["num_attention_heads"])}
    parts = NORMS | ATTENTION | STARCODER2_MLP
    return Plan(config, with_norm_bias(tensors) + layer_rows(tensors, parts, biases=parts), config["num_hidden_layers"])


def plan_stablelm(m: Metadata, tensors: Tensors) -> Plan:
    """StableLM: only a part of each head is rotated; one norm a layer where the residuals are parallel."""
    config = decoder_config(m, tensors, "stablelm", "StableLmForCausalLM") | head_sizes(m)
    head_dim = config.pop("head_dim")
    turned, parallel = m.size("rope.dimension_count", head_dim), m.flag(m.name("use_parallel_residual"), True)
    config |= {"intermediate_size": m.size("feed_forward_length"), "hidden_act": "silu",
               "layer_norm_eps": m.factor("attention.layer_norm_epsilon"), "use_parallel_residual": parallel,
               "use_qkv_bias": has_bias(tensors, "attn_q"), "qk_layernorm": False,
               "rope_parameters": read_rope(m, tensors, turned) | {"partial_rotary_factor": turned / head_dim}}
    norms = {"attn_norm": NORMS["attn_norm"]} if parallel else NORMS
    rows = layer_rows(tensors, norms | ATTENTION | MLP, biases=(*norms, "attn_q", "attn_k", "attn_v"))
    return Plan(config, with_norm_bias(tensors) + rows, config["num_hidden_layers"])


def with_norm_bias(tensors: Tensors) -> list[Row]:
    """Embedding, output layer, and a last norm that has a bias."""
    return [*outer_rows(tensors), Row(("output_norm.bias",), "model.norm.bias")]


def plan_olmo(m: Metadata, tensors: Tensors) -> Plan:
    """OLMo 1: norms without weights, and queries, keys and values that may be clipped."""
    config = decoder_config(m, tensors, "olmo", "OlmoForCausalLM") | head_sizes(m)
    whole_rotation(m, config.pop("head_dim"))
    m.must_be("attention.layer_norm_epsilon", 1e-5)
    clip = m.factor("attention.clamp_kqv", 0.0)
    config |= {"intermediate_size": m.size("feed_forward_length"), "hidden_act": "silu", "clip_qkv": clip or None,
               "rope_parameters": read_rope(m, tensors, config["hidden_size"] // config["num_attention_heads"])}
    rows = [Row((EMBEDDING,), "model.embed_tokens.weight"), *output_rows(tensors),
            *layer_rows(tensors, ATTENTION | MLP, moves=unpermuted_heads(config))]
    return Plan(config, rows, config["num_hidden_layers"])
