"""Candidates for a query: responses to one prompt, of which a query shows some."""

import random
from dataclasses import dataclass, field

import torch

from rlhf_engine.config import TeachConfig
from rlhf_engine.feedback.queries import BLIND
from rlhf_engine.teach.learners.protocol import Learner
from rlhf_engine.teach.online_reward import OnlineReward
from rlhf_engine.teach.word_features import Row


@dataclass
class Candidates:
    """C responses to one prompt."""

    texts: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    """Their token ids, with those of the prompt."""
    roles: list[str] = field(default_factory=list)
    """The role that wrote each."""
    scores: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    """[C, members], normalised."""


def candidates_by_role(config: TeachConfig, step: int, votes: int) -> dict[str, int]:
    """How many candidates each role writes for a query.

    Half are by the policy, half by the starting policy: otherwise queries would be about nothing but what the reward
    has come to prefer. Before the first update both are the same. `tamer` learns from the policy's own responses.
    """
    if config.tamer:
        return {"policy": config.choices}
    count = config.candidates if votes >= BLIND else config.choices
    if step <= 1:
        return {"reference": count}
    return {"policy": -(-count // 2), "reference": count // 2}


def draw_candidates(learner: Learner, reward: OnlineReward, chosen: list[int], by_role: dict[str, int],
                    rng: random.Random, batch: int) -> list[Candidates]:
    """Candidates for each chosen prompt (an index into the learner's), sampled `batch` at a time, and scored."""
    drawn = [Candidates() for _ in chosen]
    for role, count in by_role.items():
        repeated = [i for i in chosen for _ in range(count)]
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        rollout = learner.rollout(repeated, generator, role=role, batch=batch)
        for number, candidates in enumerate(drawn):
            part = slice(number * count, (number + 1) * count)
            candidates.texts += rollout.responses[part]
            candidates.rows += zip(rollout.prompt_ids[part], rollout.response_ids[part])
            candidates.roles += [role] * count
    rows: list[Row] = []
    for candidates in drawn:
        rows += candidates.rows
    for candidates, scores in zip(drawn, reward.score(rows).split(sum(by_role.values()))):
        candidates.scores = scores
    return drawn
