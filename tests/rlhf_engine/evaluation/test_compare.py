"""Comparing two policies: hand values of the parts, and what must come out of the whole."""

import json
import math

import pytest
import torch

from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.compare import bootstrap, compare, mean_logprob, win_rates
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling
from rlhf_engine.model.text_metrics import distinct, distinct_ratio
from tests.conftest import sentences

PROMPTS = [text[:15] for text in sentences(24, seed=3)]


def by_length(prompts, ids, responses, texts) -> list[float]:
    return [float(len(text)) for text in texts]


@pytest.fixture
def backbone(tiny_llama) -> Backbone:
    backbone = Backbone.load(str(tiny_llama))
    for role, seed in (("policy", 0), ("against", 1)):
        backbone.new_role(role, rank=4)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in backbone.parameters(role):
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return backbone


def test_ties_are_half_a_win():
    assert win_rates([3, 1, 2, 2], [1, 3, 2, 1], 1) == [1.0, 0.0, 0.5, 1.0]
    assert win_rates([3, 1, 2, 2], [1, 3, 2, 1], 2) == [0.5, 0.75]
    assert win_rates([1, 1, 1], [1, 0, 2], 3) == [0.5]


def test_the_interval():
    assert bootstrap([0.5] * 20, seed=0) == (0.5, 0.5)
    values = [1.0] * 60 + [0.0] * 40
    low, high = bootstrap(values, seed=0)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 100)  # of the normal approximation
    assert low == pytest.approx(0.6 - half, abs=0.02) and high == pytest.approx(0.6 + half, abs=0.02)
    assert bootstrap(values, seed=0) == (low, high)
    narrow = bootstrap(values * 25, seed=0)
    assert (narrow[1] - narrow[0]) == pytest.approx((high - low) / 5, rel=0.2)


def test_distinct():
    assert distinct([[1, 2, 1, 2]]) == 2 / 3
    assert distinct([[1, 2], [1, 2]]) == 0.5  # and no bigram (2, 1) across responses
    assert distinct([[1, 2, 3], [4]]) == 1.0
    assert distinct([[1, 1, 1, 1]], n=1) == 0.25
    assert distinct([[1, 2, 1, 2, 3, 4]], tokens=4) == 2 / 3
    assert distinct([[1, 2], [1, 2, 5]], tokens=4) == 0.5
    assert distinct([[1], [2]]) == distinct([]) == distinct([[1, 2]], tokens=0) == 0.0


def test_distinct_ratio_is_over_equally_many_tokens():
    short, long = [[1, 2, 3]], [[4, 5, 6, 4, 5, 6]]
    assert distinct_ratio(short, long) == distinct_ratio(long, short) == 1.0
    assert distinct_ratio([[1, 1, 1]], short) == 0.5
    assert distinct_ratio([[1]], short) == distinct_ratio(short, [[1]]) == 0.0


def test_mean_logprob_is_that_of_the_whole_distribution(backbone):
    prompts, responses = [[5, 6, 7], [8, 9]], [[10, 11], [12, 13, 14]]
    total = 0.0
    for prompt, response in zip(prompts, responses):
        with torch.no_grad(), backbone.use("policy"):
            logprobs = backbone.base(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        total += sum(logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(response))
    for batch in (1, 2):
        assert mean_logprob(backbone, "policy", prompts, responses, batch) == pytest.approx(total / 5, rel=1e-5)


def test_the_prompt_of_several_responses_is_read_once(backbone, monkeypatch):
    prompt, responses = list(range(5, 35)), [[10, 11, 12], [12, 13], [14], [15, 16, 17]]
    apart = [mean_logprob(backbone, "policy", [prompt], [response], 1) * len(response) for response in responses]
    read, hidden = [], backbone.hidden

    def counted(ids, **options):
        read.append(ids.numel())
        return hidden(ids, **options)
    monkeypatch.setattr(backbone, "hidden", counted)
    total = mean_logprob(backbone, "policy", [prompt] * 4, responses, 4)
    assert total == pytest.approx(sum(apart) / 9, rel=1e-5)
    assert read[-1] == 30 + 9  # before that, whether the model reads such rows rightly was measured


@pytest.mark.parametrize("role", [None, "policy"])
def test_a_role_against_itself_is_even(backbone, role):
    report, samples = compare(backbone, role, role, PROMPTS, by_length, per_prompt=8, sampling=Sampling(16))
    assert report["samples"] == len(samples) == 8 * len(PROMPTS) and report["prompts"] == len(PROMPTS)
    assert report["win_rate_low"] < 0.5 < report["win_rate_high"] and report["win_rate"] == pytest.approx(0.5, abs=0.1)
    assert report["perplexity_ratio"] == pytest.approx(1, abs=0.2) and report["distinct_ratio"] == pytest.approx(1, abs=0.1)
    assert report["kl"] == report["kl_per_token"] == 0
    assert sum(s["response"] != s["against"] for s in samples) > 0.9 * len(samples)  # fresh samples, not the same ones twice
    assert {s["prompt"] for s in samples} == set(PROMPTS)


def test_kl_is_positive_and_per_sequence(backbone):
    report, _ = compare(backbone, "policy", "against", PROMPTS, by_length, per_prompt=4, sampling=Sampling(16))
    assert report["kl"] > 0.1
    assert report["kl"] == pytest.approx(report["kl_per_token"] * report["length"])
    other, _ = compare(backbone, "against", "policy", PROMPTS, by_length, per_prompt=4, sampling=Sampling(16))
    assert other["kl"] > 0.1
    bare, _ = compare(backbone, "policy", None, PROMPTS, by_length, per_prompt=4, sampling=Sampling(16))
    assert bare["perplexity_ratio"] > 1.0  # the base finds its own samples likelier


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_kl_is_that_of_the_policies_that_were_sampled(backbone, temperature):
    seen = []

    def judge(prompts, ids, responses, texts):
        seen.append(list(zip(ids, responses)))
        return by_length(prompts, ids, responses, texts)

    report, _ = compare(backbone, "policy", None, PROMPTS[:2], judge, sampling=Sampling(8, temperature))
    total = 0.0
    for prompt, response in seen[0]:
        logprobs = {}
        for role in ("policy", None):
            with torch.no_grad(), backbone.use(role):
                logprobs[role] = (backbone.base(input_ids=torch.tensor([prompt + response])).logits[0] / temperature).log_softmax(-1)
        gap = logprobs["policy"] - logprobs[None]
        total += sum(gap[len(prompt) + i - 1, token].item() for i, token in enumerate(response))
    assert report["kl"] == pytest.approx(total / len(seen[0]), rel=1e-3)


def test_a_judge_that_sees_who_wins(backbone):
    seen = []

    def judge(prompts, ids, responses, texts):
        seen.append((prompts, ids, responses, texts))
        return [float(len(seen) == 1)] * len(prompts)

    report, samples = compare(backbone, "policy", "against", PROMPTS[:3], judge, per_prompt=2, sampling=Sampling(4))
    assert (report["win_rate"], report["win_rate_high"], report["ties"]) == (1.0, 1.0, 0.0)
    assert report["win_rate_low"] == pytest.approx(3 / (3 + 1.959964**2), abs=1e-6)  # three prompts are no certainty
    assert (report["score"], report["score_against"]) == (1.0, 0.0)
    assert seen[0][0] == [p for p in PROMPTS[:3] for _ in range(2)] and seen[0][1] == seen[1][1]
    assert [s["response"] for s in samples] == seen[0][3] and [s["against"] for s in samples] == seen[1][3]
    assert all(s["score"] == 1.0 and s["score_against"] == 0.0 for s in samples)
    even, _ = compare(backbone, "policy", "against", PROMPTS[:3], lambda p, *_: [0.0] * len(p), sampling=Sampling(4))
    assert (even["win_rate"], even["ties"]) == (0.5, 1.0)


def test_empty_responses_are_counted(backbone, monkeypatch):
    backbone.stop_ids = list(range(backbone.vocabulary))  # the first token ends it
    eos = backbone.tokenizer.eos_token_id
    with torch.no_grad():
        monkeypatch.setattr("rlhf_engine.model.generation.draw", lambda p, generator: torch.full((len(p),), eos))
        report, samples = compare(backbone, "policy", "against", PROMPTS, by_length, sampling=Sampling(4))
    assert report["empty"] == 1.0 and report["length"] == 1.0 and report["distinct_ratio"] == 0.0
    assert all(s["response"] == "" for s in samples)


def test_the_seed_decides_and_nothing_else(backbone):
    first = compare(backbone, "policy", None, PROMPTS[:4], by_length, sampling=Sampling(8), seed=1)
    torch.rand(5)
    assert compare(backbone, "policy", None, PROMPTS[:4], by_length, sampling=Sampling(8), seed=1) == first
    assert compare(backbone, "policy", None, PROMPTS[:4], by_length, sampling=Sampling(8), seed=2)[1] != first[1]


def test_long_prompts_are_cut_and_said_to_be(backbone):
    report, _ = compare(backbone, None, "policy", ["dog " * 300, "cat"], by_length, sampling=Sampling(8))
    assert len(report["notes"]) == 1 and "1 of 2 rows" in report["notes"][0]
    assert json.dumps(report)
    with pytest.raises(UserError, match="--max-new-tokens is 128"):
        compare(backbone, None, "policy", PROMPTS, by_length, sampling=Sampling(128))
