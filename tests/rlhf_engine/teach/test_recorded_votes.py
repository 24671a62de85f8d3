"""The votes of a recorded run, given once more to another learner."""

import json

import pytest

from rlhf_engine import measures
from rlhf_engine.build import make_trainer
from rlhf_engine.config import TeachConfig
from rlhf_engine.errors import UserError
from rlhf_engine.loop import drive
from rlhf_engine.runs.folder import Run
from rlhf_engine.teach.recorded_votes import RecordedLabeler, read_updates, recorded_labeler
from tests.rlhf_engine.helpers.teach import SMALL, make_live, vote_when_asked
from tests.rlhf_engine.helpers.trainers import without_time

SETTINGS = SMALL | {"labeler": "long", "checkpoint_every": 2}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    from tests.rlhf_engine.helpers.trainers import PROMPTS
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return str(path)


@pytest.fixture(scope="module")
def recorded(tiny_llama, prompts, tmp_path_factory) -> Run:
    return record(tiny_llama, prompts, tmp_path_factory.mktemp("recorded") / "run")


def record(model, prompts, output, **settings) -> Run:
    config = TeachConfig(**SETTINGS | {"model": str(model), "data": prompts, "output": str(output)} | settings).validate()
    trainer = make_trainer(config)
    run = Run.create(output, config)
    drive(trainer, run, progress=False)
    return run


def consumed(run: Run) -> list[tuple[int, list[str]]]:
    return [(row["step"], row["consumed"]) for row in run.journal() if row["event"] == "reward"]


@pytest.mark.parametrize("learner", ["ppo", "grpo", "dpo", "tamer"])
def test_the_same_votes_come_at_the_same_steps_to_any_learner(tiny_llama, prompts, recorded, tmp_path, learner):
    again = record(tiny_llama, prompts, tmp_path / "again", labeler=f"replay={recorded.path}", learner=learner, group_size=4, seed=7)
    assert consumed(again) == consumed(recorded)
    assert again.metrics()[-1][measures.VOTES_LEARNED] == 10
    assert again.report()["votes"] == 10 and "win_rate" in again.report()  # by the recorded labeler's own score


def test_the_same_learner_on_its_own_votes_is_the_same_run(tiny_llama, prompts, recorded, tmp_path):
    """Questions were drawn with random numbers of their own, so that leaving them out changes nothing."""
    again = record(tiny_llama, prompts, tmp_path / "again", labeler=f"replay={recorded.path}")
    for one, other in zip(recorded.metrics(), again.metrics(), strict=True):
        assert without_time(one) == without_time(other)


def test_a_run_that_replays_is_resumed_and_repeats_every_number(tiny_llama, prompts, recorded):
    config = TeachConfig(**SETTINGS | {"model": str(tiny_llama), "data": prompts, "labeler": f"replay={recorded.path}"})
    whole, first, second = (make_trainer(config) for _ in range(3))
    expected = [without_time(next(whole)) for _ in range(4)]
    for _ in range(2):
        next(first)
    first.save(recorded.path.parent / "here")
    second.load(recorded.path.parent / "here")
    assert [without_time(next(second)) for _ in range(2)] == expected[2:]


def test_a_replay_of_a_replay_is_the_first_run_again(tiny_llama, prompts, recorded, tmp_path):
    once = record(tiny_llama, prompts, tmp_path / "once", labeler=f"replay={recorded.path}")
    labeler = recorded_labeler(f"replay={once.path}", run_files=True)
    assert [(step, [event.id for event in events]) for step, events in labeler.updates] == consumed(recorded)
    assert labeler.score("", "one two three") == 3


def test_votes_of_people_are_replayed_without_those_that_were_taken_back(tiny_llama, tmp_path):
    trainer, run = make_live(tiny_llama, tmp_path, steps=4, votes=6)
    while trainer.step < trainer.total_steps:
        vote_when_asked(trainer, run)
        metrics = next(trainer)
        for event in trainer.events:
            run.note(event.pop("event"), **event)
        folder = run.path / "checkpoints" / f"step-{trainer.step:06d}"
        trainer.save(folder)
    taken_back = trainer.reward.events[1].id
    del trainer.reward.events[1]
    trainer.save(folder)
    updates = read_updates(run)
    assert sum(len(events) for _, events in updates) == metrics[measures.VOTES_LEARNED] - 1
    assert taken_back not in [event.id for _, events in updates for event in events]
    assert recorded_labeler(f"replay={run.path}", run_files=True).score is None


def test_a_vote_that_was_learned_twice_counts_where_it_was_learned_last(recorded, tmp_path):
    """A run that ended between two checkpoints learns some votes again."""
    rows = recorded.journal()
    first = next(row for row in rows if row["event"] == "reward")
    copy = Run(tmp_path / "copy")
    import shutil
    shutil.copytree(recorded.path, copy.path, symlinks=True)
    with open(copy.path / "journal.jsonl", "a") as file:
        file.write(json.dumps({**first, "step": 3}) + "\n")
    updates = read_updates(copy)
    assert updates[-1][0] == 3 and [event.id for event in updates[-1][1]] == first["consumed"]
    assert sum(len(events) for _, events in updates) == 10


def test_what_cannot_be_replayed_is_refused_in_a_line(recorded, tmp_path):
    with pytest.raises(UserError, match="there is no run; give the folder of a run of teach"):
        recorded_labeler(f"replay={tmp_path}/none", run_files=True)
    config = TeachConfig(output=str(tmp_path / "empty"))
    Run.create(tmp_path / "empty", config)
    with pytest.raises(UserError, match="the run has no votes at a checkpoint"):
        recorded_labeler(f"replay={tmp_path}/empty", run_files=True)
    with pytest.raises(UserError, match="empty: the run has no votes at a checkpoint"):
        RecordedLabeler.from_run(Run(tmp_path / "empty"))


def test_a_script_may_say_by_what_the_outcome_is_measured(recorded):
    """A run of a function that has no name on the command line, in a notebook for example, does not say it itself."""
    labeler = RecordedLabeler.from_run(recorded, lambda prompt, response: -len(response))
    assert labeler.score("", "abc") == -3 and RecordedLabeler.from_run(recorded).score is None
    assert [(step, [event.id for event in events]) for step, events in labeler.updates] == consumed(recorded)


def test_a_file_of_a_recorded_run_is_not_run_for_a_page(tiny_llama, prompts, tmp_path):
    mark = tmp_path / "was run"
    code = tmp_path / "taste.py"
    code.write_text(f"open({str(mark)!r}, 'w').close()\ndef taste(prompt, response):\n    return len(response)\n")
    run = record(tiny_llama, prompts, tmp_path / "run", labeler=f"{code}:taste")
    mark.unlink()
    assert recorded_labeler(f"replay={run.path}", run_files=False).score is None and not mark.exists()
    assert recorded_labeler(f"replay={run.path}", run_files=True).score("", "abc") == 3 and mark.exists()
