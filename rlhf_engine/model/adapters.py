"""What a role consists of, on disk and in memory: a LoRA adapter in PEFT's format, and a scalar head beside it."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file
from torch import nn

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.files import json_text

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""PEFT's names."""
HEAD_FILE, BASE_FILE = "head.safetensors", "base.json"
"""The scalar head, and the name and fingerprint of the base, beside PEFT's files."""
COPIED_FIELDS = ("r", "lora_alpha", "target_modules", "lora_dropout", "bias", "task_type", "base_model_name_or_path",
                 "fan_in_fan_out")
"""Fields of a LoRA configuration that a copied role takes over."""


class ScalarHead(nn.Module):
    """A linear read-out of one number per position, kept outside PEFT and in fp32: gain * (h @ weight + bias) + shift.

    With several `members` it is an ensemble: each member has its own weight, bias, gain and shift, and the number is
    the mean over members. The weight starts with standard deviation 1/sqrt(d+1) (Ziegler et al. 2019).

    Args:
        size: d, the width of the hidden states.
        members: number of heads.
        zero: start at 0 everywhere, as a value function does that has no reward model to start from.
        generator: of the weights at the start.
    """

    gain: torch.Tensor
    shift: torch.Tensor

    def __init__(self, size: int, *, members: int = 1, zero: bool = False, generator: torch.Generator | None = None):
        super().__init__()
        if zero:
            weight = torch.zeros(members, size)
        else:
            weight = torch.randn(members, size, generator=generator) / math.sqrt(size + 1)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(members))
        self.register_buffer("gain", torch.ones(members))
        self.register_buffer("shift", torch.zeros(members))

    @property
    def members(self) -> int:
        """Number of heads in the ensemble."""
        return len(self.bias)

    def member_scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., d] in any dtype -> the numbers of all members [..., members] in fp32."""
        return self.gain * (hidden.float() @ self.weight.T + self.bias) + self.shift

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., d] in any dtype -> the mean over members [...] in fp32."""
        return self.member_scores(hidden).mean(-1)


def fresh_lora(rank: int, alpha: int, base: str) -> LoraConfig:
    """Configuration of a new adapter on every linear layer but the output layer, for the base of this name."""
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0, bias="none",
                      task_type="CAUSAL_LM", base_model_name_or_path=base)


def copy_lora(config: Any) -> LoraConfig:
    """A configuration for an adapter of the same shape."""
    return LoraConfig(**{name: getattr(config, name) for name in COPIED_FIELDS})


def read_lora(folder: Path) -> LoraConfig:
    """The configuration of a PEFT folder. Raises UserError for anything but a plain LoRA adapter."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # whatever PEFT makes of a file that is not its own
        reason = first_line(error)
        raise UserError(f"{folder}: its {CONFIG_FILE} cannot be read ({reason}); name another adapter") from None
    if not isinstance(config, LoraConfig) or config.modules_to_save:
        raise UserError(f"{folder}: only plain LoRA adapters are supported, without modules_to_save; export it as one")
    return config


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a PEFT folder, under their names in the base model."""
    weights = load_file(folder / WEIGHTS_FILE)
    return {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}


def has_head(folder: Path) -> bool:
    """Whether a PEFT folder holds a scalar head."""
    return (folder / HEAD_FILE).exists()


def read_head(folder: Path) -> dict[str, torch.Tensor]:
    """The state of the scalar head in a PEFT folder."""
    return load_file(folder / HEAD_FILE)


def save_beside(folder: Path, head: ScalarHead | None, base: str, fingerprint: str) -> None:
    """Complete a folder that PEFT has written: the head, the base's name and fingerprint, and a stable
    configuration."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # a set, whose order differs between processes
    (folder / CONFIG_FILE).write_text(json_text(config, indent=2, sort_keys=True), encoding="utf-8")
    if head is not None:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
        save_file(state, str(folder / HEAD_FILE))
    text = json_text({"model": base, "fingerprint": fingerprint}, indent=1)
    (folder / BASE_FILE).write_text(text + "\n", encoding="utf-8")
