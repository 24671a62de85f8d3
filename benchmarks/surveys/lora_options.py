"""Every option of PEFT's LoRA: is it held by each role as plain PEFT holds it, or refused, and with which line?

For each option it makes an adapter with plain PEFT on a tiny random model, with random weights, saves it, and loads it
as a role. Prints a table for README.md: python -m benchmarks.surveys.lora_options
"""

import copy
import json
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import config as options
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen3MoeConfig,
)
from transformers.utils.logging import disable_progress_bar

from benchmarks.helpers.common import make_tokenizer
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.adapter_folder import CONFIG_FILE

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 3, 4], [11, 12, 13, 14, 5, 6, 7, 8]])
"""The tokens whose logits are compared."""
SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "max_position_embeddings": 64, "initializer_range": 0.3}
LLAMA = {**SIZES, "intermediate_size": 24, "num_key_value_heads": 2}
EXPERTS = {**LLAMA, "num_experts_per_tok": 2}
BASES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**LLAMA),
    "biased": LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True),
    "tied": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3,
                       bos_token_id=2, eos_token_id=2),
    "mixtral": MixtralConfig(**EXPERTS, num_local_experts=4),
    "gpt_oss": GptOssConfig(**EXPERTS, num_local_experts=4, head_dim=4, sliding_window=32),
    "qwen3_moe": Qwen3MoeConfig(**EXPERTS, num_experts=4, moe_intermediate_size=12, mlp_only_layers=[0]),
}
"""Tiny models by name."""
ATTENTION = ["q_proj", "v_proj"]
UNSLOTH = (r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|o_proj).*?)|"
           r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|o_proj)))")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Option:
    """An option of LoRA, set in an adapter that plain PEFT makes."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Of `LoraConfig`; by default rank 2 and alpha 8 on queries and values."""
    base: str = "llama"
    """In `BASES`."""
    refused: str = ""
    """Part of the line with which it is refused; empty where it is held."""
    merged: bool = True
    """Whether it can be merged into its base."""


def option(name: str, base: str = "llama", refused: str = "", merged: bool = True, **settings: Any) -> Option:
    """An `Option` from the settings that it changes."""
    return Option(name, settings, base, refused, merged)


OPTIONS = [
    option("r, lora_alpha"),
    option("use_rslora", use_rslora=True, r=4),
    option("rank_pattern", rank_pattern={"q_proj": 3, "^model.layers.1.self_attn.v_proj": 5}),
    option("alpha_pattern", alpha_pattern={"v_proj": 3, "layers.0.self_attn.q_proj": 40}, use_rslora=True),
    option("target_modules: a list", target_modules=LINEAR),
    option("target_modules: full names", target_modules=["model.layers.1.self_attn.q_proj", "layers.0.mlp.up_proj"]),
    option("target_modules: a regular expression", target_modules=r".*layers\.[1-9]\.self_attn\.(q|k)_proj"),
    option("target_modules: as Unsloth writes it", target_modules=UNSLOTH),
    option("target_modules: all-linear", target_modules="all-linear"),
    option("target_modules: left out", target_modules=None),
    option("target_modules: the embedding", target_modules=["embed_tokens", "q_proj"]),
    option("target_modules: the output layer", target_modules=["lm_head", "q_proj"]),
    option("target_modules: a tied embedding", "tied", merged=False, target_modules=["embed_tokens", "q_proj"]),
    option("target_modules: a tied output layer", "tied", merged=False, target_modules=["lm_head", "q_proj"]),
    option("exclude_modules", target_modules=LINEAR, exclude_modules=["layers.0.self_attn.q_proj", "down_proj"]),
    option("exclude_modules: a regular expression", target_modules="all-linear", exclude_modules=r".*\.mlp\..*"),
    option("layers_to_transform", layers_to_transform=[0]),
    option("layers_to_transform: a number", layers_to_transform=1),
    option("layers_pattern", layers_to_transform=[1], layers_pattern="layers"),
    option("lora_dropout", lora_dropout=0.5),
    option("lora_bias", "biased", lora_bias=True),
    option("lora_bias, base without biases", merged=False, lora_bias=True),
    option("bias: all, base without biases", bias="all"),
    option("bias: lora_only, base without biases", bias="lora_only"),
    option("bias: all", "biased", "biases of its base", bias="all"),
    option("bias: lora_only", "biased", "biases of its base", bias="lora_only"),
    option("use_dora", use_dora=True, target_modules=LINEAR),
    option("use_dora on the embedding", use_dora=True, target_modules=["embed_tokens", "q_proj"]),
    option("init_lora_weights: False", init_lora_weights=False),
    option("init_lora_weights: gaussian", init_lora_weights="gaussian"),
    option("init_lora_weights: orthogonal", init_lora_weights="orthogonal"),
    option("init_lora_weights: eva", init_lora_weights="eva", eva_config=options.EvaConfig(rho=1.5)),
    option("init_lora_weights: pissa", refused="init_lora_weights", init_lora_weights="pissa"),
    option("init_lora_weights: pissa_niter_4", refused="init_lora_weights", init_lora_weights="pissa_niter_4"),
    option("init_lora_weights: olora", refused="init_lora_weights", init_lora_weights="olora"),
    option("init_lora_weights: lora_ga", refused="init_lora_weights", init_lora_weights="lora_ga",
           lora_ga_config=options.LoraGAConfig()),
    option("init_lora_weights: corda", refused="init_lora_weights", init_lora_weights="corda"),
    option("init_lora_weights: loftq", refused="init_lora_weights", init_lora_weights="loftq",
           loftq_config={"loftq_bits": 4, "loftq_iter": 1}),
    option("init_lora_weights: mica", refused="init_lora_weights", init_lora_weights="mica"),
    option("fan_in_fan_out", "gpt2", fan_in_fan_out=True, target_modules=["c_attn", "c_fc", "c_proj"]),
    option("use_dora on Conv1D", "gpt2", use_dora=True, fan_in_fan_out=True, target_modules=["c_attn"]),
    option("target_modules: all-linear on Conv1D", "gpt2", target_modules="all-linear"),
    option("target_parameters", "qwen3_moe", target_modules=["q_proj"],
           target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    option("target_parameters alone, use_rslora", "mixtral", target_modules=[], use_rslora=True,
           target_parameters=["experts.down_proj"]),
    option("target_parameters of one layer", "gpt_oss", target_modules="all-linear",
           target_parameters=["1.mlp.experts.gate_up_proj", "1.mlp.experts.down_proj"]),
    option("target_modules: all-linear on experts", "qwen3_moe", target_modules="all-linear"),
    option("target_modules: all-linear on experts and router", "mixtral", target_modules="all-linear"),
    option("target_modules: experts by old names", "mixtral", target_modules=["w1", "w2", "w3", "gate", "q_proj"]),
    option("modules_to_save", refused="modules_to_save", modules_to_save=["embed_tokens", "lm_head"]),
    option("trainable_token_indices", refused="trainable_token_indices", trainable_token_indices=[3, 4]),
    option("layer_replication", refused="layer_replication", layer_replication=[[0, 2], [0, 1]]),
    option("ensure_weight_tying", "tied", "ensure_weight_tying", ensure_weight_tying=True,
           target_modules=["embed_tokens", "lm_head"]),
    option("alora_invocation_tokens", refused="alora_invocation_tokens", alora_invocation_tokens=[5, 6],
           task_type="CAUSAL_LM"),
    option("use_qalora", refused="use_qalora", use_qalora=True),
    option("use_bdlora", refused="use_bdlora", use_bdlora=options.BdLoraConfig(
        target_modules_bd_a=ATTENTION, nblocks=2)),
    option("velora_config", refused="velora_config", velora_config=options.VeloraConfig(num_groups=4)),
    option("kasa_config", refused="kasa_config", kasa_config=options.KasaConfig()),
    option("monteclora_config", refused="monteclora_config", monteclora_config=options.MontecloraConfig()),
    option("arrow_config", refused="arrow_config", arrow_config={"top_k": 2}),
    option("megatron_config", refused="megatron_config", megatron_config={"hidden_size": 16}),
    option("task_type: SEQ_CLS", refused="SEQ_CLS", task_type="SEQ_CLS"),
]
"""All of them. Which fields of `LoraConfig` this covers is asserted in the tests."""
MODELS: dict[Path, Any] = {}
"""Models that were read, by folder."""
UNMADE = ("init_lora_weights: corda", "init_lora_weights: loftq", "use_qalora", "arrow_config", "megatron_config")
"""Options whose adapters PEFT makes only with data, other adapters or other libraries: only their file is made."""


def save_base(name: str, folder: Path) -> Path:
    """A tiny random model of `BASES` with a tokenizer, in `folder`."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(BASES[name])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    make_tokenizer(64).save_pretrained(folder)
    return folder


def lora_config(chosen: Option) -> LoraConfig:
    """The configuration of an option's adapter."""
    settings: dict[str, Any] = {"r": 2, "lora_alpha": 8, "target_modules": ATTENTION, "task_type": "CAUSAL_LM"}
    return LoraConfig(**{**settings, **chosen.settings})


def plain_model(base: Path) -> Any:
    """A model of transformers, read from its folder once."""
    if base not in MODELS:
        MODELS[base] = AutoModelForCausalLM.from_pretrained(base).eval()
    return copy.deepcopy(MODELS[base])


def make_adapter(chosen: Option, base: Path, folder: Path) -> None:
    """Save an option's adapter, made by plain PEFT with random weights, into `folder`."""
    torch.manual_seed(1)
    unmade = chosen.name in UNMADE
    config = lora_config(option("plain") if unmade else chosen)
    model = get_peft_model(plain_model(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                scale = parameter.abs().mean() if "magnitude" in name else 0.3
                parameter.add_(scale * torch.randn(parameter.shape) / 2)
    model.save_pretrained(str(folder))
    if unmade:
        values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        (folder / CONFIG_FILE).write_text(json.dumps({**values, **chosen.settings}), encoding="utf-8")


def peft_model(base: Path, folder: Path, **settings: Any) -> PeftModel:
    """A base with an adapter, as plain PEFT loads it."""
    return PeftModel.from_pretrained(plain_model(base), str(folder), **settings).eval()


@torch.no_grad()
def peft_logits(base: Path, folder: Path) -> torch.Tensor:
    """Logits [B, T, V] of `IDS` under an adapter, by plain PEFT."""
    return peft_model(base, folder)(IDS).logits


@torch.no_grad()
def role_logits(backbone: Backbone, role: str | None) -> torch.Tensor:
    """Logits [B, T, V] of `IDS` under a role."""
    with backbone.use(role):
        return backbone.head(backbone.hidden(IDS))


def survey(chosen: Option, base: Path, folder: Path) -> str:
    """What becomes of an option: `held`, with the largest difference of the logits from plain PEFT's, or the line with
    which it is refused, without the advice at its end."""
    make_adapter(chosen, base, folder)
    backbone = Backbone.load(str(base))
    try:
        backbone.load_role("policy", folder)
    except UserError as refusal:
        line = str(refusal).replace(f"{folder}: ", "").replace(str(base), "MODEL")
        return f"refused: {line.partition('; ')[0]}"
    backbone.copy_role("reference", "policy")
    backbone.save_role("reference", folder / "saved")
    expected = peft_logits(base, folder)
    found = [role_logits(backbone, "policy"), role_logits(backbone, "reference"), peft_logits(base, folder / "saved")]
    return f"held, {max((logits - expected).abs().max().item() for logits in found):.0e}"


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    disable_progress_bar()
    print("| option | on | role, its copy, and what it saves |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name in BASES:
            save_base(name, Path(place) / name)
        for number, chosen in enumerate(OPTIONS):
            result = survey(chosen, Path(place) / chosen.base, Path(place) / str(number))
            print(f"| {chosen.name} | {chosen.base} | {result} |", flush=True)


if __name__ == "__main__":
    main()
