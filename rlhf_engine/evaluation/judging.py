"""A match between two policies, the judges that decide it, and what is known about a judge: ties, order, length.

A judge is a scoring function or a reward model, which gives each response a score, or a chat model, which is asked in
both orders of the responses. No function here needs torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.intervals import share_interval, wilson
from rlhf_engine.evaluation.length_bias import control_remarks, length_correlation, length_remarks
from rlhf_engine.evaluation.length_control import LengthControl, control_length
from rlhf_engine.feedback.llm_judge import Answers, Judge
from rlhf_engine.feedback.scoring_functions import words

FIRST_ANSWERS = ("1", "2")
"""The answers that name the response shown first: as given, and in the reversed order."""
UNITS: dict[str, Callable[[str], int]] = {"characters": len, "words": lambda text: len(words(text))}
"""Units of length. A judge may count either; the one that it follows more is reported."""
POINTS = {"1": 1.0, "2": 0.0}
"""What an answer that both orders give is worth to the first response; any other is a tie."""


class Side(NamedTuple):
    """The responses of one policy."""

    response_ids: list[list[int]]
    texts: list[str]

    def lengths(self, unit: str) -> list[int]:
        """The length of each response in a unit of `UNITS`."""
        return [UNITS[unit](text) for text in self.texts]


class Match(NamedTuple):
    """Pairs of responses to the same prompts, one of each policy."""

    prompts: list[Prompt]
    """The prompt of each pair."""
    prompt_ids: list[list[int]]
    numbers: list[int]
    """The number of each pair's prompt. Pairs of the same prompt are a cluster."""
    ours: Side
    theirs: Side

    def differences(self, unit: str) -> list[int]:
        """By how much our response is longer, in each pair."""
        return [a - b for a, b in zip(self.ours.lengths(unit), self.theirs.lengths(unit))]


@dataclass(frozen=True)
class Verdicts:
    """What a judge says about each pair of a match."""

    wins: list[float]
    """1 where ours wins, 0 where theirs does, 1/2 for a tie."""
    scores: tuple[list[float], list[float]] | None = None
    """Of our responses and of theirs; None of a judge that only compares."""
    answers: list[Answers] | None = None
    """Of a chat model: its answers in both orders, "1" for ours, "2" for theirs, "tie", or None if unreadable."""


@dataclass(frozen=True)
class Referee:
    """A judge with its name."""

    name: str
    """As the command line spells it."""
    decide: Callable[[Match], Verdicts]


def score_verdicts(ours: list[float], theirs: list[float]) -> Verdicts:
    """The verdicts of a judge that gives scores: the higher one wins, equal ones are a tie."""
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs)]
    return Verdicts(wins, scores=(ours, theirs))


def chat_model_referee(name: str, judge: Judge) -> Referee:
    """A chat model that is asked about each pair in both orders. A verdict counts where both orders give it.

    The referee raises UserError where no answer at all can be read, and as the judge does.
    """
    def decide(match: Match) -> Verdicts:
        answers = ask_twice(name, judge, match.prompts, match.ours.texts, match.theirs.texts)
        return Verdicts(agreed_wins(answers), answers=answers)

    return Referee(name, decide)


def ask_twice(name: str, judge: Judge, prompts: Sequence[Prompt], first: Sequence[str],
              second: Sequence[str]) -> list[Answers]:
    """The answers of a chat model in both orders. Raises UserError where none can be read, and as the judge does."""
    answers = [both for both, _ in judge.answer_twice(list(zip(prompts, zip(first, second))))]
    if answers and not any(answer for both in answers for answer in both):
        example = " ".join(judge.unreadable[-1].split())[:60]
        raise UserError(f"{name} gives no answer that can be read, but such as {example!r}; take a chat model that "
                        "answers a question with one letter")
    return answers


def agreed_wins(answers: Sequence[Answers]) -> list[float]:
    """The verdict of each question from the answers in both orders: a tie unless they agree on a response."""
    return [POINTS.get(one or "", 0.5) if one == other else 0.5 for one, other in answers]


# -- numbers -----------------------------------------------------------------------------------------------------------

def judge_report(referee: Referee, verdicts: Verdicts, match: Match) -> dict[str, Any]:
    """What report.json says about a judge and its verdicts.

    `win_rate` counts ties as half and has a 95 % interval over prompts. `length_controlled` is that at equal length
    (`LengthControl`). A judge that scores also has `score`, `score_against` and `length_correlation` (of its scores,
    among the responses of one policy to one prompt); one that is asked in both orders has `orders`. `notes` says in
    words what is worth a word.
    """
    report: dict[str, Any] = {"judge": referee.name, **win_numbers(verdicts.wins, match.numbers)}
    control = controlled_wins(verdicts.wins, match)
    report["length_controlled"] = control.to_dict()
    notes = []
    if verdicts.scores:
        ours, theirs = verdicts.scores
        report |= {"score": float(np.mean(ours)), "score_against": float(np.mean(theirs))}
        report["length_correlation"] = scores_and_lengths(verdicts.scores, match)
        notes += judge_remarks([*ours, *theirs])
        notes += [] if notes else length_remarks(report["length_correlation"], referee.name)
    if verdicts.answers is not None:
        report["orders"] = compare_orders(verdicts.answers, match.numbers)
        notes += order_remarks(report["orders"], referee.name) + slope_remarks(control, referee.name)
    return report | {"notes": notes + control_remarks(report, control)}


def win_numbers(wins: Sequence[float], numbers: Sequence[int]) -> dict[str, float]:
    """`win_rate` with ties half, its 95 % interval over prompts, and the share of `ties`."""
    low, high = clustered_share(wins, np.ones(len(wins)), numbers)
    return {"win_rate": float(np.mean(wins)), "win_rate_low": low, "win_rate_high": high,
            "ties": float(np.mean(np.asarray(wins) == 0.5))}


def clustered_share(wins: Sequence[float] | np.ndarray, counts: Sequence[float] | np.ndarray,
                    numbers: Sequence[int]) -> tuple[float, float]:
    """95 % interval of sum(wins) / sum(counts). Those with the same number are a cluster.

    Of verdicts without ties on a prompt each it is Wilson's.
    """
    clusters = np.unique(np.asarray(numbers), return_inverse=True)[1]
    wins, counts = np.asarray(wins, dtype=float), np.asarray(counts, dtype=float)
    if len(np.unique(clusters)) == len(clusters) and np.isin(wins, (0, 1)).all() and np.isin(counts, (0, 1)).all():
        return wilson(float(wins.sum()), float(counts.sum()))
    low, high = share_interval(np.bincount(clusters, weights=wins), np.bincount(clusters, weights=counts))
    return float(low), float(high)


def controlled_wins(wins: Sequence[float], match: Match) -> LengthControl:
    """The win rate at equal length, in the unit of length that the verdicts follow more."""
    controls = [control_length(wins, match.differences(unit), match.numbers, unit) for unit in UNITS]
    return max(controls, key=lambda control: abs(control.share or 0.0))


def scores_and_lengths(scores: tuple[list[float], list[float]], match: Match) -> dict[str, Any]:
    """`length_correlation` of the scores of a match, within the responses of one policy to one prompt.

    Its `unit` of length is the one that the scores follow more.
    """
    groups = [*(2 * number for number in match.numbers), *(2 * number + 1 for number in match.numbers)]
    reports = []
    for unit in UNITS:
        lengths = [*match.ours.lengths(unit), *match.theirs.lengths(unit)]
        report = length_correlation([*scores[0], *scores[1]], lengths, match.numbers * 2, groups)
        reports.append({"unit": unit, **report})
    return max(reports, key=lambda report: abs(report["within_spearman"] or 0.0))


def compare_orders(answers: Sequence[Answers], numbers: Sequence[int]) -> dict[str, Any]:
    """What the order of two responses does to the answers of a chat model; intervals are over prompts.

    `questions`, each in two orders; `unreadable` of the answers, and `unread` questions without any readable answer.
    `answered`: questions with two readable answers. `consistent`: the share of these that get the same answer in both
    orders. `disagree`: number of those that do not. `first`: among the picks of a response in these, the share that
    picks the one shown first; one half where the order says nothing, 1 of a judge that always takes the first. None
    where there is nothing to count.
    """
    readable = np.array([None not in both for both in answers], dtype=float)
    alike = np.array([one is not None and one == other for one, other in answers], dtype=float)
    differ = [one != other and None not in (one, other) for one, other in answers]
    picks = np.array([sum(answer in POINTS for answer in both) * apart for both, apart in zip(answers, differ)])
    firsts = np.array([sum(answer == first for answer, first in zip(both, FIRST_ANSWERS)) * apart
                       for both, apart in zip(answers, differ)])
    report: dict[str, Any] = {"questions": len(answers), "unreadable": sum(both.count(None) for both in answers),
                              "unread": sum(both == (None, None) for both in answers),
                              "answered": int(readable.sum()), "disagree": sum(differ)}
    for name, hits, counts in (("consistent", alike, readable), ("first", firsts, picks)):
        total = float(counts.sum())
        low, high = clustered_share(hits, counts, numbers) if total else (None, None)
        report |= {name: float(hits.sum()) / total if total else None, f"{name}_low": low, f"{name}_high": high}
    return report


# -- in words ----------------------------------------------------------------------------------------------------------

def judge_remarks(scores: list[float]) -> list[str]:
    """A line about a judge that gives all responses the same score; none for any other."""
    if len(set(scores)) > 1:
        return []
    return [f"the judge gives all {len(scores)} responses the same score ({scores[0]:.6g}), so it says nothing about "
            "either of the two: give prompts that ask for what it prefers, longer responses, or another --judge"]


def order_remarks(orders: dict[str, Any], judge: str) -> list[str]:
    """What `compare_orders` says about a judge, as sentences."""
    remarks = []
    if orders["unreadable"]:
        unread = f", and {orders['unread']} questions got no other" if orders["unread"] else ""
        remarks.append(f"{orders['unreadable']} of {2 * orders['questions']} answers of {judge} are neither a letter "
                       f"nor TIE{unread}; these questions count as ties")
    if orders["consistent"] is not None and orders["disagree"]:
        line = (f"of the {orders['answered']} questions that {judge} answers in both orders, "
                f"{1 - orders['consistent']:.0%} get another answer in the other order")
        if orders["first"] is not None and not orders["first_low"] <= 0.5 <= orders["first_high"]:
            place = "first" if orders["first"] > 0.5 else "last"
            share = max(orders["first"], 1 - orders["first"])
            line += f", and there it picks the response shown {place} in {share:.0%} of its picks"
        remarks.append(f"{line}; these count as ties")
    return remarks


def slope_remarks(control: LengthControl, judge: str) -> list[str]:
    """A line where the verdicts of a judge follow the difference of lengths; none elsewhere."""
    if control.share is None or control.share_low is None or control.share_high is None:
        return []
    if control.share_low <= 0 <= control.share_high:
        return []
    side = "longer" if control.share > 0 else "shorter"
    ends = sorted((abs(control.share_low), abs(control.share_high)))
    return [f"the verdicts of {judge} follow length: a response that is {control.sd:.0f} {control.unit} {side} wins "
            f"{abs(control.share):.0%} more often ({ends[0]:.0%} to {ends[1]:.0%})"]
