"""The tiny models behind the files in tests/fixtures/gguf: configs, and weights with fixed numbers.

llama.cpp's own convert_hf_to_gguf.py made each file from such a model, saved as safetensors beside a tokenizer with a
few hundred tokens. Its `get_vocab_base_pre` was told the name of the split (it knows a tokenizer by a hash of what a
text becomes, so it cannot know a tiny one). See tests/fixtures/gguf/README.md.

A weight's numbers come from its name alone, so a test builds the same model without the safetensors.
"""

import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers

TOKENS = 348
"""Rows of the embeddings; the tokenizers have a few less."""


@dataclass(frozen=True)
class Recipe:
    """A tiny model: its config in transformers' words, and its tokenizer."""

    config: str
    values: dict
    tokenizer: str = "gpt-2"
    """The name of the split of a byte-level tokenizer, or `spm`."""
    outtype: str = "bf16"
    """The format in which the converter wrote the file."""
    options: dict = field(default_factory=dict)


SIZES = {"vocab_size": TOKENS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

RECIPES = {
    "llama": Recipe("LlamaConfig", {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, "smollm"),
    "llama-3.2": Recipe("LlamaConfig", {**SIZES, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True,
                                        "max_position_embeddings": 131072,
                                        "rope_parameters": {**LLAMA3, "rope_theta": 500000.0}}, "llama-bpe", "f32"),
    "mistral": Recipe("MistralConfig", {**SIZES, "head_dim": 16, "sliding_window": None}, "spm", "f16"),
    "mixtral": Recipe("MixtralConfig", {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}, "spm"),
    "qwen2": Recipe("Qwen2Config", {**SIZES, "hidden_size": 32, "intermediate_size": 64, "tie_word_embeddings": True}, "qwen2", "q8_0"),
    "qwen2-yarn": Recipe("Qwen2Config", {**SIZES, "tie_word_embeddings": True, "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
                                                                      "rope_theta": 10000.0}}, "qwen2"),
    "qwen2moe": Recipe("Qwen2MoeConfig", {**SIZES, "tie_word_embeddings": True, **EXPERTS, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 1}, "qwen2"),
    "qwen3": Recipe("Qwen3Config", {**SIZES, "head_dim": 16, "tie_word_embeddings": True}, "qwen2", "f16"),
    "qwen3moe": Recipe("Qwen3MoeConfig", {**SIZES, "tie_word_embeddings": True, **EXPERTS, "head_dim": 16, "norm_topk_prob": True}, "qwen2"),
    "gemma": Recipe("GemmaConfig", {**SIZES, "head_dim": 16}, "spm"),
    "gemma2": Recipe("Gemma2Config", {**SIZES, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}, "spm", "f16"),
    "gemma3": Recipe("Gemma3TextConfig", {**SIZES, "num_hidden_layers": 6, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8,
                                          "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                                                              "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}, "spm"),
    "phi3": Recipe("Phi3Config", {**SIZES, "sliding_window": None, "original_max_position_embeddings": 256, "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "original_max_position_embeddings": 256, "partial_rotary_factor": 1.0}}, "spm", "f16"),
    "phi3-long": Recipe("Phi3Config", {**SIZES, "tie_word_embeddings": True, "original_max_position_embeddings": 64, "sliding_window": None, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64, "partial_rotary_factor": 1.0,
        "short_factor": [1.0, 1.25], "long_factor": [1.0, 2.0]}}, "spm"),
    "phi2": Recipe("PhiConfig", {**SIZES, "num_key_value_heads": 4, "intermediate_size": 64}, "phi-2"),
    "gpt2": Recipe("GPT2Config", {"vocab_size": TOKENS, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_ctx": 64, "bos_token_id": 0,
                                  "eos_token_id": 0}, "gpt-2", "f16"),
    "gptneox": Recipe("GPTNeoXConfig", {**SIZES, "num_key_value_heads": None, "rotary_pct": 0.5}, "olmo"),
    "bloom": Recipe("BloomConfig", {"vocab_size": TOKENS, "hidden_size": 16, "n_layer": 2, "n_head": 4, "seq_length": 64}, "bloom"),
    "starcoder2": Recipe("Starcoder2Config", {**SIZES, "tie_word_embeddings": True, "use_bias": True, "sliding_window": None}, "starcoder"),
    "falcon": Recipe("FalconConfig", {"vocab_size": TOKENS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True,
                                      "parallel_attn": True, "new_decoder_architecture": False, "bias": False, "alibi": False}, "falcon"),
    "falcon-40b": Recipe("FalconConfig", {"vocab_size": TOKENS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2,
                                          "new_decoder_architecture": True, "bias": False, "alibi": False}, "falcon"),
    "stablelm": Recipe("StableLmConfig", {**SIZES, "tie_word_embeddings": True, "use_qkv_bias": True, "partial_rotary_factor": 0.5, "use_parallel_residual": False}, "stablelm2"),
    "granite": Recipe("GraniteConfig", {**SIZES, "attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
                                        "logits_scaling": 4.0, "tie_word_embeddings": True}, "refact"),
    "olmo2": Recipe("Olmo2Config", {**SIZES}, "dbrx"),
    "olmo": Recipe("OlmoConfig", {**SIZES, "clip_qkv": 0.75, "tie_word_embeddings": True}, "smollm"),
    "olmoe": Recipe("OlmoeConfig", {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": True}, "smollm"),
    "granitemoe": Recipe("GraniteMoeConfig", {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.2, "logits_scaling": 4.0,
                                              "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "tie_word_embeddings": True}, "smollm"),
    "command-r": Recipe("CohereConfig", {**SIZES, "logit_scale": 0.25}, "smollm"),
    "cohere2": Recipe("Cohere2Config", {**SIZES, "num_hidden_layers": 4, "head_dim": 4, "sliding_window": 8, "logit_scale": 0.25}, "smollm"),
    "nemotron": Recipe("NemotronConfig", {**SIZES, "head_dim": 4, "partial_rotary_factor": 0.5}, "spm"),
    "smollm3": Recipe("SmolLM3Config", {**SIZES, "num_hidden_layers": 4, "no_rope_layer_interval": 4, "tie_word_embeddings": True}, "llama-bpe"),
}


def make_config(name: str):
    """The config of a recipe."""
    recipe = RECIPES[name]
    return getattr(transformers, recipe.config)(**recipe.values)


def make_model(name: str, spread: float = 0.3):
    """The model of a recipe. The numbers of a weight are those of its name, multiples of 1/32,
    which every format holds."""
    model = transformers.AutoModelForCausalLM.from_config(make_config(name), dtype=torch.float32).eval()
    done = set()
    for key, weight in sorted(model.named_parameters(remove_duplicate=False)):
        if weight.data_ptr() in done:
            continue
        done.add(weight.data_ptr())
        numbers = np.random.RandomState(zlib.crc32(key.encode()) % 2**31).standard_normal(tuple(weight.shape)) * spread
        if weight.ndim == 1 and key.endswith("weight"):  # norms are about 1, or about 0 where 1 is added
            numbers = numbers + float(not model.config.model_type.startswith("gemma"))
        weight.data.copy_(torch.from_numpy(np.round(numbers * 32) / 32))
    return model
