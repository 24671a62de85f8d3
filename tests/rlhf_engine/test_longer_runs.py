"""A run that is made longer, or shorter: what it then is equal to, whether it was over, live, killed or wound back."""

import json

import pytest

from rlhf_engine import loop as driving
from rlhf_engine.build import make_trainer
from rlhf_engine.config import PPOConfig, SFTConfig, TeachConfig, live_settings
from rlhf_engine.data.readers import read_demonstrations
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.labelers import SimulatedLabeler
from rlhf_engine.loop import RunControl
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.folder import Run
from rlhf_engine.trainers.ppo import PPO
from tests.commands import Command, run_process
from tests.rlhf_engine.helpers.teach import SMALL, vote, vote_when_asked, vowels
from tests.rlhf_engine.helpers.teach import make_live as make
from tests.rlhf_engine.helpers.trainers import without_time

STAGES = ("sft", "reward", "dpo", "ppo", "teach")
EVEN = ["--schedule", "constant", "--warmup", 0]
"""A learning rate that knows no length."""


@pytest.fixture
def command(tiny_llama, inputs):
    """command(stage, name=value, ...) -> the flags of a small run, all but --output."""
    def flags(stage: str, **changed) -> list:
        given = {"steps": 4, "batch_size": 4, "lora_rank": 2, "max_tokens": 64, "learning_rate": 5e-3, "checkpoint_every": 2, "keep_checkpoints": 0}
        if stage in ("ppo", "reward", "dpo"):
            given |= {"reference_samples": 8, "max_new_tokens": 8}
        if stage == "dpo":
            given |= {"loss": "kto", "evaluate_every": 1}
        if stage == "ppo":
            given |= {"reward": f"{inputs / 'score.py'}:vowels", "ptx_coef": 0.5, "ptx_data": inputs / "demos.jsonl", "kl_horizon": 50}
        if stage == "teach":
            given |= SMALL | {"steps": 4, "votes": 40, "votes_first": 3, "votes_per_step": 1, "kl_lookahead": 0.0, "labeler": f"{inputs / 'score.py'}:vowels", "checkpoint_every": 2,
                              "keep_checkpoints": 0}
        data = inputs / {"sft": "demos.jsonl", "reward": "pairs.jsonl", "dpo": "pairs.jsonl"}.get(stage, "prompts.jsonl")
        return [stage, "--model", tiny_llama, "--data", data,
                *[x for name, value in (given | changed).items() for x in (f"--{name.replace('_', '-')}", value)]]
    return flags


@pytest.fixture
def done(cli):
    """done(*args) -> the run of a command that must succeed."""
    def call(*args) -> Run:
        code, _, err = cli(*args)
        assert code == 0, err
        return Run(args[args.index("--output") + 1])
    return call


@pytest.fixture
def ordered(monkeypatch):
    """ordered({step: [(command, value)]}): what the next run is told after these steps."""
    begin = driving.begin

    def order(orders: dict[int, list]) -> None:
        class Ordering(RunControl):
            def take_changes(self):
                return super().take_changes() + orders.pop(self.trainer.step, [])
        monkeypatch.setattr(driving, "RunControl", Ordering)
        monkeypatch.setattr(driving, "begin", lambda trainer, run: (setattr(Ordering, "trainer", trainer), begin(trainer, run)))
    return order


@pytest.fixture
def dies(monkeypatch):
    """dies(step): the next run dies there, when all of the step is written but no checkpoint."""
    def at(step: int) -> None:
        write = driving.write_step

        def die(trainer, run, metrics, **options):
            write(trainer, run, metrics, **options)
            if trainer.step == step:
                monkeypatch.setattr(driving, "write_step", write)
                raise UserError("killed")
        monkeypatch.setattr(driving, "write_step", die)
    return at


def rows(run: Run) -> list[dict]:
    """The metrics without times, and without what is measured on held-out rows: after a last step more often."""
    return [{name: value for name, value in without_time(row).items() if "held_out" not in name} for row in run.metrics()]


def assert_same(run: Run, expected: Run) -> None:
    """Metrics, and every byte of the last checkpoint but for which settings were changed."""
    assert run.status()["state"] == expected.status()["state"] == "done"
    assert run.status()["total_steps"] == run.status()["step"] == len(run.metrics())
    assert [json.dumps(row) for row in rows(run)] == [json.dumps(row) for row in rows(expected)]
    ours, theirs = run.last_checkpoint(), expected.last_checkpoint()
    files = sorted(p.relative_to(theirs) for p in theirs.rglob("*") if p.is_file() and p.name != "trainer.json")
    assert files == sorted(p.relative_to(ours) for p in ours.rglob("*") if p.is_file() and p.name != "trainer.json") and len(files) > 2
    for file in files:
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file
    reports = [{k: v for k, v in run.report().items() if k not in ("seconds", "peak_memory_mb")} for run in (run, expected)]
    assert reports[0] == reports[1]


def changes(run: Run) -> list[tuple]:
    return [(row["step"], row["name"], row["old"], row["new"]) for row in run.journal() if row["event"] == "changed"]


# -- what it is equal to --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", STAGES)
def test_a_run_made_longer_when_it_was_done_is_one_of_that_length_from_the_start(command, done, stage, tmp_path):
    """Where nothing knows of the length: a constant learning rate, a horizon and a lookahead of the controller that are given."""
    whole = done(*command(stage, steps=8), *EVEN, "--output", tmp_path / "whole")
    run = done(*command(stage), *EVEN, "--output", tmp_path / "parts")
    assert run.status()["total_steps"] == 4 and run.report()["steps"] == 4
    run = done(stage, "--output", run.path, "--resume", "--steps", 8)
    assert_same(run, whole)
    assert changes(run) == [(4, "steps", 4, 8)] and run.config()["steps"] == 4 and run.report()["steps"] == 8


@pytest.mark.parametrize("stage", STAGES)
def test_done_live_killed_and_wound_back_it_is_the_same_run(command, done, cli, ordered, dies, stage, tmp_path):
    """With a learning rate that falls and a controller that looks ahead: made longer after step 4, however that came about."""
    flags = command(stage, checkpoint_every=3, schedule="linear", warmup=0.3, **({"kl_horizon": 0, "kl_lookahead": 0.2} if stage == "ppo" else {}))
    run = done(*flags, "--output", tmp_path / "resumed")
    run = done(stage, "--output", run.path, "--resume", "--steps", 8)

    ordered({4: [("steps", 8)]})  # while the last step was taken
    assert_same(live := done(*flags, "--output", tmp_path / "live"), run)
    assert changes(live) == [(4, "steps", 4, 8)]

    ordered({})
    killed = done(*flags, "--output", tmp_path / "killed")
    dies(5)  # the last checkpoint is that of step 4, which knows nothing of it
    assert cli(stage, "--output", killed.path, "--resume", "--steps", 8)[0] != 0 and killed.status()["state"] == "failed"
    dies(8)  # that of step 6 does
    assert cli(stage, "--output", killed.path, "--resume")[0] != 0 and killed.last_step() == 6
    assert_same(done(stage, "--output", killed.path, "--resume", "--steps", 8), run)  # the same words again change nothing
    assert changes(killed) == [(4, "steps", 4, 8)]

    ordered({4: [("steps", 8)], 7: [("rewind", 6)]})
    assert_same(done(*flags, "--output", tmp_path / "after"), run)
    ordered({4: [("steps", 8)], 7: [("rewind", 3)]})
    back = done(*flags, "--output", tmp_path / "before")
    assert back.status()["step"] == back.status()["total_steps"] == 4  # of a future that is no more
    ordered({})
    assert_same(done(stage, "--output", back.path, "--resume", "--steps", 8), run)


def test_the_learning_rate_is_that_of_the_new_length_from_there_on(command, done, tmp_path):
    rates = {steps: [row["lr"] for row in done(*command("sft", steps=steps, warmup=0.5), "--output", tmp_path / f"{steps}").metrics()]
             for steps in (4, 8)}
    run = done("sft", "--output", tmp_path / "4", "--resume", "--steps", 8)
    assert [row["lr"] for row in run.metrics()] == rates[4] + rates[8][4:] and rates[4] != rates[8][:4]


def test_the_controller_and_the_text_mixed_in_are_those_of_the_new_length(tiny_llama, inputs):
    texts = read_demonstrations(inputs / "demos.jsonl")

    def of(steps: int) -> PPO:
        config = PPOConfig(steps=steps, batch_size=4, max_tokens=64, max_new_tokens=8, kl_lookahead=0.2, ptx_coef=0.5, ptx_rows=1, ppo_epochs=1)
        return PPO(Backbone.load(str(tiny_llama)), ["a", "b"], None, config, ptx=texts)

    short, long = of(2), of(8)
    assert (len(short.mix.rows), len(long.mix.rows)) == (4, 16)
    short.change("steps", 8)
    assert long.controller.lookahead == pytest.approx(1.6) and long.controller.horizon == pytest.approx(1.6)
    assert short.mix.rows == long.mix.rows and short.controller.state_dict() == long.controller.state_dict()
    short.restore_settings({})
    assert len(short.mix.rows) == 4 and short.controller.state_dict() == of(2).controller.state_dict() and short.total_steps == 2


def test_epochs_are_a_length_too_unless_it_is_told_in_steps(command, done, cli, tmp_path):
    flags = [*command("sft", steps=0, batch_size=8), *EVEN]
    whole = done(*flags, "--epochs", 4, "--output", tmp_path / "whole")
    run = done(*flags, "--epochs", 2, "--output", tmp_path / "parts")
    assert run.status()["step"] < whole.status()["step"]
    assert_same(done("sft", "--output", run.path, "--resume", "--epochs", 4), whole)
    total = whole.status()["step"]
    assert done("sft", "--output", run.path, "--resume", "--steps", total + 1).status()["step"] == total + 1
    code, _, err = cli("sft", "--output", run.path, "--resume", "--epochs", 9)
    assert code == 2 and f"set in steps ({total + 1})" in err and len(err.splitlines()) == 1


# -- a live run ---------------------------------------------------------------------------------------------------------

def test_a_live_run_is_made_longer_and_shorter_and_says_so(command, done, ordered, tmp_path, monkeypatch):
    totals, write = [], driving.write_step
    monkeypatch.setattr(driving, "write_step", lambda trainer, run, *a, **b: (write(trainer, run, *a, **b), totals.append(run.status()["total_steps"])))
    ordered({1: [("steps", 9)], 3: [("steps", 3), ("steps", 2.5), ("steps", 5)]})
    run = done(*command("ppo"), "--output", tmp_path / "run")
    assert totals == [4, 9, 9, 5, 5] and run.status()["step"] == run.status()["total_steps"] == 5
    assert changes(run) == [(1, "steps", 4, 9), (3, "steps", 9, 5)]
    warnings = [row for row in run.journal() if row["event"] == "warning"]
    for words in ("would end with step 3, and has taken 3", "--steps is 2.5"):
        [warning] = [row for row in warnings if words in row["text"]]
        assert warning["kind"] == "length"


def test_a_change_of_the_past_is_repeated_before_a_new_length_is_taken(command, done, cli, ordered, dies, tmp_path):
    """Made shorter at step 5, dead at 5 with the checkpoint of step 4: the newer wish comes after the older one."""
    ordered({5: [("steps", 6)]})
    dies(6)
    flags = command("sft", steps=12, checkpoint_every=4)
    assert cli(*flags, "--output", tmp_path / "run")[0] != 0
    ordered({})
    dies(7)
    assert cli("sft", "--output", tmp_path / "run", "--resume", "--steps", 9)[0] != 0
    run = done("sft", "--output", tmp_path / "run", "--resume")
    assert changes(run) == [(5, "steps", 12, 6), (5, "steps", 6, 9)] and len(run.metrics()) == 9
    peak = 5e-3
    assert [row["lr"] for row in run.metrics()] == pytest.approx(
        [peak * (1 - (step - 1) / total) for step, total in zip(range(1, 10), [12] * 5 + [9] * 4)])


def test_a_killed_process_goes_on_to_the_new_length(command, tmp_path):
    run, whole = Run(tmp_path / "run"), Run(tmp_path / "whole")
    flags = [*command("sft", checkpoint_every=50), *EVEN]
    run_process(*flags, "--steps", 60, "--output", whole.path, log=tmp_path / "log")
    run_process(*flags, "--output", run.path, log=tmp_path / "log")
    process = Command("sft", "--output", run.path, "--resume", "--steps", 60, log=tmp_path / "log")
    process.kill_when(lambda: len(run.metrics()) >= 10)
    run_process("sft", "--output", run.path, "--resume", log=tmp_path / "log")
    assert_same(run, whole)


# -- what is refused ------------------------------------------------------------------------------------------------------

def test_a_length_that_is_none_leaves_the_run_as_it_was(command, done, cli, tmp_path):
    run = done(*command("sft"), "--output", tmp_path / "run")
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    for more, words in ((["--steps", 3], "would end with step 3, and has taken 4"), (["--steps", 0, "--epochs", "0.1"], "would end with step 1"),
                        (["--epochs", 99], "set in steps (4)"), (["--steps", 9, "--seed", 3], "seed is 0 in the run and 3 now"),
                        (["--steps", -1], "at least 0")):
        code, out, err = cli("sft", "--output", run.path, "--resume", *more)
        assert code == 2 and words in err and len(err.splitlines()) == 1 and out == "", (more, err)
    code, out, _ = cli("sft", "--output", run.path, "--resume", "--steps", 4)  # the very command that made it, once more
    assert code == 0 and "done already: 4 steps" in out
    assert before == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_checking_a_length_changes_nothing(tiny_llama, inputs):
    trainer = make_trainer(SFTConfig(model=str(tiny_llama), data=str(inputs / "demos.jsonl"), steps=3, max_tokens=64))
    list(trainer)
    trainer.check({"steps": 9})
    with pytest.raises(UserError, match="end with step 2, and has taken 3"):
        trainer.check({"steps": 2})
    assert (trainer.total_steps, trainer.config.steps, trainer.overrides) == (3, 3, {}) and list(trainer) == []
    trainer.change("steps", 5)
    assert [row["step"] for row in trainer] == [4, 5]
    assert {"epochs", "steps"} <= set(live_settings(SFTConfig))


# -- teach ----------------------------------------------------------------------------------------------------------------

def test_votes_are_asked_for_again_where_there_are_to_be_more(command, done, cli, tmp_path):
    run = done(*command("teach", votes=8, votes_first=4, votes_per_step=2, steps=3), "--output", tmp_path / "run")
    assert run.report()["votes"] == 8
    code, _, err = cli("teach", "--output", run.path, "--resume", "--votes", 12)
    assert code == 2 and "is done, and --votes gives it no more steps" in err
    run = done("teach", "--output", run.path, "--resume", "--votes", 12, "--steps", 6)
    assert [row["reward/votes"] for row in run.metrics()] == [4, 6, 8, 10, 12, 12] and run.report()["votes"] == 12
    assert changes(run) == [(3, "steps", 3, 6), (3, "votes", 8, 12)]
    run = done("teach", "--output", run.path, "--resume", "--steps", 7)  # no more votes: it goes on with what it has learned
    assert run.metrics()[-1]["reward/votes"] == 12 and "win_rate" in run.report()


def test_fewer_votes_than_there_are_ask_for_no_more(tiny_llama):
    config = TeachConfig(**SMALL | {"votes": 20})
    for labeler, asked in ((SimulatedLabeler(vowels), 30), (SimulatedLabeler(vowels), 0)):
        for config.tamer in (False, True):
            assert (labeler.queries_wanted(config, asked, 1) == 0) == (asked == 30)


def test_a_person_is_waited_for_again(tiny_llama, tmp_path):
    trainer, run = make(tiny_llama, tmp_path, votes=4, votes_first=4, patience=1, steps=2)
    for _ in range(2):
        vote_when_asked(trainer, run)
        next(trainer)
    trainer.change("steps", 6)
    next(trainer)
    assert trainer.blocked_reason() == ""  # all votes are in
    trainer.change("votes", 6)
    assert "4 of 6 so far" in trainer.blocked_reason()
    vote(run, trainer.labeler.store, 1)
    assert trainer.blocked_reason() == ""
