"""Several responses of the policy to each prompt: the different ones, and how often each came."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from rlhf_engine.data.tokenization import Encoded, Prompt
from rlhf_engine.errors import noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, sample
from rlhf_engine.rollout.rollout import Rollout, make_rollout


class DistinctResponses(NamedTuple):
    """The different responses to some prompts: D of them."""

    rollout: Rollout
    owners: list[int]
    """[D]: index of the prompt of each."""
    counts: torch.Tensor
    """[D]: how often each was sampled."""


def sample_distinct(backbone: Backbone, prompts: Sequence[Prompt], encoded: Sequence[Encoded], chosen: list[int],
                    count: int, sampling: Sampling, generator: torch.Generator, *,
                    on_microbatch: Callable[[], None] = noop) -> DistinctResponses:
    """Sample `count` responses of the role `policy` to each prompt of index `chosen`; equal ones become one.

    Args:
        backbone: has the role.
        prompts: all prompts.
        encoded: their token ids.
        chosen: which of them to answer.
        count: responses to each.
        sampling: how to sample.
        generator: of the random numbers.
        on_microbatch: called after each sampled token.
    """
    asked = [i for i in chosen for _ in range(count)]
    with backbone.use("policy"):
        responses = sample(backbone, [encoded[i].ids for i in asked], sampling, generator, on_microbatch=on_microbatch)
    times: dict[tuple[int, tuple[int, ...]], int] = {}
    for owner, ids in zip(asked, responses):
        key = owner, tuple(ids)
        times[key] = times.get(key, 0) + 1
    owners = [owner for owner, _ in times]
    rollout = make_rollout(backbone, [prompts[i] for i in owners], [encoded[i].ids for i in owners],
                           [list(ids) for _, ids in times])
    return DistinctResponses(rollout, owners, torch.tensor(list(times.values())))
