"""Curves over the numbers of a response (`shape`, `prompt_relation`, its likelihood), as features."""

import torch

from rlhf_engine.rollout.tents import tents
from rlhf_engine.teach.features.curves import make_knots, smooth_basis

SMALLEST_SIZE = 0.25
"""A curve over a number that hardly varies on the anchors is not enlarged beyond 1 / this."""


class Curves:
    """Features [N, D] of numbers [N, P]: `fit` once, then `read`. Number p has the columns `slices[p]`."""

    def __init__(self) -> None:
        self.knots: list[torch.Tensor] = []
        """The knots of each number; one knot or none: it does not vary, and has no features."""
        self.centre, self.size = torch.zeros(()), torch.ones(())

    @property
    def slices(self) -> list[slice]:
        """The columns of each number."""
        found, start = [], 0
        for knots in self.knots:
            width = max(len(knots) - 1, 0)
            found.append(slice(start, start + width))
            start += width
        return found

    def fit(self, numbers: torch.Tensor) -> torch.Tensor:
        """Choose the knots; returns the features of the same rows, centred, each number's of size 1."""
        self.knots = [make_knots(column) for column in numbers.T]
        self.centre, self.size = torch.zeros(()), torch.ones(())
        raw = self.read(numbers)
        self.centre = raw.mean(0)
        centred = raw - self.centre
        size = torch.ones(raw.shape[1])
        for columns in self.slices:
            size[columns] = centred[:, columns].square().sum(1).mean().sqrt().clamp(min=SMALLEST_SIZE)
        self.size = size
        return centred / size

    def read(self, numbers: torch.Tensor) -> torch.Tensor:
        """[N, D]: the features of rows of numbers [N, P]."""
        parts = [tents(column, knots) @ smooth_basis(len(knots)).T
                 for column, knots in zip(numbers.T, self.knots) if len(knots) > 1]
        raw = torch.cat(parts, dim=1) if parts else torch.zeros(len(numbers), 0)
        return (raw - self.centre) / self.size

    def curve(self, number: int, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(knots [K], values [K]): the curve that weights [D] draw over one number."""
        knots, columns = self.knots[number], self.slices[number]
        if len(knots) < 2:
            return knots, torch.zeros(len(knots))
        return knots, smooth_basis(len(knots)).T @ (weights / self.size)[columns]

    def state_dict(self) -> dict:
        return {"knots": self.knots, "centre": self.centre, "size": self.size}

    def load_state_dict(self, state: dict) -> None:
        self.knots, self.centre, self.size = list(state["knots"]), state["centre"], state["size"]
