"""Machines that people have: a home that is written ~, a console that is not UTF-8, a disk that fills up, links."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file

from rlhf_engine import files
from rlhf_engine.config import SFTConfig
from rlhf_engine.console import typed_text
from rlhf_engine.errors import UserError
from rlhf_engine.files import append_text, check_place, disk_is_full
from rlhf_engine.loop import drive
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.resolve import resolve_adapter, resolve_output
from rlhf_engine.trainers.failures import failure_kind
from tests.rlhf_engine.helpers.feedback import small_disk
from tests.rlhf_engine.test_finite import make_sft
from tests.test_house import ROOT

SMALL = ["--steps", 2, "--batch-size", 4, "--lora-rank", 2, "--max-tokens", 64]

# -- ~ ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch, tiny_llama, inputs) -> Path:
    """A home with the toy model as `model`, and the inputs beside it."""
    (tmp_path / "model").symlink_to(tiny_llama)
    for file in inputs.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def test_a_tilde_is_spelled_out_wherever_a_path_is_taken(cli, home):
    """A shell does it only at the start of a word, so `--output=~/run` and YAML leave it to us."""
    (home / "c.yaml").write_text("model: ~/model\ndata: ~/demos.jsonl\noutput: ~/runs/sft\n")
    assert cli("sft", "--config=~/c.yaml", *SMALL)[0] == 0
    assert (run := Run("~/runs/sft")).path == home / "runs" / "sft" and run.config()["model"] == str(home / "model")
    assert cli("sft", "--config=~/c.yaml", "--resume", *SMALL[2:], "--steps", 3)[0] == 0 and run.last_step() == 3
    model = ["--model=~/model", "--adapter=~/runs/sft"]
    assert cli("ppo", *model, *SMALL, "--data=~/prompts.jsonl", "--reward=~/score.py:length", "--output=~/runs/ppo", "--max-new-tokens", 4,
               "--reference-samples", 4)[0] == 0
    assert cli("evaluate", *model, "--against=~/runs/ppo", "--data=~/prompts.jsonl", "--limit", 2, "--judge=~/score.py:length", "--output=~/e",
               "--max-new-tokens", 4)[0] == 0 and (home / "e" / "report.json").exists()
    assert cli("export", *model, "--output=~/exported")[0] == 0 and (home / "exported" / "README.md").exists()
    assert cli("chat", *model, "--prompt", "a", "--max-new-tokens", 2)[0] == 0
    assert resolve_adapter("~/exported") == home / "exported" and Backbone.load("~/model").load_role("policy", "~/exported") is None
    assert not any(name.startswith("~") for name in os.listdir())


def test_a_tilde_in_the_name_of_the_workspace(cli, home, monkeypatch):
    from rlhf_engine.cli import workspace_home
    from rlhf_engine.worker.client import Worker
    monkeypatch.setenv("PLAYGROUND_HOME", "~/space")
    assert workspace_home() == home / "space" and Worker("~/space").home == home / "space"


def test_a_user_that_does_not_exist_is_no_traceback(cli):
    assert cli("sft", "--model", "~nobody-of-this-name/model", "--output", "x")[0] == 2


# -- the console ------------------------------------------------------------------------------------------------------

CONSOLES = {"ascii": {"PYTHONIOENCODING": "ascii"}, "cp1252": {"PYTHONIOENCODING": "cp1252"}, "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}


@pytest.mark.parametrize("console", CONSOLES)
def test_any_text_can_be_printed_and_typed(console):
    """In a process of its own, because the encoding is set when Python starts. The model is not needed."""
    code = ("import sys; from rlhf_engine import cli; from rlhf_engine.commands import chat\n"
            "def run(args):\n    lines = [args.prompt, *chat.iter_lines()]\n    print(lines, '\\u2026', '\\U0001f600', flush=True)\n"
            "    assert lines == ['caf\\xe9', 'na\\xefve'], lines\n"
            "chat.run = run\nsys.exit(cli.main(sys.argv[1:]))")
    encoding = "cp1252" if console == "cp1252" else "utf-8"
    ran = subprocess.run([sys.executable, "-c", code, "chat", "--prompt", "café"], cwd=ROOT, input="naïve\n".encode(encoding),
                         env={**os.environ, **CONSOLES[console]}, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert b"\\U0001f600" in ran.stdout


def test_half_a_character_becomes_a_question_mark():
    assert typed_text("a\ud800") == "a?" and typed_text("caf\udcc3\udca9 é") == "café é" and typed_text("\udcff") == "\ufffd"


def test_a_reader_that_goes_away_is_no_traceback(tiny_llama):
    command = f"{sys.executable} -m rlhf_engine chat --model {tiny_llama} --prompt once --max-new-tokens 90 | head -c 1"
    ran = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, check=False)
    assert b"Traceback" not in ran.stderr and b"BrokenPipe" not in ran.stderr


def test_a_message_in_other_letters_is_printed_on_an_ascii_console():
    ran = subprocess.run([sys.executable, "-m", "rlhf_engine", "sft", "--model", "größe…", "--data", "./データ.jsonl", "--output", "x"], cwd=ROOT,
                         env={**os.environ, "PYTHONIOENCODING": "ascii:strict"}, capture_output=True, check=False)
    assert ran.returncode == 2 and b"Traceback" not in ran.stderr and ran.stderr.count(b"\n") == 1


def test_a_file_name_that_is_no_utf8_is_named(cli):
    code, _, err = cli("sft", "--data", "caf\udce9.jsonl", "--output", "x")
    assert code == 2 and "--data is caf\\udce9.jsonl, which is no UTF-8 text" in err


# -- a disk that fills up ---------------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_a_full_disk_says():
    assert disk_is_full(FULL) and disk_is_full(OSError(errno.EDQUOT, "x")) and not disk_is_full(OSError(errno.EACCES, "x"))
    assert failure_kind(SafetensorError("I/O error: No space left on device (os error 28)")) == "disk_full"
    assert not disk_is_full(RuntimeError("anything else"))


@pytest.mark.parametrize("error", [OSError(errno.EROFS, "read-only"), OSError(errno.EIO, "broken"), PermissionError(errno.EACCES, "no"), SafetensorError("I/O error: broken (os error 5)")])
def test_a_run_whose_disk_cannot_be_written_says_that_it_can_be_resumed(cli, tiny_llama, inputs, tmp_path, monkeypatch, error):
    def fail(*args):
        raise error
    with monkeypatch.context() as patch:
        patch.setattr("rlhf_engine.trainers.state.save_file", fail)
        command = ["sft", "--data", inputs / "demos.jsonl", "--model", tiny_llama, *SMALL, "--output", tmp_path / "run"]
        code, _, err = cli(*command)
    assert code == 1 and "it may be read-only, away or broken. Then resume." in err and "Traceback" not in err
    status = Run(tmp_path / "run").status()
    assert (status["state"], status["advice_kind"]) == ("failed", "disk_fails")
    assert cli(*command, "--resume")[0] == 0


class FullFile:
    """A raw file on a disk that is full after the first bytes."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.file.write(data[:3])
        raise FULL


def test_a_line_is_added_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    append_text(path, "one\n")
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", lambda *args, **options: FullFile(open(*args, **options)), raising=False)  # noqa: SIM115
        with pytest.raises(OSError):
            append_text(path, "two words\n")
    append_text(path, "three\n")
    assert path.read_text() == "one\nthree\n"


@pytest.mark.parametrize("where", ["rlhf_engine.trainers.state.save_file", "rlhf_engine.runs.folder.append_text"])
def test_a_run_on_a_full_disk_fails_with_its_last_checkpoint_kept(tiny_llama, tmp_path, monkeypatch, where):
    """In the middle of a checkpoint, of which nothing is left; or in the middle of a list."""
    trainer = make_sft(tiny_llama)
    run = Run.create(tmp_path / "run", trainer.config)

    def fill():
        if trainer.step == 3:
            monkeypatch.setattr(where, lambda *args: (_ for _ in ()).throw(FULL))
    trainer.on_microbatch = fill
    with pytest.raises(OSError):
        drive(trainer, run, progress=False)
    status = run.status()
    assert (status["state"], status["advice_kind"]) == ("failed", "disk_full") and "Make room on the disk, then resume" in status["advice"]
    assert run.last_step() == 2 and [path.name for path in (run.path / "checkpoints").iterdir() if path.name.startswith(".")] == []
    assert (run.path / "checkpoints" / "last").resolve().name == "step-000002"
    monkeypatch.undo()
    again = make_sft(tiny_llama)
    again.load(run.last_checkpoint())
    run.truncate_to_checkpoint()
    assert drive(again, run, progress=False) == "done" and [row["step"] for row in run.metrics()] == [1, 2, 3, 4]


def test_the_state_is_failed_even_where_no_new_file_fits(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", SFTConfig())
    run.set_status(state="running", error="x" * 200)
    monkeypatch.setattr("rlhf_engine.files.os.replace", lambda *args: (_ for _ in ()).throw(FULL))
    run.fail("full", advice="make room", advice_kind="disk_full")
    assert run.status()["state"] == "failed" and run.status()["error"] == "full"


def test_a_run_that_finds_no_room_leaves_nothing(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("rlhf_engine.runs.folder.write_text", lambda *args: (_ for _ in ()).throw(FULL))
        with pytest.raises(UserError, match="make room"):
            Run.create(tmp_path / "run", SFTConfig())
    assert list(tmp_path.iterdir()) == []


def test_a_real_disk_that_fills_up(cli, tiny_llama, inputs):
    """Checkpoints of a rank that fills a disk of one megabyte: the command ends with one line, and the run goes on elsewhere."""
    with small_disk("1m") as disk:
        run = disk / "run"
        code, _, err = cli("sft", "--model", tiny_llama, "--data", inputs / "demos.jsonl", "--output", run, "--steps", 30, "--batch-size", 4,
                           "--lora-rank", 16, "--checkpoint-every", 1, "--keep-checkpoints", 0, "--max-tokens", 64, "--held-out", 0)
        assert code == 1 and "Traceback" not in err and "Make room on the disk" in err.splitlines()[-1]
        assert Run(run).status()["state"] == "failed" and Run(run).last_step() >= 1
        assert load_file(Run(run).last_checkpoint() / "policy" / "adapter_model.safetensors")
        assert cli("evaluate", "--model", tiny_llama, "--adapter", run, "--against", "none", "--data", inputs / "prompts.jsonl", "--limit", 2,
                   "--judge", f"{inputs / 'score.py'}:length", "--output", disk / "e", "--max-new-tokens", 4)[0] in (0, 2)


# -- links ------------------------------------------------------------------------------------------------------------

def test_links_that_lead_nowhere_are_named(cli, tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("dangling", "circle"):
        with pytest.raises(UserError, match="is a link that leads nowhere"):
            check_place(tmp_path / name)
        code, _, err = cli("sft", "--output", tmp_path / name, "--data", "./nowhere.jsonl")
        assert code == 2 and "leads nowhere" in err
        for command in (["sft", "--output", tmp_path / "x", "--model", tmp_path / name], ["chat", "--prompt", "a", "--adapter", tmp_path / name],
                        ["sft", "--output", tmp_path / "x", "--data", tmp_path / name]):
            code, _, err = cli(*command)
            assert code == 2 and "Traceback" not in err and err.count("\n") == 1


def test_a_run_folder_that_is_a_link_is_written_through(cli, tmp_path, tiny_llama, inputs):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    command = ["sft", "--model", tiny_llama, "--data", inputs / "demos.jsonl", "--output", tmp_path / "run"]
    assert cli(*command, *SMALL)[0] == 0 and (tmp_path / "disk" / "status.json").exists()
    assert cli(*command, "--resume", "--steps", 3, *SMALL[2:])[0] == 0
    Run(tmp_path / "run").discard()
    assert (tmp_path / "run").is_symlink() and list((tmp_path / "disk").iterdir()) == []


def test_a_copy_of_a_run_without_links_still_has_its_newest_checkpoint(tmp_path):
    run = Run.create(tmp_path / "run", SFTConfig())
    for step in (2, 10):
        with run.checkpoint(step) as folder:
            (folder / "policy").mkdir()
    (run.path / "checkpoints" / "last").unlink()
    assert resolve_adapter(str(run.path)) == run.path / "checkpoints" / "step-000010" / "policy"
    (run.path / "checkpoints" / "last").symlink_to("gone")
    assert resolve_adapter(str(run.path)) == run.path / "checkpoints" / "step-000010" / "policy"


def test_the_runs_of_a_workspace_may_be_a_link(tmp_path):
    (tmp_path / "disk" / "here").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "space").symlink_to(tmp_path / "home")
    (tmp_path / "home" / "runs").symlink_to(tmp_path / "disk")
    for given in ("new", str(tmp_path / "space" / "runs" / "new"), str(tmp_path / "disk" / "new")):
        assert resolve_output(tmp_path / "space", "sft", given) == str(tmp_path / "disk" / "new")
    (tmp_path / "outside").mkdir()
    for name, target in (("away", tmp_path / "outside"), ("circle", tmp_path / "disk" / "circle"), ("gone", tmp_path / "nothing")):
        (tmp_path / "disk" / name).symlink_to(target)
        with pytest.raises(UserError, match="only the command line writes elsewhere|leads nowhere"):
            Run.check_new(resolve_output(tmp_path / "space", "sft", name))
