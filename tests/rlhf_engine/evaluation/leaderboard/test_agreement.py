"""Agreement of a judge with voters: hand values, brute force, and who agrees with whom."""

import random

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from rlhf_engine.evaluation.intervals import share_interval
from rlhf_engine.evaluation.leaderboard.agreement import judge_agreement, stored_scores, voter_agreement
from tests.rlhf_engine.evaluation.leaderboard.hand_votes import event


def test_hand_values():
    events = [event(i, value, scores=scores) for i, (value, scores) in enumerate([
        ("left", (2.0, 1.0)), ("left", (1.0, 2.0)), ("right", (1.0, 2.0)), ("left", (1.0, 1.0)), ("tie", (1.0, 1.0)), ("both_bad", (3.0, 1.0))])]
    report = judge_agreement([*events, event(9)], stored_scores)
    assert (report["votes"], report["decided"], report["agree"], report["judge_ties"]) == (6, 4, 2.5 / 4, 0.25)
    # Same: two decided and one tie. Both tie in a third of the cases.
    chance = 1 / 9 + 4 / 9 / 2
    assert report["kappa"] == pytest.approx((3 / 6 - chance) / (1 - chance))
    assert any("1 vote left out: the judge has no scores" in note for note in report["notes"])


def test_sides_do_not_matter():
    rng = random.Random(0)
    events = [event(i, rng.choice(("left", "right", "tie")), scores=(rng.random(), rng.random())) for i in range(60)]
    turned = [event(i, {"left": "right", "right": "left", "tie": "tie"}[str(each.value)], scores=each.scores[::-1]) for i, each in enumerate(events)]
    assert judge_agreement(events, stored_scores) == judge_agreement(turned, stored_scores)


def test_kappa_is_cohens_with_both_sides():
    """Each answer once as it is and once turned round: then the shares of the sides are equal."""
    rng, table = random.Random(1), np.zeros((3, 3))
    events = []
    for i in range(200):
        value = rng.choices(("left", "tie", "right"), (3, 1, 2))[0]
        judge = rng.choices((1, 0, -1), (3, 2, 1))[0]
        events.append(event(i, value, scores=(float(judge), 0.0)))
        voter = {"left": 1, "tie": 0, "right": -1}[value]
        table[1 - voter, 1 - judge] += 1
        table[1 + voter, 1 + judge] += 1
    report = judge_agreement(events, stored_scores)
    theirs = cohens_kappa(table)
    assert report["kappa"] == pytest.approx(theirs.kappa)
    half = (report["kappa_high"] - report["kappa_low"]) / 2
    assert half == pytest.approx(1.96 * theirs.std_kappa * 2**0.5, rel=0.1)


def test_the_interval_is_over_prompts():
    events = [event(i, "left" if i % 3 else "right", scores=(1.0, 0.0), prompt=f"p{i // 5}") for i in range(100)]
    report = judge_agreement(events, stored_scores)
    wins = [sum(1 for i in range(5 * k, 5 * k + 5) if i % 3) for k in range(20)]
    assert (report["agree_low"], report["agree_high"]) == pytest.approx(share_interval(wins, [5] * 20))
    assert report["prompts"] == 20 and "20 prompts" in report["notes"][0]


def test_a_ranking_is_one_vote():
    report = judge_agreement([event(0, (1, 2, 2, 2), "abcd", scores=(3.0, 1.0, 2.0, 3.0)), event(1, scores=(1.0, 0.0))], stored_scores)
    assert (report["votes"], report["decided"]) == (2, 2)
    assert report["agree"] == pytest.approx((2.5 / 3 + 1) / 2)


def test_a_perfect_judge_is_no_certainty():
    report = judge_agreement([event(i, scores=(1.0, 0.0)) for i in range(50)], stored_scores)
    assert report["agree"] == 1 and report["agree_low"] < 0.95 and report["kappa"] == 1 and (report["kappa_low"], report["kappa_high"]) == (-1, 1)


def test_nothing_to_count():
    report = judge_agreement([event(0)], stored_scores)
    assert report["agree"] is report["kappa"] is report["voters"]["voters_agree"] is None and report["notes"][0].startswith("no vote")
    ties = judge_agreement([event(i, "tie", scores=(1.0, 1.0)) for i in range(3)], stored_scores)
    assert ties["kappa"] is None and ties["decided"] == 0
    with pytest.raises(ValueError, match="the judge 3 scores"):
        judge_agreement([event(0)], lambda each: (1.0, 2.0, 3.0))


def test_voters_are_measured_as_the_judge_is():
    """Of each two voters, one stands in for the judge; ties of the other are half."""
    answers = {"ann": ["left", "left", "right", "tie"], "bob": ["left", "right", "tie", "tie"], "cat": ["left", "left", "right", "left"]}
    events = [event(10 * k + i, value, voter=voter, responses=(f"x{i}", f"y{i}"), prompt=f"p{i}")
              for k, (voter, values) in enumerate(answers.items()) for i, value in enumerate(values)]
    report = voter_agreement(events)
    points = []
    for i in range(4):
        for one in answers:
            for other in answers:
                if one != other and answers[one][i] not in ("tie",):
                    points.append(0.5 if answers[other][i] == "tie" else float(answers[one][i] == answers[other][i]))
    assert report["voters_agree"] == pytest.approx(sum(points) / len(points))
    assert report["voters_agree_low"] < report["voters_agree"] < report["voters_agree_high"]
    assert report["pairs"] == 4 and report["agree"] is not None and report["kappa"] is not None
