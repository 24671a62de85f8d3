"""The recipe of the bundled model, on a handful of stories."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from assets.recipe import training_state
from assets.recipe.stories import NameSwap, clean_story
from assets.recipe.storyteller import grow_depth
from rlhf_engine.files import ASSETS
from tests.commands import Script

STORY = "Once there was a girl named {a}. {a} met a boy named {b}. {b} and {a} played in the park all day."


def test_names_are_swapped_consistently_and_keep_their_pronoun():
    girls, boys = ["Lily", "Mia", "Sue"], ["Tim", "Ben", "Max"]
    stories = [STORY.format(a=a, b=b) for a in girls for b in boys for _ in range(3)]
    swap, rng, seen = NameSwap(stories), random.Random(0), set()
    assert swap.pronoun == {**dict.fromkeys(girls, "she"), **dict.fromkeys(boys, "he")}
    for _ in range(50):
        text = swap(stories[0], rng)
        [found] = [(a, b) for a in girls for b in boys if text == STORY.format(a=a, b=b)]
        seen.add(found)
    assert len(seen) > 3


def test_broken_stories_are_repaired_or_left_out():
    assert clean_story('A cat sat.\nIt was happy.') == 'A cat sat.\n\nIt was happy.'
    assert clean_story('A cat sat. \n\n\nIt went to a  cafã©.It ate.') == 'A cat sat. \n\nIt went to a café. It ate.'
    assert clean_story('A cat sat on a') is None
    assert clean_story('"I am a cat, it said.') is None


def test_a_deeper_model_computes_the_same_function_at_first():
    config = LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
                         intermediate_size=48, tie_word_embeddings=True)
    model = LlamaForCausalLM(config).eval()
    grown = grow_depth(model, 5).eval()
    ids = torch.randint(64, (2, 9))
    assert grown.config.num_hidden_layers == 5
    torch.testing.assert_close(grown(ids).logits, model(ids).logits)


def test_a_run_lets_other_sessions_have_the_processor_first(tmp_path, monkeypatch):
    group, steps = tmp_path / "autogroup", []
    monkeypatch.setattr(training_state, "AUTOGROUP", group)
    monkeypatch.setattr(training_state.os, "nice", lambda step: steps.append(step) or sum(steps))
    group.write_text("/autogroup-204 nice 0\n")
    with training_state.low_priority(19):
        assert group.read_text() == "19" and sum(steps) == 19
    assert group.read_text() == "0"  # the shell is in the same group
    group.unlink()  # another system
    with training_state.low_priority(19):
        assert not group.exists()


def write_stories(path: Path, count: int = 180) -> Path:
    rng = random.Random(0)
    words = ["one", "two", "six", "red", "big", "new"]
    ends = [f"{a} {b} {c}" for a in words for b in words for c in words][:count]
    rows = [f"{STORY} He ran {end} miles.".format(a=rng.choice(["Lily", "Mia"]), b=rng.choice(["Tim", "Ben"])) for end in ends]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


def pretrain_command(folder: Path, data: Path, *more: str) -> list[str]:
    return [str(ASSETS / "recipe" / "pretrain.py"), "--data", str(data), "--output", str(folder / "model"),
            "--state", str(folder / "state"), "--vocabulary", "320", "--hidden", "32", "--layers", "2", "--heads", "2",
            "--intermediate", "64", "--context", "64", "--tokens", "20000", "--batch-tokens", "512", "--no-compile",
            "--nice", "0", "--log-every", "1", *more]


def run_pretrain(folder: Path, data: Path, *more: str, code: int = 0) -> str:
    """Run to the end. Returns what was printed."""
    process = Script(*pretrain_command(folder, data, *more), log=folder / "log")
    assert process.wait() == code, process.log.read_text()
    return process.log.read_text()


def interrupt_at(step: int, number: int, folder: Path, data: Path, *more: str) -> int:
    """Start a run and send it a signal after a step. Returns its exit code."""
    process = Script(*pretrain_command(folder, data, *more), log=folder / "log")
    assert process.until(lambda: process.log.exists() and f"\nstep {step} " in process.log.read_text()), process.log.read_text()
    process.signal(number)
    return process.wait()


needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="the recipe needs a torch with Muon (2.9)")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run that nothing disturbs: its folder and its data."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_stories(folder / "stories.jsonl")
    validation = write_stories(folder / "validation.jsonl", 20)
    validation.write_text(validation.read_text().replace("miles", "yards"))
    command = [sys.executable, *pretrain_command(folder, data, "--validation", str(validation), "--save-minutes", "60")]
    subprocess.run(command, check=True)  # as a user starts it; the other runs are forked from a process that has torch
    return folder, data


@needs_muon
def test_pretraining_writes_a_model_that_transformers_loads(whole_run):
    folder, _ = whole_run
    measured = json.loads((folder / "model" / "measured.json").read_text())
    assert measured["bits_per_character"] < 3  # of 8 for a model that knows nothing
    assert measured["data"][0]["rows"] == 180
    model, tokenizer = (kind.from_pretrained(folder / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|story|><|user|>Hi<|end|><|assistant|>"


def assert_same_state(one: Path, other: Path) -> None:
    one, other = load_file(one), load_file(other)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@needs_muon
def test_a_killed_run_goes_on_to_the_very_same_weights(whole_run, tmp_path):
    whole, data = whole_run
    options = ["--validation", str(whole / "validation.jsonl"), "--save-minutes", "0"]
    assert interrupt_at(14, signal.SIGKILL, tmp_path, data, *options) == -signal.SIGKILL
    assert interrupt_at(34, signal.SIGKILL, tmp_path, data, *options) == -signal.SIGKILL  # in the decay
    run_pretrain(tmp_path, data, *options)
    for name in ("constant.safetensors", "decay.safetensors"):
        assert_same_state(whole / "state" / name, tmp_path / "state" / name)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (whole, tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@needs_muon
def test_a_stop_signal_saves_and_the_decay_can_begin_at_any_time(whole_run, tmp_path):
    _, data = whole_run
    assert interrupt_at(9, signal.SIGTERM, tmp_path, data, "--save-minutes", "60") == 0
    constant = tmp_path / "state" / "constant.safetensors"
    kept = constant.read_bytes()
    run_pretrain(tmp_path, data, "--finish", "3000", "--allow-change", "dropout", "--dropout", "0.1")
    measured = json.loads((tmp_path / "model" / "measured.json").read_text())
    assert [(change["setting"], change["new"]) for change in measured["changes"]] == [("dropout", 0.1), ("finish", 3000)]
    assert measured["tokens"] == measured["sessions"][-1]["to_tokens"] >= measured["changes"][1]["tokens"] + 3000
    assert constant.read_bytes() == kept


@needs_muon
@pytest.mark.parametrize("more, told", [(["--dropout", "0.5", "--data", "{other}"],
                                         "(dropout: 0.15 -> 0.5; data: ['stories.jsonl'] -> ['other.jsonl'])"),
                                        (["--hidden", "64"], "hidden cannot change")])
def test_a_resumed_run_refuses_other_settings_by_name(whole_run, tmp_path, more, told):
    folder, data = whole_run
    other = write_stories(tmp_path / "other.jsonl", 170)
    more = [word.format(other=other) for word in more]
    before = (folder / "state" / "constant.safetensors").read_bytes()
    output = run_pretrain(folder, data, "--validation", str(folder / "validation.jsonl"), *more, code=2)
    [line] = [line for line in output.splitlines() if "The state was made" in line]
    assert told in line and "Traceback" not in output
    assert (folder / "state" / "constant.safetensors").read_bytes() == before
