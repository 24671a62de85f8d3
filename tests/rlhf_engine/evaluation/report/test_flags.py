"""What a report says in words: each flag is raised by what it is about, and by nothing else."""

import pytest

from rlhf_engine.evaluation.report.flags import find_flags, reward_findings
from rlhf_engine.evaluation.report.subject import Subject
from tests.rlhf_engine.evaluation.report.hand import POLICY, evidence, judge, live_run, reward_run


def names(subject: Subject, about: dict, reward: Subject | None = None) -> list[str]:
    return [flag.name for flag in find_flags(subject, about, reward)]


def test_an_honest_run_is_not_flagged():
    assert names(POLICY, evidence(judge())) == []
    assert names(live_run(9, 40), evidence(judge())) == []  # the judge decides, although the reward guessed little at first
    assert names(live_run(24, 40), evidence()) == []  # of four responses, the best: chance guesses ten of forty
    assert names(reward_run(0.7, 200), evidence(judge(is_gold=False))) == []


@pytest.mark.parametrize(("subject", "judges", "reward"), [
    (POLICY, [judge(rate=(0.52, 0.47, 0.57))], None),
    (POLICY, [judge(rate=(0.3, 0.25, 0.35))], None),
    (live_run(12, 40), [], None), (live_run(22, 40, 0.5), [], None), (reward_run(0.53, 100), [], None), (reward_run(0.2, 100), [], None),
    (POLICY, [judge("taste", is_gold=False, is_model=True, is_trainer=True)], reward_run(0.5, 100)),
], ids=["wins of a half", "fewer wins", "one in four", "one in two", "pairs", "wrong pairs", "a reward that knows nothing"])
def test_nothing_learned(subject, judges, reward):
    found = find_flags(subject, evidence(*judges), reward)
    flag = next(flag for flag in found if flag.name == "nothing_learned")
    assert "chance" in flag.text.lower()


def test_wins_by_the_reward_that_it_was_trained_on_show_nothing():
    about = evidence(judge("taste", is_gold=False, is_model=True, is_trainer=True))
    assert names(POLICY, about) == ["no_judge", "judge_is_trainer"]
    assert names(POLICY, about, reward_run(0.8, 200)) == ["judge_is_trainer"]  # the reward knew what it was taught, at least
    assert names(POLICY, evidence()) == ["no_judge"]


def test_a_policy_that_is_worse_says_so():
    assert names(POLICY, evidence(judge(rate=(0.3, 0.25, 0.35))))[:2] == ["worse_than_start", "nothing_learned"]


@pytest.mark.parametrize("longer", [12.0, -12.0])
def test_wins_that_vanish_at_equal_length_are_length(longer):
    vanishing = judge(equal=(0.52, 0.44, 0.6))
    text = next(flag.text for flag in find_flags(POLICY, evidence(vanishing, longer=longer)) if flag.name == "length_only")
    assert ("longer" if longer > 0 else "shorter") in text and "52%" in text
    assert names(POLICY, evidence(vanishing)) == []  # the lengths are the same, so that cannot be it
    assert names(POLICY, evidence(judge(equal=(None, None, None)), longer=longer)) == []


def test_a_judge_that_goes_by_length_is_length():
    by_length = judge("long", length_share={"share": 0.98, "of": "words", "correlation": 0.99})
    assert names(POLICY, evidence(by_length)) == ["length_only"]
    assert names(reward_run(0.9, 200), evidence(by_length)) == ["length_only"]
    assert names(POLICY, evidence(judge(length_share={"share": None, "of": None, "correlation": None}))) == []


def test_costs():
    taxed = {"checkpoints": [{"name": "base"}, {"name": "policy", "taxed": True, "text": {"verdict": "taxed", "ratio": 1.3},
                                                "pairs": {"verdict": "taxed", "difference": -0.125}}]}
    found = find_flags(POLICY, evidence(judge(), distinct_ratio=0.6, empty=0.1, tax=taxed))
    assert [flag.name for flag in found] == ["variety_lost", "empty_answers", "taxed"]
    assert "1.30 times" in found[2].text and "12.5%" in found[2].text


def test_few_prompts_and_a_judge_that_says_nothing():
    assert names(POLICY, evidence(judge(), prompts=12)) == ["few_prompts"]
    silent = judge("dull", rate=(0.5, 0.4, 0.6), alike=True)
    assert names(POLICY, evidence(judge(), silent)) == ["judge_says_nothing"]
    assert "no_judge" in names(POLICY, evidence(silent))


def test_findings_are_shares_with_intervals_and_what_chance_gives():
    finding, = reward_findings(live_run(24, 40))
    assert (finding.share, finding.chance, finding.count) == (0.6, 0.25, 40) and finding.low < 0.6 < finding.high
    finding, = reward_findings(POLICY, reward_run(0.75, 80))
    assert "of its reward model" in finding.what and finding.low == pytest.approx(0.645, abs=0.01)  # Wilson: 60 of 80


def test_a_run_that_went_too_far():
    peak = {"name": "step 20", "step": 20, "fall_low": 0.1, "fall_high": 0.3, "kl": 9.0, "kl_end": 30.0, "too_far": True}
    shift = {"judges": [{"judge": "happy", "peak": peak}]}
    found = find_flags(POLICY, evidence(judge(), shift=shift))
    assert [flag.name for flag in found] == ["over_optimised"] and "step 20" in found[0].text
    for harmless in (None, {**peak, "kl_end": 5.0, "too_far": False}):  # the penalty pulled it back
        assert names(POLICY, evidence(judge(), shift={"judges": [{"judge": "happy", "peak": harmless}]})) == []
