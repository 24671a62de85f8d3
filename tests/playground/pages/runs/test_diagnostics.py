"""Warnings from numbers: each speaks when it should, is silent on a sound run, and says nothing that the trainer has said."""

import pytest

from playground.pages.runs.diagnostics import OLD_WARNINGS, advise, past_peak, warning_kind
from rlhf_engine.config import to_dict
from rlhf_engine.runs.journal import effective_settings, without_rewound
from rlhf_engine.stages import STAGES
from rlhf_engine.studies.kl_limits import KLLimit


def config(stage: str, **changes) -> dict:
    return {"stage": stage} | to_dict(STAGES[stage].config(**changes))


def sound(stage: str = "ppo", steps: int = 20, **columns) -> list[dict]:
    """Metrics of a run that goes as it should; a column replaces a measure, by a number or by what a step gives."""
    usual = {"objective/kl": lambda i: min(6.0, i), "objective/scores": lambda i: i / steps, "objective/entropy": 1.3, "objective/length": 70.0,
             "objective/ended": 0.98, "value/explained_variance": 0.4, "loss/value": 0.1, "policy/clipfrac": 0.05, "val/ratio": 1.01}
    if stage in ("sft", "reward"):
        usual = {"loss/train": lambda i: 2 - i / steps, "loss/held_out": lambda i: 2.1 - i / steps}
    if stage == "reward":
        usual |= {"accuracy/train": 0.8, "accuracy/held_out": 0.78}
    usual |= {name.replace("__", "/"): value for name, value in columns.items()}
    return [{"step": i} | {key: value(i) if callable(value) else value for key, value in usual.items()} for i in range(1, steps + 1)]


def kinds(stage: str, metrics: list[dict], journal: list[dict] = (), samples: list[dict] = (), **changes) -> list[str]:
    return [found.kind for found in advise(config(stage, **changes), metrics, list(journal), list(samples))]


REFERENCE = {"event": "reference", "step": 0, "ended": 0.99, "length": 70.0, "score_std": 1.0}
SAMPLES = [{"step": 20, "score": 0.1 * i, "ended": True} for i in range(12)]


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_sound_run_gets_no_warning(stage):
    votes = [{"event": "reward", "step": i, "new": 8, "guesses": 7, "guessed": 5.0} for i in range(1, 6)]
    assert kinds(stage, sound(stage), [REFERENCE, *votes], SAMPLES) == []


@pytest.mark.parametrize("stage", list(STAGES))
def test_too_little_to_judge_by_gets_none_either(stage):
    assert kinds(stage, []) == kinds(stage, sound(stage, steps=2)) == kinds(stage, [{"step": 1}]) == []


@pytest.mark.parametrize("kind, columns", [
    ("kl", {"objective__kl": 9.5}), ("length", {"objective__length": lambda i: 60 + 6 * i}), ("entropy", {"objective__entropy": lambda i: 1.5 / i}),
    ("value", {"value__explained_variance": -0.2}), ("clip", {"policy__clipfrac": 0.3}), ("ratio", {"val__ratio": 1.3}),
    ("cut", {"objective__ended": 0.2})])
def test_what_is_wrong_in_ppo_is_said(kind, columns):
    found = advise(config("ppo"), sound(**columns), [REFERENCE | {"ended": 0.1}], SAMPLES)
    assert [advice.kind for advice in found] == [kind]
    assert found[0].text and found[0].todo and "{" not in found[0].text + found[0].todo


def test_numbers_are_those_that_were_measured():
    found, = advise(config("ppo"), sound(objective__kl=9.5), [REFERENCE], SAMPLES)
    assert "9.5 nats" in found.text and "1.6 times" in found.text and "(6.0)" in found.text
    found, = advise(config("ppo"), sound(loss__value=2560.4, value__explained_variance=-3.0), [REFERENCE], SAMPLES)
    assert "(explained variance -3.00)" in found.text and "2560" in found.text and "e+" not in found.text


def test_a_single_odd_step_is_no_warning():
    for column in ("objective__kl", "policy__clipfrac", "val__ratio", "objective__entropy"):
        odd = sound(**{column: lambda i, usual=sound()[-1][column.replace("__", "/")]: usual * (1.8 if i == 20 else 1)})
        assert kinds("ppo", odd, [REFERENCE], SAMPLES) == []


def test_a_length_that_grows_without_reward_or_within_bounds_is_none_of_our_business():
    assert kinds("ppo", sound(objective__length=lambda i: 60 + 6 * i, objective__scores=lambda i: -i), [REFERENCE], SAMPLES) == []
    assert kinds("ppo", sound(objective__length=lambda i: 70 + i), [REFERENCE], SAMPLES) == []


def test_kl_is_held_against_the_target_as_it_is_now():
    lowered = {"event": "changed", "step": 10, "name": "kl_target", "old": 6.0, "new": 2.0}
    assert kinds("ppo", sound(objective__kl=6.0), [lowered]) == ["kl"]
    assert kinds("ppo", sound(steps=13, objective__kl=6.0), [lowered]) == [], "three steps are too few to follow"
    assert kinds("ppo", sound(objective__kl=9.5), kl_target=0.0) == [], "there is no target"
    assert kinds("ppo", sound(objective__kl=4.0), max_new_tokens=10) == ["kl"], "the target is never above 0.2 nats a token"


def old(text: str) -> dict:
    """A warning as the first version wrote it, without a kind."""
    return {"event": "warning", "text": text}


BRAKE = "KL is 20.0 nats a sequence, above the hard stop of 12.0: this step learns from the KL penalty alone."
SURE = "The policy's choices have 0.4 times the entropy of the start: too sure of its words, or no longer sure of any."


@pytest.mark.parametrize("brake, sure", [
    ({"event": "warning", "kind": "kl_stop", "text": "x"}, {"event": "warning", "kind": "entropy", "text": "x"}), (old(BRAKE), old(SURE))])
def test_what_the_trainer_has_warned_of_is_not_said_again(brake, sure):
    assert kinds("ppo", sound(objective__kl=20.0), [brake | {"step": 19}]) == []
    assert kinds("ppo", sound(objective__kl=10.0), [brake | {"step": 3}]) == ["kl"], "that was long ago"
    assert kinds("ppo", sound(value__explained_variance=-1.0), [brake | {"step": 16}]) == [], "its reward was taken"
    collapse = sound(objective__entropy=lambda i: 1.5 / i)
    assert kinds("ppo", collapse) == ["entropy"] and kinds("ppo", collapse, [sure | {"step": 9}]) == []


def test_warnings_of_the_first_version_are_recognised_by_their_words():
    assert [warning_kind(old(said)) for said in (BRAKE, SURE, "Half of the responses are empty.")] == ["kl_stop", "entropy", ""]
    assert set(OLD_WARNINGS) == {"kl_stop", "entropy"}


def test_a_policy_that_forgets_to_end_is_told_from_one_that_never_did():
    metrics = sound(objective__ended=lambda i: 1 - i / 20)
    assert kinds("ppo", metrics, [REFERENCE]) == ["endless"] and kinds("ppo", metrics, [REFERENCE | {"ended": 0.0}]) == ["cut"]
    assert kinds("ppo", [{"step": 1}], [], [{"step": 1, "score": i, "ended": False} for i in range(12)]) == ["cut"]


def test_a_reward_that_tells_nothing_apart_is_named():
    alike = [{"step": 3, "score": -0.3465731 + 1e-7 * i, "ended": True} for i in range(12)]
    assert kinds("ppo", sound(), [REFERENCE], alike) == ["flat"] and kinds("ppo", sound(), [REFERENCE], alike[:4]) == []


def test_votes_that_say_nothing_and_guesses_no_better_than_chance():
    tied = [{"event": "reward", "step": i, "new": 8, "guesses": 1, "guessed": 1.0} for i in range(1, 4)]
    found, = advise(config("teach"), [], tied, [])
    assert found.kind == "ties" and "Of 24 votes 3 prefer" in found.text
    blind = [{"event": "reward", "step": i, "new": 8, "guesses": 8, "guessed": 1.0} for i in range(1, 5)]
    found, = advise(config("teach"), [], blind, [])
    assert found.kind == "guesses" and "3 of 24 votes" in found.text and "25%" in found.text
    assert kinds("teach", [], blind[:3]) == [], "the first are learned without a guess worth the name"


def test_a_reward_model_at_chance_and_one_that_learns_by_heart():
    assert kinds("reward", sound("reward", accuracy__held_out=0.53, accuracy__train=0.55)) == ["chance"]
    assert kinds("reward", sound("reward", accuracy__train=0.99, accuracy__held_out=0.7)) == ["gap_accuracy"]
    found, = advise(config("sft"), sound("sft", loss__train=lambda i: 1 / i, loss__held_out=lambda i: 1 + abs(i - 5) / 10), [], [])
    assert found.kind == "overfit" and "at step 5" in found.text and "2.5" in found.text
    assert kinds("sft", sound("sft", loss__train=0.5, loss__held_out=1.1)) == ["gap_loss"]


def test_a_run_that_has_blown_up_is_told_so_and_breaks_nothing():
    metrics = sound(objective__kl=float("nan"), loss__value=float("inf"), val__ratio=None)
    assert kinds("ppo", metrics, [{"event": "changed"}, {"event": "warning"}, {}]) == ["no_number"]
    assert kinds("sft", sound("sft", loss__train=float("nan"))) == ["no_number"]


def test_what_a_rewind_undid_is_not_in_the_journal_any_more():
    def changed(step, new):
        return {"event": "changed", "step": step, "name": "kl_target", "old": 6.0, "new": new}
    journal = [changed(2, 5.0), changed(4, 3.0), {"event": "warning", "step": 6, "text": "x"}, {"event": "rewound", "step": 4, "was": 6}]
    assert without_rewound(journal) == [journal[0], journal[3]] and effective_settings(config("ppo"), without_rewound(journal))["kl_target"] == 5.0


def test_chosen_responses_that_fall_with_the_rejected_ones_are_told_of():
    fallen = sound("dpo", steps=4, log_ratio__chosen_held_out=-3.0, log_ratio__rejected_held_out=-9.0)
    found, = advise(config("dpo"), fallen, [], [])
    assert found.kind == "chosen_fall" and "by 3.0 nats" in found.text and "by 9.0" in found.text and "beta" in found.todo
    assert kinds("dpo", fallen, [{"event": "warning", "kind": "chosen_fall", "step": 2, "text": ""}]) == [], "the trainer has said it"
    for columns in ({"log_ratio__chosen_held_out": -1.0, "log_ratio__rejected_held_out": -9.0}, {"log_ratio__chosen_held_out": 4.0, "log_ratio__rejected_held_out": -9.0}):
        assert kinds("dpo", sound("dpo", steps=4, **columns)) == []
    assert kinds("dpo", sound("dpo", steps=4, log_ratio__chosen=-3.0, log_ratio__rejected=-9.0)) == ["chosen_fall"], "nothing was held out"


def test_a_run_beyond_the_peak_of_its_like_is_warned_of_and_one_before_it_is_not():
    limit = KLLimit(kl=5.0, labels=50, study="overopt-1")
    [advice] = past_peak(limit, sound())
    assert advice.kind == "past_peak" and "overopt-1" in advice.text and "This run is at 6" in advice.text and "checkpoint" in advice.todo
    assert past_peak(limit, sound(objective__kl=4.0)) == past_peak(None, sound()) == past_peak(limit, [{"step": 1}]) == []
