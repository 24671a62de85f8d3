"""What stands beside a role's LoRA adapter (`model.lora`): a scalar head, and the name and fingerprint of the base."""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.files import json_text
from rlhf_engine.runs.adapter_folder import BASE_FILE, HEAD_FILE


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


def has_head(folder: Path) -> bool:
    """Whether a PEFT folder holds a scalar head."""
    return (folder / HEAD_FILE).exists()


def read_head(folder: Path) -> dict[str, torch.Tensor]:
    """The state of the scalar head in a PEFT folder. Raises UserError for a broken file."""
    return read_tensors(folder / HEAD_FILE)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file. Raises UserError for one that is gone, cut off or something else."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read as safetensors ({first_line(error)}); copy or download it again, or "
                        "name another checkpoint") from None


def save_beside(folder: Path, head: ScalarHead | None, base: str, fingerprint: str) -> None:
    """Write the head, and the base's name and fingerprint, beside PEFT's files."""
    if head is not None:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
        save_file(state, str(folder / HEAD_FILE))
    text = json_text({"model": base, "fingerprint": fingerprint}, indent=1)
    (folder / BASE_FILE).write_text(text + "\n", encoding="utf-8")
