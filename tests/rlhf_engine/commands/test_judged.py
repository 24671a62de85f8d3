"""The commands evaluate, shift and agreement: what they write, what they say, and what they refuse before anything is written."""

import json
import signal
from pathlib import Path

import pytest

from rlhf_engine.cli import main
from rlhf_engine.commands import agreement, scorers
from rlhf_engine.feedback.llm_judge import Judge
from tests.rlhf_engine.conftest import write_rows
from tests.rlhf_engine.feedback.test_llm_judge import parts


def read(folder: Path) -> tuple[dict, list[dict]]:
    return json.loads((folder / "report.json").read_text()), [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def run(*args) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    assert main([str(arg) for arg in args]) == 0
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def runs(tiny_llama, inputs, tmp_path_factory) -> Path:
    """A folder with a reward run, and a PPO run on it with three checkpoints, which started from an SFT run of one."""
    output = tmp_path_factory.mktemp("runs")
    small = ["--model", tiny_llama, "--batch-size", 4, "--lora-rank", 2, "--max-tokens", 100, "--learning-rate", 0.05]
    few = ["--reference-samples", 8, "--max-new-tokens", 8]
    run("sft", *small, "--data", inputs / "demos.jsonl", "--steps", 1, "--output", output / "sft")
    run("reward", *small, *few, "--data", inputs / "pairs.jsonl", "--steps", 2, "--adapter", output / "sft", "--output", output / "reward")
    run("ppo", *small, *few, "--data", inputs / "prompts.jsonl", "--steps", 3, "--checkpoint-every", 1, "--adapter", output / "sft",
        "--reward", output / "reward", "--output", output / "ppo")
    return output


@pytest.fixture
def sampling(tiny_llama, inputs) -> list:
    return ["--model", tiny_llama, "--data", inputs / "prompts.jsonl", "--limit", 6, "--max-new-tokens", 8]


@pytest.fixture
def chat_model(monkeypatch):
    """chat_model(answer): `judge=...` is a model that answers so."""
    def use(answer) -> None:
        judge = Judge(lambda questions: [answer(parts(messages)) for messages in questions])
        for module in (scorers, agreement):
            monkeypatch.setattr(module, "find_judge", lambda *args, **options: judge)
    return use


def longer(texts: dict[str, str]) -> str:
    return "TIE" if len(texts["A"]) == len(texts["B"]) else max("AB", key=lambda letter: len(texts[letter]))


# -- evaluate ------------------------------------------------------------------------------------------------------------

def test_evaluate_hears_several_judges(cli, runs, sampling, chat_model, tmp_path):
    chat_model(longer)
    code, out, err = cli("evaluate", *sampling, "--adapter", runs / "ppo", "--against", "none", "--judge", "judge=x", runs / "reward",
                         "--judge", "long", "--instruction", "the longer one", "--output", tmp_path / "e")
    assert code == 0 and err == "", err
    report, samples = read(tmp_path / "e")
    assert report["judge"] == "judge=x" and [judge["judge"] for judge in report["judges"]] == ["judge=x", str(runs / "reward"), "long"]
    model, reward, long = report["judges"]
    assert report["win_rate"] == model["win_rate"] and "score" not in report and model["orders"]["consistent"] == 1.0
    assert (model["judge_is_trainer"], reward["judge_is_trainer"], long["judge_is_trainer"]) == (False, True, False)
    assert report["judge_is_trainer"] is False and f"{runs / 'reward'} is the reward that {runs / 'ppo'} was trained on" in out
    assert set(reward["length_correlation"]) >= {"within_spearman", "within_spearman_low", "spearman", "unit"} and "score_against" in reward
    assert set(report["variety"]["ours"]) >= {"distinct_1", "repeated", "duplicates", "opening_share"}
    assert out.count("% wins") == 3
    for row in samples:
        ours, theirs = len(row["response"]), len(row["against"])
        assert row["verdicts"]["judge=x"] == (1.0 if ours > theirs else 0.0 if ours < theirs else 0.5)
        assert set(row["verdicts"]) == {"judge=x", str(runs / "reward"), "long"} and len(row["answers"]["judge=x"]) == 2


def test_evaluate_keeps_the_scores_of_its_first_judge(cli, runs, sampling, tmp_path):
    greedy = ["evaluate", *sampling, "--adapter", "none", "--against", "none", "--temperature", 0, "--output", tmp_path / "e"]
    assert cli(*greedy, "--judge", runs / "reward", "long")[0] == 0
    report, samples = read(tmp_path / "e")
    assert report["ties"] == 1.0 and report["win_rate"] == 0.5  # the same responses: no rounding makes a winner
    assert report["win_rate_low"] < 0.5 < report["win_rate_high"] and report["score"] == report["score_against"]
    assert all(row["score"] == row["score_against"] for row in samples) and report["judges"][1]["score"] > 0


@pytest.mark.parametrize("judges, message", [
    (["long", "--judge", "long"], "--judge names long twice"), (["smollm"], "FILE.py:FUNCTION or judge=MODEL"),
    (["long", "--instruction", "x"], "--instruction is for a chat model"), (["judge="], "must be judge=MODEL or judge=MODEL@URL"),
    (["judge=m@ftp://x"], "the judge's URL must be")])
def test_what_evaluate_refuses(cli, sampling, tmp_path, judges, message):
    code, out, err = cli("evaluate", *sampling, "--against", "none", "--output", tmp_path / "e", "--judge", *judges)
    assert code == 2 and message in err and err.count("\n") == 1 and not (tmp_path / "e").exists()


def test_a_model_that_cannot_judge_is_refused(cli, sampling, chat_model, tmp_path):
    chat_model(lambda texts: "once upon a time")
    code, out, err = cli("evaluate", *sampling, "--against", "none", "--judge", "judge=x", "--output", tmp_path / "e")
    assert code == 2 and "gives no answer that can be read, but such as 'once upon a time'" in err and not (tmp_path / "e").exists()


# -- shift ---------------------------------------------------------------------------------------------------------------

def test_shift_measures_the_start_and_each_checkpoint(cli, runs, inputs, tmp_path):
    shift = ["shift", "--adapter", runs / "ppo", "--data", inputs / "prompts.jsonl", "--limit", 6, "--max-new-tokens", 8, "--output", tmp_path / "s"]
    code, out, err = cli(*shift, "--judge", f"{inputs / 'score.py'}:length", runs / "reward")  # the model is that of the run
    assert code == 0 and err == "", err
    report, samples = read(tmp_path / "s")
    stops = [(row["name"], row["step"]) for row in report["checkpoints"]]
    assert stops == [("start", 0), ("step 1", 1), ("step 2", 2), ("step 3", 3)] and len(samples) == 4 * 12
    assert report["checkpoints"][0]["kl"] == 0 and report["checkpoints"][3]["kl"] > 0
    gold, trainer = report["judges"]
    assert (gold["judge_is_trainer"], trainer["judge_is_trainer"]) == (False, True) and "was trained on" in out
    for judge in report["judges"]:
        widths = [right - left for left, right in zip(judge["bins"], judge["bins"][1:])]
        for row in judge["checkpoints"]:
            own = [sample["scores"][judge["judge"]] for sample in samples if sample["checkpoint"] == row["name"]]
            assert row["mean"] == pytest.approx(sum(own) / 12) and row["low"] == min(own) and row["high"] == max(own)
            assert sum(share * width for share, width in zip(row["density"], widths)) + row["below"] + row["above"] == pytest.approx(1)
            assert [sample["end"] for sample in row["samples"]] == ["low"] * 3 + ["middle"] * 3 + ["high"] * 3
            assert [sample["score"] for sample in row["samples"]] == [sorted(own)[i] for i in (0, 1, 2, 4, 5, 6, 9, 10, 11)]
        assert judge["checkpoints"][0]["change"] == 0.0 and "3 lowest" in judge["rule"]
    for sample in samples:
        assert sample["scores"][gold["judge"]] == pytest.approx(-abs(len(sample["response"]) - 20) / 10)
    # The same prompts and random numbers: the start of another call is the same, and one checkpoint is enough.
    assert cli(*shift, "--overwrite", "--judge", "long", "--checkpoints", "2")[0] == 0
    again, more = read(tmp_path / "s")
    assert [row["step"] for row in again["checkpoints"]] == [0, 2]
    assert [row["response"] for row in more[:12]] == [row["response"] for row in samples[:12]]
    assert [row["response"] for row in more[12:]] == [row["response"] for row in samples[24:36]]


def test_shift_of_a_run_with_one_checkpoint_and_without_a_reference(cli, runs, inputs, tmp_path):
    code, out, err = cli("shift", "--adapter", runs / "sft", "--data", inputs / "prompts.jsonl", "--limit", 2, "--max-new-tokens", 4, "--per-prompt", 1,
                         "--judge", "long", "--output", tmp_path / "s")
    assert code == 0, err
    report, samples = read(tmp_path / "s")
    assert [row["name"] for row in report["checkpoints"]] == ["start", "step 1"] and len(samples) == 4
    assert [sample["end"] for sample in report["judges"][0]["checkpoints"][0]["samples"]] == ["low", "high"]


@pytest.mark.parametrize("flags, message", [
    (["--adapter", "none"], "name a run folder"), (["--adapter", "RUNS/reward"], "holds no policy"), ([], "--adapter is missing"),
    (["--adapter", "RUNS/ppo", "--checkpoints", "7"], "no checkpoint of step 7; it has 1, 2, 3"),
    (["--adapter", "RUNS/ppo", "--checkpoints", "last"], "--checkpoints"), (["--adapter", "RUNS/ppo", "--checkpoints", ","], "one step or several"),
    (["--adapter", "RUNS/ppo", "--judge", "judge=x"], "compares responses and scores none"),
    (["--adapter", "RUNS/ppo/checkpoints/step-000001"], "name a run folder")])
def test_what_shift_refuses(cli, runs, tmp_path, flags, message):
    given = [str(flag).replace("RUNS", str(runs)) for flag in flags]
    code, out, err = cli("shift", "--output", tmp_path / "s", *([] if "--judge" in flags else ["--judge", "long"]), *given)
    assert code == 2 and message in err and err.count("\n") == 1 and not (tmp_path / "s").exists()


# -- agreement -----------------------------------------------------------------------------------------------------------

def test_agreement_of_each_kind_of_judge(cli, runs, inputs, chat_model, tmp_path):
    chat_model(longer)
    pairs = [{"prompt": f"p{i}", "chosen": "a happy dog " * (1 + i % 3), "rejected": "a sad cat " * (1 + i % 2)} for i in range(24)]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    code, out, err = cli("agreement", "--judge", "sentiment", "judge=x", runs / "reward", "--data", tmp_path / "pairs.jsonl", "--output", tmp_path / "a")
    assert code == 0 and err == "", err
    report, samples = read(tmp_path / "a")
    happy, model, reward = report["judges"]
    assert (report["pairs"], report["prompts"], happy["accuracy"], happy["ties"]) == (24, 24, 1.0, 0.0) and happy["accuracy_low"] < 1
    assert "agrees with people in 100.0%" in out and "the longer response" in out
    assert model["accuracy"] == report["length"]["accuracy"] and model["over_length"] == 0.0
    assert model["split"]["length_wrong"]["accuracy"] == 0.0 and model["split"]["length_right"]["accuracy"] == 1.0
    assert model["picks_longer"] == 1.0 and model["orders"]["unreadable"] == 0
    assert happy["split"]["length_wrong"]["accuracy"] == 1.0 and set(reward["length_correlation"]) >= {"unit", "within_pearson"}
    assert [row["right"]["sentiment"] for row in samples] == [1.0] * 24 and len(samples[0]["answers"]["judge=x"]) == 2
    assert "score" not in happy and samples[0]["scores"]["sentiment"][0] > samples[0]["scores"]["sentiment"][1]


def test_rankings_make_pairs_and_ties_of_people_are_left_out(cli, tmp_path):
    write_rows(tmp_path / "ranked.jsonl", [{"prompt": "p", "responses": ["aaa", "aa", "a b", "c"], "ranking": [1, 2, 2, 3]},
                                           {"prompt": "q", "responses": ["x y", "x"], "ranking": [2, 1]}])
    code, out, err = cli("agreement", "--judge", "long", "--data", tmp_path / "ranked.jsonl", "--output", tmp_path / "a")
    assert code == 0, err
    report, samples = read(tmp_path / "a")
    assert (report["pairs"], report["prompts"], report["people_even"]) == (6, 2, 1) and "people call 1 pairs even" in out
    assert [row["right"]["long"] for row in samples] == [0.5, 0.0, 0.5, 0.5, 1.0, 0.0]


def test_pairs_that_a_reward_was_trained_on_are_said(cli, runs, inputs, tmp_path):
    code, out, err = cli("agreement", "--judge", runs / "reward", "--data", inputs / "pairs.jsonl", "--limit", 5, "--output", tmp_path / "a")
    assert code == 0 and "5 of the 5 pairs are in the data that" in out, err


def test_what_agreement_refuses(cli, runs, inputs, tmp_path):
    def refused(*flags) -> str:
        code, out, err = cli("agreement", "--output", tmp_path / "a", *flags)
        assert code == 2 and err.count("\n") == 1 and not (tmp_path / "a").exists()
        return err

    assert "holds no preferences" in refused("--judge", "long", "--data", inputs / "prompts.jsonl")
    even = write_rows(tmp_path / "even.jsonl", [{"prompt": "p", "responses": ["a", "b"], "ranking": [1, 1]}])
    assert "people call all its pairs even" in refused("--judge", "long", "--data", even)
    assert "names long twice" in refused("--judge", "long", "long", "--data", inputs / "pairs.jsonl")
    assert "holds no reward adapter" in refused("--judge", runs / "sft", "--data", inputs / "pairs.jsonl")
    assert "--limit is -1" in refused("--judge", "long", "--data", inputs / "pairs.jsonl", "--limit", -1)


def test_agreement_on_real_votes_of_people(cli, shared, tmp_path):
    code, out, err = cli("agreement", "--judge", "long", "short", "--data", shared / "hh-rlhf" / "harmless-base-test.jsonl.gz", "--limit", 40, "--output", tmp_path / "a")
    report, _ = read(tmp_path / "a")
    assert code == 0 and report["pairs"] == 40 and report["judges"][0]["picks_longer"] > 0.8
    assert "long prefers the longer response" in out
