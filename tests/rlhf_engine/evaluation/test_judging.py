"""Judges of a match: what the order of the responses does, by hand, and the report of each kind of judge."""

import random

import pytest

from rlhf_engine.errors import NotFinite, UserError
from rlhf_engine.evaluation.compare import score_referee, text_judge
from rlhf_engine.evaluation.intervals import wilson
from rlhf_engine.evaluation.judging import (
    Match,
    Side,
    agreed_wins,
    chat_model_referee,
    clustered_share,
    compare_orders,
    judge_report,
    order_remarks,
)
from rlhf_engine.feedback.llm_judge import Judge
from tests.rlhf_engine.feedback.test_llm_judge import parts


def match_of(ours: list[str], theirs: list[str], per_prompt: int = 1) -> Match:
    numbers = [i // per_prompt for i in range(len(ours))]
    ids = {text: [i] for i, text in enumerate(dict.fromkeys(ours + theirs))}
    return Match([f"prompt {number}" for number in numbers], [[9]] * len(ours), numbers,
                 Side([ids[text] for text in ours], ours), Side([ids[text] for text in theirs], theirs))


def chat_model(answer) -> Judge:
    return Judge(lambda questions: [answer(parts(messages)) for messages in questions])


def happier(texts: dict[str, str]) -> str:
    counts = {letter: texts[letter].count("happy") for letter in "AB"}
    return "TIE" if counts["A"] == counts["B"] else max(counts, key=counts.get)


# -- order ---------------------------------------------------------------------------------------------------------------

def test_a_verdict_counts_where_both_orders_agree():
    answers = [("1", "1"), ("2", "2"), ("1", "2"), ("tie", "tie"), ("1", "tie"), (None, "1"), (None, None)]
    assert agreed_wins(answers) == [1.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_orders_by_hand():
    """As given, "1" is the one shown first; in the reversed order it is "2"."""
    answers = [("1", "1"), ("1", "2"), ("1", "2"), ("2", "1"), ("tie", "2"), ("1", "tie"), ("tie", "1"), (None, "1"), (None, None)]
    report = compare_orders(answers, list(range(9)))
    assert (report["questions"], report["unreadable"], report["unread"], report["disagree"]) == (9, 3, 1, 6)
    assert report["consistent"] == pytest.approx(1 / 7)
    # Picks in questions that disagree: 2 + 2 first, 2 last, then first, first, last.
    assert report["first"] == pytest.approx(6 / 9) and report["first_low"] < 6 / 9 < report["first_high"]
    empty = compare_orders([(None, None)], [0])
    assert empty["consistent"] is empty["first"] is empty["first_low"] is None


def test_wilson_without_ties_and_clusters_elsewhere():
    assert clustered_share([1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 2, 3]) == pytest.approx(wilson(3, 4))
    assert clustered_share([1, 0.5, 0, 1], [1] * 4, [0, 1, 2, 3]) != pytest.approx(wilson(2.5, 4))
    wide, narrow = clustered_share([1, 1, 0, 0] * 10, [1] * 40, [i // 2 for i in range(40)]), clustered_share([1, 0] * 20, [1] * 40, list(range(40)))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_a_judge_that_takes_the_first_decides_nothing():
    match = match_of([f"ours {i}" for i in range(30)], [f"theirs {i}" for i in range(30)])
    referee = chat_model_referee("judge=x", chat_model(lambda texts: "A"))
    report = judge_report(referee, referee.decide(match), match)
    assert (report["win_rate"], report["ties"]) == (0.5, 1.0) and report["win_rate_low"] < 0.5 < report["win_rate_high"]
    assert report["orders"]["first"] == 1.0 and report["orders"]["consistent"] == 0.0 and report["orders"]["first_low"] > 0.8
    assert "picks the response shown first in 100%" in " ".join(report["notes"])
    last = chat_model_referee("judge=x", chat_model(lambda texts: "B"))
    assert "shown last in 100%" in " ".join(judge_report(last, last.decide(match), match)["notes"])


def test_a_fair_judge_decides_and_has_no_scores():
    match = match_of(["happy dog", "sad dog", "happy cat", "dog"], ["sad dog", "happy dog", "cat", "cat"])
    referee = chat_model_referee("judge=x", chat_model(happier))
    verdicts = referee.decide(match)
    assert verdicts.wins == [1.0, 0.0, 1.0, 0.5]
    report = judge_report(referee, verdicts, match)
    assert report["win_rate"] == 0.625 and report["orders"]["consistent"] == 1.0 and report["orders"]["unreadable"] == 0
    assert "score" not in report and "length_correlation" not in report and not any("order" in note for note in report["notes"])


def test_a_judge_that_follows_length_is_said_to():
    ours, theirs = ["x" * (20 + 3 * (i % 7)) + str(i) for i in range(60)], ["x" * (20 + 3 * (i % 5)) + str(i) for i in range(60)]
    longer = chat_model(lambda texts: "TIE" if len(texts["A"]) == len(texts["B"]) else "A" if len(texts["A"]) > len(texts["B"]) else "B")
    match = match_of(ours, theirs)
    referee = chat_model_referee("judge=x", longer)
    report = judge_report(referee, referee.decide(match), match)
    assert report["length_controlled"]["share_low"] > 0.2
    assert "the verdicts of judge=x follow length: a response that is" in " ".join(report["notes"])


def test_unreadable_answers_are_counted_and_nothing_but_them_is_refused():
    match = match_of(["happy dog", "dog"], ["dog", "happy dog"])
    halting = chat_model_referee("judge=x", chat_model(lambda texts: "well ..." if texts["A"] == "dog" else happier(texts)))
    report = judge_report(halting, halting.decide(match), match)
    assert report["orders"]["unreadable"] == 2 and report["ties"] == 1.0
    assert "2 of 4 answers of judge=x are neither a letter nor TIE" in " ".join(report["notes"])
    with pytest.raises(UserError, match="no answer that can be read, but such as 'well ...'"):
        chat_model_referee("judge=x", chat_model(lambda texts: "well ...")).decide(match)
    assert "1 questions got no other" in order_remarks(compare_orders([(None, None), ("1", "1")], [0, 1]), "x")[0]


# -- scores --------------------------------------------------------------------------------------------------------------

def test_scores_make_verdicts_and_follow_length():
    match = match_of(["a", "aaa", "aa", "aaaa"], ["aa", "a", "aa", "a"], per_prompt=2)
    referee = score_referee("long", text_judge(lambda prompt, text: float(len(text))))
    verdicts = referee.decide(match)
    assert verdicts.wins == [0.0, 1.0, 0.5, 1.0]
    report = judge_report(referee, verdicts, match)
    assert (report["score"], report["score_against"], report["win_rate"]) == (2.5, 1.5, 0.625)
    assert report["length_correlation"]["groups"] == 4 and report["length_correlation"]["unit"] == "characters"
    assert report["length_correlation"]["within_spearman"] == pytest.approx(1)


def test_the_unit_is_the_one_that_a_judge_counts():
    rng = random.Random(0)
    texts = [" ".join("x" * rng.randint(1, 9) for _ in range(rng.randint(3, 12))) for _ in range(80)]
    match = match_of(texts[:40], texts[40:], per_prompt=4)
    for unit, measure in (("words", lambda text: len(text.split())), ("characters", len)):
        referee = score_referee(unit, text_judge(lambda prompt, text, measure=measure: float(measure(text))))
        assert judge_report(referee, referee.decide(match), match)["length_correlation"]["unit"] == unit


def test_equal_responses_are_scored_once_and_tie():
    calls = []

    def noisy(prompts, prompt_ids, response_ids, texts):
        calls.append(texts)
        return [1.0 + 1e-7 * i for i in range(len(texts))]

    referee = score_referee("noisy", noisy)
    assert referee.decide(match_of(["a", "b"], ["a", "c"])).wins[0] == 0.5 and calls == [["a", "b", "c"]]
    with pytest.raises(NotFinite, match="gives nan"):
        score_referee("bad", text_judge(lambda prompt, text: float("nan"))).decide(match_of(["a"], ["b"]))


def test_a_judge_that_gives_one_score_is_said_to():
    match = match_of(["a", "bb"], ["c", "d"])
    referee = score_referee("flat", text_judge(lambda prompt, text: 1.0))
    notes = judge_report(referee, referee.decide(match), match)["notes"]
    assert "the same score (1)" in notes[0] and not any("follows length" in note for note in notes)
