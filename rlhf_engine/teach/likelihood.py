"""One likelihood for every kind of feedback, over the same scalar reward: how probable a person's answer is, given the scores.

Comparisons follow Bradley & Terry 1952 with Davidson's ties (1970), rankings Plackett 1975 and Luce 1959, thumbs are Bernoulli with a
threshold, scores from 1 to 7 are ordinal (McCullagh 1980). Rewards are in logits: a response that scores one more than another wins
with probability sigmoid(1). All functions take scores [K, ...], K responses by whatever is scored side by side (members of an
ensemble, other queries with the same answer), and give [...], in nats.
"""

import torch
import torch.nn.functional as F
from torch import nn

from rlhf_engine.feedback.kinds import SCORES

POINTS = SCORES[-1]
"""Scores go from 1 to this."""


class ResponseModel(nn.Module):
    """How a person turns reward into answers: what is learned beside the reward, the same for all members."""

    def __init__(self):
        super().__init__()
        self.log_tie = nn.Parameter(torch.tensor(-0.7))
        """log of Davidson's nu; two equal responses tie with probability nu / (2 + nu), 20 % here."""
        self.threshold = nn.Parameter(torch.tensor(0.0))
        """Reward at which a thumb goes up as often as down."""
        self.lowest_cut = nn.Parameter(torch.tensor(-2.5))
        """Reward at which a score of 1 is as likely as any other."""
        self.log_gaps = nn.Parameter(torch.zeros(POINTS - 2))
        """log of the distances between this and the further cuts."""

    def cuts(self) -> torch.Tensor:
        """[POINTS - 1], ascending: the cut between one score and the next."""
        return torch.cat([self.lowest_cut[None], self.lowest_cut + self.log_gaps.exp().cumsum(0)])


def log_likelihood(kind: str, value, scores: torch.Tensor, scale: ResponseModel) -> torch.Tensor:
    """[...]: log-probability of the answer `value` of an event `kind` (see `events.Event`) to responses that score `scores` [K, ...].

    "both_bad" is a tie and a thumb down for each. An edit counts as the person's own text, the last row of `scores`, winning over
    what was shown.
    """
    if kind == "comparison" and value in ("tie", "both_bad"):
        total = ranked_loglik(scores, [1] * len(scores), scale)
        return total if value == "tie" else total + torch.stack([thumb_loglik(score, False, scale) for score in scores]).sum(0)
    if kind == "comparison":
        return compared_loglik(*scores, value, scale)
    if kind == "ranking":
        return ranked_loglik(scores, value, scale)
    if kind == "thumb":
        return thumb_loglik(scores[0], value == "up", scale)
    if kind == "score":
        return scored_loglik(scores[0], value, scale)
    if kind == "edit":
        return F.logsigmoid(scores[1] - scores[0])
    raise ValueError(f"an event of kind {kind!r} says nothing about the reward")


def compared_loglik(left: torch.Tensor, right: torch.Tensor, value: str, scale: ResponseModel) -> torch.Tensor:
    """Davidson 1970: the odds of left, right and tie are e^left, e^right and nu e^((left + right) / 2)."""
    odds = torch.stack([left, right, scale.log_tie + (left + right) / 2])
    return odds[("left", "right", "tie").index(value)] - odds.logsumexp(0)


def ranked_loglik(scores: torch.Tensor, ranks, scale: ResponseModel) -> torch.Tensor:
    """Plackett-Luce from the best rank down: each response is chosen among itself and all that are ranked below it.

    Responses that share the last rank were not told apart ("best of four"), which says nothing about them; sharing a
    better rank is a tie of each two. If all share one rank, all are tied.
    """
    ranks = torch.as_tensor(ranks)
    total, worst = torch.zeros_like(scores[0]), ranks.max()
    for rank in ranks.unique():
        here, below = scores[ranks == rank], scores[ranks > rank]
        if len(below):
            total = total + (here - torch.cat([here[:, None], below.expand(len(here), *below.shape)], dim=1).logsumexp(1)).sum(0)
        if len(here) > 1 and (rank < worst or len(here) == len(ranks)):
            pairs = [compared_loglik(here[i], here[j], "tie", scale) for i in range(len(here)) for j in range(i)]
            total = total + torch.stack(pairs).mean(0)
    return total


def thumb_loglik(score: torch.Tensor, up: bool, scale: ResponseModel) -> torch.Tensor:
    return F.logsigmoid(score - scale.threshold if up else scale.threshold - score)


def scored_loglik(score: torch.Tensor, points: int, scale: ResponseModel) -> torch.Tensor:
    """P(at most p) = sigmoid(cut_p - score), and the difference of two of these for p itself."""
    cuts = scale.cuts()
    if points == 1:
        return F.logsigmoid(cuts[0] - score)
    if points == POINTS:
        return F.logsigmoid(score - cuts[-1])
    upper, lower = cuts[points - 1] - score, cuts[points - 2] - score
    # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - e^(l - u)); u - l from the scale, so that it is exact far out.
    return F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-scale.log_gaps[points - 2].exp()))


def was_predicted(kind: str, value, scores: torch.Tensor, scale: ResponseModel) -> float | None:
    """Whether scores [K] would have guessed an answer: 1, 0, or 1/2 between equals; None where there was no order to guess."""
    if kind == "comparison" and value in ("left", "right"):
        better, rest = (scores[0], scores[1:]) if value == "left" else (scores[1], scores[:1])
    elif kind == "ranking" and len(set(value)) > 1:
        best = [i for i, rank in enumerate(value) if rank == min(value)]
        better, rest = scores[best].max(), scores[[i for i in range(len(value)) if i not in best]]
    elif kind == "edit":
        better, rest = scores[1], scores[:1]
    elif kind == "thumb":
        better, rest = (scores[0], scale.threshold[None]) if value == "up" else (scale.threshold, scores[:1])
    else:
        return None
    return 1.0 if better > rest.max() else 0.5 if better == rest.max() else 0.0
