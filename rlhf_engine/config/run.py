"""The settings that all training stages share."""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Literal

from rlhf_engine.config.fields import (
    LARGEST,
    LARGEST_SEED,
    LARGEST_WHOLE,
    LONGEST,
    MOST_ROWS,
    MOST_TOKENS,
    bounded,
    coerce,
    field_types,
    flag,
)
from rlhf_engine.errors import UserError, short_repr

LENGTH_FIELDS = ("steps", "epochs", "votes")
"""The settings that say how long a run is. A resumed run may get other values for these; all others stay."""
LONGEST_PERIOD = 50
"""Most steps between two checkpoints, unless the setting names more."""


@dataclass
class RunConfig:
    """What every training stage needs to know."""

    model: str = "bundled"
    """Base model: `bundled`, `smollm2`, a Hub id, a .gguf file or a local directory with safetensors weights."""
    adapter: str = "auto"
    """Adapter to start from: `none`, `bundled`, a run folder or a PEFT folder. `auto` is `bundled` for all stages but
    SFT on the bundled model, and `none` elsewhere."""
    data: str = "bundled"
    """Training data: `bundled`, a Hub id, or a local .json, .jsonl, .csv or .parquet file."""
    subset: str = ""
    """Configuration name of a Hub data set that has several."""
    split: str = ""
    """Split of a Hub data set; empty means `train`."""
    limit: int = bounded(0, 0, LONGEST, advanced=True)
    """Read at most this many rows; 0 reads all."""
    output: str = ""
    """Run folder to write."""
    seed: int = bounded(0, 0, LARGEST_SEED)
    """Seed of data order, initial weights and sampling."""
    dtype: Literal["auto", "fp32", "bf16", "nf4"] = "auto"
    """Number format of the frozen base. `auto` is fp32 on a CPU and bf16 on a GPU; `nf4` is 4-bit. Adapters are
    always fp32."""
    device: str = "auto"
    """Where to run: `auto`, `cpu`, `cuda` or `cuda:N`."""
    lora_rank: int = bounded(8, 1, 512)
    """Rank of the LoRA adapters, on every linear layer but the output layer."""
    lora_alpha: int = bounded(16, 1, MOST_ROWS, advanced=True)
    """LoRA scale; updates are multiplied by alpha / rank."""
    max_tokens: int = bounded(512, 8, MOST_TOKENS)
    """Longest prompt plus response in tokens; longer rows are cut from the left of the prompt, and counted."""
    batch_size: int = bounded(16, 1, MOST_ROWS)
    """Rows per optimiser step."""
    micro_batch: int = bounded(0, 0, MOST_ROWS, advanced=True)
    """Most rows per forward pass; 0 is the whole batch. Gradients are the same for every value."""
    learning_rate: float = bounded(0.0, 0.0, live=True)
    """Peak learning rate of Adam on adapters and heads. 0 fits it to the width of the model: ten times the rate of a
    full fine-tuning (Schulman et al. 2025)."""
    warmup: float = bounded(0.05, 0.0, 1.0, advanced=True)
    """Share of the steps in which the learning rate rises linearly from zero."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warm-up: `linear` falls to zero (Ziegler 2019), `constant` stays. A run that is made
    longer follows the schedule of the new length, warm-up included."""
    max_grad_norm: float = bounded(1.0, 0.0, LARGEST, advanced=True)
    """Gradients are clipped to this global norm; 0 does not clip."""
    gradient_checkpointing: bool = bounded(False, advanced=True)
    """Recompute activations in the backward pass: less memory, more time."""
    checkpoint_every: int = bounded(0, 0, LONGEST)
    """Steps between checkpoints; 0 is a fifth of the run, and at most 50. The last step always has one."""
    keep_checkpoints: int = bounded(5, 0, LONGEST, advanced=True)
    """Newest checkpoints kept; 0 keeps all."""

    stage: typing.ClassVar[str] = ""
    rate_scale: typing.ClassVar[float] = 1.0
    """Share of the fitted learning rate that suits the stage (benchmarks/README.md)."""

    def validate(self) -> "RunConfig":
        """Types, choices and bounds of every field. Raises UserError that names the field and the mend."""
        for name, kind in field_types(type(self)).items():
            setattr(self, name, coerce(name, getattr(self, name), kind))
            meta = type(self).__dataclass_fields__[name].metadata
            value, low, high = getattr(self, name), meta.get("low"), meta.get("high")
            if kind is int and high is None:
                high = LARGEST_WHOLE
            if (low is not None and value < low) or (high is not None and value > high):
                limits = [f"at {word} {limit}" for word, limit in (("least", low), ("most", high)) if limit is not None]
                raise UserError(f"{flag(name)} is {short_repr(value)}, but must be {' and '.join(limits)}")
        max_new_tokens = getattr(self, "max_new_tokens", 0)
        if max_new_tokens >= self.max_tokens:
            raise UserError(f"--max-new-tokens ({max_new_tokens}) leaves no room for a prompt in --max-tokens "
                            f"({self.max_tokens})")
        return self


def check_length(total: int, done: int) -> None:
    """Whether a run that has taken `done` steps can become one of `total`. Raises UserError."""
    if total <= done:
        raise UserError(f"the run would end with step {total}, and has taken {done} already: ask for more than that")


def checkpoint_period(every: int, total: int) -> int:
    """Steps between two checkpoints of a run of `total` steps whose `checkpoint_every` is `every`."""
    return every or min(LONGEST_PERIOD, max(1, -(-total // 5)))


def to_dict(config: RunConfig) -> dict:
    return dataclasses.asdict(config)
