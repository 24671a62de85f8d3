"""Runs from the command line in processes of their own: killed or stopped anywhere and resumed, they end bit for bit the same."""

import json
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from rlhf_engine import loop as driving
from rlhf_engine.build import find_reward, make_trainer
from rlhf_engine.config import PPOConfig, SFTConfig
from rlhf_engine.errors import UserError
from rlhf_engine.loop import RunControl, drive
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.reward_functions import FunctionReward
from rlhf_engine.runs.folder import Run
from rlhf_engine.stages import default_adapter
from rlhf_engine.trainers.base import Diverged
from rlhf_engine.trainers.failures import failure_hint, failure_kind
from tests.commands import Command, run_process

COMMON = ["--lora-rank", 2, "--max-tokens", 64, "--checkpoint-every", 4, "--keep-checkpoints", 2, "--learning-rate", "5e-3"]
CHANCE = random.SystemRandom()


@pytest.fixture(scope="module")
def commands(tiny_llama, inputs, tmp_path_factory) -> dict[str, list]:
    """For each kind of run, its command without --output. `ppo` stands on an SFT and a reward run."""
    folder = tmp_path_factory.mktemp("before")
    base = ["--model", tiny_llama, *COMMON]
    sft = ["sft", *base, "--data", inputs / "demos.jsonl", "--batch-size", 4, "--steps", 32, "--evaluate-every", 3]
    reward = ["reward", *base, "--data", inputs / "pairs.jsonl", "--batch-size", 4, "--steps", 32, "--evaluate-every", 5,
              "--reference-samples", 8, "--max-new-tokens", 8]
    dpo = ["dpo", *base, "--data", inputs / "pairs.jsonl", "--loss", "kto", "--batch-size", 4, "--steps", 16, "--evaluate-every", 5,
           "--reference-samples", 8, "--max-new-tokens", 8, "--micro-batch", 3]
    ppo = ["ppo", *base, "--data", inputs / "prompts.jsonl", "--batch-size", 4, "--steps", 14, "--max-new-tokens", 8,
           "--reference-samples", 8, "--micro-batch", 3, "--kl-target", 1, "--whiten-rewards"]
    judged = ["--reward", f"{inputs / 'score.py'}:vowels"]
    sampling = [*base, "--data", inputs / "prompts.jsonl", "--batch-size", 8, "--steps", 14, "--max-new-tokens", 8, "--reference-samples", 8, *judged]
    run_process(*sft, "--output", folder / "sft", log=folder / "log")
    run_process(*reward, "--adapter", folder / "sft", "--output", folder / "reward", log=folder / "log")
    return {"sft": sft, "reward": [*reward, "--adapter", folder / "sft"], "dpo": [*dpo, "--adapter", folder / "sft"],
            "ppo": [*ppo, "--adapter", folder / "sft", "--reward", folder / "reward"],
            "grpo": ["grpo", *sampling, "--group-size", 4, "--minibatches", 2, "--dead-groups", "resample", "--kl-in", "corrected"],
            "nlpo": ["nlpo", *sampling, "--ppo-epochs", 1, "--minibatches", 1, "--top-p", 0.6, "--mask-refresh", 3, "--value", "head"],
            "ppo by function": [*ppo, *judged, "--ptx-coef", "0.5", "--ptx-data", inputs / "demos.jsonl", "--ptx-rows", 5]}


@pytest.fixture(scope="module")
def uninterrupted(commands, tmp_path_factory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    started = {}
    for kind, command in commands.items():
        place = folder / kind.replace(" ", "-")
        started[kind] = Run(place), Command(*command, "--output", place, log=folder / f"{place.name}.log")
    for _, process in started.values():
        assert process.wait() == 0, process.log.read_text()
    return {kind: run for kind, (run, _) in started.items()}


def without_time(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if not name.startswith("time")} for row in rows]


def assert_same(run: Run, expected: Run) -> None:
    """Metrics, samples, report and every byte of every checkpoint."""
    assert run.status()["state"] == "done" and run.status()["step"] == expected.status()["step"]
    assert [json.dumps(row) for row in without_time(run.metrics())] == [json.dumps(row) for row in without_time(expected.metrics())]
    assert run.samples() == expected.samples()
    assert run.report() | {"peak_memory_mb": 0} == expected.report() | {"peak_memory_mb": 0}
    assert [c.name for c in run.checkpoints()] == [c.name for c in expected.checkpoints()]
    assert (run.path / "checkpoints" / "last").resolve() == run.checkpoints()[-1]
    for ours, theirs in zip(run.checkpoints(), expected.checkpoints()):
        files = sorted(p.relative_to(ours) for p in ours.rglob("*") if p.is_file())
        assert files == sorted(p.relative_to(theirs) for p in theirs.rglob("*") if p.is_file())
        assert {p.suffix for p in files} <= {".json", ".safetensors"}
        for file in files:
            assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file


def resume(run: Run, command: list, tmp_path) -> None:
    """With nothing but the output, as the message of a stopped run says."""
    run_process(command[0], "--output", run.path, "--resume", log=tmp_path / "resumed.log")


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "ppo", "ppo by function", "grpo", "nlpo"])
def test_a_run_killed_again_and_again_ends_as_if_it_never_was(commands, uninterrupted, kind, tmp_path):
    run, command = Run(tmp_path / "run"), commands[kind]
    more = []
    for moment in sorted(CHANCE.sample(range(5, 12), 2)):
        process = Command(*command, "--output", run.path, *more, log=tmp_path / f"{moment}.log")
        process.kill_when(lambda moment=moment: len(run.metrics()) >= moment)
        status = run.status()
        assert status["state"] == "failed" and "Resume" in status["advice"]
        more = ["--resume"]
    with open(run.path / "metrics.jsonl", "a") as file:  # as a kill in the middle of a line leaves it
        file.write('{"step": ')
    resume(run, command, tmp_path)
    assert_same(run, uninterrupted[kind])
    assert [row["event"] for row in run.journal()].count("resumed") == 2


@pytest.mark.parametrize("kind", ["sft", "reward", "ppo by function"])
def test_a_run_killed_before_its_first_checkpoint_begins_again(commands, uninterrupted, kind, tmp_path):
    run = Run(tmp_path / "run")
    steps = CHANCE.randrange(3)
    process = Command(*commands[kind], "--output", run.path, log=tmp_path / "log")
    process.kill_when(lambda: run.exists() and len(run.metrics()) >= steps)
    resume(run, commands[kind], tmp_path)
    assert_same(run, uninterrupted[kind])


@pytest.mark.parametrize(("kind", "number"), [("sft", signal.SIGINT), ("ppo by function", signal.SIGINT), ("reward", signal.SIGTERM)])
def test_a_run_that_is_interrupted_saves_and_goes_on_later(commands, uninterrupted, kind, number, tmp_path):
    run, command = Run(tmp_path / "run"), commands[kind]
    process = Command(*command, "--output", run.path, log=tmp_path / "log")
    moment = CHANCE.randrange(1, 8)
    assert process.until(lambda: len(run.metrics()) >= moment)
    process.signal(number)
    assert process.wait() == 0
    status, printed = run.status(), process.log.read_text()
    assert status["state"] == "stopped" and status["error"] == "" and moment <= status["step"] < status["total_steps"]
    assert run.last_step() == status["step"] == len(run.metrics())  # saved where it stood
    assert f"python -m rlhf_engine {command[0]} --output {run.path} --resume" in printed and "Traceback" not in printed
    between = run.last_checkpoint().name
    resume(run, command, tmp_path)
    if run.checkpoints()[0].name == between:  # saved between two checkpoints, and still kept
        shutil.rmtree(run.checkpoints()[0])
    expected = {c.name for c in uninterrupted[kind].checkpoints()}
    assert {c.name for c in run.checkpoints()} <= expected | {between}
    ours, theirs = (Path(r.path / "checkpoints" / "last") for r in (run, uninterrupted[kind]))
    assert without_time(run.metrics()) == without_time(uninterrupted[kind].metrics())
    assert run.samples() == uninterrupted[kind].samples()
    for file in theirs.rglob("*.*"):
        assert file.read_bytes() == (ours / file.relative_to(theirs)).read_bytes()


def test_a_resumed_run_needs_nothing_of_what_it_started_from(commands, uninterrupted, tmp_path):
    """SFT and reward run may be gone: the checkpoint carries reference and reward."""
    run, command, before = Run(tmp_path / "run"), commands["ppo"], tmp_path / "before"
    old = Path(command[command.index("--reward") + 1]).parent
    shutil.copytree(old, before, symlinks=True)
    command = [Path(str(part).replace(str(old), str(before))) if isinstance(part, Path) else part for part in command]
    process = Command(*command, "--output", run.path, log=tmp_path / "log")
    process.kill_when(lambda: len(run.metrics()) >= 5)
    shutil.rmtree(before)
    resume(run, command, tmp_path)
    assert_same(run, uninterrupted["ppo"])


def test_a_second_interrupt_ends_at_once(commands, tmp_path):
    (tmp_path / "slow.py").write_text("import pathlib, time\ndef f(prompt, response):\n    if response:\n"
                                      f"        pathlib.Path({str(tmp_path / 'busy')!r}).touch()\n        time.sleep(2)\n    return 0.0")
    run = Run(tmp_path / "run")
    command = commands["ppo by function"][:-2]
    process = Command(*command, "--reward", f"{tmp_path / 'slow.py'}:f", "--output", run.path, log=tmp_path / "log")
    assert process.until((tmp_path / "busy").exists)
    process.signal(signal.SIGINT)
    assert process.until(lambda: "again to end at once" in process.log.read_text())
    process.signal(signal.SIGINT)
    assert process.wait() == 130, process.log.read_text()
    assert run.status()["state"] == "failed" and "Resume" in run.status()["advice"]
    assert "Traceback" not in process.log.read_text()


# -- a trainer in a run folder, without a process of its own --------------------------------------------------------------

@pytest.fixture
def sft(tiny_llama, inputs):
    config = SFTConfig(model=str(tiny_llama), data=str(inputs / "demos.jsonl"), steps=6, batch_size=4, max_tokens=64, lora_rank=2,
                       checkpoint_every=2)
    return make_trainer(config)


def test_a_run_folder_is_written_as_the_contract_says(sft, tmp_path):
    run = Run.create(tmp_path / "run", sft.config)
    assert drive(sft, run, progress=False) == "done"
    status = run.status()
    assert (status["state"], status["step"], status["total_steps"]) == ("done", 6, 6)
    assert [row["step"] for row in run.metrics()] == list(range(1, 7))
    assert {p.name for p in run.path.iterdir()} == {"config.yaml", "status.json", "metrics.jsonl", "samples.jsonl", "journal.jsonl",
                                                   "checkpoints", "report.json"}
    assert [(row["event"], row["learning_rate"]) for row in run.journal()] == [("fitted", sft.peak_lr)] and sft.peak_lr > 0
    assert [c.name for c in run.checkpoints()] == ["step-000002", "step-000004", "step-000006"]
    assert {p.name for p in run.last_checkpoint().iterdir()} == {"policy", "trainer.json", "trainer.safetensors"}
    assert json.loads((run.last_checkpoint() / "policy" / "base.json").read_text())["fingerprint"] == sft.backbone.fingerprint
    assert run.report()["steps"] == 6 and run.report()["peak_memory_mb"] > 50 and status["peak_memory_mb"] > 50


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_peak_is_of_the_run_and_not_of_what_the_process_did_before():
    held = torch.ones(300 << 18)  # 300 MB
    before = driving.peak_memory_mb()
    del held
    assert abs(driving.peak_memory_mb() - before) < 10  # the system counts by processor, and adds up now and then
    driving.reset_peak_memory()
    assert driving.peak_memory_mb() < before - 250


def test_pause_waits_and_answers_and_stop_saves(sft, tmp_path):
    sft.config.checkpoint_every = 50
    run = Run.create(tmp_path / "run", sft.config)
    control, states = RunControl(), []

    def on_microbatch():
        states.append(run.status()["state"])
        paused = states.count("paused")
        if paused and states[-1] == "running":
            control.stop()
        elif paused == 3:
            control.resume()
        else:
            control.pause()

    sft.on_microbatch = on_microbatch
    assert drive(sft, run, control=control, progress=False) == "stopped"
    assert states == ["running"] + 3 * ["paused"] + 2 * ["running"]  # the last is the report's evaluation
    assert run.status()["state"] == "stopped" and run.status()["step"] == run.last_step() == len(run.metrics()) == 2


def test_discard_removes_the_run(sft, tmp_path):
    run = Run.create(tmp_path / "run", sft.config)
    control = RunControl()
    sft.on_microbatch = control.discard
    assert drive(sft, run, control=control, progress=False) == "discarded"
    assert not run.path.exists()


def test_a_stop_before_the_first_step_needs_no_checkpoint(sft, tmp_path):
    run = Run.create(tmp_path / "run", sft.config)
    control = RunControl()
    control.stop()
    assert drive(sft, run, control=control, progress=False) == "stopped"
    assert run.checkpoints() == [] and run.status()["step"] == 0


@pytest.mark.parametrize(("error", "says", "kind"), [
    (RuntimeError("first\nsecond"), "report the error", "unknown"), (UserError("bad"), "Correct the input", "input"),
    (KeyboardInterrupt(), "Resume it", "interrupted"), (RuntimeError("CUDA out of memory"), "micro_batch", "out_of_memory"),
    (Diverged("KL"), "learning_rate", "diverged")])
def test_a_failure_is_told_with_an_advice(sft, tmp_path, error, says, kind):
    run = Run.create(tmp_path / "run", sft.config)

    def fail():
        if sft.step == 4:
            raise error

    sft.on_microbatch = fail
    with pytest.raises(type(error)):
        drive(sft, run, progress=False)
    status = run.status()
    assert status["state"] == "failed" and status["error"].startswith(type(error).__name__) and "\n" not in status["error"]
    assert says in status["advice"] == failure_hint(error) and status["advice_kind"] == failure_kind(error) == kind
    assert run.last_step() == 2 and len(run.metrics()) == 3


def test_a_checkpoint_that_cannot_be_written_is_none(sft, tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", sft.config)
    save = driving.save

    def fail(trainer, run):
        if trainer.step == 4:
            monkeypatch.setattr(trainer, "state_dict", lambda: {"step": object()})
        return save(trainer, run)

    monkeypatch.setattr(driving, "save", fail)
    with pytest.raises(TypeError):
        drive(sft, run, progress=False)
    assert run.last_step() == 2 and len(run.checkpoints()) == 1


def test_a_model_that_is_loaded_already_is_used(tiny_llama, inputs):
    backbone = Backbone.load(str(tiny_llama))
    config = SFTConfig(model=str(tiny_llama), data=str(inputs / "demos.jsonl"), max_tokens=64)
    assert make_trainer(config, backbone=backbone).backbone is backbone


def test_what_auto_means_as_an_adapter():
    assert default_adapter(PPOConfig()) == "bundled" and default_adapter(SFTConfig()) == "none"
    assert default_adapter(PPOConfig(model="a/b")) == "none"
    assert default_adapter(PPOConfig(adapter="none")) == "none"


# -- what scores ------------------------------------------------------------------------------------------------------------

def test_a_built_in_score_is_a_reward_unless_a_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reward = find_reward("long", "Say something", None)
    assert isinstance(reward, FunctionReward) and reward.function("", "one two three") == 3
    assert isinstance(find_reward("keyword=dog", "Say something", None), FunctionReward)
    (tmp_path / "long").mkdir()
    with pytest.raises(UserError, match="long: no such adapter"):  # it is looked for in the folder, as ever
        find_reward("long", "Say something", None)
