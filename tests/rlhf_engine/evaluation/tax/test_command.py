"""The command `tax`, from the command line to its files."""

import json
import math

import pytest

from rlhf_engine.files import ASSETS
from tests.conftest import sentences
from tests.rlhf_engine.conftest import write_rows
from tests.test_house import ROOT


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with texts.jsonl and pairs.jsonl."""
    folder, texts = tmp_path_factory.mktemp("tax"), sentences(20, seed=9)
    write_rows(folder / "texts.jsonl", [{"text": text} for text in texts])
    write_rows(folder / "pairs.jsonl", [{"good": text, "bad": " ".join(reversed(text.split())), "paradigm": "ab"[i % 2]} for i, text in enumerate(texts)])
    return folder


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_run_is_compared_with_its_start(cli, inputs, files, tiny_llama, tmp_path):
    few = ["--model", tiny_llama, "--steps", 1, "--batch-size", 4, "--micro-batch", 4]
    assert cli("sft", *few, "--data", inputs / "demos.jsonl", "--learning-rate", 0.01, "--output", tmp_path / "sft")[0] == 0
    assert cli("ppo", *few, "--data", inputs / "prompts.jsonl", "--adapter", tmp_path / "sft", "--reward", f"{inputs / 'score.py'}:vowels",
               "--reference-samples", 8, "--max-new-tokens", 8, "--learning-rate", 0.05, "--output", tmp_path / "ppo")[0] == 0
    code, out, err = cli("tax", "--model", tiny_llama, "--adapter", tmp_path / "ppo", tmp_path / "sft", "--text", files / "texts.jsonl",
                         "--pairs", files / "pairs.jsonl", "--output", tmp_path / "out")
    assert code == 0 and not err, err
    report = report_of(tmp_path / "out")
    base, start, policy = report["checkpoints"]
    assert base["name"] == "base" and start["name"] == f"start of {tmp_path / 'ppo'}" and start["also"] == [str(tmp_path / "sft")]
    assert policy["start"] == start["name"] and start["start"] == "base" and "start" in policy and isinstance(policy["taxed"], bool)
    assert policy["text"]["ratio"] == pytest.approx(policy["text"]["perplexity"] / start["text"]["perplexity"])
    assert policy["text"]["ratio_low"] < policy["text"]["ratio"] < policy["text"]["ratio_high"]
    assert set(policy["pairs"]["paradigms"]) == {"a", "b"} and policy["pairs"]["pairs"] == 20
    assert report["model"] == str(tiny_llama) and report["adapter"] == [str(tmp_path / "ppo"), str(tmp_path / "sft")]
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 40 and -sum(rows[0]["logprob"].values()) > 0
    assert "are equal, and measured once" in out and "20 texts with" in out and "ratio to the start" in out and policy["verdict"] in out
    assert "too few" not in err


@pytest.mark.parametrize("model", ["tiny_gpt2", "gguf", "nf4"])
def test_other_bases(cli, request, files, tiny_llama, tmp_path, model, monkeypatch):
    """One without a BOS, one of a GGUF file, and one in 4 bits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = {"gguf": ROOT / "tests" / "fixtures" / "gguf" / "llama.gguf", "nf4": tiny_llama}.get(model) or request.getfixturevalue(model)
    code, out, err = cli("tax", "--model", base, "--adapter", "none", "--dtype", "nf4" if model == "nf4" else "auto", "--text", files / "texts.jsonl",
                         "--pairs", files / "pairs.jsonl", "--limit", 3, "--output", tmp_path / "out")
    assert code == 0, err
    report = report_of(tmp_path / "out")
    [row] = report["checkpoints"]
    assert report["text_data"]["documents"] == 3 and report["pair_data"]["pairs"] == 6 and math.isfinite(row["text"]["perplexity"])
    assert "ratio" not in row["text"] and "verdict" not in row


def test_the_bundled_texts_and_pairs(cli, tmp_path):
    code, out, _ = cli("tax", "--adapter", ASSETS / "adapters" / "brief", "--limit", 4, "--output", tmp_path / "out")
    assert code == 0
    base, start, policy = report_of(tmp_path / "out")["checkpoints"]
    assert [base["name"], start["name"], policy["start"]] == ["base", "bundled", "bundled"] and policy["text"]["ratio"] > 1


def test_one_part_alone(cli, files, tiny_llama, tmp_path):
    for part, left in (("text", "pairs"), ("pairs", "text")):
        code, out, _ = cli("tax", "--model", tiny_llama, "--adapter", "none", f"--{left}", "none", f"--{part}",
                           files / ("texts.jsonl" if part == "text" else "pairs.jsonl"), "--pairs-subset", "a", "--output", tmp_path / part)
        assert code == 0 and left not in report_of(tmp_path / part)["checkpoints"][0] and part in report_of(tmp_path / part)["checkpoints"][0]
    assert report_of(tmp_path / "pairs")["pair_data"]["pairs"] == 10


@pytest.mark.parametrize("given, says", [
    (["--adapter", "none", "--text", "none", "--pairs", "none"], "--text and --pairs are both none, so there is nothing to measure"),
    (["--adapter", "nowhere"], "nowhere: no such adapter"), ([], "--adapter"), (["--adapter", "none", "--against", "nowhere"], "nowhere: no such adapter"),
    (["--adapter", "none", "--text", "none.jsonl"], "--text none.jsonl: there is no such file"),
    (["--adapter", "none", "--pairs", "none.jsonl"], "--pairs none.jsonl: there is no such file"),
    (["--adapter", "none", "--text", "FOLDER/texts.jsonl", "--text-subset", "x"], "leave --text-subset and --text-split out"),
    (["--adapter", "none", "--pairs-subset", "verbs"], "--pairs bundled: has no pairs named 'verbs'; choose from"),
    (["--adapter", "none", "--pairs", "FOLDER/texts.jsonl"], "holds no minimal pairs"), (["--adapter", "none", "--window", 1], "--window is 1"),
    (["--adapter", "none", "--limit", -1], "--limit is -1"), (["--adapter", "none", "--model", "nowhere"], "nowhere: no such model")])
def test_bad_input_is_one_line_and_writes_nothing(cli, files, tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("tax", *[str(each).replace("FOLDER", str(files)) for each in given], "--output", tmp_path / "out")
    assert code == 2 and says in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_folder_with_results_is_kept(cli, files, tiny_llama, tmp_path):
    command = ["tax", "--model", tiny_llama, "--adapter", "none", "--pairs", "none", "--text", files / "texts.jsonl", "--output", tmp_path / "out"]
    assert cli(*command)[0] == 0
    code, _, err = cli(*command)
    assert code == 2 and "holds a measurement already: add --overwrite" in err
    assert cli(*command, "--overwrite")[0] == 0
