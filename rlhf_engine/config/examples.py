"""The settings of the stages that learn from rows of data: SFT, the reward model and DPO."""

import typing
from dataclasses import dataclass
from typing import Literal

from rlhf_engine.config.fields import LARGEST, LONGEST, MOST_ROWS, MOST_TOKENS, bounded, flag
from rlhf_engine.config.run import RunConfig
from rlhf_engine.errors import UserError


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
    shuffle_labels: bool = bounded(False, advanced=True)
    """A negative control: which response of a prompt was preferred is drawn at random, in training but not among the
    held-out pairs. A reward that is then right more often than by chance has seen what it should not."""
    centring: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Weight of (r_better + r_worse)^2 beside the loss. It keeps scores around 0 (Eisenstein et al. 2023 use
    0.01)."""
    stage: typing.ClassVar[str] = "reward"
    rate_scale: typing.ClassVar[float] = 0.4


@dataclass
class DPOConfig(RunConfig):
    """A policy from preferences alone, without a reward model and without sampling (Rafailov et al. 2023)."""

    loss: Literal["sigmoid", "ipo", "hinge", "robust", "length-normalised", "kto", "plackett-luce"] = "sigmoid"
    """`sigmoid` is DPO. `ipo` gives the margin a target (Azar et al. 2023); `hinge` stops at a margin (SLiC); `robust`
    corrects for a known share of wrong labels (Chowdhury et al. 2024); `length-normalised` takes means over tokens in
    the place of sums; `kto` reads thumbs, not pairs (Ethayarajh et al. 2024); `plackett-luce` learns whole rankings,
    where the others take all their pairs."""
    beta: float = bounded(0.1, 1e-4, 100.0)
    """Strength of the KL penalty that the loss stands for. Lower values let the policy move further."""
    label_smoothing: float = bounded(0.0, 0.0, 0.49)
    """Share of the labels that is taken to be wrong: cDPO with `sigmoid`, and what `robust` corrects for."""
    length_penalty: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Nats per token by which a longer response is expected to win (Park et al. 2024). What length explains is not
    learned: a preference for long responses fades, and one for short responses grows. Losses that compare means per
    token (`ipo`, `length-normalised`) do not take it."""
    desirable_weight: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Weight of a desirable response in `kto`. 0 takes it from the counts: weight times number of the two kinds stand
    as 1:1 to 4:3, and where they do so by themselves, both weights are 1."""
    undesirable_weight: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Weight of an undesirable response in `kto`, likewise."""
    reference_free: bool = bounded(False, advanced=True)
    """Take the log-probabilities of the policy alone, as if the reference found all responses equally likely."""
    epochs: float = bounded(2.0, 0.0, LARGEST, live=True)
    """Passes over the preferences; the last may be partial."""
    steps: int = bounded(0, 0, LONGEST, live=True)
    """Optimiser steps; 0 takes them from `epochs`."""
    held_out: float = bounded(0.15, 0.0, 0.9)
    """Share of the preferences kept out of training, to measure accuracy and to sample responses."""
    evaluate_every: int = bounded(25, 1, LONGEST)
    """Steps between measurements on held-out preferences, and of the KL on fresh responses."""
    max_new_tokens: int = bounded(96, 1, MOST_TOKENS)
    """Longest of these responses, in tokens."""
    temperature: float = bounded(1.0, 0.01, 10.0)
    """Temperature at which they are sampled, and at which their KL is measured."""
    reference_samples: int = bounded(64, 2, MOST_ROWS)
    """Responses that are sampled at each measurement."""
    stage: typing.ClassVar[str] = "dpo"
    rate_scale: typing.ClassVar[float] = 0.2

    def validate(self) -> "DPOConfig":
        """As in `RunConfig`. A setting that the loss does not use is refused, too."""
        super().validate()
        if self.length_penalty and self.loss in MEAN_LOSS_NAMES:
            raise UserError(f"--length-penalty is {self.length_penalty:g} nats for each token by which a response is "
                            f"longer, but --loss {self.loss} compares means per token, which do not grow with the "
                            f"length: leave it out, or choose --loss {' or '.join(SUM_LOSS_NAMES)}")
        for name, losses in USED_BY.items():
            if getattr(self, name) != getattr(type(self), name) and self.loss not in losses:
                raise UserError(f"{flag(name)} has no effect with --loss {self.loss}: leave it out, or choose --loss "
                                f"{' or '.join(losses)}")
        if self.loss == "kto" and self.batch_size < 2:
            raise UserError("--batch-size is 1, but --loss kto compares each prompt with the response of another row "
                            "of the batch: take 2 rows at least, better 8 or more")
        return self


SUM_LOSS_NAMES = ("sigmoid", "hinge", "robust")
"""The losses of a pair that compare sums of log-ratios, in nats per sequence."""
MEAN_LOSS_NAMES = ("ipo", "length-normalised")
"""Those that compare means, in nats per token."""
PAIR_LOSS_NAMES = (*SUM_LOSS_NAMES, *MEAN_LOSS_NAMES)
USED_BY = {"label_smoothing": PAIR_LOSS_NAMES, "length_penalty": SUM_LOSS_NAMES,
           "reference_free": (*PAIR_LOSS_NAMES, "plackett-luce"), "desirable_weight": ("kto",),
           "undesirable_weight": ("kto",)}
"""The losses that use a setting, of settings that not all of them use."""
