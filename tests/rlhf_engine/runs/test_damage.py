"""A run folder that somebody, or a broken disk, has changed: going on with it is refused in one line, and changes nothing."""

import json
import shutil
from pathlib import Path

import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json_or_none, read_lines
from rlhf_engine.runs.damage import explain_damage
from rlhf_engine.runs.folder import Run
from tests.commands import run_process


@pytest.fixture(scope="module")
def finished(tiny_llama, inputs, tmp_path_factory) -> Path:
    """An SFT run of one step."""
    folder = tmp_path_factory.mktemp("damage")
    run_process("sft", "--model", tiny_llama, "--data", inputs / "demos.jsonl", "--steps", 1, "--batch-size", 2, "--lora-rank", 2, "--max-tokens", 64,
                "--output", folder / "run", log=folder / "log")
    return folder / "run"


def change_json(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


DAMAGE = {
    "no pairs": (lambda run: (run / "checkpoints/last/trainer.json").write_text("{}"), "checkpoints/step-000001 is damaged (KeyError"),
    "no JSON": (lambda run: (run / "checkpoints/last/trainer.json").write_text('{"pairs": ['), "is damaged (JSONDecodeError"),
    "no state": (lambda run: (run / "checkpoints/last/trainer.json").unlink(), "is damaged (FileNotFoundError"),
    "no tensors": (lambda run: (run / "checkpoints/last/trainer.safetensors").write_bytes(b"\x00" * 40), "is damaged (SafetensorError"),
    "adapter": (lambda run: (run / "checkpoints/last/policy/adapter_model.safetensors").write_bytes(b"x"), "cannot be read as safetensors"),
    "journal": (lambda run: (run / "journal.jsonl").write_text('{"event": "changed", "step": "two"}\n'), "journal.jsonl is damaged"),
    "no event": (lambda run: (run / "journal.jsonl").write_text('{"step": 1}\n'), "journal.jsonl is damaged"),
    "status of texts": (lambda run: change_json(run / "status.json", pid="me", state="running"), "is not a run folder"),
    "a setting twice": (lambda run: (run / "config.yaml").write_text((run / "config.yaml").read_text() + "seed: 5\n"), "'seed' is there twice"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_does_not_go_on(cli, finished, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    damage, says = DAMAGE[name]
    damage(run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    code, out, err = cli("sft", "--output", run, "--resume", "--steps", 2)
    assert code == 2 and says in err and err.startswith("error: ") and err.count("\n") == 1
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_rows_without_a_step_do_not_stop_a_run(cli, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('[1]\n"x"\n{"step": "1"}\n{}\n')
    assert cli("sft", "--output", run, "--resume", "--steps", 2)[0] == 0
    assert [row["step"] for row in Run(run).metrics()] == [1, 2]


def test_what_is_no_damage_is_raised_as_it_is(tmp_path):
    for error in (UserError("mine"), KeyboardInterrupt(), MemoryError(), RuntimeError("CUDA out of memory")):
        with pytest.raises(type(error)) as caught, explain_damage(tmp_path, "try again"):
            raise error
        assert caught.value is error


def test_json_that_is_nested_too_deeply(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "a.json").write_text(deep)
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{deep}\n[2]\n')
    assert read_json_or_none(tmp_path / "a.json") is None
    assert read_lines(tmp_path / "a.jsonl") == [{"a": 1}]
