"""The settings of rejection-sampling fine-tuning."""

import typing
from dataclasses import dataclass
from typing import Literal

from rlhf_engine.config.fields import LARGEST, LONGEST, MOST_ROWS, MOST_TOKENS, bounded
from rlhf_engine.config.run import RunConfig
from rlhf_engine.errors import UserError


@dataclass
class RFTConfig(RunConfig):
    """Rejection-sampling fine-tuning: a policy imitates the best of its own responses (Touvron et al. 2023)."""

    reward: str = ""
    """What scores a response: a reward run folder; `sentiment`, `short`, `long`, `dialogue` or `keyword=WORD`; or
    FILE.py:FUNCTION (command line only)."""
    rounds: int = bounded(3, 1, LONGEST, live=True)
    """Rounds. In each the policy answers the prompts, the best answers are kept, and the starting checkpoint is
    fine-tuned on them anew."""
    samples: int = bounded(8, 1, MOST_ROWS)
    """Responses to each prompt in a round."""
    keep: Literal["best", "top"] = "best"
    """`best` keeps the best response to each prompt, `top` the share `top_share` of all responses. What scores no
    better than the worst response so far is never kept: of a yes-or-no rule, nothing that fails is imitated."""
    top_share: float = bounded(0.1, 0.001, 1.0)
    """Share of a round's responses that `keep: top` keeps."""
    all_rounds: bool = True
    """Choose among the responses of all rounds so far. With those of the newest round alone, what an earlier one could
    do is forgotten (Touvron et al. 2023, section 3.2.3)."""
    round_prompts: int = bounded(0, 0, LONGEST)
    """Prompts that are answered in a round, drawn anew each time; 0 takes all."""
    epochs: float = bounded(2.0, 0.01, LARGEST)
    """Passes over the kept responses in a round; the last may be partial."""
    missing_end: Literal["auto", "drop", "keep"] = "auto"
    """Whether a response that did not end in time may be kept. `auto` drops those where most of the first round end in
    time: who imitates answers that are cut off learns not to end."""
    max_new_tokens: int = bounded(96, 1, MOST_TOKENS)
    """Longest response in tokens."""
    temperature: float = bounded(1.0, 0.01, 10.0)
    """Sampling temperature, at which the KL is measured, too."""
    sample_batch: int = bounded(64, 1, MOST_ROWS, advanced=True)
    """Responses that are sampled at a time, which is one step; at least those to one prompt."""
    held_out: float = bounded(0.1, 0.0, 0.9)
    """Share of the prompts that is not trained on: on them, each round's policy is measured."""
    reference_samples: int = bounded(64, 2, MOST_ROWS)
    """Responses on which it is measured."""
    stage: typing.ClassVar[str] = "rft"
    rate_scale: typing.ClassVar[float] = 0.4

    def validate(self) -> "RFTConfig":
        super().validate()
        if self.keep == "best" and self.samples < 2:
            raise UserError("--samples is 1, of which none is the best: sample more, or set --keep top")
        return self
