"""What a run was made from: a resumed run gets the same data and base, wherever they are now, or is refused by name."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_engine.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_engine.errors import UserError
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.inputs import content_hash, data_fingerprint
from rlhf_engine.runs.start import check_new, check_resume

BASE = "a" * 64


class Loaded:
    """A trainer as `open_folder` needs it."""

    class backbone:  # noqa: N801
        fingerprint = BASE

    def check(self, changes):
        """Any length will do."""


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    """A folder that is taken for a base, whose fingerprint is the text in it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text(BASE)
    monkeypatch.setattr("rlhf_engine.runs.inputs.resolve_model", Path)
    monkeypatch.setattr("rlhf_engine.runs.inputs.fingerprint", lambda folder: (folder / "weights").read_text())
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    file = tmp_path / "demos.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    return file


def begin(config) -> Run:
    run = check_new(config).open_folder(Loaded())
    run.set_status(state="stopped")
    with run.checkpoint(1) as folder:
        (folder / "policy").mkdir()
    return run


def resume(run: Run, **settings):
    return check_resume(run, run.config()["stage"], settings)


def refused(run: Run, **settings) -> str:
    files = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    with pytest.raises(UserError) as caught:
        resume(run, **settings)
    assert files == {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sft(tmp_path, base, data, **settings) -> Run:
    return begin(SFTConfig(model=str(base), data=str(data), output=str(tmp_path / "run"), **settings))


def test_the_same_rows_and_base_go_on(tmp_path, base, data):
    run = sft(tmp_path, base, data)
    start = resume(run)
    assert start.inputs.notes == [] and start.config.data == str(data)
    assert start.open_folder(Loaded()).status()["state"] == "waiting"


def test_other_rows_under_the_same_name_are_refused(tmp_path, base, data):
    run = sft(tmp_path, base, data)
    data.write_text('{"prompt": "a", "completion": "c"}\n')
    assert f"--data {data} has another content" in refused(run) and "put the old one back" in refused(run)


def test_another_base_under_the_same_name_is_refused(tmp_path, base, data):
    run = sft(tmp_path, base, data)
    (base / "weights").write_text("b" * 64)
    line = refused(run)
    assert f"--model {base} is another base" in line and "bbbbbbbbbbbb" in line and "aaaaaaaaaaaa" in line


def test_data_and_base_that_moved_are_taken_from_where_they_are_now_and_are_remembered(tmp_path, base, data):
    run = sft(tmp_path, base, data)
    moved, elsewhere = tmp_path / "new" / "rows.jsonl", tmp_path / "new" / "base"
    moved.parent.mkdir()
    data.rename(moved)
    base.rename(elsewhere)
    start = resume(run, data=str(moved), model=str(elsewhere))
    assert (start.config.data, start.config.model) == (str(moved), str(elsewhere))
    start.open_folder(Loaded()).set_status(state="stopped")
    assert run.config()["data"] == str(data), "config.yaml stays what the run began with"
    again = resume(run)
    assert (again.config.data, again.config.model) == (str(moved), str(elsewhere))


def test_a_file_that_moved_and_changed_is_refused(tmp_path, base, data):
    run = sft(tmp_path, base, data)
    other = tmp_path / "other.jsonl"
    other.write_text("{}")
    assert f"--data {other} has another content than {data}" in refused(run, data=str(other))


def test_bundled_data_does_not_move(tmp_path, base, data):
    run = sft(tmp_path, base, "bundled")
    assert "data is 'bundled' in the run" in refused(run, data=str(data))


def test_a_zipped_file_has_the_fingerprint_of_what_it_holds(tmp_path, data):
    zipped = tmp_path / "demos.jsonl.gz"
    zipped.write_bytes(gzip.compress(data.read_bytes()))
    assert content_hash(zipped) == content_hash(data) and data_fingerprint("bundled") == "bundled"
    (tmp_path / "broken.gz").write_bytes(b"no gzip")
    assert content_hash(tmp_path / "broken.gz") == content_hash(tmp_path / "missing") == ""


def test_another_revision_of_a_hub_data_set_is_refused(tmp_path, base, monkeypatch):
    revisions = {"a/b": "1"}
    monkeypatch.setattr("rlhf_engine.runs.inputs.hub_revision", lambda source: revisions.get(source, ""))
    run = sft(tmp_path, base, "a/b")
    assert resume(run).config.data == "a/b"
    revisions["a/b"] = ""  # the Hub cannot be reached
    assert resume(run).config.data == "a/b"
    revisions["a/b"] = "2"
    assert "--data a/b has another revision" in refused(run)


def test_the_mixed_in_text_counts_if_it_is_mixed_in(tmp_path, base, data):
    (text := tmp_path / "text.jsonl").write_text('{"text": "x"}')
    settings = {"model": str(base), "data": str(data), "ptx_data": str(text), "reward": "r"}
    run = begin(PPOConfig(**settings, ptx_coef=0.1, output=str(tmp_path / "mixed")))
    without = begin(PPOConfig(**settings, output=str(tmp_path / "without")))
    text.write_text('{"text": "y"}')
    assert "--ptx-data" in refused(run) and resume(without)


def test_a_scoring_function_that_changed_is_refused_unless_it_made_the_run_fail(tmp_path, base, data):
    (file := tmp_path / "score.py").write_text("def f(p, r): return 1")
    run = begin(PPOConfig(model=str(base), data=str(data), reward=f"{file}:f", output=str(tmp_path / "run")))
    file.write_text("def f(p, r): return 2")
    assert f"--reward {file}:f has another content" in refused(run) and "name where" not in refused(run)
    run.set_status(state="failed", advice_kind="input")
    start = resume(run)
    assert "has changed since this run began" in start.inputs.notes[0]
    start.open_folder(Loaded()).set_status(state="stopped")
    assert "has changed" in run.journal()[-1]["text"] and resume(run).inputs.notes == []


def test_a_reward_that_was_trained_anew_counts_until_the_run_has_its_own_copy(tmp_path, base, data):
    reward = tmp_path / "reward"
    reward.mkdir()
    (reward / "adapter_config.json").write_text("{}")
    (reward / "adapter_model.safetensors").write_text("old")
    settings = {"model": str(base), "data": str(data), "reward": str(reward)}
    fresh = check_new(PPOConfig(**settings, output=str(tmp_path / "fresh"))).open_folder(Loaded())
    fresh.set_status(state="stopped")
    run = begin(PPOConfig(**settings, output=str(tmp_path / "run")))
    (reward / "adapter_model.safetensors").write_text("new")
    assert "--reward" in refused(fresh) and resume(run)
    shutil.rmtree(reward)
    assert resume(run).open_folder(Loaded()).status()["state"] == "waiting"


def test_a_run_of_an_earlier_version_goes_on_with_a_note_and_its_base_is_still_compared(tmp_path, base, data):
    run = sft(tmp_path, base, data)
    (run.path / "inputs.json").unlink()
    data.write_text('{"prompt": "a", "completion": "c"}\n')
    start = resume(run)
    assert "earlier version" in start.inputs.notes[0]
    assert "data is" in refused(run, data=str(tmp_path / "other.jsonl"))
    (run.last_checkpoint() / "policy" / "base.json").write_text(json.dumps({"model": "x", "fingerprint": "b" * 64}))
    assert "is another base" in refused(run)
    (base / "weights").write_text("b" * 64)
    start = resume(run)
    start.open_folder(Loaded()).set_status(state="stopped")
    assert resume(run).inputs.notes == [], "from now on it has fingerprints"


@pytest.mark.parametrize("text", ["{broken", "[1]", '{"model": 3}', '{"data": {"place": 4, "content": 5}}', ""])
def test_a_broken_record_is_as_none(tmp_path, base, data, text):
    run = sft(tmp_path, base, data)
    (run.path / "inputs.json").write_text(text)
    assert "has not been checked" in resume(run).inputs.notes[0] and resume(run).config.data == str(data)


def test_on_the_command_line(cli, tmp_path, tiny_llama, inputs):
    """No adapter: the base's own fingerprint counts. The same name, with other weights behind it."""
    model, file = tmp_path / "model", tmp_path / "demos.jsonl"
    shutil.copytree(tiny_llama, model)
    shutil.copy(inputs / "demos.jsonl", file)
    command = ["sft", "--model", model, "--data", file, "--output", tmp_path / "run", "--steps", 2, "--batch-size", 4, "--lora-rank", 2]
    assert cli(*command)[0] == 0 and (tmp_path / "run" / "inputs.json").exists()
    longer = [*command[:-6], "--steps", 3, *command[-4:], "--resume"]
    rows = file.read_text()
    file.write_text(rows.replace("dog", "cat"))
    code, _, err = cli(*longer)
    assert code == 2 and "has another content" in err and "Traceback" not in err
    file.write_text(rows)
    other = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        other.lm_head.weight.add_(1)
    other.save_pretrained(model)
    code, _, err = cli(*longer)
    assert code == 2 and "is another base" in err
    shutil.rmtree(model)
    code, out, err = cli(*[tiny_llama if part == model else part for part in longer])
    assert code == 0, err
    assert Run(tmp_path / "run").status()["step"] == 3


def test_a_reward_config_has_no_function(tmp_path, base, data):
    run = begin(RewardConfig(model=str(base), data=str(data), output=str(tmp_path / "run")))
    assert set(json.loads((run.path / "inputs.json").read_text())) == {"model", "data", "settings"}


def test_the_worker_refuses_the_same_as_the_command_line(tmp_path, base, data):
    """What the page, `/start` and `/control` send to resume a run goes through `check_start`."""
    from rlhf_engine.worker.model_owner import ModelOwner
    from rlhf_engine.worker.requests import StartRequest

    class Server:
        home = tmp_path

    run = begin(SFTConfig(model=str(base), data=str(data), output=str(tmp_path / "runs" / "sft")))
    owner = ModelOwner(Server())
    request = StartRequest("sft", {"output": "sft"}, resume=True)
    assert owner.check_start(request).inputs.notes == []
    data.write_text("other")
    with pytest.raises(UserError, match="has another content") as caught:
        owner.check_start(request)
    assert str(caught.value) == refused(run)


def test_settings_that_were_edited_by_hand_are_refused_by_name(tmp_path, base, data):
    """Else the run goes on with others, and config.yaml says that it always had them."""
    run = sft(tmp_path, base, data)
    file = run.path / "config.yaml"
    text = file.read_text()
    file.write_text(text.replace("batch_size: 16", "batch_size: 8") + "colour: red\n")
    assert "config.yaml has been edited since it began (batch_size was 16 and is 8; colour was None and is 'red'); put that back" in refused(run)
    file.write_bytes(text.replace("\n", "\r\n").encode())  # the same settings, from Windows
    assert resume(run).config.batch_size == 16
    (run.path / "inputs.json").write_text('{"model": {"place": "m", "content": ""}}')  # of a version that did not record them
    file.write_text(text.replace("batch_size: 16", "batch_size: 8"))
    assert resume(run).config.batch_size == 8
