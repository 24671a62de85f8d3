"""How often a judge (any scores of the same texts) agrees with the voters, beside how often voters agree."""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from rlhf_engine.evaluation.intervals import jackknife_interval, share_interval, too_few
from rlhf_engine.evaluation.leaderboard.votes import count_of, prompt_key
from rlhf_engine.feedback.datasets import agreement, answers_by_pair
from rlhf_engine.feedback.events import Event, without_retracted

ScoresOf = Callable[[Event], Sequence[float] | None]
"""The judge's scores of an event's responses, in their order; None of an event that it did not judge."""


class JudgedAnswer(NamedTuple):
    """What a voter and the judge say about two responses: 1 the first is better, -1 the second, 0 neither."""

    voter: int
    judge: int
    weight: float
    """Answers of one vote weigh 1 together."""
    prompt: str


def stored_scores(event: Event) -> Sequence[float] | None:
    """The scores that the reward model of the run gave when it asked; a judge for `judge_agreement`."""
    return event.scores or None


def judge_agreement(events: Iterable[Event], scores_of: ScoresOf, confidence: float = 0.95) -> dict[str, Any]:
    """Agreement of a judge with the voters.

    Args:
        events: of any kinds; comparisons and rankings count.
        scores_of: the judge. A higher score is better, equal scores are a tie.
        confidence: of the intervals, which are over prompts.

    Returns:
        A dictionary. `agree`: of the votes that decide, the share in which the judge picks the same answer, its ties
        half (`agree_low`, `agree_high`). Of a ranking of K, each pair that it decides counts, all together as one vote.
        `kappa` (`kappa_low`, `kappa_high`): Cohen's, over all answers, ties of either side included; responses have no
        side of their own, so chance is that of two who are undecided as often as these, and toss a coin otherwise, as
        in `datasets.agreement`. `voters`: the same share for two voters on the same texts (`voters_agree`), and what
        `datasets.agreement` says. Shares are None where there is nothing to count.
    """
    events = without_retracted(events)
    answers, unjudged = judged_answers(events, scores_of)
    decided = [answer for answer in answers if answer.voter]
    agree, low, high = share_by_prompt(
        [(0.5 if not answer.judge else float(answer.judge == answer.voter), answer.weight, answer.prompt)
         for answer in decided], confidence)
    report = {"votes": votes_in(answers), "decided": votes_in(decided),
              "judge_ties": share_of(decided, [answer.judge == 0 for answer in decided]),
              "agree": agree, "agree_low": low, "agree_high": high, **cohen_kappa(answers, confidence),
              "voters": voter_agreement(events, confidence), "prompts": len({answer.prompt for answer in decided})}
    sentence = too_few(report["prompts"], agree) if decided else "no vote that decides was judged"
    report["notes"] = [sentence] if sentence else []
    if unjudged:
        report["notes"].append(f"{count_of(unjudged, 'vote')} left out: the judge has no scores of the responses")
    return report


def judged_answers(events: Iterable[Event], scores_of: ScoresOf) -> tuple[list[JudgedAnswer], int]:
    """(the answers of voter and judge, how many votes the judge has no scores for). Raises ValueError for a score too
    few or too many."""
    answers, unjudged = [], 0
    for event in events:
        if not event.ranks:
            continue
        scores = scores_of(event)
        if scores is None:
            unjudged += 1
            continue
        if len(scores) != len(event.ranks):
            raise ValueError(f"event {event.id!r} has {len(event.ranks)} responses, and the judge {len(scores)} scores")
        pairs = []
        for i, j in combinations(range(len(scores)), 2):
            voter = sign(event.ranks[j] - event.ranks[i])
            if event.responses[i] != event.responses[j] and (voter or event.kind == "comparison" or event.tie):
                pairs.append((voter, sign(scores[i] - scores[j])))
        prompt = prompt_key(event.prompt)
        answers += [JudgedAnswer(voter, judge, 1 / len(pairs), prompt) for voter, judge in pairs]
    return answers, unjudged


def sign(number: float) -> int:
    return (number > 0) - (number < 0)


def votes_in(answers: Sequence[JudgedAnswer]) -> int:
    """How many votes the answers are of."""
    return round(sum(answer.weight for answer in answers))


def share_of(answers: Sequence[JudgedAnswer], hits: Sequence[bool]) -> float | None:
    """The weighted share of answers that are hits; None without answers."""
    total = sum(answer.weight for answer in answers)
    return sum(answer.weight for answer, hit in zip(answers, hits) if hit) / total if total else None


def share_by_prompt(points: Sequence[tuple[float, float, str]],
                    confidence: float) -> tuple[float | None, float | None, float | None]:
    """(share, low, high) of (points from 0 to 1, weight, prompt); the interval is over prompts."""
    sums: dict[str, list[float]] = {}
    for hit, weight, prompt in points:
        total = sums.setdefault(prompt, [0.0, 0.0])
        total[0] += hit * weight
        total[1] += weight
    if not sums:
        return None, None, None
    wins, counts = np.array(list(sums.values())).T
    return float(wins.sum() / counts.sum()), *share_interval(wins, counts, confidence)


def cohen_kappa(answers: Sequence[JudgedAnswer], confidence: float) -> dict[str, float | None]:
    """{"kappa", "kappa_low", "kappa_high"}: agreement beyond chance, with its jackknife interval over prompts."""
    prompts: dict[str, int] = {}
    rows = [prompts.setdefault(answer.prompt, len(prompts)) for answer in answers]
    sums = np.zeros((len(prompts), 4))
    for row, (voter, judge, weight, _) in zip(rows, answers):
        sums[row] += weight * np.array([1, voter == judge, voter == 0, judge == 0])

    def kappa(weights: np.ndarray) -> float:
        total, same, voter_ties, judge_ties = weights @ sums
        if total <= 0:
            return np.nan
        same, voter_ties, judge_ties = same / total, voter_ties / total, judge_ties / total
        chance = voter_ties * judge_ties + (1 - voter_ties) * (1 - judge_ties) / 2
        return (same - chance) / (1 - chance) if chance < 1 else np.nan

    value = kappa(np.ones(len(prompts))) if prompts else np.nan
    if np.isnan(value):
        return {"kappa": None, "kappa_low": None, "kappa_high": None}
    low, high = jackknife_interval(kappa, len(prompts), confidence, low=-1.0, high=1.0)
    return {"kappa": float(value), "kappa_low": float(low), "kappa_high": float(high)}


def voter_agreement(events: Sequence[Event], confidence: float = 0.95) -> dict[str, Any]:
    """What `datasets.agreement` says, and the measure of a judge with one voter as the judge of another.

    `voters_agree`: where one voter decides between two texts, how often another picks the same, their ties half, with
    an interval over prompts. Every two voters on a pair count, in both directions.
    """
    points = []
    for (prompt, _, _), by_voter in answers_by_pair(events).items():
        answers = list(by_voter.values())
        for i, one in enumerate(answers):
            for other in answers[:i] + answers[i + 1:]:
                if one:
                    points.append((0.5 if not other else float(one == other), 1 / (len(answers) - 1), prompt))
    share, low, high = share_by_prompt(points, confidence)
    return {**agreement(events), "voters_agree": share, "voters_agree_low": low, "voters_agree_high": high}
