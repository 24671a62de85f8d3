"""The numbers of reward modelling as pure functions: Bradley-Terry on pairs and rankings, and how well the result is calibrated.

A ranking of K responses is all its C(K, 2) pairs, each weighing 1/C(K, 2): one prompt is one batch element, however many
answers were ranked (Ouyang et al. 2022, section 3.5). Everything is computed in fp32.
"""

from itertools import combinations

import torch
import torch.nn.functional as F

from rlhf_engine.losses.ppo import _check_shapes


def ranked_pairs(ranks) -> list[tuple[int, int, bool]]:
    """All pairs (better, worse, tied) of places in `ranks`, where 1 is best and equal ranks are a tie."""
    pairs = []
    for i, j in combinations(range(len(ranks)), 2):
        better, worse = (i, j) if ranks[i] <= ranks[j] else (j, i)
        pairs.append((better, worse, ranks[i] == ranks[j]))
    return pairs


def comparison_loss(better, worse, tied, margin, weight):
    """Weighted sum of the losses of pairs, a scalar. better, worse (scores), margin, weight: [P] float; tied: [P] bool.

    A pair costs -logsigmoid(better - worse - margin) (Ouyang et al. 2022, eq. 1; margin: Touvron et al. 2023, eq. 2). A tie costs half
    of it each way round, without a margin: least where both score the same, which is what a tie says; log 2 there, as for a coin.
    For the mean over prompts let the weights of one prompt sum to 1 / prompts.
    """
    _check_shapes(better, worse, tied, margin, weight)
    difference = better.float() - worse.float()
    won = -F.logsigmoid(difference - margin)
    even = -0.5 * (F.logsigmoid(difference) + F.logsigmoid(-difference))
    return (weight * torch.where(tied, even, won)).sum()


def centring_loss(first, second):
    """Mean of (first + second)^2 over pairs of scores [N], a scalar: pulls the mean score to 0 (Eisenstein et al. 2023).

    A Bradley-Terry loss sees only differences; without this a constant can drift.
    """
    _check_shapes(first, second)
    return (first.float() + second.float()).square().mean()


def calibration_error(differences, bins: int = 10) -> float:
    """Expected calibration error, in [0, 1], of score differences [N] between what was chosen and what was rejected.

    The model gives the response it prefers the probability sigmoid(|d|), and is right where d > 0 (half right at 0). In equal
    bins of that probability between 1/2 and 1: the mean over pairs of |share right - mean probability| (Guo et al. 2017, eq. 3).
    NaN of nothing.
    """
    differences = differences.detach().double().cpu()
    sure = differences.abs().sigmoid()
    right = (differences > 0).double() + 0.5 * (differences == 0).double()
    place = ((sure - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.double).index_add(0, place, right - sure)
    return gap.abs().sum().item() / len(differences) if len(differences) else float("nan")
