"""The curve of best-of-n as it is measured, and the command `best-of`: what it leaves behind, and what it refuses."""

import json

import numpy as np
import pytest

from rlhf_engine.evaluation.best_of_curve import ScoredSamples, best_of_curve, best_sets, measure_best_of, score_samples
from rlhf_engine.evaluation.compare import text_judge
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling
from tests.conftest import sentences
from tests.rlhf_engine.helpers.trainers import make_reward

PROMPTS = [text[:15] for text in sentences(6, seed=3)]


def vowels(prompt, response) -> float:
    return sum(response.count(v) for v in "aeiou") / (1 + len(response))


@pytest.fixture
def backbone(tiny_llama) -> Backbone:
    return Backbone.load(str(tiny_llama))


def test_the_curve_of_a_proxy_that_is_the_gold(backbone):
    report, rows = measure_best_of(backbone, None, PROMPTS, text_judge(vowels), None, [1, 2, 4, 8], samples=8, sampling=Sampling(12))
    assert (report["prompts"], report["per_prompt"], report["samples"], len(rows)) == (6, 8, 48, 48) and report["notes"] == []
    curve = report["curve"]
    assert [row["n"] for row in curve] == [1, 2, 4, 8]
    for before, row in zip(curve, curve[1:]):
        assert row["gold"] == row["proxy"] > before["gold"] and row["kl"] > before["kl"]
        assert row["kl"] <= row["kl_bound"] and row["gold_low"] <= row["gold"] <= row["gold_high"]
    assert curve[0]["kl"] == 0 and curve[0]["win_rate"] == pytest.approx(0.5) and curve[-1]["win_rate"] is None
    for row in rows:
        assert row["proxy"] == row["gold"] == pytest.approx(vowels("", row["response"]))
    best = [max(row["gold"] for row in rows[i:i + 8]) for i in range(0, 48, 8)]
    assert curve[-1]["gold"] == pytest.approx(sum(best) / 6), "with n = N, the best of all samples of a prompt"
    assert curve[0]["gold"] == pytest.approx(sum(row["gold"] for row in rows) / 48)


def test_it_is_the_same_again_and_another_with_another_seed(backbone):
    def measured(seed):
        return measure_best_of(backbone, None, PROMPTS[:2], text_judge(vowels), None, [2], samples=4, sampling=Sampling(6), seed=seed)
    assert measured(0) == measured(0) != measured(1)


def test_equal_responses_are_scored_once():
    """A scorer that gives another number at every call, as the rounding of a model in other batches does."""
    calls = []

    def score(prompts, prompt_ids, response_ids, texts):
        calls.append(list(zip(prompts, map(tuple, prompt_ids), map(tuple, response_ids), texts)))
        return [float(i) for i in range(len(texts))]

    ids = [[[5], [6], [5]], [[5], [5], [7, 8]]]
    texts = [["a", "b", "a"], ["a", "a", "c"]]
    scores = score_samples(score, ["x", "y"], [[1], [2]], ids, texts)
    assert scores.tolist() == [[0, 1, 0], [2, 2, 3]]
    assert calls == [[("x", (1,), (5,), "a"), ("x", (1,), (6,), "b"), ("y", (2,), (5,), "a"), ("y", (2,), (7, 8), "c")]]


def test_length_and_variety_are_those_of_the_best():
    """The proxy likes a long response that repeats itself."""
    short, long = [1, 2, 3, 4], [9] * 8
    responses = [[short, long, [5, 6, 7, 8], long]] * 3
    proxy = np.array([[0.0, 1.0, 0.0, 1.0]] * 3)
    scored = ScoredSamples(responses, [["t"] * 4] * 3, proxy, proxy)
    rows = best_of_curve(scored, [1, 4])
    assert rows[0]["length"] == 6 and rows[1]["length"] == 8
    assert rows[0]["distinct_2"] > rows[1]["distinct_2"] == pytest.approx(1 / rows_of_pairs(12))
    assert best_sets(scored, 4) == [[long, long, long]] and best_sets(scored, 2) == [[long] * 3, [long] * 3]
    assert rows[1]["win_rate"] is None and rows[1]["win_rate_bound"] == 0.8


def rows_of_pairs(tokens: int) -> int:
    """Bigrams in the first 12 tokens of responses of 8: 7 in the first, 3 in the rest of the second."""
    return 7 + (tokens - 8 - 1)


# -- the command -------------------------------------------------------------------------------------------------------

@pytest.fixture
def command(inputs, tiny_llama, tmp_path) -> list:
    return ["best-of", "--model", tiny_llama, "--data", inputs / "prompts.jsonl", "--limit", 4, "--max-new-tokens", 6,
            "--output", tmp_path / "curve"]


def test_it_writes_report_samples_and_a_table(cli, command, inputs, tiny_llama, tmp_path):
    make_reward(tiny_llama).save(tmp_path / "reward")
    flags = ["--reward", f"{inputs / 'score.py'}:length", "--judge", tmp_path / "reward", "--samples", 6, "--at", "4,1", 2, 6]
    code, out, err = cli(*command, *flags)
    assert code == 0 and err == "" and "distinct-2" in out and "no further sample to win over" in out
    report = json.loads((tmp_path / "curve" / "report.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "curve" / "samples.jsonl").read_text().splitlines()]
    assert [row["n"] for row in report["curve"]] == [1, 2, 4, 6] and len(rows) == 24
    assert report["judge"] == str(tmp_path / "reward") and report["per_prompt"] == 6
    assert all(row["proxy"] == pytest.approx(-abs(len(row["response"]) - 20) / 10) for row in rows)
    assert len({row["gold"] for row in rows}) > 6
    assert cli(*command, *flags)[0] == 2, "the folder holds one already"
    # A reward model chooses, and a built-in function judges; then both are reward models.
    code, out, err = cli(*command, "--overwrite", "--reward", tmp_path / "reward", "--gold", "keyword=dog", "--samples", 2)
    assert code == 0 and [row["n"] for row in json.loads((tmp_path / "curve" / "report.json").read_text())["curve"]] == [1, 2]
    code, out, err = cli(*command, "--overwrite", "--reward", tmp_path / "reward", "--judge", tmp_path / "reward", "--samples", 2)
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "curve" / "samples.jsonl").read_text().splitlines()]
    assert all(row["proxy"] == row["gold"] for row in rows)


def test_a_proxy_that_sees_no_difference_is_told_of(cli, command, tmp_path):
    code, out, err = cli(*command, "--reward", "keyword=zebra", "--samples", 3)
    assert code == 0 and "4 of 4 prompts the same score" in out and "no --judge" in out
    curve = json.loads((tmp_path / "curve" / "report.json").read_text())["curve"]
    assert all(row["kl"] == 0 and row["gold"] == 0 for row in curve) and curve[1]["win_rate"] == pytest.approx(0.5)


@pytest.mark.parametrize(("flags", "says"), [
    (["--reward", "long", "--samples", 0], "--samples is 0, but must be at least 1"), (["--reward", "long", "--samples", 5000], "at most 1000"),
    (["--reward", "long", "--samples", 4, "--at", 8], "--at is 8"), (["--reward", "long", "--at", 0], "--at is 0"),
    (["--reward", "long", "--at", "two"], "--at is 'two', but must be a whole number"), (["--reward", "long", "--at", ","], "--at is ','"),
    (["--reward", "long", "--temperature", 0], "--temperature is 0"), (["--reward", "nothing"], "--reward is nothing"),
    (["--reward", "long", "--judge", "none"], "--judge is none: name a reward run folder, sentiment, short"),
    (["--reward", "long", "--adapter", "nowhere"], "nowhere: no such adapter"), (["--reward", "no.py:f"], "no.py: there is no such file"),
    (["--reward", "long", "--max-new-tokens", 128], "--max-new-tokens is 128"), (["--reward", "long", "--data", "x.jsonl"], "x.jsonl"), ([], "--reward")])
def test_what_is_refused_is_one_line_and_nothing_written(cli, command, tmp_path, flags, says):
    code, out, err = cli(*command, *flags)
    assert code == 2 and says in err and err.count("\n") == 1 and not (tmp_path / "curve").exists()


def test_a_function_that_fails_is_tried_before_a_model_is_loaded(cli, command, tmp_path):
    (tmp_path / "score.py").write_text("def f(p, r): return len(r) / len(r)")
    code, out, err = cli(*command, "--reward", f"{tmp_path / 'score.py'}:f", "--model", "bundled")
    assert code == 2 and "ZeroDivisionError" in err and "response ''" in err and not (tmp_path / "curve").exists()
