"""Any curve over one number: tents over its usual range, so that a middle can be liked as well as more or less.

A tent is 1 at its knot and falls to 0 at the knots beside it. The knots are quantiles of the anchors, and beyond the
outermost the curve goes on level: nothing is gained by a number that no anchor has.
"""

import torch

KNOTS = 9
"""Knots, at most."""
LOWEST, HIGHEST = 0.02, 0.98
"""Quantiles of the anchors at the outermost knots."""


def make_knots(values: torch.Tensor) -> torch.Tensor:
    """[K], ascending: the knots for numbers like `values` [N]; fewer where few numbers differ."""
    different = values.unique()
    if len(different) > KNOTS:
        spots = torch.linspace(LOWEST, HIGHEST, KNOTS, dtype=values.dtype)
        different = values.quantile(spots).unique()
        if len(different) < 3:  # nearly all are alike: the rest is told from them
            different = torch.stack([values.min(), values.median(), values.max()]).unique()
    return different


def smooth_basis(knots: int) -> torch.Tensor:
    """[K, K]: weights on tents from independent ones, of which a slope comes cheapest and a zigzag dearest.

    The rows are the cosines of the discrete cosine transform, without the constant one, over their frequency.
    """
    position = (torch.arange(knots) + 0.5) / knots
    rows = [torch.cos(torch.pi * f * position) / f for f in range(1, knots)]
    return torch.stack(rows) if rows else torch.zeros(1, knots)
