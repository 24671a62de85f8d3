"""KTO: its point of reference, its weights, independent values of its loss, that it learns, and state that survives."""

import itertools
import math
import random

import pytest
import torch

from rlhf_engine.config import DPOConfig
from rlhf_engine.data.examples import Preference, Ranking, Thumb
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.trainers.preferences import dpo
from rlhf_engine.trainers.preferences.kto import KTO, JudgedResponse, area_under_curve, class_weights, mismatches
from tests.conftest import sentences
from tests.rlhf_engine.helpers.trainers import PAIRS
from tests.rlhf_engine.trainers.test_dpo import sum_logprob

THUMBS = [Thumb(text[:16], text[16:] + (" happy" if i % 2 else " sad"), bool(i % 2)) for i, text in enumerate(sentences(96))]


def make(path, data=THUMBS, with_policy=False, **settings) -> KTO:
    settings = {"loss": "kto", "steps": 3, "batch_size": 8, "lora_rank": 4, "max_tokens": 100, "max_new_tokens": 8, "reference_samples": 6,
                "learning_rate": 5e-3, "evaluate_every": 3, "warmup": 0.0} | settings
    backbone = Backbone.load(str(path))
    if with_policy:
        backbone.new_role("policy", rank=4, seed=1)
        for name, parameter in backbone.named_parameters("policy").items():
            parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return KTO(backbone, data, DPOConfig(**settings).validate())


def judged(prompts: str) -> list[JudgedResponse]:
    """A row for each letter, which is its prompt."""
    return [JudgedResponse(letter, [], (1.0,), [], desirable=i % 2 == 0) for i, letter in enumerate(prompts)]


# -- the point of reference --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prompts", ["ab", "aabb", "abcd", "aaab", "aabbc", "abac", "aaaaabc", "abcabcabc", "aabbccd"])
def test_no_prompt_gets_a_response_of_its_own(prompts):
    rows = judged(prompts)
    for seed in range(5):
        partners = mismatches(rows, rows, random.Random(seed))
        assert len(partners) == len(rows) and all(row.prompt != partner.prompt for row, partner in zip(rows, partners))
        if 2 * max(map(prompts.count, prompts)) <= len(prompts):
            assert len(set(map(id, partners))) == len(rows), "each response is used once"


def test_rows_of_one_prompt_borrow_responses_from_outside():
    rows, others = judged("aa"), judged("aabc")
    partners = mismatches(rows, others, random.Random(0))
    assert {partner.prompt for partner in partners} <= {"b", "c"}


def test_z0_is_the_mean_log_ratio_of_mismatched_responses(tiny_model):
    trainer = make(tiny_model, with_policy=True)
    trainer.prepare_once()
    with torch.no_grad():
        for parameter in trainer.backbone.parameters("policy"):
            parameter.mul_(1.7)
    rows = trainer.groups[:4]
    trainer._look_at(rows)
    partners = mismatches(rows, trainer.groups, random.Random("0 mismatch 0"))
    expected = 0.0
    for row, partner in zip(rows, partners):
        prompt, response = row.answers[0].prompt_ids, partner.answers[0].completion_ids
        expected += sum_logprob(trainer.backbone, "policy", prompt, response) - sum_logprob(trainer.backbone, "reference", prompt, response)
    assert trainer.z0.item() == pytest.approx(max(0.0, expected / 4), rel=1e-3, abs=1e-4) and not trainer.z0.requires_grad


def test_a_mismatched_row_is_no_longer_than_any_row_may_be(tiny_llama):
    long, short = "a b c d e f g h i j k l", "a"
    rows = [Thumb(long, short, True), Thumb(short, long, False)] * 4
    trainer = make(tiny_llama, rows, max_tokens=30, held_out=0.0)
    assert max(len(group.rows[0]) for group in trainer.groups) < 30 and trainer.largest_row()[0] == 30
    asked, answered = (next(group for group in trainer.groups if group.prompt == prompt) for prompt in (long, short))
    mixed = trainer._with_response_of(asked, answered).answers[0]
    assert len(mixed.ids) == 30 and mixed.completion_ids == answered.answers[0].completion_ids
    next(trainer)


# -- the loss ----------------------------------------------------------------------------------------------------------

def test_the_first_loss_is_half_the_mean_weight(tiny_model):
    metrics = next(make(tiny_model, with_policy=True, desirable_weight=3.0, undesirable_weight=1.0, batch_size=200))
    assert metrics["loss/train"] == pytest.approx(1.0, rel=0.06) and metrics["log_ratio/mismatched"] == pytest.approx(0, abs=1e-3)
    assert metrics["margin"] == pytest.approx(0, abs=1e-4)


def test_the_loss_is_that_of_log_probabilities_from_transformers(tiny_model):
    trainer = make(tiny_model, with_policy=True, beta=0.3, desirable_weight=2.0, undesirable_weight=0.5)
    trainer.prepare_once()
    with torch.no_grad():
        for parameter in trainer.backbone.parameters("policy"):
            parameter.mul_(1.7)
    rows, z0 = trainer.groups[:5], 0.4
    trainer.z0 = torch.tensor(z0)
    expected = 0.0
    for row in rows:
        answer = row.answers[0]
        d = sum(sign * sum_logprob(trainer.backbone, role, answer.prompt_ids, answer.completion_ids) for sign, role in ((1, "policy"), (-1, "reference")))
        gain = 1 / (1 + math.exp(-0.3 * (d - z0)))
        expected += 2 * (1 - gain) if row.desirable else 0.5 * gain
    with torch.no_grad(), trainer.backbone.use("policy"):
        loss, _ = trainer._loss(rows, trainer.reference_sums[:5])
    assert loss.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("good", "bad", "weights"), [
    (10, 10, (1, 1)), (12, 10, (1, 1)), (40, 30, (1, 1)), (10, 40, (4, 1)), (80, 30, (1, 2)), (5, 0, (1, 1)), (0, 5, (1, 1))])
def test_the_weights_follow_from_the_counts(good, bad, weights):
    rows = [JudgedResponse("q", [], (1.0,), [], desirable=i < good) for i in range(good + bad)]
    assert class_weights(rows, DPOConfig(loss="kto")) == pytest.approx(weights)
    for config in (DPOConfig(loss="kto", desirable_weight=1.5), DPOConfig(loss="kto", undesirable_weight=0.2), DPOConfig(loss="kto")):
        first, second = class_weights(rows, config)
        assert (config.desirable_weight or first, config.undesirable_weight or second) == (first, second)
        if good and bad:
            assert 1 - 1e-9 <= first * good / (second * bad) <= 4 / 3 + 1e-9
    assert class_weights(rows, DPOConfig(loss="kto", desirable_weight=7, undesirable_weight=5)) == (7, 5)


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    rng = random.Random(0)
    for _ in range(20):
        good, bad = ([rng.choice((0.0, 0.5, 1.0, 2.0)) for _ in range(rng.randint(1, 9))] for _ in range(2))
        expected = sum((g > b) + 0.5 * (g == b) for g, b in itertools.product(good, bad)) / (len(good) * len(bad))
        assert area_under_curve(good, bad) == pytest.approx(expected)


# -- runs --------------------------------------------------------------------------------------------------------------

def test_it_learns_what_was_liked(tiny_llama):
    trainer = make(tiny_llama, steps=30, evaluate_every=30, beta=0.5, batch_size=16)
    metrics = list(trainer)
    last = metrics[-1]
    assert last["accuracy/held_out"] >= 0.8, "chance is 0.5"
    assert last["log_ratio/chosen_held_out"] > last["log_ratio/rejected_held_out"] and last["loss/train"] < metrics[0]["loss/train"]
    assert last["objective/kl"] > 0.01 and len(trainer.samples) == 4 and last["log_ratio/mismatched"] >= 0
    report = trainer.report()
    assert report["accuracy_held_out"] == last["accuracy/held_out"] and report["rows"] == len(trainer.groups) and "pairs" not in report


def test_pairs_and_rankings_are_split(tiny_llama):
    data = [PAIRS[0], Ranking("who", ("a", "b", "c", "d"), (1.0, 2.0, 2.0, 2.0)), Ranking("what", ("a", "b", "c"), (3.0, 1.0, 2.0)),
            Ranking("where", ("a", "b"), (1.0, 1.0)), Thumb("when", "now", False)]
    trainer = make(tiny_llama, data, held_out=0.0)
    found = {(str(group.prompt), group.desirable): 0 for group in trainer.groups}
    for group in trainer.groups:
        found[str(group.prompt), group.desirable] += 1
    assert found == {(PAIRS[0].prompt, True): 1, (PAIRS[0].prompt, False): 1, ("who", True): 1, ("who", False): 3, ("what", True): 1,
                     ("what", False): 1, ("when", False): 1}
    assert "3 desirable and 6 undesirable responses to train on, which weigh 2 and 1 each" in trainer.data_notes
    next(trainer)


def test_micro_batches_and_passes_give_the_same_step(tiny_llama):
    found = []
    for settings in ({}, {"micro_batch": 1}, {"micro_batch": 3}, {"gradient_checkpointing": True}):
        trainer = make(tiny_llama, PAIRS, with_policy=True, steps=2, **settings)
        next(trainer)  # z0 is not 0 any more
        metrics = next(trainer)
        found.append((metrics, torch.cat([p.detach().flatten() for p in trainer.backbone.parameters("policy")])))
    for metrics, weights in found[1:]:
        for name in ("loss/train", "grad_norm", "log_ratio/mismatched", "accuracy/train"):
            assert metrics[name] == pytest.approx(found[0][0][name], rel=1e-3, abs=1e-5)
        torch.testing.assert_close(weights, found[0][1], rtol=1e-3, atol=4e-4)


def test_data_of_one_prompt_and_ties_alone_are_refused(tiny_llama):
    for data, words in (([Thumb("q", "a", True), Thumb("q", "b", False)], "the same prompt"), ([], "no preferences"),
                        ([Ranking("q", ("a", "b"), (1.0, 1.0))], "all rows are ties"), ([Preference("q", "a", "b")], "the same prompt")):
        with pytest.raises(UserError, match=words) as caught:
            make(tiny_llama, data)
        assert "\n" not in str(caught.value)


def test_two_prompts_are_enough_and_one_kind_is_remarked_on(tiny_llama):
    trainer = make(tiny_llama, [Thumb("q", "a", True), Thumb("r", "b", True)], evaluate_every=1)
    metrics = list(trainer)
    assert "accuracy/train" not in metrics[-1] and "add some of the other" in trainer.data_notes[-1]


def test_a_fall_of_desirable_responses_is_said_in_its_words(tiny_llama, monkeypatch):
    monkeypatch.setattr(dpo, "FALLEN", 1e9)
    trainer = make(tiny_llama, evaluate_every=1)
    next(trainer)
    assert any("The desirable responses become less likely" in event.get("text", "") for event in trainer.events)


@pytest.mark.parametrize(("settings", "words"), [
    ({"batch_size": 1}, "--batch-size is 1"), ({"label_smoothing": 0.1}, "--label-smoothing has no effect with --loss kto"),
    ({"reference_free": True}, "--reference-free"), ({"length_penalty": 0.1}, "--length-penalty"),
    ({"loss": "sigmoid", "desirable_weight": 2.0}, "--desirable-weight has no effect with --loss sigmoid: leave it out, or choose --loss kto"),
    ({"loss": "plackett-luce", "label_smoothing": 0.1}, "--label-smoothing")])
def test_settings_that_the_loss_does_not_use_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        DPOConfig(**{"loss": "kto", **settings}).validate()
