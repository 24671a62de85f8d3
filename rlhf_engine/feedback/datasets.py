"""Training rows and agreement between voters, derived from feedback events."""

import json
from collections.abc import Iterable
from itertools import combinations, permutations
from statistics import fmean

from rlhf_engine.feedback.events import Event


def live(events: Iterable[Event]) -> list[Event]:
    """Without retracts and what they take back. A store's lists are so already, those of a file may not be."""
    events = list(events)
    gone = {event.value for event in events if event.kind == "retract"}
    return [event for event in events if event.kind != "retract" and event.id not in gone]


def pairs(events: Iterable[Event]) -> list[dict]:
    """{"prompt", "chosen", "rejected"}: every two responses of which one was put above the other, and each edit above what it edits."""
    rows = []
    for event in live(events):
        edited = event.kind == "edit"
        texts, ranks = ((event.value, *event.responses), (1, 2)) if edited else (event.responses, event.ranks)
        rows += [{"prompt": event.prompt, "chosen": better, "rejected": worse}
                 for (better, high), (worse, low) in permutations(zip(texts, ranks), 2) if high < low and better != worse]
    return rows


def groups(events: Iterable[Event]) -> list[dict]:
    """{"prompt", "responses", "ranking"} from comparisons (tie and both_bad: equal ranks) and rankings."""
    return [{"prompt": event.prompt, "responses": list(event.responses), "ranking": list(event.ranks)}
            for event in live(events) if event.ranks]


def thumbs(events: Iterable[Event]) -> list[dict]:
    """{"prompt", "completion", "label"} from thumbs; of responses that are both bad, each is one down."""
    return [{"prompt": event.prompt, "completion": text, "label": event.value == "up"} for event in live(events)
            if event.kind == "thumb" or (event.kind, event.value) == ("comparison", "both_bad") for text in event.responses]


def demonstrations(events: Iterable[Event]) -> list[dict]:
    """{"prompt", "completion"} from edits."""
    return [{"prompt": event.prompt, "completion": event.value} for event in live(events) if event.kind == "edit"]


def ratings(events: Iterable[Event]) -> list[dict]:
    """{"prompt", "completion", "score"} from scores, 1 to 7."""
    return [{"prompt": event.prompt, "completion": event.responses[0], "score": event.value}
            for event in live(events) if event.kind == "score"]


def agreement(events: Iterable[Event]) -> dict:
    """How far voters agree: {"pairs": pairs of responses judged by two voters or more, "agree": mean share of their answers, two at a
    time, that are the same, "kappa": that beyond chance, (agree - chance) / (1 - chance); None without such pairs, or if all are ties}.

    Chance is that of two voters who are as often undecided as these and otherwise toss a coin: Fleiss' kappa, with the same weight for
    both responses of a pair, which have no side of their own.

    An answer is: the one, the other, or (in a comparison) a tie. Equal ranks in a ranking are no answer: where only the best was asked
    for, nothing was said about the rest. Of several answers of one voter the last counts.
    """
    answers: dict[tuple, dict[str, int]] = {}
    for event in live(events):
        for one, other in combinations(zip(event.responses, event.ranks), 2):
            (text, rank), (second, below) = sorted((one, other))  # the same two texts, in whichever order they came
            if text != second and (rank != below or event.kind == "comparison"):
                pair = (json.dumps(event.prompt, sort_keys=True), text, second)
                answers.setdefault(pair, {})[event.voter] = (rank > below) - (rank < below)
    shared = [list(given.values()) for given in answers.values() if len(given) > 1]
    if not shared:
        return {"pairs": 0, "agree": None, "kappa": None}
    agree = fmean(fmean(a == b for a, b in combinations(given, 2)) for given in shared)
    ties = fmean(given.count(0) / len(given) for given in shared)
    chance = ties**2 + (1 - ties)**2 / 2
    return {"pairs": len(shared), "agree": agree, "kappa": (agree - chance) / (1 - chance) if chance < 1 else None}
