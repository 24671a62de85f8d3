"""The architectures that are read: `general.architecture` -> the function that plans a model of it."""

from collections.abc import Callable

from rlhf_engine.errors import UserError
from rlhf_engine.gguf.architectures.common import Tensors
from rlhf_engine.gguf.architectures.experts import plan_granitemoe, plan_olmoe
from rlhf_engine.gguf.architectures.gemma import plan_gemma, plan_gemma2, plan_gemma3
from rlhf_engine.gguf.architectures.gpt import plan_bloom, plan_falcon, plan_gpt2, plan_gptneox
from rlhf_engine.gguf.architectures.llama import plan_llama
from rlhf_engine.gguf.architectures.others import (
    plan_granite,
    plan_olmo,
    plan_olmo2,
    plan_smollm3,
    plan_stablelm,
    plan_starcoder2,
)
from rlhf_engine.gguf.architectures.parallel import plan_cohere2, plan_command_r, plan_nemotron
from rlhf_engine.gguf.architectures.phi import plan_phi2, plan_phi3
from rlhf_engine.gguf.architectures.qwen import plan_qwen2, plan_qwen2moe, plan_qwen3, plan_qwen3moe
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.weights import Plan

PLANS: dict[str, Callable[[Metadata, Tensors], Plan]] = {
    "llama": plan_llama, "qwen2": plan_qwen2, "qwen3": plan_qwen3, "qwen2moe": plan_qwen2moe,
    "qwen3moe": plan_qwen3moe, "gemma": plan_gemma, "gemma2": plan_gemma2, "gemma3": plan_gemma3, "phi2": plan_phi2,
    "phi3": plan_phi3, "gpt2": plan_gpt2, "gptneox": plan_gptneox, "bloom": plan_bloom, "falcon": plan_falcon,
    "starcoder2": plan_starcoder2, "stablelm": plan_stablelm, "granite": plan_granite, "olmo2": plan_olmo2,
    "smollm3": plan_smollm3, "olmo": plan_olmo, "olmoe": plan_olmoe, "granitemoe": plan_granitemoe,
    "command-r": plan_command_r, "cohere2": plan_cohere2, "nemotron": plan_nemotron,
}
"""Each was compared with the safetensors that llama.cpp's converter made the file of."""
ENCODERS = ("bert", "nomic-bert", "jina", "t5", "modern-bert", "neo-bert", "eurobert", "gemma-embedding", "llama-embed")
PERCEPTION = ("clip", "mmproj", "wavtokenizer")


def make_plan(m: Metadata, tensors: Tensors) -> Plan:
    """The plan of a model. Raises UserError for an architecture that is not read."""
    name = m.architecture
    if name in PLANS:
        return PLANS[name](m, tensors)
    if name.startswith(ENCODERS):
        raise UserError(f"{m.model}: is an encoder ({name}), not a causal language model; choose one that continues a "
                        "text, such as Llama, Qwen, Mistral or GPT-2")
    if name.startswith(PERCEPTION):
        raise UserError(f"{m.model}: is the part of a model that sees or hears ({name}), not a language model; give "
                        "the file of its language model")
    raise UserError(f"{m.model}: is a GGUF file of the architecture {name!r}, and these are read: {', '.join(PLANS)}; "
                    "give a folder or a Hub id of the same model with safetensors weights")
