"""One likelihood for every kind of feedback, over one scalar reward: how probable an answer is, given the scores.

Comparisons follow Bradley & Terry 1952 with Davidson's ties (1970), rankings Plackett 1975 and Luce 1959, thumbs are
Bernoulli with a threshold, scores from 1 to 7 are ordinal (McCullagh 1980). Rewards are in logits: a response that
scores one more than another wins with probability sigmoid(1). All functions take scores [K, ...] of K responses, for
anything that is scored side by side (members of an ensemble, other queries with the same answer), and give [...], in
nats.

A new kind of feedback is a class here and a row in `LIKELIHOODS`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rlhf_engine.feedback.kinds import SCORES

POINTS = SCORES[-1]
"""Scores go from 1 to this."""
Contest = tuple[torch.Tensor, torch.Tensor]
"""A score that should be above all of some others [N]."""


class ResponseModel(nn.Module):
    """How a person turns reward into answers: what is learned beside the reward, the same for all members."""

    def __init__(self):
        super().__init__()
        self.log_tie = nn.Parameter(torch.tensor(-0.7))
        """log of Davidson's nu; two equal responses tie with probability nu / (2 + nu), 20 % here."""
        self.threshold = nn.Parameter(torch.tensor(0.0))
        """Reward at which a thumb goes up as often as down."""
        self.lowest_cut = nn.Parameter(torch.tensor(-2.5))
        """Reward at which a score of 1 is as probable as any other."""
        self.log_gaps = nn.Parameter(torch.zeros(POINTS - 2))
        """log of the distances between this and the further cuts."""

    def cuts(self) -> torch.Tensor:
        """[POINTS - 1], ascending: the cut between one score and the next."""
        return torch.cat([self.lowest_cut[None], self.lowest_cut + self.log_gaps.exp().cumsum(0)])

    def to_checkpoint(self) -> dict[str, torch.Tensor]:
        """The parameters, under the names that they have in checkpoints."""
        return {"log_tie": self.log_tie, "threshold": self.threshold, "lowest_cut": self.lowest_cut,
                "log_gaps": self.log_gaps}

    @classmethod
    def from_checkpoint(cls, state: dict[str, torch.Tensor]) -> "ResponseModel":
        """The model that `to_checkpoint` wrote, without gradients."""
        model = cls().requires_grad_(False)
        for name, parameter in model.to_checkpoint().items():
            parameter.copy_(state[name])
        return model


# -- each kind ---------------------------------------------------------------------------------------------------------

class KindLikelihood:
    """How probable the answers of one kind of feedback are."""

    def loglik(self, value: Any, scores: torch.Tensor, model: ResponseModel) -> torch.Tensor:
        """[...]: log-probability of the answer `value` to responses that score `scores` [K, ...]."""
        raise NotImplementedError

    def contest(self, value: Any, scores: torch.Tensor, model: ResponseModel) -> Contest | None:
        """Which score [] of `scores` [K] should beat which others [N] if the reward is right; None without an order."""
        return None


class ComparisonLikelihood(KindLikelihood):
    """`both_bad` is a tie, and a thumb down for each response."""

    def loglik(self, value: str, scores: torch.Tensor, model: ResponseModel) -> torch.Tensor:
        if value not in ("tie", "both_bad"):
            return compared_loglik(scores[0], scores[1], value, model)
        tie = ranked_loglik(scores, [1] * len(scores), model)
        if value == "tie":
            return tie
        return tie + torch.stack([thumb_loglik(score, False, model) for score in scores]).sum(0)

    def contest(self, value: str, scores: torch.Tensor, model: ResponseModel) -> Contest | None:
        if value not in ("left", "right"):
            return None
        return (scores[0], scores[1:]) if value == "left" else (scores[1], scores[:1])


class RankingLikelihood(KindLikelihood):
    def loglik(self, value: Sequence[int], scores: torch.Tensor, model: ResponseModel) -> torch.Tensor:
        return ranked_loglik(scores, value, model)

    def contest(self, value: Sequence[int], scores: torch.Tensor, model: ResponseModel) -> Contest | None:
        """One of the best has to beat all that are not best."""
        if len(set(value)) < 2:
            return None
        best = torch.tensor([rank == min(value) for rank in value])
        return scores[best].max(), scores[~best]


class ThumbLikelihood(KindLikelihood):
    def loglik(self, value: str, scores: torch.Tensor, model: ResponseModel) -> torch.Tensor:
        return thumb_loglik(scores[0], value == "up", model)

    def contest(self, value: str, scores: torch.Tensor, model: ResponseModel) -> Contest | None:
        return (scores[0], model.threshold[None]) if value == "up" else (model.threshold, scores[:1])


class ScoreLikelihood(KindLikelihood):
    def loglik(self, value: int, scores: torch.Tensor, model: ResponseModel) -> torch.Tensor:
        return scored_loglik(scores[0], value, model)


class EditLikelihood(KindLikelihood):
    """The person's own text, the last row of `scores`, wins over the response."""

    def loglik(self, value: str, scores: torch.Tensor, model: ResponseModel) -> torch.Tensor:
        return F.logsigmoid(scores[1] - scores[0])

    def contest(self, value: str, scores: torch.Tensor, model: ResponseModel) -> Contest | None:
        return scores[1], scores[:1]


LIKELIHOODS: dict[str, KindLikelihood] = {
    "comparison": ComparisonLikelihood(), "ranking": RankingLikelihood(), "thumb": ThumbLikelihood(),
    "score": ScoreLikelihood(), "edit": EditLikelihood()}
"""By the kind of the event. Retracts are not here: they say nothing about the reward."""


def log_likelihood(kind: str, value: Any, scores: torch.Tensor, model: ResponseModel) -> torch.Tensor:
    """[...]: log-probability of the answer `value` of an event `kind` to responses that score `scores` [K, ...].

    The texts that are scored are those of `FeedbackKind.texts`. Raises ValueError for a kind that judges nothing.
    """
    if kind not in LIKELIHOODS:
        raise ValueError(f"an event of kind {kind!r} says nothing about the reward")
    return LIKELIHOODS[kind].loglik(value, scores, model)


def was_predicted(kind: str, value: Any, scores: torch.Tensor, model: ResponseModel) -> float | None:
    """Whether scores [K] predict an answer: 1, 0, or 1/2 between equals; None where the answer gives no order."""
    contest = LIKELIHOODS[kind].contest(value, scores, model) if kind in LIKELIHOODS else None
    if contest is None:
        return None
    winner, others = contest
    highest = others.max()
    if winner == highest:
        return 0.5
    return 1.0 if winner > highest else 0.0


# -- the formulas ------------------------------------------------------------------------------------------------------

def compared_loglik(left: torch.Tensor, right: torch.Tensor, value: str, model: ResponseModel) -> torch.Tensor:
    """Davidson 1970: the odds of left, right and tie are e^left, e^right and nu e^((left + right) / 2)."""
    odds = torch.stack([left, right, model.log_tie + (left + right) / 2])
    return odds[("left", "right", "tie").index(value)] - odds.logsumexp(0)


def ranked_loglik(scores: torch.Tensor, ranks: Sequence[int] | torch.Tensor, model: ResponseModel) -> torch.Tensor:
    """Plackett-Luce from the best rank down: each response is chosen among itself and all that are ranked below it.

    Responses that share the last rank have not been compared with each other ("best of four"), so nothing is said about
    their order. Sharing a better rank is a tie of each two. If all share one rank, all are tied.
    """
    ranks = torch.as_tensor(ranks)
    total, worst = torch.zeros_like(scores[0]), ranks.max()
    for rank in ranks.unique():
        here, below = scores[ranks == rank], scores[ranks > rank]
        if len(below):
            rivals = torch.cat([here[:, None], below.expand(len(here), *below.shape)], dim=1)
            total = total + (here - rivals.logsumexp(1)).sum(0)
        if len(here) > 1 and (rank < worst or len(here) == len(ranks)):
            total = total + tied_loglik(here, model)
    return total


def tied_loglik(scores: torch.Tensor, model: ResponseModel) -> torch.Tensor:
    """That each two responses tie: the mean over the pairs."""
    pairs = []
    for i in range(len(scores)):
        for j in range(i):
            pairs.append(compared_loglik(scores[i], scores[j], "tie", model))
    return torch.stack(pairs).mean(0)


def thumb_loglik(score: torch.Tensor, up: bool, model: ResponseModel) -> torch.Tensor:
    """P(up) = sigmoid(score - threshold)."""
    return F.logsigmoid(score - model.threshold if up else model.threshold - score)


def scored_loglik(score: torch.Tensor, points: int, model: ResponseModel) -> torch.Tensor:
    """P(at most p) = sigmoid(cut_p - score), and the difference of two of these for p itself."""
    cuts = model.cuts()
    if points == 1:
        return F.logsigmoid(cuts[0] - score)
    if points == POINTS:
        return F.logsigmoid(score - cuts[-1])
    upper, lower = cuts[points - 1] - score, cuts[points - 2] - score
    # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - e^(l - u)). u - l comes from the gaps, so it is exact even
    # where the score is far from both cuts.
    gap = model.log_gaps[points - 2].exp()
    return F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-gap))
