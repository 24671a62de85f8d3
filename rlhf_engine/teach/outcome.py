"""How far a taught policy has come from the one it started from."""

from collections.abc import Callable

import torch

from rlhf_engine.config import TeachConfig
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import noop
from rlhf_engine.evaluation.compare import compare, text_judge
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling

SAMPLES = 256
"""Fresh samples, at least, on which the outcome is measured."""


def measure_outcome(backbone: Backbone, prompts: list[Prompt], score: Callable[[Prompt, str], float] | None,
                    config: TeachConfig, *, on_microbatch: Callable[[], None] = noop) -> dict:
    """Numbers for report.json that compare `policy` with `reference` on prompts that were not trained on.

    `score` is the labeler's own; without one there are no wins. Raises UserError where it fails.
    """
    numbers, _ = compare(backbone, "policy", "reference", prompts, text_judge(score) if score else None,
                         per_prompt=-(-SAMPLES // len(prompts)), seed=config.seed,
                         max_tokens=min(config.max_tokens, backbone.longest),
                         sampling=Sampling(config.max_new_tokens, config.temperature), on_microbatch=on_microbatch)
    if "ties" in numbers:
        numbers["sample_ties"] = numbers["ties"]  # `ties` of the report counts votes
    return numbers


def win_share(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """How often a score of `ours` [N] is above one of `theirs` [M], ties half, over all pairs."""
    difference = ours[:, None] - theirs[None]
    return ((difference > 0).double() + (difference == 0).double() / 2).mean().item()
