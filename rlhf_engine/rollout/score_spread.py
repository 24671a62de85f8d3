"""Whether a reward tells the responses of the starting policy apart, and what helps where it hardly does.

PPO learns from the differences between scores. Where all are the same, such as 0 for a thing that no response does,
there is nothing to learn from; where nearly all are, it learns from few responses.
"""

from collections.abc import Iterator

import torch

from rlhf_engine.config import PolicyConfig

FIRST = 8
"""Responses in the first batch that is sampled and scored; each further one is twice as large."""
EARLY = 24
"""Equal scores from which on somebody who waits is told."""
FEW = 0.1
"""Share of responses that score otherwise than most, below which there is a warning."""


def growing_batches(items: list[int], most: int) -> Iterator[list[int]]:
    """`items` in batches of 8, 16, 32 and so on, none above `most`."""
    start, size = 0, min(FIRST, most)
    while start < len(items):
        yield items[start:start + size]
        start, size = start + size, min(2 * size, most)


def largest_share(scores: torch.Tensor) -> tuple[float, float]:
    """(share of the scores [N] that are the most frequent one, that score)."""
    values, counts = scores.unique(return_counts=True)
    most = int(counts.argmax())
    return counts[most].item() / len(scores), values[most].item()


def early_remark(scores: torch.Tensor, wanted: int) -> str:
    """What to say, before all `wanted` responses are scored, of scores [N] that are all the same so far; else ""."""
    count = len(scores)
    share, score = largest_share(scores)
    if share < 1 or not EARLY <= count < wanted:
        return ""
    return (f"the first {count} samples of the starting policy all score {score:.6g}; {wanted - count} more are "
            "sampled to find one that scores otherwise")


class ScoreSpread:
    """What the scores [N] of samples of the starting policy say about a run.

    Args:
        scores: raw.
        ended: share of the samples that ended in time.
        config: the settings of the run.
    """

    def __init__(self, scores: torch.Tensor, ended: float, config: PolicyConfig):
        self.count = len(scores)
        self.share, self.score = largest_share(scores)
        self.ended = ended
        self.config = config

    def warning(self) -> str:
        """A line where (nearly) all samples score the same; else ""."""
        if self.share <= 1 - FEW:
            return ""
        others = self.count - round(self.share * self.count)
        share = f"{self.share:.1%}" if others and self.share > 0.995 else f"{self.share:.0%}"
        if not others:
            learns = "there is nothing to learn from until one scores otherwise"
        else:
            a_step = max(1, round((1 - self.share) * self.config.batch_size))
            learns = f"the policy learns from the others, about {a_step} of {self.config.batch_size} in a step"
        what_helps = self.help()
        return (f"{share} of the {self.count} samples of the starting policy score the same ({self.score:.6g}), so "
                f"{learns}. {what_helps[:1].upper()}{what_helps[1:]}.")

    def help(self) -> str:
        """What helps, without a full stop."""
        config = self.config
        cut = f", which cut {1 - self.ended:.0%} of them off" if self.ended < 0.95 else ""
        return ("what helps: prompts that ask for what is rewarded, a reward that also gives part of the score for "
                f"coming near it, longer responses (--max-new-tokens is {config.max_new_tokens}{cut}), or more samples "
                f"(--reference-samples is {config.reference_samples})")
