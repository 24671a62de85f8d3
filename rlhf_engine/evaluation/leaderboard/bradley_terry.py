"""Strengths of checkpoints from votes: Bradley-Terry with Davidson's ties, Plackett-Luce for rankings of K.

The odds of two checkpoints with strengths a and b, in logits, are e^a : e^b, and e^((a + b) / 2 + theta) for a tie
(Davidson 1970). This is the model of the live reward (`teach/likelihood.py`), and of `win_rate` with ties half: a tie
pulls two strengths together as half a win each does, and the odds of a decided vote do not depend on how often people
tie. Rao & Kupper's ties do not have this. Of K responses, e^a of each stands against those of the rest, and
e^(mean a + theta_K) against all of them where all K may tie. A ranking is one such choice after another: each response
is chosen among itself and all that rank below it.

`fit` maximises the likelihood by Newton's method. The sandwich variance sums the scores of each cluster of votes
before it squares them, so votes on one prompt (or of one voter) may depend on one another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_engine.evaluation.intervals import t_quantile
from rlhf_engine.evaluation.leaderboard.votes import Vote

MOST_ITERATIONS = 60
FLAT = 1e-5
"""Curvature, in nats, below which the votes do not bound a strength. One lost vote is enough for about 1."""
GAUGE = 100.0
"""How firmly the mean strength of a group is held at 0."""
ROOM = 4_000_000
"""Numbers in the largest array of a pass."""


class Choices:
    """The votes as choices among alternatives; equal choices stand once.

    `params` are the strengths [C], then theta_K for each number of responses K with which there are ties.
    """

    def __init__(self, votes: Sequence[Vote], names: Sequence[str], clusters: Sequence[int]):
        self.count, index = len(names), {name: i for i, name in enumerate(names)}
        numbers: dict[tuple, int] = {}
        choice_of, cluster_of = [], []
        for vote, cluster in zip(votes, clusters):
            for choice in choices_of(vote, index):
                choice_of.append(numbers.setdefault(choice, len(numbers)))
                cluster_of.append(cluster)
        self.choice_of, self.cluster_of = np.array(choice_of), np.array(cluster_of)
        self.times = np.bincount(self.choice_of, minlength=len(numbers)).astype(float)
        self.tie_sizes = sorted({tie for tie, _, is_tie in numbers if is_tie})
        self.params = self.count + len(self.tie_sizes)
        self.by_size = self._by_size(list(numbers))

    def _by_size(self, choices: list[tuple]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """(numbers of the choices, members, column of theta or -1, whether a tie was chosen), by number of members."""
        groups: dict[int, list] = {}
        for number, (tie, members, is_tie) in enumerate(choices):
            column = self.count + self.tie_sizes.index(tie) if tie in self.tie_sizes else -1
            groups.setdefault(len(members), []).append((number, members, column, is_tie))
        parts = []
        for size, rows in groups.items():
            width = max(1, ROOM // ((size + 1) * self.params))
            for start in range(0, len(rows), width):
                numbers, members, columns, ties = zip(*rows[start:start + width])
                parts.append((np.array(numbers), np.array(members), np.array(columns), np.array(ties)))
        return parts

    def derivatives(self, params: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """(log-likelihood, scores [choices, P], information [P, P]) at some parameters."""
        total, scores, information = 0.0, np.zeros((len(self.times), self.params)), np.zeros((self.params,) * 2)
        for numbers, members, columns, ties in self.by_size:
            rows, size = np.arange(len(numbers)), members.shape[1]
            x = np.zeros((len(numbers), size + 1, self.params))
            for place in range(size):
                x[rows, place, members[:, place]] = 1
                np.add.at(x, (rows, size, members[:, place]), 1 / size)
            x[rows[columns >= 0], size, columns[columns >= 0]] = 1
            logits = x @ params
            logits[columns < 0, size] = -math.inf
            logits -= logits.max(1, keepdims=True)
            logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            p, chosen = np.exp(logp), np.where(ties, size, 0)
            mean = np.einsum("sa,sap->sp", p, x)
            times = self.times[numbers]
            total += float(times @ logp[rows, chosen])
            scores[numbers] = x[rows, chosen] - mean
            weighted = (x * np.sqrt(times[:, None] * p)[:, :, None]).reshape(-1, self.params)
            centred = mean * np.sqrt(times)[:, None]
            information += weighted.T @ weighted - centred.T @ centred
        return total, scores, information

    def cluster_scores(self, scores: np.ndarray) -> np.ndarray:
        """[clusters, P]: the sum of the scores of each cluster's choices."""
        sums = np.zeros((int(self.cluster_of.max()) + 1, self.params))
        np.add.at(sums, self.cluster_of, scores[self.choice_of])
        return sums


def choices_of(vote: Vote, index: dict[str, int]) -> list[tuple[int, tuple[int, ...], bool]]:
    """(K where all K responses may tie, else 0; the checkpoints, the chosen one first; whether all tied)."""
    members = [index[name] for name in vote.checkpoints]
    if vote.is_tie:
        return [(len(members), tuple(sorted(members)), True)]
    choices = []
    for i, rank in enumerate(vote.ranks):
        below = sorted(members[j] for j, other in enumerate(vote.ranks) if other > rank)
        if below:
            tie = len(members) if len(below) + 1 == len(members) else 0
            choices.append((tie, (members[i], *below), False))
    return choices


@dataclass(frozen=True)
class Fit:
    """Strengths in logits, and how sure they are."""

    strengths: np.ndarray
    """[C], with the mean 0 in each group of checkpoints that votes connect."""
    ties: dict[int, float]
    """theta_K by number of responses K."""
    robust: np.ndarray
    """[C, C]: sandwich covariance over clusters."""
    model: np.ndarray
    """[C, C]: covariance if the votes are independent and the model is right."""
    clusters: np.ndarray
    """[C]: in how many clusters there are votes on the checkpoint's group."""
    prior: np.ndarray
    """[C]: whether the weak prior holds the checkpoint's strength."""

    def half_width(self, contrast: np.ndarray) -> float:
        """Half of the 95 % interval of `contrast @ strengths`.

        Student's quantile has one degree of freedom less than the group has clusters. The interval is that of the
        larger of two variances. Where votes happen to agree with the fit, as one tie between two checkpoints does, or
        where a single cluster holds all of them, the sandwich is near 0 and knows nothing.
        """
        variance = max(float(contrast @ self.robust @ contrast), float(contrast @ self.model @ contrast), 0.0)
        clusters = int(self.clusters[contrast != 0].min(initial=self.clusters.max()))
        return t_quantile(0.95, max(clusters - 1, 1)) * math.sqrt(variance)


def fit(votes: Sequence[Vote], names: Sequence[str], clusters: Sequence[int], groups: Sequence[int]) -> Fit:
    """Fit the strengths of the checkpoints `names`.

    Args:
        votes: at least one.
        names: all checkpoints in the votes.
        clusters: the cluster of each vote, from 0.
        groups: the group of each checkpoint, from 0: those that votes connect.

    Where the likelihood has no maximum, because some checkpoints lost to none of the others, or won over none, a weak
    prior holds the strengths of these: half a win and half a loss against a checkpoint of mean strength. Where nothing
    but ties is known, theta has half a tie and half a decided vote.
    """
    data, group_of = Choices(votes, names, clusters), np.asarray(groups)
    gauge = np.zeros((data.params,) * 2)
    gauge[:data.count, :data.count] = GAUGE * (group_of[:, None] == group_of)
    prior = np.zeros(data.params, dtype=bool)
    params, information = maximise(data, prior, gauge)
    while (loose := loose_parameters(information, data.count) & ~prior).any():
        prior |= loose
        params, information = maximise(data, prior, gauge)
    inverse, counts = np.linalg.inv(information), clusters_of_groups(votes, names, clusters, groups)
    scores = data.cluster_scores(data.derivatives(params)[1])
    # For the few clusters of a group, as in the variance of a mean.
    freedom = np.r_[counts, np.full(len(data.tie_sizes), len(scores))]
    scores *= np.sqrt(freedom / np.maximum(freedom - 1, 1))
    covariance = inverse @ scores.T @ scores @ inverse
    strengths = params[:data.count].copy()
    for group in set(groups):
        strengths[group_of == group] -= strengths[group_of == group].mean()
    ties = {size: float(params[data.count + i]) for i, size in enumerate(data.tie_sizes)}
    inner = slice(0, data.count)
    return Fit(strengths, ties, covariance[inner, inner], inverse[inner, inner], counts, prior[inner])


def clusters_of_groups(votes: Sequence[Vote], names: Sequence[str], clusters: Sequence[int],
                       groups: Sequence[int]) -> np.ndarray:
    """[C]: the number of clusters with votes on the group of each checkpoint."""
    group_of, members = dict(zip(names, groups)), {group: set() for group in groups}
    for vote, cluster in zip(votes, clusters):
        members[group_of[vote.checkpoints[0]]].add(cluster)
    return np.array([len(members[group]) for group in groups])


def maximise(data: Choices, prior: np.ndarray, gauge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(parameters, information with prior and gauge) at the maximum, by Newton's method with halved steps.

    The likelihood is concave. `gauge` holds the mean of each group, which the votes leave open, at 0. Without a maximum
    the parameters have gone far when the iterations end, and the information is nearly singular.
    """
    offset = np.zeros(data.params)
    offset[data.count:] = [-math.log(size) for size in data.tie_sizes]
    params = np.zeros(data.params)

    def value(params: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        total, scores, information = data.derivatives(params)
        logit = params + offset
        p = 1 / (1 + np.exp(-logit))
        penalty = -0.5 * (np.logaddexp(0, logit) + np.logaddexp(0, -logit))
        gradient = data.times @ scores + prior * (0.5 - p) - gauge @ params
        total += float(penalty[prior].sum()) - float(params @ gauge @ params) / 2
        return total, gradient, information + np.diag(prior * p * (1 - p)) + gauge

    total, gradient, information = value(params)
    for _ in range(MOST_ITERATIONS):
        # The ridge is for directions in which a likelihood without a maximum has become flat.
        step = np.linalg.solve(information + 1e-10 * np.eye(data.params), gradient)
        step *= min(1.0, 5.0 / max(np.abs(step).max(), 1e-300))
        rate = 1.0
        while True:
            candidate = value(params + rate * step)
            if candidate[0] >= total - 1e-12 * abs(total) or rate < 1e-6:
                break
            rate /= 2
        params = params + rate * step
        total, gradient, information = candidate
        if np.abs(step).max() < 1e-10 or np.linalg.eigvalsh(information)[0] < FLAT / 100:
            break
    return params, information


def loose_parameters(information: np.ndarray, strengths: int) -> np.ndarray:
    """[P]: the parameters that the votes do not bound, of which the first `strengths` are strengths.

    Where one checkpoint drifts away from many, a direction without curvature has a large part in it, and a small one in
    each of the others. Only those with a large part are loose.
    """
    values, vectors = np.linalg.eigh(information)
    parts = (vectors[:, values < FLAT]**2).sum(1)
    loose = parts > 1e-3
    loose[:strengths] &= parts[:strengths] > parts[:strengths].max() / 2
    return loose
