"""The command line's contract: what each command leaves behind, and for every mistake exit 2 with one line and nothing written."""

import gzip
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlhf_engine import config as configs
from rlhf_engine.runs import resolve as models
from rlhf_engine.runs.folder import Run
from rlhf_engine.stages import STAGES
from tests.commands import run_process
from tests.rlhf_engine.conftest import write_rows

ROOT = Path(__file__).resolve().parents[2]
PPO_METRICS = {"step", "objective/kl", "objective/kl_per_token", "objective/scores", "objective/entropy", "policy/approxkl", "policy/clipfrac",
               "loss/policy", "loss/value", "val/ratio", "time/rollout", "time/score", "time/update"}
REPORT = {"win_rate", "win_rate_low", "win_rate_high", "kl", "kl_per_token", "perplexity_ratio", "distinct_ratio", "empty",
          "model", "adapter", "against", "data", "judge", "seed", "prompts", "samples", "score", "score_against"}


def settings(stage: str, folder: Path, steps: int = 3) -> list:
    """Flags of a small run on the files in `folder`."""
    few = ["--steps", steps, "--batch-size", 4, "--lora-rank", 2, "--max-tokens", 100, "--checkpoint-every", 2]
    return {
        "sft": ["sft", "--data", folder / "demos.jsonl", *few],
        "reward": ["reward", "--data", folder / "pairs.jsonl", *few, "--reference-samples", 8, "--max-new-tokens", 8],
        "ppo": ["ppo", "--data", folder / "prompts.jsonl", *few, "--reference-samples", 8, "--max-new-tokens", 8]}[stage]


def three_stages(cli, model: Path, folder: Path, output: Path, *more) -> None:
    """SFT, a reward model from it, PPO from both."""
    for stage, start in (("sft", []), ("reward", ["--adapter", output / "sft"]),
                         ("ppo", ["--adapter", output / "sft", "--reward", output / "reward"])):
        code, out, err = cli(*settings(stage, folder), "--model", model, *start, "--output", output / stage, *more)
        assert code == 0, err
        assert "done after 3 of 3 steps, peak memory" in out and "Traceback" not in err
        check_run(Run(output / stage), stage)


def check_run(run: Run, stage: str) -> None:
    """The run folder of the contract."""
    status = run.status()
    assert {"state": "done", "step": 3, "total_steps": 3, "error": "", "advice": ""}.items() <= status.items()
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    roles = {"sft": {"policy"}, "reward": {"reward"}, "ppo": {"policy", "reference", "reward", "value"}}[stage]
    last = run.path / "checkpoints" / "last"
    assert {p.name for p in last.iterdir() if p.is_dir()} == roles
    for role in roles:
        names = {"adapter_config.json", "adapter_model.safetensors", "base.json"}
        assert {p.name for p in (last / role).iterdir()} == names | ({"head.safetensors"} if role in ("reward", "value") else set())
        assert all(torch.isfinite(w).all() and w.dtype == torch.float32 for w in load_file(last / role / "adapter_model.safetensors").values())
    for row in run.metrics():
        assert all(math.isfinite(value) for value in row.values())
    if stage == "ppo":
        assert set(run.metrics()[0]) >= PPO_METRICS
        assert run.metrics()[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
        assert len(run.samples()) == 3 * 4 and set(run.samples()[0]) >= {"step", "prompt", "response", "score", "kl"}
        assert [row["event"] for row in run.journal() if row["event"] not in ("fitted", "warning")] == ["reference"]
    if stage == "reward":
        assert [row["event"] for row in run.journal() if row["event"] not in ("data", "fitted")] == ["normalised", "normalised"]
    assert {p.suffix for p in run.path.rglob("*") if p.is_file()} <= {".json", ".jsonl", ".safetensors", ".yaml"}
    assert run.report()["peak_memory_mb"] > 0


@pytest.fixture(scope="module")
def runs(tiny_llama, inputs, tmp_path_factory) -> Path:
    """A folder with runs sft, reward and ppo on tiny_llama, made in processes of their own."""
    output = tmp_path_factory.mktemp("runs")
    for stage, start in (("sft", []), ("reward", []), ("ppo", ["--adapter", output / "sft", "--reward", f"{inputs / 'score.py'}:vowels"])):
        run_process(*settings(stage, inputs), "--model", tiny_llama, "--learning-rate", 0.1, *start, "--output", output / stage, log=output / "log")
    (output / "log").unlink()
    return output


# -- what works -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["fp32", "bf16", "nf4"])
def test_three_stages(cli, tiny_model, inputs, tmp_path, dtype):
    if dtype != "fp32" and "llama" in str(tiny_model):
        pytest.skip("the other two will do")
    three_stages(cli, tiny_model, inputs, tmp_path, "--dtype", dtype)


def test_three_stages_on_real_data(cli, shared, tmp_path):
    """A model nobody here made, without a chat template, whose stories often do not end in time."""
    with gzip.open(shared / "tinystories" / "validation.jsonl.gz", "rt", encoding="utf-8") as file:
        stories = [json.loads(next(file))["text"] for _ in range(40)]
    write_rows(tmp_path / "demos.jsonl", [{"prompt": t[:60], "completion": t[60:260]} for t in stories])
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": t[:40]} for t in stories])
    hh = shared / "hh-rlhf" / "harmless-base-test.jsonl.gz"
    model, small = ["--model", shared / "stories260k"], ["--max-tokens", 128, "--steps", 3, "--batch-size", 4, "--lora-rank", 2]
    sampling = ["--reference-samples", 8, "--max-new-tokens", 32]
    for stage, flags in (("sft", ["--data", tmp_path / "demos.jsonl"]),
                         ("reward", ["--data", hh, "--limit", 40, "--adapter", tmp_path / "sft", *sampling]),
                         ("ppo", ["--data", tmp_path / "prompts.jsonl", "--adapter", tmp_path / "sft", "--reward", tmp_path / "reward", *sampling])):
        code, out, err = cli(stage, *model, *small, *flags, "--output", tmp_path / stage)
        assert code == 0, err
        check_run(Run(tmp_path / stage), stage)
    assert Run(tmp_path / "reward").report()["pairs"] + Run(tmp_path / "reward").report()["held_out_pairs"] == 40
    assert any("longer than 128 tokens" in row["text"] for row in Run(tmp_path / "reward").journal() if row["event"] == "data")
    code, out, err = cli("chat", *model, "--adapter", tmp_path / "ppo", "--prompt", "Once upon a time", "--max-new-tokens", 24)
    assert code == 0 and len(out) > 20 and out.endswith("\n")


def test_peft_reads_the_policy_of_a_run(runs, tiny_llama):
    from rlhf_engine.model.backbone import Backbone
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), runs / "ppo" / "checkpoints" / "last" / "policy")
    ours = Backbone.load(str(tiny_llama))
    ours.load_role("policy", runs / "ppo" / "checkpoints" / "last" / "policy")
    with torch.no_grad(), ours.use("policy"):
        torch.testing.assert_close(ours.base(input_ids=ids).logits, peft.eval()(input_ids=ids).logits, rtol=0, atol=1e-5)


def test_chat_streams_an_answer(cli, runs, tiny_llama, monkeypatch):
    chat = ["chat", "--model", tiny_llama, "--max-new-tokens", 12]
    code, plain, err = cli(*chat, "--prompt", "once upon a time")
    assert code == 0 and plain.strip() and plain.endswith("\n") and err == ""
    assert cli(*chat, "--prompt", "once upon a time")[1] == plain != cli(*chat, "--prompt", "once upon a time", "--seed", 1)[1]
    greedy = [*chat, "--temperature", 0, "--prompt", "once upon a time"]
    assert cli(*greedy, "--adapter", runs / "sft")[1] != cli(*greedy)[1] == cli(*greedy, "--seed", 3)[1]
    lines = iter(["once upon a time", "the dog " * 200])  # a conversation; its end no longer fits
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines, None) or (_ for _ in ()).throw(EOFError))
    code, out, err = cli(*chat)
    assert code == 0 and out.startswith(plain) and "tokens are left out" in out and err == ""


def test_chat_from_a_shell_prints_piece_by_piece(tiny_llama):
    """The command as users type it. Its first piece arrives while it is still writing. (The bare model: what a run has learned here, and
    with it the length of the answer, hangs on the number of threads.)"""
    command = [sys.executable, "-m", "rlhf_engine", "chat", "--model", tiny_llama, "--adapter", "none", "--prompt", "once", "--max-new-tokens", "100"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    pieces = []
    while piece := os.read(process.stdout.fileno(), 1 << 16):
        pieces.append(piece)
    assert process.wait() == 0 and process.stderr.read() == b""
    assert len(pieces) > 1 and b"".join(pieces).endswith(b"\n")


def test_evaluate_writes_report_and_samples(cli, runs, inputs, tiny_llama, tmp_path):
    evaluate = ["evaluate", "--model", tiny_llama, "--adapter", runs / "ppo", "--against", runs / "sft", "--data", inputs / "prompts.jsonl",
                "--judge", f"{inputs / 'score.py'}:length", "--max-new-tokens", 8, "--limit", 5, "--per-prompt", 3, "--output", tmp_path / "e"]
    code, out, err = cli(*evaluate)
    assert code == 0 and err == "" and "wins" in out
    report = json.loads((tmp_path / "e" / "report.json").read_text())
    samples = [json.loads(line) for line in (tmp_path / "e" / "samples.jsonl").read_text().splitlines()]
    assert set(report) >= REPORT and (report["prompts"], report["samples"], len(samples)) == (5, 15, 15)
    assert report["win_rate_low"] <= report["win_rate"] <= report["win_rate_high"]
    for row in samples:
        assert row["score"] == pytest.approx(-abs(len(row["response"]) - 20) / 10)
    before = (tmp_path / "e" / "report.json").read_text()
    assert cli(*evaluate)[0] == 2 and (tmp_path / "e" / "report.json").read_text() == before
    code, out, err = cli(*evaluate, "--overwrite", "--seed", 1, "--judge", runs / "reward", "--against", "none")
    assert code == 0 and err == ""
    again = json.loads((tmp_path / "e" / "report.json").read_text())
    assert again["seed"] == 1 and again["against"] == "none" and again["score"] != report["score"]


def test_flags_win_over_the_config_file(cli, inputs, tiny_llama, tmp_path):
    (tmp_path / "c.yaml").write_text(f"model: {tiny_llama}\ndata: {inputs / 'demos.jsonl'}\nlearning_rate: 1e-4\nsteps: 9\nseed: 3\n"
                                     f"batch_size: 4\nmax_tokens: 64\noutput: {tmp_path / 'wrong'}\n")
    code, out, err = cli("sft", "--config", tmp_path / "c.yaml", "--steps", 2, "--output", tmp_path / "run", "--gradient-checkpointing")
    assert code == 0, err
    held = Run(tmp_path / "run").config()
    assert (held["steps"], held["learning_rate"], held["seed"], held["gradient_checkpointing"]) == (2, 1e-4, 3, True)
    assert not (tmp_path / "wrong").exists()
    # A run's own config is a config file; resuming with the file and with the same settings in other words is fine.
    code, out, err = cli("sft", "--config", tmp_path / "run" / "config.yaml", "--output", tmp_path / "again", "--no-gradient-checkpointing")
    assert code == 0 and Run(tmp_path / "again").config()["gradient_checkpointing"] is False
    code, out, err = cli("sft", "--config", tmp_path / "c.yaml", "--steps", 2, "--output", tmp_path / "run", "--learning-rate", "0.00010", "--resume")
    assert code == 0 and "is done already: 2 steps" in out and err == ""


def test_overwrite_replaces_a_run(cli, inputs, tiny_llama, tmp_path):
    command = [*settings("sft", inputs), "--model", tiny_llama, "--output", tmp_path / "run"]
    assert cli(*command)[0] == 0
    (tmp_path / "run" / "notes.txt").write_text("mine")
    code, out, err = cli(*command, "--steps", 1, "--overwrite")
    assert code == 0 and [c.name for c in Run(tmp_path / "run").checkpoints()] == ["step-000001"] and len(Run(tmp_path / "run").metrics()) == 1
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("stage", STAGES)
def test_help_lists_every_setting_with_its_documentation(cli, stage):
    code, out, err = cli(stage, "--help")
    assert code == 0 and err == ""
    words = " ".join(out.split())
    for name, text in configs.docs(STAGES[stage].config).items():
        assert configs.flag(name) in words and " ".join(text.split()).replace("-", "") in words.replace("- ", "").replace("-", "")
    assert "--config FILE.yaml" in words and "--resume" in words and "--overwrite" in words


@pytest.mark.parametrize("command", [[], ["chat"], ["evaluate"]])
def test_help_of_the_other_commands(cli, command):
    code, out, err = cli(*command, "--help")
    assert code == 0 and err == "" and ("--prompt" in out or "--judge" in out or all(stage in out for stage in STAGES))


# -- what does not ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def refused(cli, tmp_path, inputs, tiny_llama):
    """refused(stage or command, *flags) -> the one line on stderr, checked to come with exit 2 and an untouched folder.

    A stage gets model, data and output where the flags do not give them."""
    def call(command, *flags, output=tmp_path / "output"):
        flags = [str(flag) for flag in flags]
        if command in STAGES:
            data = inputs / {"sft": "demos", "reward": "pairs", "ppo": "prompts"}[command]
            for flag, value in (("--model", tiny_llama), ("--data", f"{data}.jsonl"), ("--output", output)):
                flags += [flag, str(value)] if flag not in flags and value else []
        before = contents(tmp_path)
        code, out, err = cli(*([command] if command else []), *flags)
        assert code == 2 and out == ""
        assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n") and len(err) > 30
        assert contents(tmp_path) == before
        return err
    return call


def contents(folder: Path) -> dict:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize(("command", "flags", "says"), [
    ("", [], "COMMAND"), ("dpo", [], "dpo"), ("sft", ["--learning-rat"], "--learning-rate"), ("sft", ["--kl-coef", 1], "--kl-coef"),
    ("sft", ["--steps"], "--steps"), ("sft", ["--steps", "many"], "--steps is 'many', but must be a whole number"),
    ("sft", ["--steps", -1], "--steps is -1, but must be at least 0"), ("sft", ["--dtype", "int8"], "auto, fp32, bf16, nf4"),
    ("sft", ["--device", "tpu7"], "--device"), ("sft", ["--held-out", 1.5], "at most 0.9"), ("sft", ["--seed", "nan"], "--seed"),
    ("sft", ["--resume", "--overwrite"], "exclude"), ("sft", ["--config", "none.yaml"], "none.yaml: there is no such file"),
    ("sft", ["--data", "none.jsonl"], "none.jsonl: there is no such file"), ("sft", ["--model", "no-such-model"], "no such model"),
    ("sft", ["--model", "./none"], "no such model"), ("sft", ["--adapter", "none/such"], "no such adapter"),
    ("sft", ["--adapter", "bundled"], "--adapter bundled belongs to --model bundled"),
    ("ppo", [], "--reward is missing: name a reward run folder, or FILE.py:FUNCTION"), ("ppo", ["--reward", "none"], "--reward is none: name"),
    ("ppo", ["--reward", "bundled"], "FILE.py:FUNCTION"), ("ppo", ["--reward", "score.py"], "FILE.py:FUNCTION"),
    ("ppo", ["--reward", "none.py:f"], "none.py: there is no such file"), ("ppo", ["--reward", "length", "--minibatches", 40], "--minibatches"),
    ("ppo", ["--max-new-tokens", 600], "--max-new-tokens"), ("reward", ["--max-tokens", 64], "--max-new-tokens"),
    ("chat", ["--model", "no-such-model", "--prompt", "x"], "no such model"), ("chat", ["--max-new-tokens", 0], "at least 1"),
    ("chat", ["--temperature", -1], "at least 0 and at most 10"), ("chat", ["--temperature", "nan"], "--temperature is nan"), ("chat", ["--max-new-tokens", 10**9], "at most"), ("chat", ["--temperature", "warm"], "temperature"), ("chat", ["--dtype", "int8"], "int8"),
    ("chat", ["--adapter", "bundled", "--model", "a/b", "--prompt", "x"], "--adapter bundled belongs to"),
    ("evaluate", ["--output", "x"], "--against, --judge"),
    ("evaluate", ["--against", "none", "--judge", "bundled", "--output", "x", "--limit", -1], "--limit is -1"),
    ("evaluate", ["--against", "none", "--judge", "bundled", "--output", "x", "--per-prompt", 0], "--per-prompt is 0")])
def test_a_wrong_flag(refused, command, flags, says):
    assert says in refused(command, *flags)


@pytest.mark.parametrize("flag", ["--model", "--adapter", "--data", "--output", "--config"])
@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "loop", "loop/x"])
def test_a_path_that_no_system_takes(refused, tmp_path, monkeypatch, flag, path):
    """A name that is too long, and a link to itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    command = ["sft", flag, path] if flag != "--output" else ["sft"]
    message = refused(*command, **({"output": path} if flag == "--output" else {}))
    assert len(message) < 2100


def test_a_missing_output(refused):
    assert "--output is missing" in refused("sft", output=None)


@pytest.mark.parametrize(("text", "says"), [
    ("", "holds no rows"), ('{"question": "a"}\n', "columns are question"), ('{"prompt": "a", "completion": 3}\n', "row 1"),
    ('{"prompt": "a", "completion": "b"}\n{"prompt": ', "row 2"), ("\x00\x01", "line 1: holds a NUL byte"), ("\x01", "broken JSON")])
def test_wrong_data(refused, tmp_path, text, says):
    (tmp_path / "d.jsonl").write_text(text)
    assert says in (line := refused("sft", "--data", tmp_path / "d.jsonl")) and str(tmp_path / "d.jsonl") in line


@pytest.mark.parametrize(("text", "says"), [
    ("steps: [1\n", "line 2"), ("stepps: 3\n", "'stepps'"), ("steps: many\n", "--steps is 'many'"), ("stage: ppo\n", "another stage"), ("- 1\n", "list")])
def test_a_wrong_config_file(refused, tmp_path, text, says):
    (tmp_path / "c.yaml").write_text(text)
    assert says in (line := refused("sft", "--config", tmp_path / "c.yaml")) and str(tmp_path / "c.yaml") in line


def test_a_config_file_and_flags_are_checked_together(cli, tiny_llama, inputs, tmp_path):
    """A number that is wrong in the file alone, but right with the flag."""
    (tmp_path / "c.yaml").write_text("max_new_tokens: 600\n")
    code, out, err = cli("ppo", "--config", tmp_path / "c.yaml", "--max-tokens", 700, "--reward", "x", "--data", inputs / "prompts.jsonl",
                         "--model", tiny_llama, "--output", tmp_path / "run")
    assert code == 2 and "--reward is x" in err


@pytest.mark.parametrize(("text", "says"), [
    ("def g(p, r): return 0", "defines no function f"), ("import nothing_like_it", "ModuleNotFoundError"), ("def f(p, r): return 1 / 0", "ZeroDivisionError"),
    ("def f(p, r): return float('nan')", "gives nan"), ("def f(p, r): return None", "TypeError"), ("def f(p): return 0", "TypeError"),
    ("def f(p, r): return len(set(r)) / len(r)", "response ''")])
def test_a_scoring_function_that_gives_no_score(refused, tmp_path, text, says):
    (tmp_path / "score.py").write_text(text)
    assert says in refused("ppo", "--reward", f"{tmp_path / 'score.py'}:f")


def test_a_judge_that_gives_no_score(refused, tmp_path, tiny_llama, inputs, runs):
    (tmp_path / "score.py").write_text("def f(p, r): return float('nan')")
    evaluate = ["--model", tiny_llama, "--against", "none", "--data", inputs / "prompts.jsonl", "--output", tmp_path / "e", "--max-new-tokens", 4]
    assert "gives nan" in refused("evaluate", *evaluate, "--judge", f"{tmp_path / 'score.py'}:f")
    assert "--judge is none" in refused("evaluate", *evaluate, "--judge", "none")
    assert "holds no reward adapter" in refused("evaluate", *evaluate, "--judge", runs / "sft")
    assert "--max-new-tokens is 128" in refused("evaluate", *evaluate, "--judge", runs / "reward", "--max-new-tokens", 128)
    assert "--max-new-tokens is 128" in refused("chat", "--model", tiny_llama, "--prompt", "x", "--max-new-tokens", 128)
    assert "--max-new-tokens is 128" in refused("ppo", "--reward", runs / "reward", "--max-new-tokens", 128)
    assert "--max-new-tokens is 128" in refused("reward", "--max-new-tokens", 128)


def test_rows_longer_than_the_base_are_cut_and_said_to_be(cli, inputs, tiny_gpt2, tmp_path):
    """GPT-2 has learned positions: beyond them there is nothing to look up. `max_tokens` is 512, the model takes 128."""
    write_rows(tmp_path / "demos.jsonl", [{"prompt": "dog " * 300, "completion": "cat " * n} for n in (5, 300)] * 4)
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": "dog " * 300, "chosen": "cat", "rejected": "bird"}] * 8)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "dog " * 300}] * 8)
    for stage, more in (("sft", []), ("reward", []), ("ppo", ["--reward", f"{inputs / 'score.py'}:length"])):
        code, out, err = cli(*settings(stage, tmp_path), *more, "--model", tiny_gpt2, "--max-tokens", 512, "--output", tmp_path / stage)
        assert code == 0, err
        count = "16 of 16" if stage == "reward" else "8 of 8"  # a pair is two rows
        assert f"{count} rows were longer than" in out
        assert any(count in row["text"] for row in Run(tmp_path / stage).journal() if row["event"] == "data")


def test_what_became_of_the_columns_is_said_on_the_console_and_in_the_journal(cli, refused, tiny_llama, tmp_path):
    """And what cannot become anything is refused before the output exists."""
    rows = [{"instruction": f"say {i}", "input": float("nan"), "system": "nan", "output": "cat " * i, "id": i, "lang": "en"} for i in range(1, 9)]
    write_rows(tmp_path / "demos.jsonl", rows)
    pairs = [{"history": f"say {i}", "human_ref_A": "cat", "human_ref_B": "dog", "labels": i % 2, "domain": "x"} for i in range(8)]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    said = {"sft": ["8 rows where the text 'nan' in 'system' stands for nothing and is left out (first: row 1)", "columns that are not used: id, lang"],
            "reward": ["read as Stanford's SHP (prompt: column history; chosen: column human_ref_A or human_ref_B, as labels says; "
                       "rejected: the other one of human_ref_A and human_ref_B)", "columns that are not used: domain"]}
    for stage, notes in said.items():
        code, out, err = cli(*settings(stage, tmp_path), "--model", tiny_llama, "--output", tmp_path / stage)
        assert code == 0, err
        assert out.splitlines()[:2] == notes and [row["text"] for row in Run(tmp_path / stage).journal() if row["event"] == "data"] == notes
    write_rows(tmp_path / "list.jsonl", [rows[0] | {"input": ["x"]}])
    assert "list.jsonl, row 1: 'input' is a list; write a text" in refused("sft", "--data", tmp_path / "list.jsonl")


def test_adapters_and_rewards_of_another_base(refused, runs, tiny_qwen3):
    assert "another base" in refused("sft", "--model", tiny_qwen3, "--adapter", runs / "sft")
    assert "another base" in refused("ppo", "--model", tiny_qwen3, "--reward", runs / "reward")
    assert "another base" in refused("chat", "--model", tiny_qwen3, "--adapter", runs / "sft", "--prompt", "x")
    assert "holds no reward adapter" in refused("ppo", "--reward", runs / "sft")
    assert "holds no policy adapter" in refused("sft", "--adapter", runs / "reward")
    assert "no scalar head" in refused("ppo", "--reward", runs / "sft" / "checkpoints" / "last" / "policy")


def test_one_line_is_all_that_a_shell_shows(runs, inputs, tiny_qwen3, tmp_path):
    """In a process of its own, where libraries have not yet said what they say once; a 4-bit model is loaded before the mistake shows."""
    command = [*settings("ppo", inputs), "--model", tiny_qwen3, "--dtype", "nf4", "--reward", runs / "reward", "--output", tmp_path / "run"]
    done = subprocess.run([sys.executable, "-m", "rlhf_engine", *map(str, command)], capture_output=True, text=True, cwd=ROOT,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 2 and done.stdout == "" and "another base" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["not json", "{}", '{"peft_type": "NONSENSE"}', '{"peft_type": "LORA", "r": "x"}'])
def test_an_adapter_that_is_broken(refused, runs, tmp_path, text):
    shutil.copytree(runs / "sft" / "checkpoints" / "last" / "policy", tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text(text)
    assert str(tmp_path / "adapter") in refused("sft", "--adapter", tmp_path / "adapter")


def test_weights_that_are_broken(refused, runs, tiny_llama, tmp_path):
    shutil.copytree(runs / "sft" / "checkpoints" / "last" / "policy", tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"torn")
    assert str(tmp_path / "adapter") in refused("sft", "--adapter", tmp_path / "adapter")
    shutil.copytree(tiny_llama, tmp_path / "model")
    whole = (tmp_path / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").write_bytes(whole[:len(whole) // 2])
    assert str(tmp_path / "model") in refused("sft", "--model", tmp_path / "model")


def test_without_the_assets_bundled_is_one_clear_line(refused, monkeypatch, tmp_path, inputs):
    for name in ("BUNDLED_MODEL", "BUNDLED_ADAPTER"):
        monkeypatch.setattr(models, name, tmp_path / "assets" / name.lower())
    monkeypatch.setattr("rlhf_engine.data.tables.ASSETS", tmp_path / "assets")
    assert "bundled: " in refused("sft", "--model", "bundled")
    assert "bundled: " in refused("sft", "--data", "bundled")
    assert "bundled: " in refused("chat", "--prompt", "x")
    assert "bundled" in refused("evaluate", "--against", "none", "--judge", f"{inputs / 'score.py'}:length", "--output", tmp_path / "e")


def test_an_output_that_is_something_else_is_kept(refused, tmp_path, inputs, runs):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    evaluate = ["--against", "none", "--judge", f"{inputs / 'score.py'}:length", "--data", inputs / "prompts.jsonl"]
    for more in ([], ["--overwrite"]):
        assert "not a run folder" in refused("sft", *more, output=tmp_path / "thesis")
        assert "cannot be made" in refused("sft", *more, output=tmp_path / "file" / "run")
        assert "something else" in refused("evaluate", *evaluate, *more, "--output", tmp_path / "thesis")
        assert "cannot be made" in refused("evaluate", *evaluate, *more, "--output", tmp_path / "file")
        before = contents(runs)
        assert "something else" in refused("evaluate", *evaluate, *more, "--output", runs / "sft")  # a run has a report.json, too
        assert contents(runs) == before
    assert "holds no run to resume" in refused("sft", "--resume", output=tmp_path / "thesis")


def test_a_run_is_neither_replaced_nor_resumed_by_mistake(refused, cli, runs):
    before = contents(runs)
    line = refused("sft", output=runs / "sft")
    assert "--resume" in line and "--overwrite" in line
    line = refused("sft", "--resume", "--steps", 4, "--learning-rate", "0.01", output=runs / "sft")
    assert "learning_rate is 0.1 in the run and 0.01 now" in line and "steps is" not in line  # a run may be made longer, and no more
    assert "would end with step 2, and has taken 3" in refused("sft", "--resume", "--steps", 2, output=runs / "sft")
    assert "would end with step 1, and has taken 3" in refused("sft", "--resume", "--steps", 0, "--epochs", "0.1", output=runs / "sft")
    assert "another stage" in refused("ppo", "--resume", output=runs / "sft")
    # Wrong input finds the old run as it was, --overwrite or not.
    refused("sft", "--overwrite", "--data", "none.jsonl", output=runs / "sft")
    refused("sft", "--overwrite", "--model", "./none", output=runs / "sft")
    code, out, err = cli("sft", "--resume", "--output", runs / "sft")
    assert code == 0 and "is done already: 3 steps" in out and err == ""
    assert contents(runs) == before


def test_a_function_that_fails_in_the_middle_leaves_a_run_that_goes_on_once_it_is_mended(cli, tmp_path, inputs, tiny_llama):
    (tmp_path / "score.py").write_text("n = 0\ndef f(p, r):\n    global n\n    n += 1\n    return float('nan') if n > 15 else len(r)")
    command = [*settings("ppo", inputs, steps=4), "--model", tiny_llama, "--reward", f"{tmp_path / 'score.py'}:f", "--output", tmp_path / "run"]
    code, out, err = cli(*command)
    assert code == 2 and "error: f gives nan on prompt" in err and "Traceback" not in err
    run = Run(tmp_path / "run")
    assert run.status()["state"] == "failed" and "gives nan" in run.status()["error"] and "then resume" in run.status()["advice"]
    (tmp_path / "score.py").write_text("def f(p, r):\n    return len(r)")
    assert cli(*command, "--resume")[0] == 0 and run.status()["state"] == "done" and len(run.metrics()) == 4


def test_a_policy_that_runs_away_is_stopped_with_one_line(cli, tmp_path, inputs, tiny_llama):
    code, out, err = cli(*settings("ppo", inputs, steps=40), "--model", tiny_llama, "--reward", f"{inputs / 'score.py'}:vowels", "--learning-rate", 0.3,
                         "--kl-target", 0.01, "--kl-coef", 0, "--kl-stop", 1, "--output", tmp_path / "run")
    status = Run(tmp_path / "run").status()
    assert code == 2 and "Traceback" not in err
    assert status["state"] == "failed" and status["error"].startswith("Diverged") and "learning_rate" in status["advice"]
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and status["error"] in last and status["advice"] in last


def test_a_reward_that_is_the_same_for_all_leaves_no_run_behind(cli, tiny_llama, inputs, tmp_path):
    """It is found in the first step. The mended command is then not refused for a run in its way."""
    (tmp_path / "same.py").write_text("def same(prompt, response):\n    return 1.0\n")
    command = ["ppo", "--model", tiny_llama, "--data", inputs / "prompts.jsonl", "--reward", f"{tmp_path / 'same.py'}:same", "--output", tmp_path / "run",
               "--steps", 1, "--batch-size", 2, "--lora-rank", 2, "--max-new-tokens", 4, "--reference-samples", 4, "--max-tokens", 64]
    code, _, err = cli(*command)
    assert code == 2 and "--no-normalise-reward" in err and not (tmp_path / "run").exists()
    assert cli(*command, "--no-normalise-reward")[0] == 0
