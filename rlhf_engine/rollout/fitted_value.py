"""A value function that is fitted to the rollouts by least squares, and so is right from the first step on.

A reward that scores every token pays a response long before its end: one that should stop at fifty words is paid on the
way there and loses afterwards. The tokens do not earn that, the place does. What is still to come is a function of the
number of tokens so far and of the score so far, so a few dozen numbers say it. A head on the policy would learn
them too, in many more steps than a live run has.
"""

import torch

from rlhf_engine.losses.masked import zero_masked
from rlhf_engine.rollout.tents import tents

KNOTS = 12
"""Places between the first and the longest position at which the value bends."""
FOLDS = 8
"""Parts of a rollout. The value of a row comes from rows of other parts, so it knows nothing of that row's own luck."""
KEPT = 0.6
"""Weight of the rollouts before, at each new one."""
RIDGE = 0.03
"""Shrinkage towards 0, as a share of what the rollouts say about each number."""


class FittedValue:
    """The value of the state before each token, linear in `basis`: call `update(...)` once for each rollout."""

    def __init__(self, longest: int):
        self.longest = longest
        """Tokens of the longest response."""
        count = 2 * KNOTS
        self.moments = torch.zeros(count, count, dtype=torch.double)
        """[F, F]: sum of the products of the basis, over the tokens of the rollouts before."""
        self.targets = torch.zeros(count, dtype=torch.double)
        """[F]: sum of the products of the basis and the reward that was still to come."""

    def basis(self, mask: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """[B, R, F]: tents over the position, and the same times the score so far.

        Args:
            mask: [B, R], 1 for tokens.
            scores: [B, R], what the tokens before this one have added to the score.
        """
        knots = torch.linspace(0, max(self.longest - 1, 1), KNOTS)
        places = tents(torch.arange(mask.shape[1], dtype=torch.float), knots).expand(len(mask), -1, -1)
        return torch.cat([places, places * scores[..., None]], dim=2).double()

    def update(self, rewards: torch.Tensor, mask: torch.Tensor, token_scores: torch.Tensor | None) -> torch.Tensor:
        """Values [B, R] of the states of a new rollout, 0 where masked out; then learn from it.

        Args:
            rewards: [B, R], what each token is paid, the KL penalty included.
            mask: [B, R].
            token_scores: [B, R], what each token adds to the score; None where that is known at the end only.
        """
        rewards = zero_masked(rewards, mask)
        to_come = rewards.flip(1).cumsum(1).flip(1).double()
        added = torch.zeros_like(rewards) if token_scores is None else zero_masked(token_scores, mask)
        basis = self.basis(mask, added.cumsum(1) - added) * mask[..., None]
        moments = torch.einsum("brf,brg->bfg", basis, basis)
        targets = torch.einsum("brf,br->bf", basis, to_come)
        values = torch.zeros(mask.shape, dtype=torch.double)
        for fold in range(min(FOLDS, len(mask))):
            others = torch.arange(len(mask)) % FOLDS != fold
            weights = self._solve(self.moments + moments[others].sum(0), self.targets + targets[others].sum(0))
            values[~others] = basis[~others] @ weights
        self.moments = KEPT * (self.moments + moments.sum(0))
        self.targets = KEPT * (self.targets + targets.sum(0))
        return zero_masked(values, mask)

    @staticmethod
    def _solve(moments: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """[F]: ridge regression; the shrinkage of each number grows with its own moment, so its unit does not count."""
        size = moments.diagonal()
        return torch.linalg.solve(moments + torch.diag(RIDGE * size + 1e-6 * size.max().clamp(min=1e-12)), targets)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"moments": self.moments, "targets": self.targets}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.moments, self.targets = state["moments"], state["targets"]
