"""Rejection sampling: which scored responses are kept to learn from. No function here needs a model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ScoredSample:
    """A response to a prompt, and its raw score."""

    prompt: int
    """Index of the prompt."""
    ids: tuple[int, ...]
    """Token ids of the response, with the stop token if it ended."""
    score: float
    ended: bool


def drop_duplicates(samples: Sequence[ScoredSample]) -> list[ScoredSample]:
    """The samples without those whose response to the same prompt came before."""
    return list({(sample.prompt, sample.ids): sample for sample in reversed(samples)}.values())[::-1]


def worth_keeping(samples: Sequence[ScoredSample], *, ended_only: bool) -> list[ScoredSample]:
    """The samples of a round that may be kept.

    Those with the lowest score of the round may not, unless all have it. `ended_only` leaves those out that were cut
    off.
    """
    lowest = min(sample.score for sample in samples)
    alike = all(sample.score == lowest for sample in samples)
    return [sample for sample in samples if (alike or sample.score > lowest) and (sample.ended or not ended_only)]


def best_of_each(samples: Sequence[ScoredSample]) -> list[ScoredSample]:
    """The best sample of each prompt; of a tie the first. In the order in which the prompts appear."""
    best: dict[int, ScoredSample] = {}
    for sample in samples:
        held = best.get(sample.prompt)
        if held is None or sample.score > held.score:
            best[sample.prompt] = sample
    return list(best.values())


def top_of_all(samples: Sequence[ScoredSample], count: int) -> list[ScoredSample]:
    """The `count` samples with the highest scores, of ties the first, in descending order."""
    return sorted(samples, key=lambda sample: -sample.score)[:count]


def choose(samples: Sequence[ScoredSample], before: Sequence[ScoredSample], *, keep: str, top_share: float,
           ended_only: bool) -> list[ScoredSample]:
    """What is kept after a round.

    Args:
        samples: of the round.
        before: what was kept of earlier rounds. It comes first: of a tie the older one stays, nearer to the start.
        keep: "best" of each prompt, or "top" of all.
        top_share: of the round's samples; so many are kept in all.
        ended_only: leave samples out that were cut off.
    """
    pool = drop_duplicates([*before, *worth_keeping(samples, ended_only=ended_only)])
    return best_of_each(pool) if keep == "best" else top_of_all(pool, math.ceil(top_share * len(samples)))


# -- in a checkpoint ---------------------------------------------------------------------------------------------------

def pack_samples(samples: Sequence[ScoredSample]) -> dict[str, Any]:
    """Samples as tensors, for a checkpoint."""
    return {"prompts": torch.tensor([sample.prompt for sample in samples], dtype=torch.int64),
            "lengths": torch.tensor([len(sample.ids) for sample in samples], dtype=torch.int64),
            "ids": torch.tensor([token for sample in samples for token in sample.ids], dtype=torch.int64),
            "scores": torch.tensor([sample.score for sample in samples], dtype=torch.float64),
            "ended": torch.tensor([sample.ended for sample in samples], dtype=torch.bool)}


def unpack_samples(state: dict[str, Any]) -> list[ScoredSample]:
    """The samples that `pack_samples` packed."""
    rows = state["ids"].split(state["lengths"].tolist())
    return [ScoredSample(prompt, tuple(ids.tolist()), score, ended) for prompt, ids, score, ended
            in zip(state["prompts"].tolist(), rows, state["scores"].tolist(), state["ended"].tolist())]
