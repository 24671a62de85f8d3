"""Orders to a run: what each makes the loop do, which are refused at once, and that none is done twice."""

import pytest

from rlhf_engine.config import PPOConfig, SFTConfig
from rlhf_engine.errors import UserError
from rlhf_engine.runs.control import ORDERS, RunControl, check_change, value_orders
from rlhf_engine.runs.folder import Run


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run.create(tmp_path / "run", PPOConfig(steps=10, max_tokens=64, max_new_tokens=16))
    run.set_status(state="running", step=4)
    return run


def test_a_step_is_one_step_and_then_a_pause(run):
    control = RunControl()
    assert control.next_action() == "run" and not control.paused
    control.order(run, "pause")
    assert control.next_action() == "pause" and control.paused
    control.order(run, "step")
    assert [control.next_action() for _ in range(3)] == ["run", "pause", "pause"]
    control.order(run, "resume")
    assert [control.next_action() for _ in range(2)] == ["run", "run"] and not control.paused


def test_a_run_that_is_ending_takes_no_other_order(run):
    control = RunControl()
    control.order(run, "stop")
    control.order(run, "stop")
    for command in ("pause", "resume", "step"):
        with pytest.raises(UserError, match="ending already"):
            control.order(run, command)
    assert control.next_action() == "stop"
    control.order(run, "discard")
    for command in ORDERS:
        with pytest.raises(UserError, match="ending already"):
            control.order(run, command)
    assert control.next_action() == "discard"


def test_a_process_that_shuts_down_stops_its_run_unless_that_is_to_be_discarded():
    closing = False
    control = RunControl(shutting_down=lambda: closing)
    control.pause()
    closing = True
    assert control.next_action() == "stop"
    control.discard()
    assert control.next_action() == "discard"


def test_changes_are_handed_out_once_and_in_their_order(run):
    control = RunControl({"steps": 12})
    control.order(run, "kl_target", 3)
    control.order(run, "kl_target", 2.5)
    assert control.take_changes() == [("steps", 12), ("kl_target", 3), ("kl_target", 2.5)] and control.take_changes() == []


@pytest.mark.parametrize(("command", "value", "words"), [
    ("dance", None, "no command 'dance'"), ("kl_target", None, "needs a value"), ("kl_target", True, "needs a value"),
    ("kl_target", -1, "at least 0"), ("max_new_tokens", 64, "leaves no room"), ("steps", 4, "has taken 4 already"),
    ("votes", 5, "ppo has no setting 'votes'"), ("rewind", 3, "has no checkpoint of step 3")])
def test_what_cannot_be_done_is_refused_at_once(run, command, value, words):
    control = RunControl()
    with pytest.raises(UserError, match=words):
        control.order(run, command, value)
    assert control.take_changes() == [] and control.next_action() == "run"


def test_the_orders_with_a_value_are_the_settings_that_some_stage_lets_change(tmp_path):
    assert {"learning_rate", "kl_target", "temperature", "max_new_tokens", "pessimism", "steps", "epochs", "votes",
            "rewind"} <= set(value_orders())
    run = Run.create(tmp_path / "sft", SFTConfig())
    assert check_change(run, "epochs", 3) == 3
