"""What to ask next: of the responses sampled to a prompt, those whose comparison would teach the reward most."""

import random
from dataclasses import dataclass

import torch

from rlhf_engine.encoding import Prompt


@dataclass(frozen=True)
class Query:
    """Responses to one prompt that are waiting for a vote."""

    id: str
    prompt: Prompt
    responses: tuple[str, ...]
    scores: tuple[float, ...]
    """The reward's opinion at that time, one number a response."""
    step: int
    sampling: dict
    run: str = ""
    checkpoint: str = ""


def choose(scores: torch.Tensor, texts: list[str], count: int, strategy: str, rng: random.Random) -> list[int]:
    """Places of `count` of the candidates (all, if there are fewer), in random order. scores: [C, members] of the candidates, normalised.

    Equal texts are shown once, where there are enough others. `best`: the highest mean. `disagreement`: the two about whose difference
    members differ most (Christiano et al. 2017, section 2.2.4), then those of which that holds against all that are chosen.
    `spread`: the best, then those whose mean is farthest from all that are chosen. While all score the same, as before the first
    vote, that is all at random.
    """
    order = rng.sample(range(len(texts)), len(texts))
    order.sort(key=lambda i: texts.index(texts[i]) != i)  # repeats of a text come last
    fresh = order[:max(count, len(set(texts)))]
    mean = scores.mean(-1)
    if strategy == "random" or (scores.amax(0) - scores.amin(0)).max() < 1e-6:
        picked = fresh[:count]
    elif strategy == "best":
        picked = sorted(fresh, key=lambda i: -mean[i])[:count]
    else:
        if strategy == "disagreement":
            apart = (scores[:, None] - scores[None]).std(-1, correction=0)
            picked = [max(fresh, key=lambda i: apart[i, fresh].max())]
        else:
            apart = (mean[:, None] - mean[None]).abs()
            picked = [max(fresh, key=lambda i: mean[i])]
        while len(picked) < min(count, len(fresh)):
            left = [i for i in fresh if i not in picked]
            picked.append(max(left, key=lambda i: apart[i, picked].min()))
    return rng.sample(picked, len(picked))
