"""Rotary positions: what a GGUF file says about them, as the `rope_parameters` of a transformers config.

Llama 3.1 and later stretch each frequency by a factor of its own. llama.cpp keeps only these factors, in a tensor
`rope_freqs.weight`; transformers wants the rule that they come from. The rule is found again here, and it is used only
if it gives the same factors.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rlhf_engine.errors import UserError
from rlhf_engine.gguf.header import Tensor
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.numbers import read_numbers

FACTORS = "rope_freqs.weight"
SCALING = "rope.scaling."
THETA = 10000.0
"""What llama.cpp takes where a file names no base."""
CLOSE = 2e-5
"""Largest relative difference of two factors that are the same."""
LONG = 1 << 20
"""Tokens in the length of a rule that is written with larger bounds."""
YARN = {"attention_factor": "yarn_attn_factor", "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
"""transformers' names of YaRN's settings -> llama.cpp's."""


def read_rope(m: Metadata, tensors: Mapping[str, Tensor], dimensions: int) -> dict[str, Any]:
    """The `rope_parameters` of a model that rotates `dimensions` numbers of each head.

    Raises UserError for a scaling that transformers does not have, or that does not come out the same.
    """
    theta = m.factor("rope.freq_base", THETA)
    scaling = read_scaling(m)
    if FACTORS not in tensors:
        return {"rope_theta": theta, **scaling}
    if scaling["rope_type"] != "default":
        raise UserError(f"{m.model}: has {FACTORS} and a scaling of the type {scaling['rope_type']}; which of them "
                        "counts is not known, so choose another file of this model")
    factors = read_numbers(tensors[FACTORS], m.model).astype(np.float64).reshape(-1)
    if np.allclose(factors, 1.0, rtol=1e-6):
        return {"rope_theta": theta, **scaling}
    return {"rope_theta": theta, **find_rule(factors, theta, dimensions, m.model)}


def read_scaling(m: Metadata) -> dict[str, Any]:
    """The scaling that the metadata name: none, linear or YaRN. Raises UserError for another one."""
    kind = m.text(m.name(f"{SCALING}type"), "none")
    if m.has("rope.scale_linear"):
        raise m.unusable(m.name("rope.scale_linear"))
    m.raw(m.name(f"{SCALING}finetuned"))  # whether the model was trained with it; it computes the same
    if kind == "none":
        m.must_be(f"{SCALING}factor", 1.0, 0.0, 1)
        m.raw(m.name(f"{SCALING}original_context_length"))
        m.must_be(f"{SCALING}attn_factor", 1.0, 1)
        return {"rope_type": "default"}
    factor = m.factor(f"{SCALING}factor")
    if kind == "linear":
        m.raw(m.name(f"{SCALING}original_context_length"))
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        m.must_be(f"{SCALING}yarn_ext_factor", 1.0, -1.0, 1)
        m.must_be(f"{SCALING}attn_factor", 1.0, 1)
        rule = {"rope_type": "yarn", "factor": factor,
                "original_max_position_embeddings": m.size(f"{SCALING}original_context_length")}
        for name, key in YARN.items():
            if m.has(f"{SCALING}{key}"):
                rule[name] = m.factor(f"{SCALING}{key}")
        return rule
    raise m.unusable(m.name(f"{SCALING}type"))


# -- Llama 3's rule ----------------------------------------------------------------------------------------------------

def find_rule(factors: np.ndarray, theta: float, dimensions: int, model: str) -> dict[str, Any]:
    """Llama 3's rule that gives these factors: 1 for short waves, `factor` for long ones, a blend between them.

    Of the bounds only two numbers show in the factors, so that many bounds say the same. Those of Llama itself are
    tried first, with low 1 and high 4. Raises UserError if there is no such rule.
    """
    if len(factors) == dimensions // 2 and bool(np.all(factors >= 1 - CLOSE)):
        waves = 2 * math.pi * theta ** (np.arange(0, dimensions, 2) / dimensions)
        for rule in candidates(factors, waves):
            if np.allclose(llama3_factors(waves, rule), factors, rtol=CLOSE):
                return {"rope_type": "llama3", **rule}
    raise UserError(f"{model}: its {FACTORS} holds factors of the positions that do not come from Llama 3's rule, and "
                    "without them the model would come out wrong; choose its safetensors, or another model")


def candidates(factors: np.ndarray, waves: np.ndarray) -> Iterator[dict[str, Any]]:
    """Rules that may have given these factors of waves of these lengths, the likeliest first."""
    largest = float(factors.max())
    for factor in dict.fromkeys((round(largest, 4), largest)):
        if factor <= 1:
            continue
        yield rule_of(factor, 1.0, 4.0, 8192)
        blended = (factors > 1 + CLOSE) & (factors < factor * (1 - CLOSE))
        shares = (1 / factors[blended] - 1 / factor) / (1 - 1 / factor)  # of the unstretched frequency
        for high, length in bounds(shares, waves, blended, factors):
            yield rule_of(factor, 1.0, round(high, 3), round(length))
            # The same rule with all bounds larger: the length is a whole number, so it is rounded less.
            scale = LONG / length
            yield rule_of(factor, scale, high * scale, LONG)


def bounds(shares: np.ndarray, waves: np.ndarray, blended: np.ndarray,
           factors: np.ndarray) -> Iterator[tuple[float, float]]:
    """(high, length) of rules with low 1, from the waves in between: their share is `(length / wave - 1) / (high - 1)`.

    Two such waves say both numbers, one says the length for each high, none says only between which waves a bound is.
    """
    if len(shares) >= 2:
        slope, offset = np.polyfit(1 / waves[blended], shares, 1)
        if offset < 0 < slope:
            high = 1 - 1 / float(offset)
            yield high, float(slope) * (high - 1)
    elif len(shares) == 1:
        for high in (4.0, 2.0, 8.0, 16.0, 32.0, 1.5, 1.1, 1.01):
            yield high, float(waves[blended][0] * (1 + (high - 1) * shares[0]))
    else:
        short, long = waves[factors <= 1 + CLOSE], waves[factors > 1 + CLOSE]
        last = short.max() if len(short) else waves.min() / 4
        yield 1.0001, math.sqrt(float(last) * float(long.min()))


def rule_of(factor: float, low: float, high: float, length: int) -> dict[str, Any]:
    """A rule in transformers' words."""
    return {"factor": float(factor), "low_freq_factor": float(low), "high_freq_factor": float(high),
            "original_max_position_embeddings": int(length)}


def llama3_factors(waves: np.ndarray, rule: Mapping[str, Any]) -> np.ndarray:
    """The factor by which each wave is stretched (Llama 3.1; transformers' `_compute_llama3_parameters`)."""
    factor, low, high = rule["factor"], rule["low_freq_factor"], rule["high_freq_factor"]
    length = rule["original_max_position_embeddings"]
    with np.errstate(divide="ignore", invalid="ignore"):  # outside of the bounds, where the blend is not used
        share = (length / waves - low) / (high - low)
        blend = 1 / ((1 - share) / factor + share)
    return np.where(waves < length / high, 1.0, np.where(waves > length / low, factor, blend))
