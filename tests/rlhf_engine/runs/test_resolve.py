"""What MODEL and ADAPTER mean: local folders, run folders, and a Hub, as a server of our own plays it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_engine.config import SFTConfig
from rlhf_engine.runs import resolve as models
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.resolve import check_adapter, fingerprint, resolve_adapter, resolve_model
from tests import hub
from tests.rlhf_engine.helpers.messages import refused

ROOT = Path(__file__).resolve().parents[3]
RESOLVE = """
import json, sys
from rlhf_engine.errors import UserError
from tests.rlhf_engine.helpers.messages import refused
from rlhf_engine.runs.resolve import resolve_model
for model in sys.argv[1:]:
    try:
        found = resolve_model(model)
        print(json.dumps([str(found), sorted(p.name for p in found.iterdir())]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def ask(tmp_path_factory, tiny_llama):
    """ask(*models, up=True): what a process that knows our Hub alone makes of each; `up=False`: nobody answers."""
    files = {path.name: path.read_bytes() for path in tiny_llama.iterdir()}
    server = hub.serve({
        "models/me/tiny": files | {"pytorch_model.bin": b"a pickle", "modeling_evil.py": b"raise SystemExit", "README.md": b"#"},
        "models/me/pickled": {"config.json": b"{}", "pytorch_model.bin": b"a pickle"}, "models/me/notes": {"README.md": b"#"},
        "models/me/coded": files | {"config.json": json.dumps({"model_type": "unheard-of", "auto_map": {"AutoConfig": "x.C"}}).encode()},
        "models/me/locked": 403, "models/me/login": 401, "models/me/broken": 500})
    home = tmp_path_factory.mktemp("hf")

    def ask(*names, up=True, **environment):
        if not up:
            hub.stop(server)
        done = subprocess.run([sys.executable, "-c", RESOLVE, *names], cwd=home, capture_output=True, text=True, check=True,
                              env=os.environ | hub.settings(server, home) | {"PYTHONPATH": str(ROOT)} | environment)
        assert not done.stderr or "Fetching" in done.stderr  # a bar while something comes, else nothing
        return [json.loads(line) for line in done.stdout.splitlines()]

    yield ask
    server.server_close()


def test_the_hub(ask, tiny_llama):
    tiny, *errors = ask("me/tiny", "me/missing", "me/locked", "me/login", "me/broken", "me/pickled", "me/notes", "me/na me", "me/-x..y",
                        "me/coded")
    folder, names = tiny
    assert names == sorted(path.name for path in tiny_llama.iterdir())  # nothing pickled, no code
    assert fingerprint(Path(folder)) == fingerprint(tiny_llama)
    for said, expected in zip(errors, [
            "me/missing: there is no such folder here, and there is no such model on the Hub, or it is private; check the name or log in",
            "me/locked: is gated; accept its licence on the Hub and log in with `hf auth login`",
            "me/login: is gated; accept its licence", "me/broken: there is no such folder here, and it cannot be fetched from the Hub (",
            "me/pickled: holds no .safetensors weights; pickled weights are never loaded", "me/notes: holds no config.json",
            "me/na me: is no name on the Hub", "me/-x..y: is no name on the Hub", "me/coded: needs code of its own, which is never run"], strict=True):
        assert said.startswith(expected) and "\n" not in said and len(said) < 300, said
    # Without a network: the copy fetched before, or one line.
    switched_off = ask("me/tiny", "me/missing", HF_HUB_OFFLINE="1")
    nobody_there = ask("me/tiny", "me/missing", up=False)
    for copy, missing in (switched_off, nobody_there):
        assert copy == [folder, names]
        assert missing.startswith("me/missing: there is no such folder here, and it cannot be fetched from the Hub (") and missing.endswith("or give a local folder")
        assert "\n" not in missing


def test_a_local_folder_is_itself(tiny_llama, monkeypatch):
    assert resolve_model(str(tiny_llama)) == tiny_llama
    monkeypatch.chdir(tiny_llama.parent)
    assert resolve_model("llama").resolve() == tiny_llama  # a word that names a folder here


def test_folders_that_are_no_models(tmp_path):
    assert "config.json" in refused(resolve_model, str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert "safetensors" in refused(resolve_model, str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"")
    assert "weights in it does" in refused(resolve_model, str(tmp_path))
    (tmp_path / "x.incomplete").write_bytes(b"")
    assert "broke off" in refused(resolve_model, str(tmp_path))
    assert "no such model" in refused(resolve_model, str(tmp_path / "config.json"))
    assert "no such model" in refused(resolve_model, "")


def test_without_the_bundled_assets_bundled_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "BUNDLED_MODEL", tmp_path / "storyteller")
    monkeypatch.setattr(models, "BUNDLED_ADAPTER", tmp_path / "adapters" / "sft")
    for function, args in ((resolve_model, ("bundled",)), (resolve_adapter, ("bundled", "bundled"))):
        message = refused(function, *args)
        assert message.startswith("bundled: ") and str(tmp_path) in message and "missing" in message


def test_adapters_are_found_where_they_are(tmp_path):
    run = Run.create(tmp_path / "run", SFTConfig())
    assert "no checkpoint yet" in refused(resolve_adapter, str(run.path))
    for step in (1, 2):
        with run.checkpoint(step) as folder:
            (folder / "policy").mkdir()
            (folder / "policy" / "adapter_config.json").write_text("{}")
    checkpoint = run.path / "checkpoints" / "step-000001"
    assert resolve_adapter(str(run.path)).resolve() == run.path / "checkpoints" / "step-000002" / "policy"
    assert resolve_adapter(str(checkpoint)) == resolve_adapter(str(checkpoint / "policy")) == checkpoint / "policy"
    assert "holds no reward adapter" in refused(resolve_adapter, str(run.path), role="reward")
    assert resolve_adapter("none") is resolve_adapter("") is None


def test_folders_of_other_trainers(tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "adapter_config.json").write_text("{}")
    assert f"such as {tmp_path}/checkpoint-10" in refused(resolve_adapter, str(tmp_path))
    assert f"such as {tmp_path}/checkpoint-9" in refused(resolve_adapter, f"{tmp_path}/checkpoint-9/adapter_config.json")
    assert "hf download someone/lora --local-dir lora" in refused(resolve_adapter, "someone/lora")
    mlx = tmp_path / "checkpoint-9"
    (mlx / "adapters.safetensors").write_bytes(b"")
    assert "mlx_lm.fuse" in refused(check_adapter, mlx, "abc")


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"fingerprint": 5}'])
def test_a_base_json_that_is_broken_is_told(tmp_path, text):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "base.json").write_text(text)
    assert "base.json" in refused(check_adapter, tmp_path, "abc")


def test_an_adapter_of_an_earlier_storyteller_is_told_that_it_was_replaced(tmp_path, tiny_llama):
    """Nobody can load it "with that model": it is no longer there."""
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "base.json").write_text(json.dumps({"model": "bundled", "fingerprint": "da7e2305fa91" + "0" * 52}))
    line = refused(lambda: check_adapter(tmp_path, fingerprint(models.BUNDLED_MODEL)))
    assert "another base (bundled, fingerprint da7e2305fa91" in line and "has been replaced since: train it anew" in line
    assert refused(lambda: check_adapter(tmp_path, fingerprint(tiny_llama))).endswith("load it with that model")


def test_code_that_comes_with_a_model_is_refused_where_it_is_needed_and_not_where_it_is_not(tmp_path, tiny_llama):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for kind, needed in (("unheard-of", True), (None, True), ("llama", False)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
        if needed:
            assert "needs code of its own" in refused(resolve_model, str(tmp_path))
        else:
            assert resolve_model(str(tmp_path)) == tmp_path


def test_what_has_come_of_a_download_is_told(tmp_path):
    told = []
    bar = models.reporting_bar(lambda done, total: told.append((done, total)))
    with bar(total=10, unit="B") as bytes_, bar(total=3, unit="it") as files:
        bytes_.update(4)
        files.update(1)
        bytes_.update(6)
    assert told == [(4, 10), (10, 10)]


def test_an_adapter_or_a_run_given_as_a_model_is_told_where_it_belongs(tmp_path, tiny_llama):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    assert refused(resolve_model, str(adapter)) == f"{adapter}: is an adapter, not a model; give --model owner/base and --adapter {adapter}"
    (adapter / "adapter_config.json").write_text("[")
    assert f"give its base as --model and --adapter {adapter}" in refused(resolve_model, str(adapter))
    for file in tiny_llama.iterdir():  # transformers would take the base that the adapter names
        (adapter / file.name).write_bytes(file.read_bytes())
    assert "holds a model and an adapter; move adapter_config.json elsewhere" in refused(resolve_model, str(adapter))
    (adapter / "adapter_config.json").unlink()
    assert resolve_model(str(adapter)) == adapter

    checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
    (checkpoint / "policy").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(f"stage: sft\nmodel: {tiny_llama}\n")
    for folder in (tmp_path / "run", checkpoint):
        assert refused(resolve_model, str(folder)) == f"{folder}: is a run, not a model; give --model {tiny_llama} and --adapter {folder}"


def test_a_model_given_as_an_adapter_is_told_where_it_belongs(tiny_llama):
    assert "is a model, not an adapter; give it as --model, and --adapter none" in refused(resolve_adapter, str(tiny_llama))
