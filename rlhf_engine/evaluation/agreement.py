"""How often a judge agrees with people on pairs that people compared, beside the rule that the longer response wins.

No function here needs torch; scores are given.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_engine.data.examples import Preference, Ranking
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.evaluation.intervals import paired_interval
from rlhf_engine.evaluation.judging import (
    UNITS,
    agreed_wins,
    clustered_share,
    compare_orders,
    order_remarks,
    score_verdicts,
)
from rlhf_engine.evaluation.length_bias import length_correlation, length_remarks
from rlhf_engine.feedback.llm_judge import Answers


class Comparison(NamedTuple):
    """Two responses to a prompt, of which people prefer the first."""

    prompt: Prompt
    number: int
    """Of the prompt: comparisons of the same prompt are a cluster."""
    better: str
    worse: str


class Opinion(NamedTuple):
    """What a judge says about each comparison."""

    right: list[float]
    """1 where it prefers the better response, 0 where the worse, 1/2 for a tie."""
    scores: tuple[list[float], list[float]] | None = None
    """Of the better responses and of the worse; None of a judge that only compares."""
    answers: list[Answers] | None = None
    """Of a chat model, in both orders."""


def comparisons_of(rows: Sequence[Preference | Ranking]) -> tuple[list[Comparison], int]:
    """(all comparisons in the rows, how many pairs people called even). Equal prompts have the same number."""
    numbers: dict[str, int] = {}
    comparisons, even = [], 0
    for row in rows:
        number = numbers.setdefault(str(row.prompt), len(numbers))
        if isinstance(row, Preference):
            comparisons.append(Comparison(row.prompt, number, row.chosen, row.rejected))
            continue
        for i, first in enumerate(row.responses):
            for j in range(i + 1, len(row.responses)):
                second = row.responses[j]
                if row.ranks[i] == row.ranks[j]:
                    even += 1
                elif first != second:
                    pair = (first, second) if row.ranks[i] < row.ranks[j] else (second, first)
                    comparisons.append(Comparison(row.prompt, number, *pair))
    return comparisons, even


def score_opinion(better: list[float], worse: list[float]) -> Opinion:
    """The opinion of a judge that scores."""
    return Opinion(score_verdicts(better, worse).wins, scores=(better, worse))


def answer_opinion(answers: list[Answers]) -> Opinion:
    """The opinion of a chat model that was shown the better response first, and then second."""
    return Opinion(agreed_wins(answers), answers=answers)


# -- numbers -----------------------------------------------------------------------------------------------------------

def agreement_report(comparisons: Sequence[Comparison], opinions: dict[str, Opinion]) -> dict[str, Any]:
    """How far each judge agrees with people.

    `pairs` and `prompts` count; `length` is the rule that the longer response wins (in characters), as `rate` gives it;
    `judges` has for each judge what `judge_agreement` gives.
    """
    numbers = [comparison.number for comparison in comparisons]
    longer = longer_wins(comparisons)
    return {"pairs": len(comparisons), "prompts": len(set(numbers)), "length": rate(longer, numbers),
            "judges": [judge_agreement(name, opinion, comparisons, longer) for name, opinion in opinions.items()]}


def longer_wins(comparisons: Sequence[Comparison]) -> np.ndarray:
    """[N]: 1 where the better response is the longer, 0 where it is the shorter, 1/2 for equal lengths."""
    return np.array([(np.sign(len(pair.better) - len(pair.worse)) + 1) / 2 for pair in comparisons])


def rate(right: Sequence[float] | np.ndarray, numbers: Sequence[int]) -> dict[str, Any]:
    """`accuracy` with ties half, its 95 % interval over prompts, `ties` and `pairs`; None where there are no pairs."""
    right = np.asarray(right, dtype=float)
    if not len(right):
        return {"pairs": 0, "accuracy": None, "accuracy_low": None, "accuracy_high": None, "ties": None}
    low, high = clustered_share(right, np.ones(len(right)), numbers)
    return {"pairs": len(right), "accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high,
            "ties": float((right == 0.5).mean())}


def judge_agreement(name: str, opinion: Opinion, comparisons: Sequence[Comparison],
                    longer: np.ndarray) -> dict[str, Any]:
    """The agreement of one judge: `rate`, and what length has to do with it.

    `over_length` is its accuracy less that of the longer response, with the paired interval over prompts. `split` has
    its `rate` where the longer response is the better one, where it is the worse one, and where both are of the same
    length. `picks_longer` is the share of the pairs of unequal length in which it prefers the longer, ties half. A
    judge that scores has `length_correlation`, a chat model `orders`. `notes` says it in words.
    """
    numbers = np.array([comparison.number for comparison in comparisons])
    right = np.asarray(opinion.right, dtype=float)
    report: dict[str, Any] = {"judge": name, **rate(right, numbers.tolist())}
    clusters = np.unique(numbers, return_inverse=True)[1]
    sizes = np.bincount(clusters)
    low, high = paired_interval(np.bincount(clusters, weights=right) / sizes,
                                np.bincount(clusters, weights=longer) / sizes, low=0.0, high=1.0)
    report |= {"over_length": float(np.mean(right - longer)), "over_length_low": low, "over_length_high": high}
    report["split"] = {place: rate(right[longer == value], numbers[longer == value].tolist())
                       for place, value in (("length_right", 1.0), ("length_wrong", 0.0), ("length_equal", 0.5))}
    unequal = longer != 0.5
    picks = np.where(longer == 1, right, 1 - right)[unequal]
    share = rate(picks, numbers[unequal].tolist())
    report |= {f"picks_longer{end}": share[f"accuracy{end}"] for end in ("", "_low", "_high")}
    notes = agreement_remarks(report)
    if opinion.scores:
        report["length_correlation"] = best_correlation(opinion.scores, comparisons)
        notes += length_remarks(report["length_correlation"], name)
    if opinion.answers is not None:
        report["orders"] = compare_orders(opinion.answers, numbers.tolist())
        notes += order_remarks(report["orders"], name)
    return report | {"notes": notes}


def best_correlation(scores: tuple[list[float], list[float]], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """`length_correlation` of all responses, within prompts, in the unit of length that the scores follow more.

    A response that stands in several comparisons counts once.
    """
    values: dict[tuple[int, str], float] = {}
    for pair, better, worse in zip(comparisons, *scores):
        values[pair.number, pair.better], values[pair.number, pair.worse] = better, worse
    numbers = [number for number, _ in values]
    reports = []
    for unit, measure in UNITS.items():
        lengths = [measure(text) for _, text in values]
        reports.append({"unit": unit, **length_correlation(list(values.values()), lengths, numbers)})
    return max(reports, key=lambda report: abs(report["within_spearman"] or 0.0))


# -- in words ----------------------------------------------------------------------------------------------------------

def agreement_remarks(report: dict[str, Any]) -> list[str]:
    """What `judge_agreement` says, as sentences."""
    name, low, high = report["judge"], report["accuracy_low"], report["accuracy_high"]
    line = f"{name} agrees with people in {report['accuracy']:.1%} ({low:.1%} to {high:.1%}) of {report['pairs']} pairs"
    if report["ties"] == 1:
        return [f"{name} calls all {report['pairs']} pairs even, so it says nothing about what people prefer"]
    if low <= 0.5 <= high:
        line += ", which chance may do as well"
    elif high < 0.5:
        line += ": it prefers what people do not"
    remarks = [line]
    wrong = report["split"]["length_wrong"]
    if report["picks_longer_low"] is not None and not report["picks_longer_low"] <= 0.5 <= report["picks_longer_high"]:
        side = "longer" if report["picks_longer"] > 0.5 else "shorter"
        share = max(report["picks_longer"], 1 - report["picks_longer"])
        line = f"{name} prefers the {side} response in {share:.1%} of the pairs"
        if wrong["accuracy"] is not None:
            line += f"; where people prefer the shorter one, it agrees in {wrong['accuracy']:.1%}"
        remarks.append(line)
    return remarks


