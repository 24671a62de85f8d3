"""A done run on the page and in the API: how much longer is suggested, what is asked of the worker, and the line that does the same."""

import pytest

from playground import text as app_text
from playground.components import text as shared_text
from playground.components.extend_run import suggested
from playground.run_commands import ask
from playground.voting import VotingService
from rlhf_engine.config import PPOConfig, SFTConfig, TeachConfig, to_dict
from rlhf_engine.errors import UserError
from tests.playground.conftest import write_run
from tests.playground.helpers import live_of


@pytest.fixture
def lesson(workspace):
    """A run that somebody taught, made longer once, and done."""
    run = write_run(workspace.home, "lesson", TeachConfig(labeler="person"), steps=30)
    for name, old, new in (("steps", 22, 30), ("votes", 40, 50)):
        run.note("changed", step=22, name=name, old=old, new=new)
    run.set_status(total_steps=30)
    return run


def test_as_much_again_is_suggested():
    teach, sft = to_dict(TeachConfig(steps=22, votes=40)), to_dict(SFTConfig())
    assert suggested(teach, teach | {"steps": 44, "votes": 50}, 44) == {"steps": 66, "votes": 90}
    assert suggested(sft, sft, 120) == {"steps": 240} and suggested(sft | {"steps": 50}, sft, 60) == {"steps": 110}


@pytest.mark.parametrize("front, prefix, picker", [("train", "", "run"), ("teach", "vote-", "vote-run")])
def test_a_done_run_can_go_on_and_a_live_one_has_no_need_to(workspace, worker, lesson, front, prefix, picker):
    _, look, parts = live_of(workspace, worker)
    group, steps, votes = (parts[f"{prefix}go-on{name}"] for name in ("", "-steps", "-votes"))
    values = {component: component.value for component in look.inputs} | {parts["front"]: front}
    first = look.fn(values)
    assert first[group]["visible"] and [first[field]["value"] for field in (steps, votes)] == [52, 90]
    state = next(c for c in look.outputs if type(c).__name__ == "State")
    lesson.note("resumed", step=30)
    assert not {group, steps} & set(look.fn(values | {state: first[state]}))  # somebody may be typing
    lesson.set_status(state="running")
    assert not look.fn(values | {state: first[state]})[group]["visible"]


def test_of_a_run_that_asks_nobody_only_steps_are_suggested(workspace, worker, lesson):
    _, look, parts = live_of(workspace, worker)
    values = {component: component.value for component in look.inputs} | {parts["front"]: "train"}
    picked = look.fn(values | {parts["run"]: "first"})
    assert picked[parts["go-on"]]["visible"] and not picked[parts["go-on-votes"]]["visible"]
    assert not look.fn(values | {parts["run"]: "broken"})[parts["go-on"]]["visible"]  # what has failed is resumed as it is


@pytest.mark.parametrize("prefix", ["", "vote-"])
def test_the_button_asks_for_what_stands_there(workspace, worker, lesson, prefix, monkeypatch):
    said = []
    monkeypatch.setattr("gradio.Info", lambda message, **_: said.append(message))
    monkeypatch.setattr("gradio.Warning", lambda message, **_: said.append(message))
    demo, _, parts = live_of(workspace, worker)
    press = next(f for f in demo.fns.values() if getattr(f.fn, "__name__", "") == "_go_on" and parts[f"{prefix}go-on-steps"] in f.inputs).fn
    steps, votes, picker = (parts[f"{prefix}{name}"] for name in ("go-on-steps", "go-on-votes", "run"))
    assert press({picker: "", steps: 35, votes: 60}) == "" and said == ["lesson goes on to step 35."]
    assert worker.log == [("start", "teach", {"output": str(lesson.path), "steps": 35, "votes": 60}, True)]
    monkeypatch.setattr(worker, "start", lambda *_, **__: (_ for _ in ()).throw(UserError("has taken 30 already")))
    assert "has taken 30 already" in press({picker: "lesson", steps: 3, votes: 60})


def test_the_run_as_a_command_is_as_long_as_it_is_by_now_and_says_how_to_go_on(workspace, worker, lesson):
    _, look, parts = live_of(workspace, worker)
    values = {component: component.value for component in look.inputs} | {parts["front"]: "train"}
    command, yaml = (look.fn(values)[parts[f"run-{name}"]] for name in ("command", "yaml"))
    assert "--steps 30" in command and "--votes 50" in command and "steps: 30" in yaml
    assert command.splitlines()[-1] == f"# {shared_text.TO_GO_ON} python -m rlhf_engine teach --output {lesson.path} --resume --steps 52 --votes 90"
    lesson.set_status(state="stopped")
    halted = look.fn(values)
    assert halted[parts["run-command"]].endswith("--resume") and "steps: 30" in halted[parts["run-yaml"]]  # a file without a new wish


def test_resume_with_a_value_is_a_length(workspace, worker, lesson):
    run, path = workspace.run("first"), str(workspace.runs / "first")
    ask(worker, run, "resume", 80)
    assert worker.log.pop() == ("start", "sft", {"output": path, "steps": 80}, True)
    run.set_status(state="stopped")
    ask(worker, run, "resume")
    assert worker.log.pop() == ("start", "sft", {"output": path}, True)
    run.set_status(state="paused")
    ask(worker, run, "resume", 80)
    assert worker.log == [("control", path, "steps", 80), ("control", path, "resume")]
    ask(worker, run, "steps", 90)
    assert worker.log[-1] == ("control", path, "steps", 90)


def test_a_visitor_makes_no_run_longer(workspace, worker):
    from playground.server.access import Access
    from playground.server.worker_guard import GuardedWorker
    workspace.access = Access(alone=False, password="x", open=True)
    guarded, run = GuardedWorker(worker, workspace), write_run(workspace.home, "visitor-sft-1", SFTConfig())
    for state in ("done", "stopped", "paused"):
        run.set_status(state=state)
        for command in ("resume", "steps"):
            with pytest.raises(UserError, match="Only the owner"):
                ask(guarded, run, command, 80)
    assert worker.log == []
    ask(guarded, run, "resume")  # of what is paused, as before
    assert worker.log == [("control", str(run.path), "resume")]


def test_the_votes_that_are_wanted_are_those_by_now(workspace, worker, lesson):
    assert workspace.effective_settings("lesson")["votes"] == 50 and workspace.config("lesson")["votes"] == 40
    lesson.set_status(state="running")
    ballot = VotingService(workspace)
    ballot.votes = lambda run: 45
    assert ballot.why_silent("lesson") == app_text.QUESTION_COMES
    ballot.votes = lambda run: 50
    assert ballot.why_silent("lesson") == app_text.ALL_VOTES_IN.format(wanted=50)
    lesson.note("changed", step=30, name="votes", old=50, new=70)
    assert ballot.why_silent("lesson") == app_text.QUESTION_COMES and workspace.effective_settings("lesson")["votes"] == 70
    write_run(workspace.home, "other", PPOConfig(reward="x"))
    assert workspace.effective_settings("other") == workspace.config("other")
    _, look, parts = live_of(workspace, worker)
    assert "of 70 votes" in look.fn({component: component.value for component in look.inputs})[parts["vote-status"]]["value"]
