"""The run folder: whole files or old files, complete checkpoints or none, and nothing deleted that is not the run's own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from rlhf_engine.config import RewardConfig, SFTConfig
from rlhf_engine.files import read_json, read_lines, write_json
from rlhf_engine.runs.folder import Run, is_alive, process_start
from rlhf_engine.runs.start import RunIsDone, check_resume, length_overrides, settings_at_start
from tests.rlhf_engine.helpers.messages import refused


def make(tmp_path, **settings) -> Run:
    return Run.create(tmp_path / "run", SFTConfig(output=str(tmp_path / "run"), **settings))


def add_checkpoint(run: Run, step: int, keep: int = 0) -> None:
    with run.checkpoint(step, keep) as folder:
        (folder / "policy").mkdir()
        (folder / "policy" / "weights").write_text(str(step))


def test_a_new_run_holds_its_config_and_waits(tmp_path):
    run = make(tmp_path, learning_rate=1e-5)
    assert run.config()["stage"] == "sft" and run.config()["learning_rate"] == 1e-5
    status = run.status()
    assert (status["state"], status["step"], status["error"], status["advice"]) == ("waiting", 0, "", "")
    assert run.metrics() == run.samples() == run.journal() == run.checkpoints() == []
    assert run.report() is None and run.last_checkpoint() is None and run.last_step() == 0


def test_a_reader_never_sees_half_a_status(tmp_path):
    """Another process rewrites a long and a short status as fast as it can; every read gives one of the two, whole."""
    path = tmp_path / "status.json"
    code = ("import sys; from pathlib import Path; from rlhf_engine.files import write_json\n"
            "while True:\n    [write_json(Path(sys.argv[1]), {'text': c * n}) for c, n in (('a', 300000), ('b', 3))]")
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        seen = set()
        while seen != {"a" * 300000, "b" * 3}:
            value = read_json(path)
            assert value is None or value["text"] in ("a" * 300000, "b" * 3)
            seen |= {value["text"]} if value else set()
    finally:
        writer.kill()
        writer.wait()


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"old": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        write_json(tmp_path / "a.json", {"new": 2})
    assert read_json(tmp_path / "a.json") == {"old": 1}
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    assert read_json(tmp_path / "a.json") == {"old": 1}


def test_a_torn_last_line_is_left_out_and_forgotten_on_resume(tmp_path):
    run = make(tmp_path)
    for step in (1, 2):
        run.log({"step": step, "loss/train": 1 / 3})
        run.add_samples([{"step": step, "prompt": "ü\u2028\nx"}])
    add_checkpoint(run, 2)
    for name in ("metrics.jsonl", "samples.jsonl", "journal.jsonl"):
        with open(run.path / name, "a") as file:
            file.write('{"step": 3, "loss/tr')
    assert run.metrics() == [{"step": 1, "loss/train": 1 / 3}, {"step": 2, "loss/train": 1 / 3}]
    assert [row["prompt"] for row in run.samples()] == ["ü\u2028\nx"] * 2
    run.truncate_to_checkpoint()
    run.log({"step": 3})
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert [json.loads(line)["event"] for line in (run.path / "journal.jsonl").read_text().splitlines()] == ["resumed"]


def test_a_line_torn_in_the_middle_of_a_character(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"a": 1}\n{"a": "größ'.encode()[:-1])
    assert read_lines(tmp_path / "a.jsonl") == [{"a": 1}]
    assert read_lines(tmp_path / "none.jsonl") == []


def test_what_came_after_the_last_checkpoint_is_forgotten(tmp_path):
    run = make(tmp_path)
    for step in range(1, 8):
        run.log({"step": step})
        run.add_samples([{"step": step}, {"step": step}])
        if step in (2, 4):
            add_checkpoint(run, step)
    run.set_status(state="failed", step=7, error="e", advice="a")
    run.truncate_to_checkpoint()
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
    assert [row["step"] for row in run.samples()] == [1, 1, 2, 2, 3, 3, 4, 4]
    status = run.status()
    assert (status["state"], status["step"], status["error"], status["advice"]) == ("waiting", 4, "", "")
    assert run.journal()[-1]["event"] == "resumed" and run.journal()[-1]["step"] == 4


def test_without_a_checkpoint_everything_is_forgotten(tmp_path):
    run = make(tmp_path)
    run.log({"step": 1})
    run.truncate_to_checkpoint()
    assert run.metrics() == [] and run.status()["step"] == 0


def test_an_exception_while_a_checkpoint_is_written_leaves_none(tmp_path):
    run = make(tmp_path)
    add_checkpoint(run, 2)
    with pytest.raises(RuntimeError), run.checkpoint(4) as folder:
        (folder / "policy").mkdir()
        raise RuntimeError("no space left")
    assert [c.name for c in run.checkpoints()] == ["step-000002"]
    assert run.last_step() == 2 and (run.path / "checkpoints" / "last").resolve().name == "step-000002"
    add_checkpoint(run, 4)  # the leftover is in nobody's way
    assert (run.path / "checkpoints" / "last" / "policy" / "weights").read_text() == "4"


@pytest.mark.parametrize("broken", range(5))
def test_a_kill_at_any_moment_of_a_checkpoint_leaves_complete_ones(tmp_path, monkeypatch, broken):
    """Every rename and removal in turn never comes back, as when the process is killed there."""
    run = make(tmp_path)
    for step in (1, 2):
        add_checkpoint(run, step, keep=2)
    calls = 0

    def killed(function):
        def wrapper(*args, **options):
            nonlocal calls
            if (calls := calls + 1) > broken:
                raise KeyboardInterrupt
            return function(*args, **options)
        return wrapper

    with monkeypatch.context() as patch:
        for module, name in ((os, "replace"), (os, "rename"), (os, "unlink"), (os, "rmdir")):
            patch.setattr(module, name, killed(getattr(module, name)))
        with suppress(KeyboardInterrupt):
            add_checkpoint(run, 3, keep=2)
    for folder in [*run.checkpoints(), run.path / "checkpoints" / "last"]:
        assert (folder / "policy" / "weights").exists()
    run.truncate_to_checkpoint()
    newest = run.checkpoints()[-1]
    assert newest.name == ("step-000002" if broken == 0 else "step-000003")
    assert (run.path / "checkpoints" / "last").resolve() == newest.resolve()
    assert not list((run.path / "checkpoints").glob(".*"))
    add_checkpoint(run, 4, keep=2)
    assert len(run.checkpoints()) == 2


def test_old_checkpoints_go_and_last_is_the_newest(tmp_path):
    run = make(tmp_path)
    for step in (5, 10, 15, 20):
        add_checkpoint(run, step, keep=2)
        assert (run.path / "checkpoints" / "last" / "policy" / "weights").read_text() == str(step)
    assert [c.name for c in run.checkpoints()] == ["step-000015", "step-000020"]
    add_checkpoint(run, 25)
    assert len(run.checkpoints()) == 3
    add_checkpoint(run, 25, keep=2)  # the same step again
    assert [c.name for c in run.checkpoints()] == ["step-000020", "step-000025"] and run.last_step() == 25


def test_steps_beyond_a_million_keep_their_order(tmp_path):
    run = make(tmp_path)
    for step in (999_999, 1_000_000):
        add_checkpoint(run, step)
    assert run.last_step() == 1_000_000


def test_where_links_are_forbidden_last_is_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError("no right")))
    run = make(tmp_path)
    for step in (1, 2):
        add_checkpoint(run, step)
    last = run.path / "checkpoints" / "last"
    assert not last.is_symlink() and (last / "policy" / "weights").read_text() == "2"
    assert [c.name for c in run.checkpoints()] == ["step-000001", "step-000002"]


def test_a_run_in_the_way_is_refused_unless_it_is_to_be_replaced(tmp_path):
    run = make(tmp_path)
    run.set_status(state="done")
    add_checkpoint(run, 1)
    message = refused(Run.check_new, run.path)
    assert "--resume" in message and "--overwrite" in message and str(run.path) in message
    assert refused(Run.create, run.path, SFTConfig()) == message and run.last_step() == 1
    Run.create(run.path, RewardConfig(), overwrite=True)
    assert run.config()["stage"] == "reward" and run.checkpoints() == []


def test_an_empty_folder_and_a_new_one_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "new/deep/er"):
        assert Run.check_new(tmp_path / name).path == tmp_path / name
    assert not (tmp_path / "new").exists()  # checking makes nothing


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("files", [{"thesis.txt": "x"}, {"config.yaml": "model:\n  lr: 3\n"}, {"config.yaml": "a: 1", "status.json": "{}"},
                                   {"config.yaml": "a: 1", "status.json": "[1]"}, {"config.yaml": "a: 1", "status.json": "not json"}])
def test_a_folder_of_something_else_is_refused_and_kept(tmp_path, files, overwrite):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    message = refused(Run.create, tmp_path, SFTConfig(), overwrite=overwrite)
    assert str(tmp_path) in message
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == files


def test_a_path_that_is_a_file_or_below_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        message = refused(Run.check_new, path, overwrite=True)
        assert message.startswith(f"{path} cannot be made: {tmp_path / 'file'} is no folder") and "--output" in message
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("how", ["overwrite", "discard"])
def test_what_others_put_into_a_run_folder_stays(tmp_path, how):
    run = make(tmp_path)
    run.set_status(state="done")
    run.log({"step": 1})
    run.write_report({"a": 1})
    add_checkpoint(run, 1)
    (run.path / "notes.txt").write_text("mine")
    (run.path / "plots").mkdir()
    (run.path / "plots" / "kl.png").write_text("mine, too")
    if how == "overwrite":
        Run.create(run.path, SFTConfig(), overwrite=True)
        assert run.metrics() == run.checkpoints() == [] and run.report() is None
    else:
        run.discard()
        assert sorted(p.name for p in run.path.iterdir()) == ["notes.txt", "plots"]
    assert (run.path / "notes.txt").read_text() == "mine" and (run.path / "plots" / "kl.png").read_text() == "mine, too"


def test_discarding_removes_the_folder(tmp_path):
    run = make(tmp_path)
    run.log({"step": 1})
    run.note("event")
    run.add_samples([{"step": 1}])
    run.write_report({})
    add_checkpoint(run, 1)
    run.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_a_run_is_being_created_can_be_repeated(tmp_path, monkeypatch):
    """Whatever of a new run has been written, the same command works again."""
    for broken in range(3):
        calls, replace, unlink, dead = 0, os.replace, Path.unlink, []

        def killed(*args, broken=broken, replace=replace, dead=dead):
            nonlocal calls
            if (calls := calls + 1) > broken:
                dead.append(True)
                raise KeyboardInterrupt
            return replace(*args)

        def unlink_until_killed(*args, unlink=unlink, dead=dead, **options):
            if dead:  # a process that is killed removes no temporary file either
                raise KeyboardInterrupt
            return unlink(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            patch.setattr(Path, "unlink", unlink_until_killed)
            with suppress(KeyboardInterrupt):
                make(tmp_path)
        if not Run(tmp_path / "run").exists():
            assert make(tmp_path).status()["state"] == "waiting"
        shutil.rmtree(tmp_path / "run")


def held_by_another(tmp_path, state: str = "running") -> tuple[Run, subprocess.Popen]:
    """A run whose writer is a process of its own, alive until it is killed."""
    code = ("import sys, time; from rlhf_engine.config import SFTConfig; from rlhf_engine.runs.folder import Run\n"
            "run = Run.create(sys.argv[1], SFTConfig(output=sys.argv[1])); run.set_status(state=sys.argv[2], step=3)\n"
            "print('ready', flush=True); time.sleep(600)")
    run = Run(tmp_path / "run")
    writer = subprocess.Popen([sys.executable, "-c", code, str(run.path), state], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "ready\n"
    return run, writer


@pytest.mark.parametrize("state", ["waiting", "running", "paused"])
def test_a_dead_writer_shows_as_failed_with_an_advice(tmp_path, state):
    run, writer = held_by_another(tmp_path, state)
    try:
        assert run.status()["state"] == state
        for act in (lambda: Run.check_new(run.path, overwrite=True), lambda: check_resume(run, "sft", {}),
                    lambda: Run.create(run.path, SFTConfig(), overwrite=True)):
            message = refused(act)
            assert f"process {writer.pid}" in message and "stop" in message
    finally:
        writer.send_signal(signal.SIGKILL)
    writer.wait()
    status = run.status()
    assert status["state"] == "failed" and status["step"] == 3
    assert "ended" in status["error"] and "Resume" in status["advice"]
    assert read_json(run.path / "status.json")["state"] == state  # reading writes nothing
    check_resume(run, "sft", {})


def test_a_zombie_and_a_process_id_given_again_are_dead():
    child = subprocess.Popen([sys.executable, "-c", ""])
    pid, started = child.pid, process_start(child.pid)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
    assert not is_alive(pid, started)
    child.wait()
    assert not is_alive(pid, started)
    assert is_alive(os.getpid(), process_start(os.getpid())) and not is_alive(os.getpid(), process_start(os.getpid()) - 100)


def test_only_a_run_of_this_stage_with_these_settings_is_resumed(tmp_path):
    run = make(tmp_path, learning_rate=1e-3, steps=5)
    run.set_status(state="stopped")
    assert settings_at_start(run, "sft", {"learning_rate": 1e-3, "steps": 5})["learning_rate"] == 1e-3
    assert check_resume(run, "sft", {"learning_rate": 1e-3, "steps": 5}).config.learning_rate == 1e-3
    assert "another stage" in refused(check_resume, run, "ppo", {})
    message = refused(check_resume, run, "sft", {"learning_rate": 2e-3, "lora_rank": 6, "seed": 0, "steps": 9})
    assert "learning_rate is 0.001 in the run and 0.002 now" in message and "lora_rank is 8 in the run and 6 now" in message
    assert "seed" not in message and "steps" not in message
    assert "holds no run" in refused(check_resume, Run(tmp_path / "none"), "sft", {})


def test_a_run_that_is_done_is_resumed_only_to_become_longer(tmp_path):
    run = make(tmp_path, steps=5)
    add_checkpoint(run, 5)
    run.set_status(state="done", step=5)
    with pytest.raises(RunIsDone, match="done already: 5 steps"):
        check_resume(run, "sft", {"steps": 5})
    assert "would end with step 4" in refused(check_resume, run, "sft", {"steps": 4})
    start = check_resume(run, "sft", {"steps": 9})
    assert start.lengths == length_overrides(run, {"steps": 9}) == {"steps": 9}
    assert start.config.steps == 5 and start.checkpoint == run.last_checkpoint() and run.status()["state"] == "done"


def test_a_folder_without_a_status_is_no_run(tmp_path):
    assert "not a run folder" in refused(Run(tmp_path).status)
