"""Proxies: reward models trained on few labels of a gold reward, and what they say about token rows.

A label compares two samples of the starting policy by their gold scores, without noise; equal scores are a tie. Each
proxy is what the stage `reward` trains: an adapter that starts as a copy of the policy, and a head.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from rlhf_engine.config import RewardConfig
from rlhf_engine.data.examples import Ranking
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError, noop
from rlhf_engine.files import atomic_folder
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.reward_functions import score_all
from rlhf_engine.rollout.rollout import Rollout
from rlhf_engine.trainers.reward import RewardTrainer

BATCH = 32
"""Rows that a proxy scores at a time."""


class Label(NamedTuple):
    """Two samples of the start to one prompt, with their gold scores."""

    prompt: Prompt
    responses: tuple[str, str]
    gold: tuple[float, float]

    def ranking(self) -> Ranking:
        """The label as a row of preference data, from which the scores themselves cannot be learned."""
        first, second = self.gold
        ranks = (1.0, 1.0) if first == second else (1.0, 2.0) if first > second else (2.0, 1.0)
        return Ranking(self.prompt, self.responses, ranks)


def train_proxy(backbone: Backbone, labels: Sequence[Label], config: RewardConfig, folder: Path, start: str | None, *,
                on_microbatch: Callable[[], None] = noop) -> None:
    """Train a proxy and write its adapter and head to `folder`, all or nothing.

    `start` is the role of the starting policy, or None for the bare base. The roles `policy` and `reward` must be free;
    they are free again afterwards.

    Raises UserError where all labels are ties.
    """
    if all(label.gold[0] == label.gold[1] for label in labels):
        raise UserError(f"the gold gives both responses the same score in all {len(labels)} labels, so there is "
                        "nothing to learn: give more --labels, or another --gold")
    try:
        if start:
            backbone.copy_role("policy", start)
        for _ in RewardTrainer(backbone, [label.ranking() for label in labels], config, on_microbatch=on_microbatch):
            on_microbatch()
        with atomic_folder(folder) as temporary:
            backbone.save_role("reward", temporary)
    finally:
        for role in ("reward", "policy"):
            backbone.drop_role(role)


class Proxy:
    """One proxy, or an ensemble of several, as a reward: the members' mean less `spread_cost` standard deviations.

    Each member's scores, and then the ensemble's, have mean 0 and standard deviation 1 on `rows`, which are samples of
    the start. It is a `RewardFunction`, too.

    Args:
        backbone: gets a role for each member.
        folders: of the members, as `train_proxy` wrote them.
        rows: token ids of prompts with samples of the start.
        spread_cost: taken off per standard deviation between the members; of one proxy there is none.
        on_microbatch: called between forward passes.

    Raises UserError where a member gives all rows the same score.
    """

    def __init__(self, backbone: Backbone, folders: Sequence[Path], rows: list[list[int]], spread_cost: float = 0.0, *,
                 on_microbatch: Callable[[], None] = noop):
        self.backbone = backbone
        self.spread_cost = spread_cost
        self.on_microbatch = on_microbatch
        self.roles = [f"proxy_{number}" for number in range(len(folders))]
        for role, folder in zip(self.roles, folders):
            backbone.load_role(role, folder, head=True)
        self.member_scale = torch.tensor([[0.0], [1.0]]).repeat(1, len(folders))
        """[2, members]: mean and standard deviation of each member on the rows."""
        self.scale = (0.0, 1.0)
        """The same of the whole."""
        raw = self.member_scores(rows)
        self.member_scale = torch.stack([raw.mean(0), raw.std(0, correction=0)])
        if not (self.member_scale[1] > 1e-6).all():
            raise UserError(f"the proxy in {folders[int(self.member_scale[1].argmin())]} gives all {len(rows)} samples "
                            "of the start the same score: train it with more --labels or --proxy-steps")
        whole = self.score_rows(rows)
        self.scale = (whole.mean().item(), max(whole.std(correction=0).item(), 1e-6))

    def member_scores(self, rows: list[list[int]]) -> torch.Tensor:
        """[N, members]: the scores of token rows, on the scale of the start."""
        scores = [score_all(self.backbone, rows, batch=BATCH, role=role, on_microbatch=self.on_microbatch)
                  for role in self.roles]
        mean, deviation = self.member_scale
        return (torch.stack(scores, 1) - mean) / deviation

    def score_rows(self, rows: list[list[int]]) -> torch.Tensor:
        """[N]: the scores of token rows, on the scale of the start."""
        members = self.member_scores(rows)
        mean, deviation = self.scale
        return (members.mean(1) - self.spread_cost * members.std(1, correction=0) - mean) / deviation

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        """[B]: the scores of a rollout."""
        return self.score_rows([prompt + response for prompt, response
                                in zip(rollout.prompt_ids, rollout.response_ids)])

    def drop(self) -> None:
        """Take the members' roles away."""
        for role in self.roles:
            self.backbone.drop_role(role)


def agreement(proxy: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
    """How well proxy scores [P, N] of N samples to each of P prompts agree with gold scores [P, N].

    `accuracy` is the share of pairs of samples to one prompt, of unlike gold, that the proxy puts in the right order;
    `correlation` is Pearson's over all samples. None where it is not defined.
    """
    right = total = 0.0
    for scores, truth in zip(proxy, gold):
        apart, true_apart = np.subtract.outer(scores, scores), np.subtract.outer(truth, truth)
        unlike = true_apart > 0
        right += (apart[unlike] > 0).sum() + 0.5 * (apart[unlike] == 0).sum()
        total += unlike.sum()
    defined = proxy.std() > 0 and gold.std() > 0
    return {"accuracy": float(right / total) if total else None,
            "correlation": float(np.corrcoef(proxy.ravel(), gold.ravel())[0, 1]) if defined else None}


def chosen_prompts(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """`count` prompts for the labels of a seed, drawn at random; a larger count begins with the same ones."""
    rng = random.Random(f"{seed} labels")
    return [prompts[rng.randrange(len(prompts))] for _ in range(count)]
