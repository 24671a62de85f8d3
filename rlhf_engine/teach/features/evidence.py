"""Which groups of features a person's votes are about: the scale of each group at which the votes are most probable.

A group's scale is the standard deviation of the prior on its weights. Averaged over all weights that the prior allows,
a scale that is too small cannot explain the votes, and one that is too large explains anything (MacKay 1992). The
average is Laplace's approximation, computed on the responses instead of the weights (Rasmussen & Williams 2006,
sections 3.4 and 5.5): there are a hundred responses, and thousands of weights. As in MacKay's updates, the curvature
of the votes' log-likelihood is taken as fixed while a scale moves. A prior on the scales makes a group
that the votes do not need fade.
"""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch

from rlhf_engine.teach.likelihood import ResponseModel, log_likelihood
from rlhf_engine.teach.reward_fit import PRIOR, FeatureGroup, VoteGroup

ROUNDS = 16
"""Updates of the scales, at most, each after a Newton step of the scores."""
LARGEST_STEP = 1.0
"""The most by which the logarithm of a squared scale moves in an update."""
SMALL_STEP = 0.02
"""An update in which no logarithm moves further is the last."""
TURNED = 4.0
"""Nats by which the opposite must be more probable than the same. Two votes at random that go against a reward came to
2.9; after a change, four votes came to 8.5 and eight to 22 (benchmarks/README.md)."""
HALVINGS, SMALL_CLIMB = 10, 0.01
"""Times that a Newton step is halved, at most; and nats by which the last one before the evidence climbs, at most."""
MOST_TEXTS = 400
"""Texts from which the scales are found. More votes than that do not change what they are about."""

Minds = Literal["same", "opposite", "other", "open"]


class ScalePrior(NamedTuple):
    """A normal prior on the logarithm of a squared scale."""

    mean: float
    spread: float


WORDS = ScalePrior(math.log(1 / PRIOR), 1.5)
"""Words are believed in as before, until the votes say otherwise."""
OTHERS = ScalePrior(-4.0, 3.0)
"""There are forty other groups: together they may explain as much as the words do, and any one of them all there is."""


def weigh_groups(votes: list[VoteGroup], groups: dict[str, slice], sparse: Iterable[str]) -> list[FeatureGroup]:
    """How far each group of features is believed in, given the votes; groups without features are left out."""
    present = {name: columns for name, columns in groups.items() if columns.stop > columns.start}
    priors = [WORDS if name == "words" else OTHERS for name in present]
    scales = find_scales(votes, list(present.values()), priors) * PRIOR**0.5
    return [FeatureGroup(columns, scale, name in sparse)
            for (name, columns), scale in zip(present.items(), scales.tolist())]


def find_scales(votes: list[VoteGroup], columns: list[slice], priors: list[ScalePrior]) -> torch.Tensor:
    """[G]: the scale of each group of features (`columns` of the votes' features), most probable given the votes."""
    return (0.5 * search_scales(newest(votes), columns, priors)[0]).exp().float()


def compare_minds(earlier: list[VoteGroup], later: list[VoteGroup], groups: dict[str, slice]) -> Minds:
    """Whether earlier and later votes come from one reward, from one and its opposite, or from two rewards.

    It compares log-evidence. The opposite need not be learned from the later votes, so a few of them can show it, and
    ties speak neither for it nor against it. But it must be plain, else it is `open`. A reward that had merely been
    wrong about what the later votes show is one mind.
    """
    present = [columns for columns in groups.values() if columns.stop > columns.start]
    priors = [WORDS, *[OTHERS] * (len(present) - 1)]
    earlier, later = newest(earlier), newest(later)
    same, opposite, first, second = (search_scales(votes, present, priors)[1] for votes in (
        [*earlier, *later], [*earlier, *turned_round(later)], earlier, later))
    if opposite >= max(same + TURNED, first + second):
        return "opposite"
    if first + second > max(same, opposite):
        return "other"
    return "same" if same >= opposite else "open"


def turned_round(votes: list[VoteGroup]) -> list[VoteGroup]:
    """The votes as the opposite reward explains them: all features have the other sign."""
    return [VoteGroup(each.kind, each.value, -each.features, each.shares) for each in votes]


def search_scales(votes: list[VoteGroup], columns: list[slice],
                  priors: list[ScalePrior]) -> tuple[torch.Tensor, float]:
    """(logarithm [G] of the squared scales, log-evidence of the votes there with the scales' prior, in nats)."""
    texts = torch.cat([each.features.flatten(0, 1) for each in votes]).double()
    kernels = torch.stack([texts[:, part] @ texts[:, part].T for part in columns])
    mean = torch.tensor([prior.mean for prior in priors], dtype=torch.double)
    precision = torch.tensor([prior.spread for prior in priors], dtype=torch.double) ** -2
    logs, alpha = mean.clone(), torch.zeros(len(texts), dtype=torch.double)
    kernel = (logs.exp()[:, None, None] * kernels).sum(0)
    for _ in range(ROUNDS):
        alpha, inverse, _ = climb(votes, kernel, alpha)
        fit = (kernels @ alpha) @ alpha
        cost = (kernels * inverse.T).sum((1, 2))
        half = 0.5 * logs.exp()
        step = (half * (fit - cost) - precision * (logs - mean)) / (half * cost + precision)
        step = step.clamp(-LARGEST_STEP, LARGEST_STEP)
        logs = logs + step
        kernel = (logs.exp()[:, None, None] * kernels).sum(0)
        if step.abs().max() < SMALL_STEP:
            break
    height, before = log_posterior(votes, kernel, alpha), -math.inf
    while height > before + SMALL_CLIMB:
        alpha, _, _ = climb(votes, kernel, alpha)
        height, before = log_posterior(votes, kernel, alpha), height
    system = newton_step(votes, kernel, alpha)[2]
    evidence = height - 0.5 * torch.linalg.slogdet(system).logabsdet
    return logs, (evidence - 0.5 * (precision * (logs - mean).square()).sum()).item()


def climb(votes: list[VoteGroup], kernel: torch.Tensor,
          alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `newton_step`, but the step is halved while it leads down. Votes that contradict each other ask for that."""
    found, inverse, system = newton_step(votes, kernel, alpha)
    start = log_posterior(votes, kernel, alpha)
    for _ in range(HALVINGS):
        if log_posterior(votes, kernel, found) >= start:
            break
        found = (found + alpha) / 2
    return found, inverse, system


def log_posterior(votes: list[VoteGroup], kernel: torch.Tensor, alpha: torch.Tensor) -> float:
    """Log-likelihood of the votes and log-density of the scores `kernel @ alpha`, but for a constant, in nats."""
    scores = kernel @ alpha
    return (log_likelihoods(votes, scores) - 0.5 * alpha @ scores).item()


def newton_step(votes: list[VoteGroup], kernel: torch.Tensor,
                alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(alpha [n], inverse [n, n], system [n, n]) of one Newton step; the scores come nearer to `kernel @ alpha`.

    The inverse is that of `kernel` plus the inverse of the votes' curvature; the system is 1 + curvature * kernel.
    """
    scores = kernel @ alpha
    slope, curvature = derivatives(votes, scores)
    system = torch.eye(len(scores), dtype=scores.dtype) + curvature @ kernel
    solved = torch.linalg.solve(system, torch.cat([(curvature @ scores + slope)[:, None], curvature], dim=1))
    return solved[:, 0], solved[:, 1:], system


def log_likelihoods(votes: list[VoteGroup], scores: torch.Tensor) -> torch.Tensor:
    """The log-likelihood of all votes, whose texts score `scores` [n]: a scalar, in nats."""
    model = ResponseModel().double().requires_grad_(False)
    total, start = scores.sum() * 0, 0
    for each in votes:
        count, rows = each.features.shape[:2]
        own = scores[start:start + count * rows].view(count, rows)
        total = total + log_likelihood(each.kind, each.value, own, model).sum()
        start += count * rows
    return total


def derivatives(votes: list[VoteGroup], scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(gradient [n], negative Hessian [n, n]) of the votes' log-likelihood with respect to the scores [n]."""
    slope, curvature = torch.zeros_like(scores), torch.zeros(len(scores), len(scores), dtype=scores.dtype)
    start = 0
    model = ResponseModel().double().requires_grad_(False)
    for each in votes:
        count, rows = each.features.shape[:2]
        index = torch.arange(start, start + count * rows).view(count, rows)
        start += count * rows
        with torch.enable_grad():
            own = scores[index].detach().requires_grad_()
            total = log_likelihood(each.kind, each.value, own, model).sum()
            gradient, = torch.autograd.grad(total, own, create_graph=True)
            each_text = torch.eye(count, dtype=scores.dtype)[:, :, None].expand(count, count, rows)
            second, = torch.autograd.grad(gradient, own, each_text, is_grads_batched=True)
        for k in range(count):
            curvature[index[k][None], index] = -second[k]
        slope[index] = gradient.detach()
    return slope, curvature


def newest(votes: list[VoteGroup]) -> list[VoteGroup]:
    """The votes, or of so many that they hold more than `MOST_TEXTS` texts an even share of each group."""
    texts = sum(each.features.shape[0] * each.features.shape[1] for each in votes)
    if texts <= MOST_TEXTS:
        return votes
    kept = []
    for each in votes:
        count = max(1, each.features.shape[1] * MOST_TEXTS // texts)
        kept.append(VoteGroup(each.kind, each.value, each.features[:, -count:], each.shares[-count:]))
    return kept
