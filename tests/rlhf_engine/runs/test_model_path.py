"""MODEL as a path that is mistyped, a file, or a folder around the model: one line, and nothing is asked of the Hub."""

import os
import shutil

import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.runs import resolve
from rlhf_engine.runs.model_path import is_hub_id
from rlhf_engine.runs.resolve import resolve_model


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_llama):
    """A working folder with models/llama and a Hub that must not be asked."""
    def asked(model, report=None):
        raise AssertionError(f"{model} was sent to the Hub")
    monkeypatch.setattr(resolve, "download_model", asked)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_llama, tmp_path / "models" / "llama")
    return tmp_path


def refusal(model) -> str:
    with pytest.raises(UserError) as caught:
        resolve_model(str(model))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("model", "near"), [
    ("./modls/foo", " (is models meant?)"), ("./models/lama", " (is models/llama meant?)"), ("models/lama", " (is models/llama meant?)"),
    ("models/x", ""), ("../no/such", ""), ("~/no-such-model", ""), ("C:\\models\\foo", ""), ("models\\llama", " (is models/llama meant?)"), ("llama2", ""),
    ("a/b/c", ""), ("/no/such/folder", ""), ("owner/", ""), ("/name", ""), ("modells", " (is models meant?)")])
def test_a_mistyped_path_is_said_to_be_no_folder_here(here, model, near):
    line = refusal(model)
    assert line.startswith(f"{os.path.expanduser(model)}: no such model; there is no such folder here") and line.endswith("or a local folder")
    assert near in line if near else "meant" not in line


def test_files_and_addresses(here):
    weights = here / "models" / "llama" / "model.safetensors"
    assert f"this is a file; give the folder that holds the whole model, such as {weights.parent}" in refusal(weights)
    (here / "notes.txt").write_text("x")
    assert refusal("notes.txt").endswith("this is a file; give the folder that holds the whole model")
    for gguf in ("foo.gguf", "owner/foo.gguf", "models/foo.GGUF"):
        assert refusal(gguf).startswith(f"{gguf}: no such model; there is no such file here; a GGUF file of the Hub is downloaded first")
    (here / "smol.gguf").write_bytes(b"GGUF")
    assert "(is smol.gguf meant?)" in refusal("smoll.gguf")
    assert "Hub address, give the id alone: Qwen/Qwen3-0.6B" in refusal("https://huggingface.co/Qwen/Qwen3-0.6B")
    assert "give the id alone: Qwen/Qwen3-0.6B" in refusal("hf.co/Qwen/Qwen3-0.6B/tree/main")
    assert refusal("owner/model.safetensors").startswith("owner/model.safetensors: no such model")
    assert "no such model" in refusal("")


def test_folders_around_a_model_and_empty_ones(here, tiny_llama):
    assert refusal("models").endswith("it is a folder around a model; give models/llama")
    cache = here / "models--owner--name"
    shutil.copytree(tiny_llama, cache / "snapshots" / "0123")
    assert refusal(cache).endswith(f"it is a folder of the Hub's cache; give {cache / 'snapshots' / '0123'}")
    assert resolve_model(str(cache / "snapshots" / "0123")) == cache / "snapshots" / "0123"
    (here / "empty").mkdir()
    assert "holds no config.json, so it is no transformers model: the folder is empty" in refusal("empty")
    (here / "empty" / "x.gguf").write_bytes(b"GGUF")
    assert refusal("empty") == "empty: x.gguf is cut short or broken (4 bytes); download or copy the file again"
    (here / "empty" / "config.json").write_text('{"model_type": "llama"}')
    assert "holds no .safetensors weights but GGUF files" in refusal("empty")
    (here / "empty" / "x.gguf").rename(here / "empty" / "pytorch_model.bin")
    assert "pickled weights are never loaded, convert them first: load the model" in refusal("empty")


@pytest.mark.parametrize(("model", "asked"), [
    ("Qwen/Qwen3-0.6B", True), ("HuggingFaceTB/SmolLM2-135M", True), ("owner/name.v1", True), ("me/na me", True), ("models/x", False),
    ("./a/b", False), ("a\\b/c", False), ("a", False), ("a/b/c", False), ("owner/x.gguf", False), ("~/x", False), ("/x", False), ("", False)])
def test_what_is_asked_of_the_hub(model, asked):
    assert is_hub_id(model) is asked
