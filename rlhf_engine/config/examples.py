"""The settings of the stages that learn from rows of data: SFT and the reward model."""

import typing
from dataclasses import dataclass

from rlhf_engine.config.fields import LARGEST, LONGEST, MOST_ROWS, MOST_TOKENS, bounded
from rlhf_engine.config.run import RunConfig


@dataclass
class SFTConfig(RunConfig):
    """Supervised fine-tuning on demonstrations: cross-entropy of the completion given the prompt."""

    epochs: float = bounded(6.0, 0.0, LARGEST, live=True)
    """Passes over the training rows; the last may be partial. Few demonstrations need more passes (InstructGPT took
    16)."""
    steps: int = bounded(0, 0, LONGEST, live=True)
    """Optimiser steps; 0 takes them from `epochs`."""
    held_out: float = bounded(0.1, 0.0, 0.9)
    """Share of the rows kept out of training to measure the held-out loss."""
    evaluate_every: int = bounded(25, 1, LONGEST)
    """Steps between measurements of the held-out loss."""
    stage: typing.ClassVar[str] = "sft"


@dataclass
class RewardConfig(RunConfig):
    """A reward model: Bradley-Terry on all pairs of a prompt's responses (Ouyang et al. 2022, eq. 1)."""

    epochs: float = bounded(1.0, 0.0, LARGEST, live=True)
    """Passes over the pairs; reward models overfit after one (Ouyang et al. 2022)."""
    steps: int = bounded(0, 0, LONGEST, live=True)
    """Optimiser steps; 0 takes them from `epochs`."""
    held_out: float = bounded(0.15, 0.0, 0.9)
    """Share of the pairs kept out of training to measure accuracy."""
    evaluate_every: int = bounded(25, 1, LONGEST)
    """Steps between measurements of held-out loss and accuracy."""
    reference_samples: int = bounded(256, 2, MOST_ROWS)
    """Responses of the starting policy on which the reward is normalised to mean 0 and standard deviation 1 (Ziegler
    et al. 2019)."""
    max_new_tokens: int = bounded(96, 1, MOST_TOKENS)
    """Longest of these responses, in tokens."""
    ensemble: int = bounded(1, 1, 64)
    """Heads on the reward adapter, each normalised on its own. The reward is their mean; their spread is its
    uncertainty."""
    rating_margin: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Margin per point between two ratings, for rows with `scores` (Touvron et al. 2023 use 1/3 to 1). 0 uses the
    order alone."""
    centring: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Weight of (r_better + r_worse)^2 beside the loss. It keeps scores around 0 (Eisenstein et al. 2023 use
    0.01)."""
    stage: typing.ClassVar[str] = "reward"
    rate_scale: typing.ClassVar[float] = 0.4
