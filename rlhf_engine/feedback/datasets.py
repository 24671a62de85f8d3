"""Training rows and agreement between voters, derived from feedback events whenever they are wanted.

Rows have the columns of the contract, which are TRL's.
"""

import json
from collections.abc import Iterable
from itertools import combinations
from statistics import fmean

from rlhf_engine.feedback.events import Event, without_retracted


def pairs(events: Iterable[Event]) -> list[dict]:
    """Rows {"prompt", "chosen", "rejected"}.

    There is one for every two responses of which one was put above the other, and one for each edit, whose text is
    better than the response.
    """
    rows = []
    for event in without_retracted(events):
        for better, worse in event.rules.preferences(event):
            rows.append({"prompt": event.prompt, "chosen": better, "rejected": worse})
    return rows


def groups(events: Iterable[Event]) -> list[dict]:
    """Rows {"prompt", "responses", "ranking"} from comparisons and rankings. Tie and both_bad are equal ranks."""
    return [{"prompt": event.prompt, "responses": list(event.responses), "ranking": list(event.ranks)}
            for event in without_retracted(events) if event.ranks]


def thumbs(events: Iterable[Event]) -> list[dict]:
    """Rows {"prompt", "completion", "label"} from thumbs. Responses that are both bad are one thumb down each."""
    rows = []
    for event in without_retracted(events):
        for text, up in event.rules.thumbs(event):
            rows.append({"prompt": event.prompt, "completion": text, "label": up})
    return rows


def demonstrations(events: Iterable[Event]) -> list[dict]:
    """Rows {"prompt", "completion"} from edits."""
    rows = []
    for event in without_retracted(events):
        text = event.rules.demonstration(event)
        if text is not None:
            rows.append({"prompt": event.prompt, "completion": text})
    return rows


def ratings(events: Iterable[Event]) -> list[dict]:
    """Rows {"prompt", "completion", "score"} from scores, 1 to 7."""
    rows = []
    for event in without_retracted(events):
        score = event.rules.rating(event)
        if score is not None:
            rows.append({"prompt": event.prompt, "completion": event.responses[0], "score": score})
    return rows


def agreement(events: Iterable[Event]) -> dict:
    """How far voters agree: {"pairs", "agree", "kappa"}.

    `pairs` counts the pairs of responses that two voters or more have judged. `agree` is the mean share of their
    answers, two at a time, that are the same; None without such pairs. `kappa` is what of that is beyond chance,
    (agree - chance) / (1 - chance); None without such pairs, or if all answers are ties. Chance is that of two voters
    who are undecided as often as these, and toss a coin otherwise: Fleiss' kappa, with the same weight for both
    responses of a pair, which have no side of their own.

    An answer is: the one, the other, or (in a comparison) a tie. Equal ranks in a ranking are no answer, because a
    voter who names the best of four says nothing about the rest. Of several answers of one voter the last counts.
    """
    answers = [list(by_voter.values()) for by_voter in answers_by_pair(events).values() if len(by_voter) > 1]
    if not answers:
        return {"pairs": 0, "agree": None, "kappa": None}
    agree = fmean(share_of_equal(each) for each in answers)
    ties = fmean(each.count(0) / len(each) for each in answers)
    chance = ties**2 + (1 - ties)**2 / 2
    return {"pairs": len(answers), "agree": agree, "kappa": (agree - chance) / (1 - chance) if chance < 1 else None}


def answers_by_pair(events: Iterable[Event]) -> dict[tuple, dict[str, int]]:
    """(prompt, text, other text) -> voter -> the answer: -1 the first text is better, 1 the other, 0 a tie.

    The two texts stand in alphabetical order, in whichever order they were shown.
    """
    answers: dict[tuple, dict[str, int]] = {}
    for event in without_retracted(events):
        for one, other in combinations(zip(event.responses, event.ranks), 2):
            (first, rank), (second, second_rank) = sorted((one, other))
            if first != second and (rank != second_rank or event.kind == "comparison"):
                pair = (json.dumps(event.prompt, sort_keys=True), first, second)
                answers.setdefault(pair, {})[event.voter] = (rank > second_rank) - (rank < second_rank)
    return answers


def share_of_equal(answers: list[int]) -> float:
    """Of all pairs of answers, the share that are equal."""
    return fmean(one == other for one, other in combinations(answers, 2))
