"""What `teach` needs of a learner: PPO against the live reward, or `Tamer`, which learns from the votes themselves."""

from typing import Protocol

import torch

from rlhf_engine.data.tokenization import Encoded, Prompt
from rlhf_engine.rollout.rollout import Rollout


class Learner(Protocol):
    """An iterator over the steps of a policy that learns from a reward which changes between the steps."""

    step: int
    total_steps: int
    prompts: list[Prompt]
    encoded: list[Encoded]
    """The prompts as token ids."""
    data_notes: list[str]
    samples: list[dict]
    events: list[dict]
    prepared: bool
    """Whether what happens once before the first step has happened."""
    micro_batch: int
    overrides: dict[str, float]
    """Settings that have been changed while it runs."""

    @property
    def tunable(self) -> tuple[str, ...]: ...

    @property
    def peak_lr(self) -> float: ...

    def __next__(self) -> dict:
        """Do one step; returns its metrics."""
        ...

    def choose_passes(self) -> None:
        """Choose how many tokens a pass reads, before the first one."""
        ...

    def sample_reference(self) -> Rollout:
        """Responses of the starting policy, on which rewards are normalised."""
        ...

    def fit_reward_normalisation(self, rollout: Rollout) -> None:
        """Learn from such responses how the policy ends and what its scores are like."""
        ...

    def rollout(self, chosen: list[int], generator: torch.Generator, *, role: str = "policy",
                batch: int = 0) -> Rollout:
        """One response of a role to each chosen prompt (an index into `prompts`)."""
        ...

    def answer(self, prompts: list[Prompt], generator: torch.Generator, *, role: str = "policy") -> list[str]:
        """The texts with which a role answers any prompts."""
        ...

    def change(self, name: str, value: float) -> float: ...

    def check(self, changes: dict[str, float]) -> None: ...

    def restore_settings(self, overrides: dict[str, float]) -> None:
        """Give the settings the values of a checkpoint: its `overrides`, and the initial values for the rest."""
        ...

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...
