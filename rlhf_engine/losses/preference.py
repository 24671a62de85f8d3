"""The numbers of reward modelling as pure functions: Bradley-Terry on pairs and rankings, and the calibration of it.

A ranking of K responses is all its C(K, 2) pairs, each with the weight 1/C(K, 2): one prompt is one batch element,
however many responses were ranked (Ouyang et al. 2022, section 3.5). Everything is computed in fp32.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F

from rlhf_engine.losses.masked import check_shapes


def ranked_pairs(ranks: Sequence[float]) -> list[tuple[int, int, bool]]:
    """All pairs (better, worse, tied) of indices into `ranks`, where 1 is best and equal ranks are a tie."""
    pairs = []
    for i, j in combinations(range(len(ranks)), 2):
        better, worse = (i, j) if ranks[i] <= ranks[j] else (j, i)
        pairs.append((better, worse, ranks[i] == ranks[j]))
    return pairs


def comparison_loss(better: torch.Tensor, worse: torch.Tensor, tied: torch.Tensor, margin: torch.Tensor,
                    weight: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the losses of P pairs, in nats: a scalar.

    A pair costs -logsigmoid(better - worse - margin) (Ouyang et al. 2022, eq. 1; margin: Touvron et al. 2023, eq. 2). A
    tie costs half of that in each direction, without a margin. That is least, log 2, where both score the same.

    Args:
        better: [P], scores.
        worse: [P], scores.
        tied: [P], bool.
        margin: [P], by how much the better one should win.
        weight: [P]. For the mean over prompts, the weights of one prompt sum to 1 / prompts.
    """
    check_shapes(better, worse, tied, margin, weight)
    difference = better.float() - worse.float()
    loss_won = -F.logsigmoid(difference - margin)
    loss_tied = -0.5 * (F.logsigmoid(difference) + F.logsigmoid(-difference))
    return (weight * torch.where(tied, loss_tied, loss_won)).sum()


def centring_loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean of (first + second)^2: a scalar that pulls the mean score to 0 (Eisenstein et al. 2023).

    A Bradley-Terry loss sees only differences. Without this term a constant can drift.

    Args:
        first: [P], scores of one response of each pair.
        second: [P], scores of the other.
    """
    check_shapes(first, second)
    return (first.float() + second.float()).square().mean()


def calibration_error(differences: torch.Tensor, bins: int = 10) -> float:
    """Expected calibration error of a reward model, in [0, 1] (Guo et al. 2017, eq. 3); NaN if there are no pairs.

    With the probability sigmoid(|d|) the model gives the response that it prefers, and it is correct where d > 0 (half
    correct at 0). The error is the mean over pairs of |share correct - mean probability|, both taken within equal bins
    of the probability between 1/2 and 1.

    Args:
        differences: [P], score of the chosen response less that of the rejected one.
        bins: number of bins.
    """
    if not len(differences):
        return float("nan")
    differences = differences.detach().double().cpu()
    confidence = differences.abs().sigmoid()
    correct = (differences > 0).double() + 0.5 * (differences == 0).double()
    index = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.double).index_add(0, index, correct - confidence)
    return gap.abs().sum().item() / len(differences)
