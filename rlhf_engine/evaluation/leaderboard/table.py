"""The leaderboard: strengths of checkpoints with intervals, what each pair did, Elo beside it, and remarks in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.evaluation.intervals import share_interval, too_few
from rlhf_engine.evaluation.leaderboard.bradley_terry import Fit, fit
from rlhf_engine.evaluation.leaderboard.elo import MEAN, SCALE, elo_ratings
from rlhf_engine.evaluation.leaderboard.votes import Vote, known_names

CLUSTERS = ("prompt", "voter")
ELO_PER_LOGIT = SCALE / math.log(10)
MODEL = "Bradley-Terry with Davidson's ties; Plackett-Luce for rankings of more than two"
PRIOR = "half a win and half a loss against a checkpoint of mean strength"


class Answers:
    """What the votes say about every two checkpoints: a ranking of K is cut into its pairs."""

    def __init__(self, votes: Sequence[Vote], names: Sequence[str], clusters: Sequence[int]):
        index = {name: i for i, name in enumerate(names)}
        self.wins = np.zeros((len(names), len(names)), dtype=int)
        """[C, C]: answers in which the checkpoint of the row was better."""
        self.ties = np.zeros_like(self.wins)
        self.votes = np.zeros(len(names), dtype=int)
        """[C]: votes in which a checkpoint took part."""
        self.by_cluster: dict[tuple[int, int], dict[int, list[float]]] = {}
        """Pair of checkpoints, the lower index first -> cluster -> [wins of the first, ties half; answers]."""
        for vote, cluster in zip(votes, clusters):
            for name in set(vote.checkpoints):
                self.votes[index[name]] += 1
            for one, other, result in vote.answers():
                self._add(index[vote.checkpoints[one]], index[vote.checkpoints[other]], result, cluster)

    def _add(self, i: int, j: int, result: float, cluster: int) -> None:
        if i > j:
            i, j, result = j, i, 1 - result
        if result == 0.5:
            self.ties[i, j] += 1
            self.ties[j, i] += 1
        else:
            self.wins[(i, j) if result else (j, i)] += 1
        sums = self.by_cluster.setdefault((i, j), {}).setdefault(cluster, [0.0, 0.0])
        sums[0] += result
        sums[1] += 1

    def share(self, i: int, j: int) -> tuple[float, float, float]:
        """(win rate of i over j with ties half, and its interval over clusters), for i < j that met."""
        wins, counts = np.array(list(self.by_cluster[i, j].values())).T
        return float(wins.sum() / counts.sum()), *share_interval(wins, counts)


@dataclass(frozen=True)
class Standing:
    """All that the rows of the report are made from."""

    names: list[str]
    groups: list[int]
    answers: Answers
    fit: Fit
    origin: np.ndarray
    """[C, C]: row i is the contrast whose value is the strength of i over the anchor or the mean of its group."""


def leaderboard(votes: Sequence[Vote], *, cluster: str = "prompt", anchor: str = "", seed: int = 0) -> dict[str, Any]:
    """Rank the checkpoints in some votes.

    Args:
        votes: at least one, in the order of their time, which only Elo minds.
        cluster: what the intervals take as the unit: `prompt` (what would other prompts have given?) or `voter` (what
            would other people?).
        anchor: the checkpoint whose strength is 1000; "" sets the mean of each group to 1000.
        seed: of the orders in which Elo takes the votes.

    Returns:
        A dictionary for report.json: `leaderboard` is a list of groups, each with its rows; checkpoints that no chain
        of votes connects are in different groups, and their strengths cannot be compared. `pairs` has a row for every
        two checkpoints that met; `matrix` has the wins and ties; `notes` says what to bear in mind.

    Raises UserError for an anchor that has no votes, and if there are no votes.
    """
    if not votes:
        raise UserError("there are no votes on checkpoints: vote on blind rounds of the Chat page first")
    names = sorted({name for vote in votes for name in vote.checkpoints})
    if anchor and anchor not in names:
        raise UserError(f"--anchor {short_repr(anchor)} is in no vote; {known_names('anchor', anchor, names)}")
    clusters = cluster_numbers(votes, cluster)
    groups = connected_groups(votes, names)
    fitted = fit(votes, names, clusters, groups)
    standing = Standing(names, groups, Answers(votes, names, clusters), fitted, origins(names, groups, anchor))
    elo, shuffles = elo_ratings(votes, names, standing.origin, seed)
    rows = strength_rows(standing, anchor)
    for row, rating in zip(rows, elo):
        row.update(elo=rating.rating, elo_mean=rating.mean, elo_deviation=rating.deviation, elo_low=rating.low,
                   elo_high=rating.high)
    return {
        "model": MODEL, "cluster": cluster, "clusters": len(set(clusters)), "anchor": anchor, "elo_shuffles": shuffles,
        "votes": len(votes), "voters": len({vote.voter for vote in votes}),
        "prompts": len({vote.prompt for vote in votes}), "ties": tie_share(votes),
        "leaderboard": [group_rows(rows, groups, group, int(fitted.clusters[groups.index(group)]))
                        for group in sorted(set(groups))],
        "pairs": pair_rows(standing),
        "matrix": {"checkpoints": names, "wins": standing.answers.wins.tolist(),
                   "ties": standing.answers.ties.tolist()},
        "first_shown": first_shown(votes, clusters), "notes": remarks(standing, votes, cluster)}


def empty_leaderboard(cluster: str) -> dict[str, Any]:
    """That of no votes, such as where there are scores alone."""
    return {"model": MODEL, "cluster": cluster, "clusters": 0, "anchor": "", "elo_shuffles": 0, "votes": 0, "voters": 0,
            "prompts": 0, "ties": None, "leaderboard": [], "pairs": [],
            "matrix": {"checkpoints": [], "wins": [], "ties": []}, "first_shown": None, "notes": []}


# -- parts of the report -----------------------------------------------------------------------------------------------

def strength_rows(standing: Standing, anchor: str) -> list[dict[str, Any]]:
    """A row for each checkpoint, in the order of the names."""
    fitted, answers, rows = standing.fit, standing.answers, []
    for i, name in enumerate(standing.names):
        contrast = standing.origin[i]
        strength, half = float(contrast @ fitted.strengths), fitted.half_width(contrast)
        wins, losses, ties = int(answers.wins[i].sum()), int(answers.wins[:, i].sum()), int(answers.ties[i].sum())
        flags = []
        if not losses and not ties:
            flags.append("won_all")
        if not wins and not ties:
            flags.append("lost_all")
        if fitted.prior[i]:
            flags.append("weak_prior")
        if name == anchor:
            flags.append("anchor")
        rank_low, rank_high = rank_range(standing, i)
        rows.append({"checkpoint": name, "strength": MEAN + ELO_PER_LOGIT * strength,
                     "low": MEAN + ELO_PER_LOGIT * (strength - half), "high": MEAN + ELO_PER_LOGIT * (strength + half),
                     "rank_low": rank_low, "rank_high": rank_high, "votes": int(answers.votes[i]), "wins": wins,
                     "losses": losses, "ties": ties, "win_rate": (wins + ties / 2) / (wins + losses + ties),
                     "flags": flags})
    return rows


def rank_range(standing: Standing, i: int) -> tuple[int, int]:
    """(best, worst) rank in its group that the intervals of the differences leave open for checkpoint i."""
    better, worse, size = 0, 0, standing.groups.count(standing.groups[i])
    for j, group in enumerate(standing.groups):
        if j != i and group == standing.groups[i]:
            difference, half = pair_difference(standing, i, j)
            better += difference + half < 0
            worse += difference - half > 0
    return 1 + better, size - worse


def pair_difference(standing: Standing, i: int, j: int) -> tuple[float, float]:
    """(strength of i over j in logits, half of its interval)."""
    contrast = np.zeros(len(standing.names))
    contrast[i], contrast[j] = 1.0, -1.0
    return float(contrast @ standing.fit.strengths), standing.fit.half_width(contrast)


def group_rows(rows: list[dict], groups: list[int], group: int, clusters: int) -> dict[str, Any]:
    """One group of the report: its rows from the strongest to the weakest, numbered."""
    members = [row for row, number in zip(rows, groups) if number == group]
    members.sort(key=lambda row: (-row["strength"], row["checkpoint"]))
    return {"clusters": clusters, "rows": [{"rank": rank, **row} for rank, row in enumerate(members, 1)]}


def pair_rows(standing: Standing) -> list[dict[str, Any]]:
    """A row for every two checkpoints that met; those with the most answers come first.

    `win_rate` is what the votes say, ties half; `expected` is the share of the decided votes that the model expects,
    and `difference` is on the scale of the strengths.
    """
    answers, rows = standing.answers, []
    for i, j in answers.by_cluster:
        rate, low, high = answers.share(i, j)
        difference, half = pair_difference(standing, i, j)
        wins, losses, ties = int(answers.wins[i, j]), int(answers.wins[j, i]), int(answers.ties[i, j])
        rows.append({"checkpoint": standing.names[i], "against": standing.names[j], "answers": wins + losses + ties,
                     "wins": wins, "losses": losses, "ties": ties, "win_rate": rate, "win_rate_low": low,
                     "win_rate_high": high, "expected": 1 / (1 + math.exp(-difference)),
                     "difference": ELO_PER_LOGIT * difference, "difference_low": ELO_PER_LOGIT * (difference - half),
                     "difference_high": ELO_PER_LOGIT * (difference + half)})
    return sorted(rows, key=lambda row: (-row["answers"], row["checkpoint"], row["against"]))


def tie_share(votes: Sequence[Vote]) -> float:
    return sum(vote.is_tie for vote in votes) / len(votes)


def first_shown(votes: Sequence[Vote], clusters: Sequence[int]) -> dict[str, Any] | None:
    """How often the response that stood first wins the decided votes on two; None where no vote says what stood first.

    Half is fair. More, or less, is a habit of the voters, which shuffled sides even out.
    """
    sums: dict[int, list[float]] = {}
    for vote, cluster in zip(votes, clusters):
        if len(vote.ranks) == 2 and not vote.is_tie and vote.shown:
            total = sums.setdefault(cluster, [0.0, 0.0])
            total[0] += vote.ranks[vote.shown[0]] == 1
            total[1] += 1
    if not sums:
        return None
    wins, counts = np.array(list(sums.values())).T
    low, high = share_interval(wins, counts)
    return {"votes": int(counts.sum()), "win_rate": float(wins.sum() / counts.sum()), "win_rate_low": low,
            "win_rate_high": high}


def remarks(standing: Standing, votes: Sequence[Vote], cluster: str) -> list[str]:
    """What to bear in mind, a line each."""
    fitted, notes = standing.fit, []
    if len(set(standing.groups)) > 1:
        notes.append(f"no chain of votes connects all checkpoints: they form {len(set(standing.groups))} groups, and "
                     "strengths of different groups cannot be compared; let one checkpoint of each group meet one of "
                     "another")
    if fitted.prior.any():
        held = [short_repr(name) for name, needed in zip(standing.names, fitted.prior) if needed]
        notes.append(f"the votes alone set no limit to a difference, because some of these checkpoints lost to none of "
                     f"some others: {', '.join(held[:8])}{' and others' if len(held) > 8 else ''}; a weak prior holds "
                     f"their strengths ({PRIOR})")
    sentence = too_few(int(fitted.clusters.min()), unit=cluster)
    if sentence:
        notes.append(sentence)
    if len({vote.voter for vote in votes}) == 1:
        notes.append("all votes are of one voter: the leaderboard is that person's taste")
    return notes


# -- groups, clusters, origins -----------------------------------------------------------------------------------------

def connected_groups(votes: Sequence[Vote], names: Sequence[str]) -> list[int]:
    """The group of each checkpoint: those that a chain of answers connects have one number.

    Group 0 has the most checkpoints; of equal groups, the first name decides.
    """
    leader = {name: name for name in names}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for vote in votes:
        for i, j, _ in vote.answers():
            leader[find(vote.checkpoints[i])] = find(vote.checkpoints[j])
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(find(name), []).append(name)
    ordered = sorted(members.values(), key=lambda group: (-len(group), group[0]))
    number = {find(group[0]): i for i, group in enumerate(ordered)}
    return [number[find(name)] for name in names]


def cluster_numbers(votes: Sequence[Vote], cluster: str) -> list[int]:
    """The number of each vote's prompt or voter, from 0. Raises UserError where one voter is all there is."""
    numbers: dict[str, int] = {}
    clusters = [numbers.setdefault(vote.prompt if cluster == "prompt" else vote.voter, len(numbers)) for vote in votes]
    if cluster == "voter" and len(numbers) == 1:
        raise UserError("--cluster voter needs votes of two people at least, and all are of one: take --cluster prompt")
    return clusters


def origins(names: Sequence[str], groups: Sequence[int], anchor: str) -> np.ndarray:
    """[C, C]: what to take from each strength, as contrasts: the anchor, or the mean of the group without one."""
    numbers, contrasts = np.asarray(groups), np.eye(len(names))
    for group in set(groups):
        inside = numbers == group
        if anchor and names.index(anchor) in np.flatnonzero(inside):
            contrasts[inside, names.index(anchor)] -= 1
        else:
            contrasts[np.ix_(inside, inside)] -= 1 / inside.sum()
    return contrasts
