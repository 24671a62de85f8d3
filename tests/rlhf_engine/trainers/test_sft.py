"""SFT: only completions are learned, micro-batches add up, the loss falls, and state survives."""

import pytest
import torch

from rlhf_engine.config import SFTConfig
from rlhf_engine.data.readers import Demonstration
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import nll
from rlhf_engine.trainers.sft import SFT
from tests.conftest import sentences
from tests.rlhf_engine.helpers.trainers import without_time

DEMOS = [Demonstration(text[:20], " " + text[20:]) for text in sentences(24)]


def make(path, **settings) -> SFT:
    settings = {"steps": 3, "batch_size": 4, "lora_rank": 4, "learning_rate": 5e-3, "max_tokens": 100} | settings
    return SFT(Backbone.load(str(path)), DEMOS, SFTConfig(**settings))


def test_loss_is_that_of_completion_tokens_only(tiny_model):
    trainer = make(tiny_model)
    rows = trainer.rows[:3]
    ours = nll(trainer.backbone, rows).item()
    theirs = 0.0
    for row in rows:
        labels = torch.tensor([[-100] * len(row.prompt_ids) + row.completion_ids])
        with torch.no_grad(), trainer.backbone.use("policy"):
            loss = trainer.backbone.base(input_ids=torch.tensor([row.ids]), labels=labels).loss  # transformers' own, a mean
        theirs += loss.item() * len(row.completion_ids)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_every_row_ends_with_one_end_token(tiny_model):
    trainer = make(tiny_model)
    for row in trainer.rows:
        assert [t in trainer.backbone.stop_ids for t in row.completion_ids] == [False] * (len(row.completion_ids) - 1) + [True]


def test_micro_batches_give_the_same_step(tiny_model):
    found = []
    for micro in (0, 1, 3):
        trainer = make(tiny_model, micro_batch=micro, batch_size=8)
        metrics = next(trainer)
        found.append((metrics, {n: p.detach().clone() for n, p in trainer.backbone.named_parameters("policy").items()}))
    for metrics, weights in found[1:]:
        assert metrics["loss/train"] == pytest.approx(found[0][0]["loss/train"], rel=1e-5)
        assert metrics["grad_norm"] == pytest.approx(found[0][0]["grad_norm"], rel=1e-4)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, found[0][1][name], rtol=1e-3, atol=1e-5)


def test_loss_falls_in_training_and_on_held_out_rows(tiny_model):
    trainer = make(tiny_model, steps=30, evaluate_every=30, batch_size=8)
    before = trainer.evaluate()
    losses = [m["loss/train"] for m in trainer]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert trainer.evaluate() < before
    assert len(losses) == 30 and trainer.report()["held_out_loss"] == pytest.approx(trainer.evaluate())


def test_only_the_policy_changes(tiny_llama):
    trainer = make(tiny_llama)
    before = {n: p.clone() for n, p in trainer.backbone.base.named_parameters() if ".policy." not in n}
    list(trainer)
    for name, p in trainer.backbone.base.named_parameters():
        if name in before:
            assert torch.equal(p, before[name])


def test_an_iterator_that_goes_on_from_a_checkpoint_gives_the_same_metrics(tiny_model, tmp_path):
    whole = [without_time(m) for m in make(tiny_model, steps=6)]
    first = make(tiny_model, steps=6)
    head = [without_time(next(first)) for _ in range(3)]
    first.save(tmp_path)
    second = make(tiny_model, steps=6)
    second.load(tmp_path)
    assert head + [without_time(m) for m in second] == whole


def test_no_demonstrations_is_a_clear_error(tiny_llama):
    with pytest.raises(UserError, match="no demonstrations"):
        SFT(Backbone.load(str(tiny_llama)), [], SFTConfig())
