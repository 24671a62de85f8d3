"""Tents: a basis for curves over one number. A tent is 1 at its knot and falls to 0 at the knots beside it."""

import torch


def tents(values: torch.Tensor, knots: torch.Tensor) -> torch.Tensor:
    """[..., K]: how near each of `values` [...] is to each knot. The K numbers add up to 1."""
    if len(knots) < 2:
        return torch.ones(*values.shape, len(knots))
    inside = values.clamp(knots[0], knots[-1])
    left = (torch.searchsorted(knots, inside.contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
    share = (inside - knots[left]) / (knots[left + 1] - knots[left])
    result = torch.zeros(*values.shape, len(knots), dtype=share.dtype)
    result.scatter_(-1, left[..., None], (1 - share)[..., None])
    return result.scatter_(-1, left[..., None] + 1, share[..., None])
