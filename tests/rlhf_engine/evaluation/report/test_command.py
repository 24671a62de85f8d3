"""The command `report`, on runs of a tiny model in files as they are written by it."""

import shutil

import pytest

from rlhf_engine.cli import main
from rlhf_engine.files import read_json, read_lines

FEW = ["--steps", 2, "--checkpoint-every", 1, "--batch-size", 4, "--lora-rank", 2, "--max-tokens", 100, "--max-new-tokens", 8]
REPORT = ["--limit", 6, "--per-prompt", 2]


@pytest.fixture(scope="module")
def runs(tiny_llama, inputs, tmp_path_factory):
    """A reward run, and a PPO run against it, and one against length."""
    folder = tmp_path_factory.mktemp("runs")
    online = ["--data", inputs / "prompts.jsonl", "--model", tiny_llama, "--reference-samples", 8, *FEW]
    for command in (["reward", "--data", inputs / "pairs.jsonl", "--model", tiny_llama, "--reference-samples", 8, *FEW, "--output", folder / "taste"],
                    ["ppo", *online, "--reward", folder / "taste", "--output", folder / "ppo"],
                    ["ppo", *online, "--reward", "long", "--output", folder / "long"]):
        assert main([str(part) for part in command]) == 0
    return folder


def test_a_policy_beside_its_start(cli, runs, inputs, tmp_path):
    code, out, err = cli("report", "--adapter", runs / "ppo", "--data", inputs / "prompts.jsonl", "--judge", f"{inputs / 'score.py'}:vowels", *REPORT,
                         "--output", tmp_path / "report")
    assert code == 0, err
    report = read_json(tmp_path / "report" / "report.json")
    assert [(row["name"], row["is_gold"], row["is_trainer"]) for row in report["judges"]] == [("vowels", True, False), ("taste", False, True)]
    assert report["prompts"] == 6 and report["samples"] == 12 and "few_prompts" in report["flags"]
    assert [row["name"] for row in report["tax"]["checkpoints"]] == ["base", "start", "policy"] or [row["name"] for row in report["tax"]["checkpoints"]] == ["base", "policy"]
    assert [row["name"] for row in report["shift"]["checkpoints"]] == ["start", "step 1", "step 2"] and report["shift"]["judges"][0]["judge"] == "vowels"
    assert report["findings"] and report["findings"][0]["what"].startswith("held-out pairs of its reward model")
    rows = read_lines(tmp_path / "report" / "samples.jsonl")
    assert len(rows) == 12 and set(rows[0]["scores"]) == {"vowels", "taste"}
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert str(runs) not in html and str(inputs) not in html and "few_prompts" in html
    assert "report.html is the report" in out
    code, _, err = cli("report", "--adapter", runs / "ppo", "--data", inputs / "prompts.jsonl", *REPORT, "--output", tmp_path / "report")
    assert code == 2 and "--overwrite" in err


def test_a_reward_that_is_length_is_a_judge_by_itself_and_flagged(cli, runs, inputs, tiny_llama, tmp_path):
    """A built-in score needs no --judge. A few hundred responses are enough to say that it is length."""
    code, _, err = cli("report", "--adapter", runs / "long", "--data", inputs / "prompts.jsonl", "--text", "none", "--pairs", "none", "--limit", 24,
                       "--per-prompt", 6, "--max-new-tokens", 24, "--output", tmp_path / "report")
    assert code == 0, err
    report = read_json(tmp_path / "report" / "report.json")
    assert [(row["name"], row["is_gold"]) for row in report["judges"]] == [("long", True)] and "length_only" in report["flags"] and report["tax"] == {}
    code, _, err = cli("export", "--model", tiny_llama, "--adapter", runs / "long", "--report", tmp_path / "report", "--output", tmp_path / "out")
    assert code == 0 and "What long rewards is length" in (tmp_path / "out" / "README.md").read_text(), err
    code, _, err = cli("export", "--model", tiny_llama, "--adapter", runs / "ppo", "--report", tmp_path / "report", "--output", tmp_path / "other")
    assert code == 2 and "about other weights" in err


def test_a_reward_run(cli, runs, inputs, tmp_path):
    code, _, err = cli("report", "--adapter", runs / "taste", "--data", inputs / "prompts.jsonl", *REPORT, "--output", tmp_path / "report")
    assert code == 0, err
    report = read_json(tmp_path / "report" / "report.json")
    assert report["makes"] == "reward" and "win_rate" not in report["judges"][0] and report["findings"][0]["count"] > 0
    assert "What it scores" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_a_checkpoint_in_the_middle_has_its_step(cli, runs, inputs, tmp_path):
    checkpoint = min((runs / "long" / "checkpoints").glob("step-*"))
    code, _, err = cli("report", "--adapter", checkpoint, "--data", inputs / "prompts.jsonl", "--text", "none", "--pairs", "none", *REPORT, "--output", tmp_path / "report")
    assert code == 0, err
    assert read_json(tmp_path / "report" / "report.json")["step"] == int(checkpoint.name.removeprefix("step-"))


def test_an_adapter_without_a_run_is_compared_with_the_base_and_says_so(cli, runs, inputs, tiny_llama, tmp_path):
    shutil.copytree(runs / "long" / "checkpoints" / "last" / "policy", tmp_path / "found")
    code, out, err = cli("report", "--adapter", tmp_path / "found", "--model", tiny_llama, "--data", inputs / "prompts.jsonl", "--text", "none", "--pairs", "none",
                         *REPORT, "--max-new-tokens", 8, "--output", tmp_path / "report")
    assert code == 0, err
    report = read_json(tmp_path / "report" / "report.json")
    assert "no_judge" in report["flags"] and report["judges"] == [] and "belongs to no run" in out
    assert "win_rate" not in report and not [note for note in report["notes"] if "tie" in note]


@pytest.mark.parametrize(("flags", "says"), [
    ([], "--adapter is missing"), (["--adapter", "nowhere"], "no such adapter"), (["--adapter", "RUN", "--per-prompt", 0], "--per-prompt is 0"),
    (["--adapter", "RUN", "--judge", "nobody"], "--judge is nobody"), (["--adapter", "REWARD", "--judge", "long"], "--judge is for a policy"),
    (["--adapter", "RUN", "--judge", "long", "long"], "names long twice"), (["--adapter", "RUN", "--against", "nowhere"], "nowhere: no such adapter"),
    (["--adapter", "RUN", "--temperature", 11], "--temperature is 11"), (["--adapter", "RUN", "--text", "none.txt"], "--text none.txt"),
    (["--adapter", "RUN", "--judge", *"abcdefg"], "judges")])
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(cli, runs, inputs, tmp_path, flags, says):
    flags = [{"RUN": runs / "ppo", "REWARD": runs / "taste"}.get(flag, flag) for flag in flags]
    code, _, err = cli("report", *flags, "--data", inputs / "prompts.jsonl", "--output", tmp_path / "report")
    assert code == 2 and says in err and err.count("\n") == 1 and not (tmp_path / "report").exists()


def test_a_run_on_data_of_another_model_needs_prompts(cli, runs, inputs, tmp_path):
    """The bundled prompts would be those that it was trained on."""
    shutil.copytree(runs / "long", tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(inputs / "prompts.jsonl"), "bundled"))
    code, _, err = cli("report", "--adapter", tmp_path / "run", "--output", tmp_path / "report")
    assert code == 2 and "--data is missing" in err
