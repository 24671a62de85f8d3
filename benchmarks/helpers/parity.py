"""What the programs share that put our numbers beside TRL's: a small model, equal noise on both sides, one update."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from rlhf_engine.rollout.rollout import Batch, Rollout
from rlhf_engine.trainers.online import OnlineTrainer, Targets

SHAPE: dict[str, Any] = dict(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads=2, initializer_range=0.15)
"""A Llama whose weights are large, so that its log-probabilities differ."""
END = 2
"""The id of the end token (`make_tokenizer`)."""


@torch.no_grad()
def disturb(parameters: Mapping[str, torch.Tensor], scale: float, seed: int) -> None:
    """Add the same noise to parameters of the same names, whoever holds them."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(parameters.items()):
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def our_name(name: str) -> str:
    """A parameter's name without what the two wrappers put around it."""
    return name.split("layers.", 1)[-1].replace(".default", "").replace(".policy", "")


def named(parameters: Iterable[tuple[str, torch.nn.Parameter]], mark: str = "") -> dict[str, torch.nn.Parameter]:
    """Those parameters whose name has the mark, by their plain name."""
    return {our_name(name): parameter for name, parameter in parameters if mark in name}


def load_for_trl(folder: Path, adapter: Path) -> Any:
    """The base in `folder` with the adapter, as PEFT loads it: TRL trains that and keeps a copy as its reference."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter, is_trainable=True)


def gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    """The gradient of a parameter, which must have one."""
    assert parameter.grad is not None
    return parameter.grad


def update(trainer: OnlineTrainer, rollout: Rollout, targets: Targets) -> dict[str, float]:
    """The statistics of an optimiser step over the rows to learn from; its gradients are left in place."""
    rows = list(range(len(rollout))) if targets.rows is None else targets.rows

    def backward(part: list[int]) -> dict[str, float]:
        stats = trainer.backward(Batch(trainer.backbone, rollout, part), rollout, targets, rows)
        return {name: value.item() for name, value in stats.items()}

    trainer.optimizer.zero_grad()
    return trainer.accumulate(rollout.by_length(rows), backward, row_length=rollout.row_length)
