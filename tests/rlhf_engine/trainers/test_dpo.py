"""DPO: what it starts from, independent values of its loss, that it learns, on-policy measures, and state that survives."""

import math

import pytest
import torch

from rlhf_engine.config import DPOConfig
from rlhf_engine.data.readers import Preference, Ranking
from rlhf_engine.errors import UserError
from rlhf_engine.losses.dpo import MEANS, PAIR_LOSSES
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.trainers.preferences import dpo
from rlhf_engine.trainers.preferences.dpo import DPO
from tests.conftest import sentences
from tests.rlhf_engine.helpers.trainers import PAIRS

RANKINGS = [Ranking(text[:16], (text[16:] + " happy", text[16:] + " glad", text[16:] + " sad"), (1.0, 1.0, 2.0)) for text in sentences(24)]


def make(path, data=PAIRS, with_policy=False, dtype="fp32", **settings) -> DPO:
    settings = {"steps": 3, "batch_size": 8, "lora_rank": 4, "max_tokens": 100, "max_new_tokens": 8, "reference_samples": 6,
                "learning_rate": 5e-3, "evaluate_every": 3, "warmup": 0.0} | settings
    backbone = Backbone.load(str(path), dtype=dtype)
    if with_policy:  # an SFT adapter that is not the identity
        backbone.new_role("policy", rank=4, seed=1)
        for name, parameter in backbone.named_parameters("policy").items():
            parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return DPO(backbone, data, DPOConfig(**settings).validate())


def sum_logprob(backbone, role, prompt_ids, response_ids) -> float:
    """By transformers' own logits, one row at a time."""
    ids = torch.tensor([prompt_ids + response_ids])
    with torch.no_grad(), backbone.use(role):
        logprobs = backbone.base(input_ids=ids).logits[0].float().log_softmax(-1)
    start = len(prompt_ids)
    return sum(logprobs[start - 1 + i, token].item() for i, token in enumerate(response_ids))


@pytest.mark.parametrize("loss", [*PAIR_LOSSES, "plackett-luce"])
def test_the_first_loss_is_the_one_that_everybody_knows(tiny_model, loss):
    """With a policy that is not the bare base: the reference is the adapter it starts from."""
    expected = {"ipo": 1 / (4 * 0.1 ** 2), "hinge": 1.0}.get(loss, math.log(2))
    metrics = next(make(tiny_model, with_policy=True, loss=loss))
    assert metrics["loss/train"] == pytest.approx(expected, rel=1e-4)
    assert metrics["margin"] == pytest.approx(0, abs=1e-4) and metrics["log_ratio/chosen"] == pytest.approx(0, abs=1e-3)


def test_the_loss_is_that_of_log_probabilities_from_transformers(tiny_model):
    trainer = make(tiny_model, with_policy=True, loss="sigmoid", beta=0.3, reference_free=True, length_penalty=0.2)
    trainer.prepare_once()
    groups = trainer.groups[:3]
    expected = 0.0
    for group in groups:
        chosen, rejected = (sum_logprob(trainer.backbone, "policy", answer.prompt_ids, answer.completion_ids) for answer in group.answers)
        longer = len(group.answers[0].completion_ids) - len(group.answers[1].completion_ids)
        expected += math.log1p(math.exp(-0.3 * (chosen - rejected + 0.2 * longer)))
    with torch.no_grad(), trainer.backbone.use("policy"):
        loss, _ = trainer._loss(groups, trainer.reference_sums[:3])
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_means_and_rankings_against_log_probabilities_from_transformers(tiny_model):
    trainer = make(tiny_model, data=RANKINGS, with_policy=True, loss="ipo", beta=0.5)
    trainer.prepare_once()
    with torch.no_grad():
        for parameter in trainer.backbone.parameters("policy"):
            parameter.mul_(1.7)
    group = trainer.groups[0]
    d = [(sum_logprob(trainer.backbone, "policy", a.prompt_ids, a.completion_ids) - sum_logprob(trainer.backbone, "reference", a.prompt_ids, a.completion_ids))
         / len(a.completion_ids) for a in group.answers]
    expected = ((d[0] - d[1]) ** 2 + (d[0] - d[2] - 1) ** 2 + (d[1] - d[2] - 1) ** 2) / 3
    with torch.no_grad(), trainer.backbone.use("policy"):
        loss, stats = trainer._loss([group], trainer.reference_sums[:1])
    assert loss.item() == pytest.approx(expected, rel=1e-3) and stats["pairs"] == 2


@pytest.mark.parametrize("loss", [*PAIR_LOSSES, "plackett-luce"])
def test_it_learns_what_was_chosen(tiny_llama, loss):
    trainer = make(tiny_llama, loss=loss, steps=25, evaluate_every=25, beta=0.5, batch_size=16)
    metrics = list(trainer)
    assert metrics[-1]["accuracy/held_out"] >= 0.8, "chance is 0.5"
    assert metrics[-1]["log_ratio/chosen"] > metrics[-1]["log_ratio/rejected"] and metrics[-1]["loss/train"] < metrics[0]["loss/train"]
    assert metrics[-1]["objective/kl"] > 0.01 and len(trainer.samples) == 4
    report = trainer.report()
    assert report["accuracy_held_out"] == metrics[-1]["accuracy/held_out"] and report["kl"] == metrics[-1]["objective/kl"]


def test_the_same_prompts_are_answered_at_the_start_and_later(tiny_llama):
    trainer = make(tiny_llama, evaluate_every=1)
    next(trainer)
    assert [row["step"] for row in trainer.samples] == [0] * 4 + [1] * 4 and all(row["fixed"] for row in trainer.samples)
    assert [row["prompt"] for row in trainer.samples[:4]] == [row["prompt"] for row in trainer.samples[4:]]
    assert [row["kl"] for row in trainer.samples[:4]] == pytest.approx([0.0] * 4, abs=1e-4)
    next(trainer)
    assert len(trainer.samples) == 4


def test_a_tie_is_learned_as_one(tiny_llama):
    """Ties alone: nothing is won, and the two stay equally likely."""
    ties = [Ranking(row.prompt, (row.chosen, row.rejected), (1.0, 1.0)) for row in PAIRS]
    metrics = list(make(tiny_llama, data=ties))
    assert "accuracy/train" not in metrics[-1] and metrics[-1]["loss/train"] == pytest.approx(math.log(2), rel=0.02)


def test_micro_batches_and_passes_give_the_same_step(tiny_llama):
    found = []
    for settings in ({}, {"micro_batch": 1}, {"micro_batch": 3}, {"gradient_checkpointing": True}):
        trainer = make(tiny_llama, data=RANKINGS, **settings)
        metrics = next(trainer)
        found.append((metrics, torch.cat([p.detach().flatten() for p in trainer.backbone.parameters("policy")])))
    for metrics, weights in found[1:]:
        assert metrics["loss/train"] == pytest.approx(found[0][0]["loss/train"], rel=1e-5)
        assert metrics["grad_norm"] == pytest.approx(found[0][0]["grad_norm"], rel=1e-3)
        torch.testing.assert_close(weights, found[0][1], rtol=1e-3, atol=2e-4)


def test_the_reference_stays(tiny_llama):
    trainer = make(tiny_llama, with_policy=True)
    before = {name: p.detach().clone() for name, p in trainer.backbone.named_parameters("reference").items()}
    assert before
    list(trainer)
    for name, p in trainer.backbone.named_parameters("reference").items():
        assert torch.equal(p, before[name])


def test_chosen_responses_that_become_unlikely_are_told_of_once(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(dpo, "FALLEN", 1e9)
    trainer = make(tiny_llama, steps=4, evaluate_every=1)
    told = []
    for _ in range(2):
        next(trainer)
        told += [event["text"] for event in trainer.events if event.get("kind") == "chosen_fall"]
    trainer.save(tmp_path)
    resumed = make(tiny_llama, steps=4, evaluate_every=1)
    resumed.load(tmp_path)
    next(resumed)
    told += [event["text"] for event in resumed.events if event.get("kind") == "chosen_fall"]
    assert len(told) == 1 and "become less likely" in told[0]


def test_bad_data_is_one_line(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    with pytest.raises(UserError, match="no preferences"):
        DPO(backbone, [], DPOConfig())
    with pytest.raises(UserError, match="nothing to learn from"):
        DPO(backbone, [Preference("x", "a" * 300 + "b", "a" * 300 + "c")], DPOConfig(max_tokens=20, max_new_tokens=8))


@pytest.mark.parametrize("loss", sorted(MEANS))
def test_a_penalty_on_tokens_is_refused_with_means_over_tokens(loss):
    """It would add nats of a whole response to nats per token."""
    with pytest.raises(UserError, match=f"but --loss {loss} compares means per token") as refusal:
        DPOConfig(loss=loss, length_penalty=0.1).validate()
    assert "or choose --loss sigmoid or hinge or robust" in str(refusal.value) and "\n" not in str(refusal.value)
    for other in PAIR_LOSSES.keys() - MEANS:
        assert DPOConfig(loss=other, length_penalty=0.1).validate().length_penalty == 0.1
