"""The losses of learners that read preferences without a reward model: DPO and its relatives, KTO, Plackett-Luce.

All of them see a response only through its log-ratio d: the sum over its tokens (the end included) of log-probability
under the policy less that under the reference, in nats per sequence. `beta` times d is the reward that the policy
implies (Rafailov et al. 2023, eq. 5). Everything is computed in fp32.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F

from rlhf_engine.losses.masked import check_shapes

PairLoss = Callable[[torch.Tensor, float, torch.Tensor], torch.Tensor]
"""(margins [P], beta, smoothing [P]) -> losses [P]."""
TIED = 0.5
"""The label smoothing that makes a pair a tie: each response wins half of the time."""


# -- pairs -----------------------------------------------------------------------------------------------------------

def sigmoid_loss(margins: torch.Tensor, beta: float, smoothing: torch.Tensor) -> torch.Tensor:
    """-(1 - e) log sigma(b h) - e log sigma(-b h): DPO (Rafailov et al. 2023, eq. 7), and with e > 0 cDPO (Mitchell
    2023).

    It is log 2 at h = 0.

    Args:
        margins: h [P], the log-ratio of the chosen response less that of the rejected one, in nats.
        beta: b, the strength of the KL penalty that DPO stands for.
        smoothing: e [P], the probability that the label is wrong; 0.5 is a tie.
    """
    check_shapes(margins, smoothing)
    scaled = beta * margins.float()
    return -(1 - smoothing) * F.logsigmoid(scaled) - smoothing * F.logsigmoid(-scaled)


def ipo_loss(margins: torch.Tensor, beta: float, smoothing: torch.Tensor) -> torch.Tensor:
    """(h - (1 - 2e) / (2b))^2 (Azar et al. 2023, eq. 17): a margin has a target, so it does not grow for ever.

    It is 1 / (4 b^2) at h = 0 and e = 0. A tie's target is 0. Arguments as in `sigmoid_loss`; the margins are
    differences of means per token, which IPO's authors meant.
    """
    check_shapes(margins, smoothing)
    return (margins.float() - (1 - 2 * smoothing) / (2 * beta)).square()


def hinge_loss(margins: torch.Tensor, beta: float, smoothing: torch.Tensor) -> torch.Tensor:
    """(1 - e) max(0, 1 - b h) + e max(0, 1 + b h) (SLiC, Zhao et al. 2023). Arguments as in `sigmoid_loss`."""
    check_shapes(margins, smoothing)
    scaled = beta * margins.float()
    return (1 - smoothing) * (1 - scaled).relu() + smoothing * (1 + scaled).relu()


def robust_loss(margins: torch.Tensor, beta: float, smoothing: torch.Tensor) -> torch.Tensor:
    """[-(1 - e) log sigma(b h) + e log sigma(-b h)] / (1 - 2e) (Chowdhury et al. 2024, eq. 10).

    The mean over labels of which a share e is flipped is the DPO loss of the true labels. It is log 2 at h = 0. A tie
    has no true label, so it costs what it costs in `sigmoid_loss`. Arguments as there.
    """
    check_shapes(margins, smoothing)
    tied = smoothing == TIED
    share = torch.where(tied, 0.0, smoothing)  # no division by zero, in the backward pass either
    scaled = beta * margins.float()
    unbiased = (-(1 - share) * F.logsigmoid(scaled) + share * F.logsigmoid(-scaled)) / (1 - 2 * share)
    return torch.where(tied, sigmoid_loss(margins, beta, smoothing), unbiased)


# -- rankings --------------------------------------------------------------------------------------------------------

def plackett_luce_loss(rewards: torch.Tensor, ranks: Sequence[float]) -> torch.Tensor:
    """Negative log-likelihood of a ranking under Plackett-Luce (Rafailov et al. 2023, appendix A.3): a scalar, in nats.

    The best response is chosen among all, the next among the rest, and so on. Two responses make DPO's sigmoid loss.
    Of tied responses it is the mean over all orders of them, so that a tie of two costs what it costs there.

    Args:
        rewards: [K], beta times the log-ratios.
        ranks: K numbers; 1 is best, equal ranks are ties. At most about 12 may share a rank: time grows as 2^ties.

    Raises ValueError if the lengths differ.
    """
    if rewards.shape != (len(ranks),):
        raise ValueError(f"there are {list(rewards.shape)} rewards and {len(ranks)} ranks")
    rewards = rewards.float()
    order = sorted(range(len(ranks)), key=lambda i: -ranks[i])
    worse: list[int] = []
    loss = rewards.new_zeros(())
    for _, indices in groupby(order, key=lambda i: ranks[i]):
        tied = list(indices)
        loss = loss + _choices_among(rewards[tied], rewards[worse]) - rewards[tied].sum()
        worse += tied
    return loss


def _choices_among(tied: torch.Tensor, worse: torch.Tensor) -> torch.Tensor:
    """Sum of the log-normalisers of choosing the M `tied` responses one after another, before all `worse` ones.

    Where k of them are left, the normaliser depends on which k. It is averaged over all subsets of that size, which are
    equally likely in a random order.
    """
    count = len(tied)
    numbers = torch.arange(1, 2 ** count, device=tied.device)
    left = (numbers[:, None] >> torch.arange(count, device=tied.device)) & 1 == 1  # [2^M - 1, M]: each subset
    among = torch.cat([tied.expand(len(left), count).masked_fill(~left, -torch.inf),
                       worse.expand(len(left), len(worse))], 1)
    sizes = left.sum(1)
    shares = 1 / torch.bincount(sizes, minlength=count + 1).float()
    return (among.logsumexp(1) * shares[sizes]).sum()


# -- thumbs ----------------------------------------------------------------------------------------------------------

def kto_reference(mismatched: torch.Tensor) -> torch.Tensor:
    """z0, the point that KTO measures gains and losses from: a scalar without a gradient, in nats per sequence.

    It estimates the policy's KL to the reference (Ethayarajh et al. 2024, section 4.1) as the mean log-ratio of
    responses to other prompts than their own, and is never below 0.

    Args:
        mismatched: [B], log-ratios of prompts with the response of another row.
    """
    return mismatched.detach().float().mean().clamp(min=0)


def kto_loss(log_ratios: torch.Tensor, desirable: torch.Tensor, z0: torch.Tensor, beta: float, *,
             desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> torch.Tensor:
    """Losses [B] of single responses that were called good or bad (Ethayarajh et al. 2024, eq. 8).

    w_D (1 - sigma(b (d - z0))) for good ones and w_U (1 - sigma(b (z0 - d))) for bad ones: half the weight at d = z0.

    Args:
        log_ratios: d [B], in nats per sequence.
        desirable: [B], bool.
        z0: a scalar, of `kto_reference`.
        beta: b.
        desirable_weight: w_D. The product of weight and number of rows should be between 1:1 and 4:3 for good and bad.
        undesirable_weight: w_U.
    """
    check_shapes(log_ratios, desirable)
    gains = beta * (log_ratios.float() - z0)
    return torch.where(desirable, desirable_weight * torch.sigmoid(-gains), undesirable_weight * torch.sigmoid(gains))


# -- the table -------------------------------------------------------------------------------------------------------

PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": sigmoid_loss, "ipo": ipo_loss, "hinge": hinge_loss, "robust": robust_loss,
    "length-normalised": sigmoid_loss}
"""The loss of a pair, by its name on the command line."""
MEANS = frozenset({"ipo", "length-normalised"})
"""The losses whose log-ratios are means over the tokens of a response, in nats per token. Those of others are sums."""
