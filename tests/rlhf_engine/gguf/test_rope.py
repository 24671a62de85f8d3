"""Llama 3's positions: the rule that is found from the factors in a file turns heads as the rule that they came from."""

import itertools
import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rlhf_engine.errors import UserError
from rlhf_engine.gguf.rope import find_rule
from rlhf_engine.runs.gguf_files import read_gguf_config
from tests.rlhf_engine.gguf.rewrite import rewrite

RULES = [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 1.0, 2.0, 64), (16.0, 2.0, 8.0, 4096), (8.0, 1.0, 4.0, 128), (2.0, 1.0, 32.0, 2048),
         (8.0, 1.0, 1.5, 8192), (40.0, 0.5, 6.0, 300), (1.5, 1.0, 4.0, 8192)]


def frequencies(rule: tuple, theta: float, size: int) -> torch.Tensor:
    """transformers' own, of a rule."""
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    rope = {"rope_type": "llama3", "rope_theta": theta, **dict(zip(names, rule))}
    config = LlamaConfig(hidden_size=size * 2, num_attention_heads=2, head_dim=size, max_position_embeddings=1 << 20, rope_parameters=rope)
    return ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]


def plain(theta: float, size: int) -> torch.Tensor:
    return torch.tensor([theta ** (-2 * number / size) for number in range(size // 2)])


@pytest.mark.parametrize(("theta", "size"), itertools.product((10000.0, 500000.0), (4, 8, 16, 64, 128)))
def test_the_rule_gives_the_same_frequencies(theta, size):
    for rule in RULES:
        wanted = frequencies(rule, theta, size)
        factors = (plain(theta, size) / wanted).numpy().astype(np.float32).astype(np.float64)
        if np.allclose(factors, 1, rtol=1e-6):  # no wave is long enough to be stretched
            continue
        found = find_rule(factors, theta, size, "x")
        again = frequencies(tuple(found[name] for name in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")), theta, size)
        torch.testing.assert_close(again, wanted, rtol=5e-5, atol=0, msg=f"{rule} {found}")


def test_llamas_own_rule_is_found_as_it_is_written():
    """Factors by hand: the wave of 2 pi / f tokens is left alone below 2,048 tokens, and stretched by 32 above 8,192."""
    factors = []
    for frequency in plain(500000.0, 64).tolist():
        wave = 2 * math.pi / frequency
        share = min(1.0, max(0.0, (8192 / wave - 1) / 3))
        factors.append(1 / (share + (1 - share) / 32))
    assert find_rule(np.float32(factors).astype(np.float64), 500000.0, 64, "x") == {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize("factors", [[1, 5, 2, 9], [1, 1, 0.5, 8], [1, 1, 8], [1, float("nan"), 8, 8], [1, 2, 2.5, 9, 9.5, 10]])
def test_other_factors_are_refused(factors):
    with pytest.raises(UserError, match="do not come from Llama 3's rule"):
        find_rule(np.array(factors, np.float64), 10000.0, 8 if len(factors) < 6 else 12, "x")


def test_scalings_that_the_metadata_name(tmp_path):
    def rope(keys: dict) -> dict:
        path = rewrite("llama", tmp_path / "x.gguf", keys={f"llama.rope.scaling.{name}": value for name, value in keys.items()})
        return read_gguf_config(path, "x")[0]["rope_parameters"]
    assert rope({"type": "none"}) == {"rope_theta": 10000.0, "rope_type": "default"}
    assert rope({"type": "linear", "factor": 4.0}) == {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}
    yarn = {"type": "yarn", "factor": 4.0, "original_context_length": 64, "yarn_beta_fast": 16.0, "yarn_attn_factor": 1.5, "finetuned": True}
    assert rope(yarn) == {"rope_theta": 10000.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0,
                          "attention_factor": 1.5}
