"""Fits the live reward to votes: the most probable weights on few features, and how people answer.

There is no optimiser whose past could matter: each fit starts from nothing. It is four convex problems of milliseconds.
How far each group of features is believed in is found before (`features.evidence`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rlhf_engine.teach.likelihood import ResponseModel, log_likelihood

PRIOR = 0.1
"""Precision of the Gaussian prior on a member's weights, for features of size 1 on the anchors."""
REFITS = 3
"""Number of fits after the first, each with a prior that follows the weights of the one before."""
FADED = 0.2
"""Spread that the prior leaves to a weight of zero, beside 1 of a weight of mean size."""
SMALLEST_SHARE = 1e-9
"""Directions in which rows have less than this share of the largest variance are no part of their span."""
RESPONSE_PRIOR = 4.0
"""Precision of the prior on the response model, around its initial values: ties alone must not carry it away."""


@dataclass
class VoteGroup:
    """N events that say the same about equally many texts, which stand in the order of `FeedbackKind.canonical`."""

    kind: str
    value: Any
    features: torch.Tensor
    """[K, N, D], of K texts each."""
    shares: torch.Tensor
    """[N, members]: how much each member of the ensemble weighs the event."""


class FeatureGroup(NamedTuple):
    """Some of the features, which are believed in or not together."""

    columns: slice
    scale: float = 1.0
    """Standard deviation of the prior on their weights, beside `PRIOR`."""
    sparse: bool = True
    """Whether only few of them are believed to matter."""


def fit_sparse(groups: list[VoteGroup], members: int,
               parts: list[FeatureGroup] | None = None) -> tuple[torch.Tensor, ResponseModel, float]:
    """(weights [members, D], response model, loss in nats) for groups of votes, if only few features matter.

    The first fit has the same prior for all weights of a part of the features (None: all are one part). In each further
    fit the prior standard deviation of a weight is what the fit before made of it (its mean over the members, beside
    that of the others of its part), so a weight that the votes do not need fades. This is iterative reweighting as in
    Chartrand & Yin 2008 and, with a posterior in the place of the mode, in Tipping's relevance vectors (2001).
    """
    size = groups[0].features.shape[-1]
    shown = torch.cat([group.features.flatten(0, 1) for group in groups])
    warm = parts is not None  # without parts it is the fit of the first version, to the last bit
    parts = parts or [FeatureGroup(slice(0, size))]
    spread = torch.ones(size)
    for part in parts:
        spread[part.columns] = part.scale
    weights, model, loss = torch.zeros(members, size), ResponseModel(), 0.0
    for number in range(1 + REFITS):
        for part in parts:
            if number and part.sparse:
                spread[part.columns] = part.scale * sparse_spread(weights[:, part.columns].abs().mean(0) / part.scale)
        # The most probable weights lie in the span of what was shown. While that is small, there is less to fit.
        if len(shown) >= size:
            basis = torch.eye(size)
        else:
            basis = span(shown * spread) if warm else torch.linalg.qr((shown * spread).T).Q
        projection = spread[:, None] * basis
        projected = [VoteGroup(group.kind, group.value, group.features @ projection, group.shares) for group in groups]
        start = (weights / spread @ basis, model) if number and warm else None
        inner, model, loss = fit(projected, members, start)
        weights = inner @ projection.T
    return weights, model, loss


def span(rows: torch.Tensor) -> torch.Tensor:
    """[D, r]: an orthonormal basis of the span of rows [n, D], of which there are fewer than D.

    It comes from their products with one another, which takes a tenth of the time of a QR factorisation.
    """
    values, vectors = torch.linalg.eigh((rows @ rows.T).double())
    kept = values > values[-1] * SMALLEST_SHARE
    return rows.T @ (vectors[:, kept] / values[kept].sqrt()).to(rows.dtype)


def sparse_spread(weights: torch.Tensor) -> torch.Tensor:
    """[D]: the prior's spread of weights [D] that came out so large; its mean square is 1."""
    spread = weights / weights.square().mean().sqrt().clamp(min=1e-12) + FADED
    return spread / spread.square().mean().sqrt()


def fit(groups: list[VoteGroup], members: int,
        start: tuple[torch.Tensor, ResponseModel] | None = None) -> tuple[torch.Tensor, ResponseModel, float]:
    """(weights [members, D], response model, loss in nats) that are most probable, given the votes and the priors.

    There is one such point. A search from `start` (weights and response model) is shorter where that is near it.
    """
    initial = [p.detach().clone() for p in ResponseModel().parameters()]
    weights, model = torch.zeros(members, groups[0].features.shape[-1]), ResponseModel()
    if start:
        weights = start[0].clone()
        model.load_state_dict(start[1].state_dict())
    weights.requires_grad_()
    optimizer = torch.optim.LBFGS([weights, *model.parameters()], max_iter=100, line_search_fn="strong_wolfe")
    last_loss = 0.0

    def closure():
        nonlocal last_loss
        optimizer.zero_grad()
        loss = weights.sum() * 0
        for group in groups:
            loglik = log_likelihood(group.kind, group.value, group.features @ weights.T, model)
            loss = loss - (group.shares * loglik).sum() / members
        last_loss = loss.item()
        prior = PRIOR * weights.square().sum() / members
        prior = prior + RESPONSE_PRIOR * sum((p - q).square().sum() for p, q in zip(model.parameters(), initial))
        (loss + prior / 2).backward()
        return loss + prior / 2

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach(), model.requires_grad_(False), last_loss
