"""Rejection sampling: which scored responses are kept to learn from. No function here needs a model."""

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
    first: dict[tuple[int, tuple[int, ...]], ScoredSample] = {}
    for sample in samples:
        first.setdefault((sample.prompt, sample.ids), sample)
    return list(first.values())


def worth_keeping(samples: Sequence[ScoredSample], lowest: float, *, ended_only: bool) -> list[ScoredSample]:
    """The samples that may be kept: those that score above `lowest`, and with `ended_only` were not cut off."""
    return [sample for sample in samples if sample.score > lowest and (sample.ended or not ended_only)]


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


def choose(samples: Sequence[ScoredSample], before: Sequence[ScoredSample], *, keep: str,
           count: int) -> list[ScoredSample]:
    """What is kept after a round.

    Args:
        samples: of the round, those that may be kept.
        before: what was kept of earlier rounds. It comes first: of a tie the older one stays, nearer to the start.
        keep: "best" of each prompt, or "top" of all.
        count: how many of the top are kept.
    """
    pool = drop_duplicates([*before, *samples])
    return best_of_each(pool) if keep == "best" else top_of_all(pool, count)


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
