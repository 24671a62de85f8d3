"""The reward model: where it reads, which way it points, how it is normalised, that it learns."""

import pytest
import torch

from rlhf_engine.backbone import Backbone
from rlhf_engine.config import RewardConfig, UserError
from rlhf_engine.data import Preference
from rlhf_engine.reward import Reward, score_all, score_rows
from tests.conftest import sentences
from tests.rlhf_engine.test_sft import without_time

TEXTS = sentences(96)
PAIRS = [Preference(a[:16], a[16:] + " happy", a[16:] + " sad") for a in TEXTS]


def make(path, pairs=PAIRS, **settings) -> Reward:
    settings = {"steps": 3, "batch_size": 8, "lora_rank": 4, "max_tokens": 100, "reference_samples": 12, "max_new_tokens": 8,
                "learning_rate": 5e-3} | settings
    return Reward(Backbone.load(str(path)), pairs, RewardConfig(**settings))


def test_the_score_is_read_at_the_last_token_whatever_pads(tiny_model):
    backbone = make(tiny_model).backbone
    rows = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
    with torch.no_grad(), backbone.use("reward"):
        together = score_rows(backbone, rows)
        for row, score in zip(rows, together):
            last = backbone.hidden(torch.tensor([row]))[0, -1]
            torch.testing.assert_close(backbone.heads["reward"](last), score, rtol=1e-5, atol=1e-5)
        backbone.pad_id = 33
        assert torch.equal(together, score_rows(backbone, rows))
        # Ending in the pad token is no end of the row: with pad == eos that token is where the score is read.
        backbone.pad_id = 8
        assert torch.equal(together, score_rows(backbone, rows))


def test_chosen_is_pushed_above_rejected(tiny_model):
    trainer = make(tiny_model, steps=1, warmup=0.0)
    batch = trainer.pairs[:8]
    trainer.pairs = batch
    trainer.prepare = trainer.normalise = lambda: None  # raw scores throughout

    def difference():
        with torch.no_grad(), trainer.backbone.use("reward"):
            return torch.sub(*trainer._scores(batch)).mean().item()

    before = difference()
    next(trainer)
    assert difference() > before


def test_it_learns_which_word_is_preferred_and_reports_held_out_accuracy(tiny_model):
    trainer = make(tiny_model, steps=40, evaluate_every=40, batch_size=16)
    metrics = list(trainer)
    assert metrics[-1]["accuracy/held_out"] >= 0.9
    assert metrics[-1]["loss/held_out"] < metrics[0]["loss/train"]
    flipped = make(tiny_model, [Preference(p.prompt, p.rejected, p.chosen) for p in PAIRS], steps=40, evaluate_every=40, batch_size=16)
    list(flipped)
    rows = [c for c, _ in trainer.held_out]
    ours, theirs = (score_all(t.backbone, rows, batch=16).mean() for t in (trainer, flipped))
    assert ours > theirs


def test_normalised_before_and_after(tiny_model):
    trainer = make(tiny_model, steps=4, reference_samples=32)
    stages = []
    for metrics in trainer:
        if metrics["step"] in (1, 4):
            stages.append([e for e in trainer.events if e["event"] == "normalised"])
    assert [e["step"] for stage in stages for e in stage] == [0, 4]
    scores = score_all(trainer.backbone, trainer.anchors, batch=8)
    assert len(trainer.anchors) == 32
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_anchors_are_answers_of_the_starting_policy(tiny_llama):
    """The policy's, not the bare base's: a policy that always says one token gives anchors full of it."""
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("policy", rank=4)
    with torch.no_grad():
        for name, p in backbone.named_parameters("policy").items():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0))
    trainer = Reward(backbone, PAIRS, RewardConfig(steps=1, reference_samples=8, max_new_tokens=8, batch_size=4, max_tokens=100))
    base = Reward(Backbone.load(str(tiny_llama)), PAIRS, RewardConfig(steps=1, reference_samples=8, max_new_tokens=8, batch_size=4, max_tokens=100))
    trainer.prepare()
    base.prepare()
    assert trainer.anchors != base.anchors
    assert not any(p.requires_grad for p in backbone.parameters("policy"))


def test_micro_batches_give_the_same_step(tiny_llama):
    found = [next(make(tiny_llama, micro_batch=micro)) for micro in (0, 3)]
    for name in ("loss/train", "grad_norm", "margin", "accuracy/train"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4)


def test_going_on_from_a_checkpoint_gives_the_same_metrics(tiny_llama, tmp_path):
    whole = [without_time(m) for m in make(tiny_llama, steps=6)]
    first = make(tiny_llama, steps=6)
    head = [without_time(next(first)) for _ in range(3)]
    first.save(tmp_path)
    second = make(tiny_llama, steps=6)
    second.load(tmp_path)
    assert head + [without_time(m) for m in second] == whole


def test_no_preferences_is_a_clear_error(tiny_llama):
    with pytest.raises(UserError, match="no preferences"):
        Reward(Backbone.load(str(tiny_llama)), [], RewardConfig())
