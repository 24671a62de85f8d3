"""Tiny random models of every causal architecture in transformers, made by shrinking the default configuration."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.helpers.common import make_tokenizer

VOCABULARY, WINDOW, POSITIONS, LARGEST = 96, 11, 128, 8_000_000
"""Tokens, positions that a sliding window or an attention chunk sees, and positions that a model knows."""
DROPOUT = 0.1
"""Every kind of dropout: what switches it off is tested, too."""
NAMES_BY_SIZE: tuple[tuple[int, str], ...] = (
    (32, "hidden_size embedding_dim d_model n_embd dim model_dim embedding_size word_embed_proj_dim dim_model "
         "hidden_dim adapter_in_dim hidden_size_per_layer_input encoder_hidden_size emb_dim lru_width moe_latent_size "
         "attention_hidden_size"),
    (64, "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim d_ff d_inner n_inner dim_ff dff ffn_hidden_size "
         "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size feed_forward_proj_dim "
         "intermediate_size_mlp block_ff_dim expert_ffn_hidden_size feed_forward_size ffn_intermediate_size "
         "dense_intermediate_size moe_shared_expert_intermediate_size prefix_dense_intermediate_size "
         "mlp_expansion_size mamba_d_ssm"),
    (2, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers "
        "num_encoder_layers num_blocks"),
    (4, "num_attention_heads n_head n_heads num_heads heads decoder_attention_heads encoder_attention_heads "
        "num_decoder_attention_heads num_encoder_attention_heads num_query_heads swa_num_attention_heads"),
    (2, "num_key_value_heads n_kv_heads num_kv_heads kv_n_heads swa_num_key_value_heads num_global_key_value_heads "
        "multi_query_group_num index_n_heads linear_num_key_heads"),
    (8, "head_dim attention_head_dim v_head_dim qk_head_dim global_head_dim swa_head_dim swa_v_head_dim kv_channels "
        "d_kv dim_head index_head_dim linear_key_head_dim linear_value_head_dim qk_nope_head_dim qk_rope_head_dim "
        "mamba_d_state state_size ssm_state_size mamba_state_dim mamba_chunk_size chunk_size"),
    (16, "q_lora_rank kv_lora_rank o_lora_rank index_q_lora_rank mamba_d_head mamba_head_dim mamba_headdim"),
    (64, "index_topk"),
    (VOCABULARY, "vocab_size text_vocab_size vocab_size_per_layer_input"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts num_routed_experts ffn_num_experts "
        "linear_num_value_heads mamba_n_heads mamba_num_heads n_mamba_heads mamba_dt_rank time_step_rank"),
    (2, "num_experts_per_tok num_experts_per_token moe_topk moe_top_k top_k_experts num_selected_experts moe_k "
        "mamba_expand"),
    (1, "n_group topk_group num_expert_groups num_expert_group n_shared_experts num_shared_experts "
        "moe_num_shared_experts first_k_dense_replace num_dense_layers mamba_n_groups n_groups mamba_ngroups"),
    (POSITIONS, "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions max_source_positions "
                "max_sequence_length seq_length original_max_position_embeddings max_seq_length"),
    (WINDOW, "sliding_window attention_chunk_size window_size attention_window_size local_attention attention_window "
             "sliding_window_size local_window_size"),
)
SIZES: dict[str, int] = {}
for _size, _names in NAMES_BY_SIZE:
    SIZES |= dict.fromkeys(_names.split(), _size)
"""The size of each field of a configuration, by its name."""
TOKENS = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 3, "decoder_start_token_id": 3, "sep_token_id": 4}
LAYER_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "block_types", "attention_types")


HYBRID = ["linear_attention", "hybrid", "hybrid"]
ZAMBA = {"attention_hidden_size": 64, "attention_head_dim": 16, "num_key_value_heads": 4, "num_hidden_layers": 3,
         "layer_types": HYBRID, "layers_block_type": HYBRID}
MIXED = ["linear_attention", "full_attention"]
DECODER = {"is_decoder": True}
WINDOWED = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1,
            "layer_types": ["full_attention", "sliding_attention"]}
ALTERNATING = ["sliding_attention", "full_attention"]
GEMMA_3N = {"intermediate_size": 64, "activation_sparsity_pattern": [0.5, 0.0], "num_kv_shared_layers": 0,
            "laurel_rank": 8, "layer_types": ALTERNATING}
DOTS_3 = {"num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"],
          "layer_types": ["indexed_attention", "sliding_attention"]}
QWEN_4 = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 64,
          "indexer_compress_ratio": 4, "hc_lowrank": 8, "ngram_vocab_size_base": 50, "heads_per_ngram": 2,
          "split_ngram_parts": 1, "ple_embed_dim": 32, "output_gate_type": "sigmoid"}


def in_text(fields: dict[str, Any]) -> dict[str, Any]:
    """The same fields of the sub-configuration of the text."""
    return {f"text_config.{name}": value for name, value in fields.items()}


SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "bert": DECODER, "bert-generation": DECODER, "big_bird": DECODER | {"attention_type": "original_full"},
    "camembert": DECODER, "data2vec-text": DECODER, "electra": DECODER, "ernie": DECODER, "megatron-bert": DECODER,
    "rembert": DECODER, "roberta": DECODER, "roberta-prelayernorm": DECODER, "roformer": DECODER,
    "xlm-roberta": DECODER, "xlm-roberta-xl": DECODER, "xmod": DECODER | {"default_language": "en_XX"},
    "roc_bert": DECODER | {"pronunciation_vocab_size": 10, "shape_vocab_size": 10, "pronunciation_embed_dim": 8,
                           "shape_embed_dim": 8},
    "reformer": DECODER | {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "num_buckets": 2, "hash_seed": 0,
                           "attention_head_size": 8, "num_hidden_layers": 2, "lsh_attn_chunk_length": 16,
                           "local_attn_chunk_length": 16},
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config.clip_qkv": 8.0, "ffn_config.hidden_size": 32, "attn_config.rope_theta": 1e4},
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "diffllama": {"attention_dropout": 0.0},
    "dory": {"num_hidden_layers": 4, "n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1,
             "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
              "layer_types": ["full_attention", "sliding_attention"]},
    "dots3_note": in_text(DOTS_3), "dots3_note_text": DOTS_3,
    "falcon_h1": {"mamba_d_head": 16},
    "gemma3n": in_text(GEMMA_3N), "gemma3n_text": GEMMA_3N,
    "gemma4": in_text({"layer_types": ALTERNATING}), "gemma4_text": {"layer_types": ALTERNATING},
    "gemma4_unified": in_text({"layer_types": ALTERNATING}), "gemma4_unified_text": {"layer_types": ALTERNATING},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"],
                "window_size": WINDOW},
    "granitemoehybrid": {"layer_types": MIXED, "layers_block_type": MIXED, "position_embedding_type": "rope"},
    "hunyuan_v1_dense": {"head_dim": 8}, "hunyuan_v1_moe": {"head_dim": 8},
    "inkling2_loop_text": {"unpadded_vocab_size": VOCABULARY}, "inkling2_text": {"unpadded_vocab_size": VOCABULARY},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "longcat_flash": {"qk_head_dim": 16, "num_key_value_heads": 4},
    "laguna": {"num_attention_heads_per_layer": [4, 4]},
    "lfm2": {"layer_types": ["conv", "full_attention"]}, "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "codegen": {"rotary_dim": 4}, "gptj": {"rotary_dim": 4},
    "bailing_hybrid": {"linear_head_dim": 8, "linear_num_heads": 4},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "mellum": WINDOWED, "ministral": {"head_dim": 8, "layer_types": ALTERNATING},
    "mixtral": {"sliding_window": WINDOW}, "phi3": {"sliding_window": WINDOW}, "starcoder2": {"sliding_window": WINDOW},
    "phimoe": {"sliding_window": WINDOW},
    "moshi": {"sliding_window": POSITIONS},  # as long as its context: its masks know no window
    "mpt": {"attn_config.attn_pdrop": 0},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "qwen2": WINDOWED, "qwen2_moe": WINDOWED, "qwen3": WINDOWED,
    "qwen3_moe": {"use_sliding_window": True, "sliding_window": WINDOW},
    "qwen4_exp": in_text(QWEN_4), "qwen4_exp_text": QWEN_4, "rwkv": {"rescale_every": 1, "layer_norm_epsilon": 1e-9},
    "smollm3": WINDOWED,
    "xlnet": {"d_head": 8},
    "zamba": ZAMBA, "zamba2": ZAMBA | {"hybrid_layer_ids": [1, 2], "mamba_headdim": 16},
}
"""What the rules do not know, by architecture: values of fields. A dot stands before a field of a sub-configuration."""


class NotSmall(Exception):
    """A model that the rules here do not make small. The message is the reason."""


# -- configurations ----------------------------------------------------------------------------------------------------

def tiny_config(kind: str, *, dropout: float = DROPOUT, **changes: Any) -> Any:
    """The configuration of a small model of an architecture, given by its `model_type`. `changes` come last."""
    default = CONFIG_MAPPING[kind]()
    fields = default.to_dict()
    shrink(fields, default, dropout)
    for part in [fields, *[value for value in fields.values() if isinstance(value, dict)]]:
        part.pop("per_layer_config", None)  # the class makes it anew from the other fields
    for name, value in (SPECIAL.get(kind, {}) | changes).items():
        *parts, last = name.split(".")
        part = fields
        for step in parts:
            part = part[step]
        part[last] = value
    fields.pop("model_type", None)
    return CONFIG_MAPPING[kind](**fields)


def shrink(fields: dict[str, Any], default: Any, dropout: float) -> None:
    """Make a configuration's `fields` small, those of its sub-configurations too."""
    for name, value in list(fields.items()):
        part = default.__dict__.get(name)
        if isinstance(value, dict) and hasattr(part, "to_dict"):
            shrink(value, part, dropout)
        elif name in SIZES and isinstance(value, int) and not isinstance(value, bool):
            fields[name] = min(SIZES[name], value) if value > 0 else value
        elif name in TOKENS and value is not None:
            fields[name] = TOKENS[name]
        elif "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
            fields[name] = dropout
        elif name in ("initializer_range", "init_std", "init_method_std", "initializer_std"):
            fields[name] = 0.2
    if fields.get("kv_lora_rank"):  # latent attention (DeepSeek-V2) has no groups
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    cut_layers(fields)


def cut_layers(fields: dict[str, Any]) -> None:
    """Keep one layer of each kind, and as many layers as there are kinds."""
    lists = {name: fields[name] for name in LAYER_LISTS if isinstance(fields.get(name), list)}
    if not lists:
        return
    count = max(len(value) for value in lists.values())
    lists = {name: value for name, value in lists.items() if len(value) == count}
    rows = list(zip(*lists.values()))
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        first.setdefault(repr(row), i)
    chosen = list(first.values())
    while len(chosen) < 2:
        chosen.append(chosen[-1])
    for name, value in lists.items():
        fields[name] = [value[i] for i in chosen]
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"):
        if name in fields:
            fields[name] = len(chosen)


# -- models ------------------------------------------------------------------------------------------------------------

def tiny_model(kind: str, folder: Path, *, dropout: float = DROPOUT, **changes: Any) -> Path:
    """Save a random model of an architecture to `folder`, with a word-level tokenizer. Raises NotSmall."""
    try:
        config = tiny_config(kind, dropout=dropout, **changes)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise NotSmall(f"{type(error).__name__}: {error}") from error
    count = model.num_parameters()
    if count > LARGEST:
        big = sorted(((p.numel(), n) for n, p in model.named_parameters()), reverse=True)[:3]
        raise NotSmall(f"{count / 1e6:.0f}M parameters: {big}")
    model.generation_config.eos_token_id = TOKENS["eos_token_id"]
    model.generation_config.pad_token_id = TOKENS["pad_token_id"]
    model.save_pretrained(folder)
    make_tokenizer(VOCABULARY).save_pretrained(folder)
    return folder
