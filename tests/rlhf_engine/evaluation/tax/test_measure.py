"""What checkpoints lost: accuracies and ratios by hand, and what must come out of the whole."""

import math

import pytest
import torch
from scipy import stats

from rlhf_engine.data.examples import Demonstration
from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.tax import measure
from rlhf_engine.evaluation.tax.checkpoints import Checkpoint
from rlhf_engine.evaluation.tax.measure import (
    MARGIN,
    TIE,
    accuracy,
    hit,
    measure_tax,
    pairs_part,
    text_part,
    verdict_on,
)
from rlhf_engine.evaluation.tax.minimal_pairs import MinimalPair
from rlhf_engine.model.backbone import Backbone
from tests.conftest import sentences

BASE = Checkpoint("base", None)
POLICY = Checkpoint("policy", "policy", BASE)
TEXTS = [Demonstration("", text) for text in sentences(12, seed=3)]
PAIRS = [MinimalPair(text, " ".join(reversed(text.split())), "abc"[i % 3]) for i, text in enumerate(sentences(12, seed=5))]


@pytest.fixture
def backbone(tiny_llama) -> Backbone:
    """With a role `same` that changes nothing, and a role `policy` that changes much."""
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("same")
    backbone.new_role("policy")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters("policy"):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return backbone


def test_equal_sums_are_half():
    assert [hit(-1, -2), hit(-2, -1), hit(-1, -1), hit(-1, -1 - TIE / 2)] == [1, 0, 0.5, 0.5]


def test_verdicts():
    assert verdict_on(MARGIN * 1.1, 1) == "taxed" and verdict_on(-1, MARGIN) == "not taxed"
    assert verdict_on(0, MARGIN * 1.1) == "unclear" and verdict_on(-math.inf, math.inf) == "unclear"


def test_the_accuracy_and_its_difference_are_means_over_pairs():
    ours, theirs = [1.0, 0.0, 0.5, 1.0], [1.0, 1.0, 1.0, 0.0]
    alone = accuracy(ours, theirs, [[0], [1], [2], [3]])
    joined = accuracy(ours, theirs, [[0, 1], [2, 3]])
    for result in (alone, joined):
        assert result["accuracy"] == 0.625 and result["difference"] == pytest.approx(-0.125) and result["pairs"] == 4
        assert result["accuracy_low"] <= 0.625 <= result["accuracy_high"]
        assert -1 <= result["difference_low"] <= -0.125 <= result["difference_high"] <= 1
    assert accuracy([1.0] * 50, [1.0] * 50, [[i] for i in range(50)])["difference_high"] > 0.03, "no change seen is no proof of none"


def test_the_interval_of_a_difference_against_student():
    generator = torch.Generator().manual_seed(0)
    ours = (torch.rand(600, generator=generator) < 0.7).double().tolist()
    theirs = (torch.rand(600, generator=generator) < 0.75).double().tolist()
    result = accuracy(ours, theirs, [[i] for i in range(600)])
    student = stats.ttest_rel(ours, theirs).confidence_interval()
    assert result["difference_low"] == pytest.approx(student.low, abs=2e-3) and result["difference_high"] == pytest.approx(student.high, abs=2e-3)


def test_paradigms_are_the_clusters_where_there_are_many():
    def part(count: int):
        pairs = [MinimalPair("a", "b", str(i // 10)) for i in range(10 * count)]
        logprobs = {"base": [-1.0, -2.0] * len(pairs), "policy": [-2.0, -1.0] * 10 + [-1.0, -2.0] * (len(pairs) - 10)}
        return pairs_part([BASE, POLICY], pairs, logprobs)
    few, many = part(5), part(40)
    assert few[0]["clusters"] == "pair" and many[0] == {"pairs": 400, "paradigms": 40, "clusters": "paradigm", "note": many[0]["note"]}
    policy = many[1]["policy"]
    assert policy["accuracy"] == 0.975 and policy["difference"] == pytest.approx(-0.025) and policy["paradigms"]["0"]["accuracy"] == 0
    by_pair = accuracy([0.0] * 10 + [1.0] * 390, [1.0] * 400, [[i] for i in range(400)])
    assert policy["difference_low"] < by_pair["difference_low"], "pairs of a paradigm that fall together are one fall"


def test_the_ratio_by_hand_and_against_fieller():
    lengths, lost = (4, 6, 10, 5, 5, 10), (1.0, 1.5, 2.0, 1.0, 1.5, 3.0)
    encoded = [([0], [1] * length) for length in lengths]
    texts = [Demonstration("", "x" * 2 * length) for length in lengths]
    before = [-4.0, -6.0, -9.0, -6.0, -5.0, -10.0]
    about, parts = text_part([BASE, POLICY], texts, encoded, 8, {"base": before, "policy": [b - d for b, d in zip(before, lost)]})
    assert (about["documents"], about["tokens"], about["characters"], about["longer_than_window"]) == (6, 40, 80, 2)
    assert parts["base"] == {"nats_per_token": 1.0, "nats_per_character": 0.5, "perplexity": math.e}
    policy = parts["policy"]
    assert policy["nats_per_token"] == 1.25 and policy["ratio"] == pytest.approx(math.exp(10 / 40)) and policy["verdict"] == "taxed"
    # Fieller: the ratios r for which the mean of d - r t is not significantly different from 0.
    for end in ("ratio_low", "ratio_high"):
        rest = [d - math.log(policy[end]) * t for d, t in zip(lost, lengths)]
        assert stats.ttest_1samp(rest, 0).pvalue == pytest.approx(0.05, abs=1e-6)


def test_texts_without_a_token_are_refused():
    with pytest.raises(UserError, match="no tokens for this model; choose other texts"):
        text_part([BASE], [Demonstration("", "")], [([0], [])], 8, {"base": [0.0]})


def test_a_role_that_changes_nothing_costs_nothing(backbone):
    same = Checkpoint("same", "same", BASE)
    back = Checkpoint("back", "same", POLICY)
    report, rows = measure_tax(backbone, [BASE, same, POLICY, back], TEXTS, PAIRS)
    base, unchanged, changed, worse = report["checkpoints"]
    assert "verdict" not in base and base["start"] is None and report["window"] == backbone.longest
    assert unchanged["text"]["ratio"] == pytest.approx(1, abs=1e-5) and unchanged["pairs"]["difference"] == 0 and not unchanged["taxed"]
    assert worse["start"] == "policy" and worse["text"]["ratio"] == pytest.approx(1 / changed["text"]["ratio"], rel=1e-4)
    assert worse["text"]["ratio_low"] == pytest.approx(1 / changed["text"]["ratio_high"], rel=1e-4)
    assert changed["text"]["ratio"] == pytest.approx(changed["text"]["perplexity"] / base["text"]["perplexity"])
    assert len(rows) == len(TEXTS) + len(PAIRS) and set(rows[0]["logprob"]) == {"base", "same", "policy", "back"}
    total = sum(row["logprob"]["base"] for row in rows[:len(TEXTS)]) / sum(row["tokens"] for row in rows[:len(TEXTS)])
    assert base["text"]["nats_per_token"] == pytest.approx(-total)
    right = [row["logprob"]["base"][0] > row["logprob"]["base"][1] for row in rows[len(TEXTS):]]
    assert base["pairs"]["accuracy"] == sum(right) / len(PAIRS)


def test_a_model_without_an_opinion_gets_half(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    with torch.no_grad():
        backbone.base.get_output_embeddings().weight.zero_()
    report, _ = measure_tax(backbone, [BASE], TEXTS, PAIRS)
    [base] = report["checkpoints"]
    assert base["text"]["perplexity"] == pytest.approx(backbone.vocabulary, rel=1e-4)
    counts = [[len(backbone.tokenizer(text)["input_ids"]) for text in (pair.good, pair.bad)] for pair in PAIRS]
    expected = [0.5 if good == bad else float(good < bad) for good, bad in counts]
    assert 0.5 in expected and base["pairs"]["accuracy"] == sum(expected) / len(PAIRS)


def test_one_part_may_be_left_out(backbone, monkeypatch):
    read = []
    monkeypatch.setattr(measure, "score_rows", lambda backbone, role, rows, *rest: read.append(len(rows)) or [-1.0] * len(rows))
    report, _ = measure_tax(backbone, [BASE, POLICY], [], PAIRS)
    assert "text_data" not in report and "text" not in report["checkpoints"][1] and read == [24, 24]
    report, _ = measure_tax(backbone, [BASE, POLICY], TEXTS[:1], [])
    assert report["checkpoints"][1]["text"]["ratio_high"] == math.inf and report["checkpoints"][1]["verdict"] == "unclear"
