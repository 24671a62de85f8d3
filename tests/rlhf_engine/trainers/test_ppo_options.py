"""What PPO can do besides the plain recipe: a value head on the policy, bonuses, penalties, early stops, less memory."""

import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.rollout import Batch
from rlhf_engine.trainers.ppo import PPO
from tests.rlhf_engine.helpers.trainers import LEARN, without_time
from tests.rlhf_engine.helpers.trainers import low_ids as vowels
from tests.rlhf_engine.helpers.trainers import make_ppo as make


def constant(rollout) -> torch.Tensor:
    return torch.ones(len(rollout))


def measured(trainer: PPO, rows: int = 8):
    trainer.prepare()
    rollout = trainer.rollout(list(range(rows)), torch.Generator().manual_seed(0))
    trainer.measure(rollout)
    return rollout


# -- a value head on the policy's adapter --------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["fp32", "nf4"])
def test_the_first_ratio_is_one_with_a_head_too(tiny_model, dtype):
    metrics = next(make(tiny_model, dtype=dtype, value="head"))
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5) and metrics["objective/kl"] == pytest.approx(0, abs=1e-4)


def test_it_learns_with_a_head_while_the_reference_stays_bit_equal(tiny_model):
    trainer = make(tiny_model, steps=40, value="head", **LEARN)
    assert "value" not in trainer.backbone.roles
    frozen = {n: p.clone() for n, p in trainer.backbone.base.named_parameters() if ".policy." not in n}
    metrics = list(trainer)
    first, last = (sum(m["objective/scores"] for m in part) / 3 for part in (metrics[:3], metrics[-3:]))
    assert last > first + 0.1
    assert all(torch.equal(p, frozen[n]) for n, p in trainer.backbone.base.named_parameters() if n in frozen)
    assert trainer.backbone.heads["policy"].weight.abs().max() > 0


def test_with_a_value_loss_of_no_weight_the_policy_learns_the_same_either_way(tiny_llama):
    found = []
    for value in ("adapter", "head"):
        trainer = make(tiny_llama, value=value, value_coef=0.0, learning_rate=1e-3)
        next(trainer)
        found.append({n: p.detach().clone() for n, p in trainer.backbone.named_parameters("policy").items() if not n.startswith("head.")})
    for name, p in found[0].items():
        torch.testing.assert_close(p, found[1][name], rtol=1e-4, atol=1e-6)


def test_the_value_of_a_head_is_read_from_the_policy(tiny_llama):
    trainer = make(tiny_llama, value="head")
    with torch.no_grad():
        trainer.backbone.heads["policy"].weight.normal_(generator=torch.Generator().manual_seed(0))
        for p in trainer.backbone.parameters("policy"):
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    rollout = measured(trainer, 3)
    for i in range(3):
        with torch.no_grad(), trainer.backbone.use("policy"):
            hidden = trainer.backbone.hidden(torch.tensor([rollout.prompt_ids[i] + rollout.response_ids[i]]))[0]
            start = len(rollout.prompt_ids[i]) - 1
            expected = trainer.backbone.heads["policy"](hidden[start:start + len(rollout.response_ids[i])])
        torch.testing.assert_close(rollout.values[i, :len(expected)], expected, rtol=1e-4, atol=1e-4)


def test_going_on_with_a_head_and_reading_its_policy_with_peft(tiny_llama, tmp_path):
    settings = {"steps": 4, "ppo_epochs": 2, "minibatches": 2, "value": "head"}
    whole = [without_time(m) for m in make(tiny_llama, **settings)]
    first = make(tiny_llama, **settings)
    start = [without_time(next(first)) for _ in range(2)]
    first.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"policy"}
    second = make(tiny_llama, **settings)
    second.load(tmp_path)
    assert start + [without_time(m) for m in second] == whole
    ids = torch.tensor([[5, 6, 7]])
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), tmp_path / "policy")
    other = Backbone.load(str(tiny_llama))
    other.load_role("policy", tmp_path / "policy", head=False)
    with torch.no_grad(), other.use("policy"):
        torch.testing.assert_close(peft(ids).logits, other.base(ids).logits)


# -- a value that is fitted ------------------------------------------------------------------------------------------------

def test_going_on_with_a_fitted_value(tiny_llama, tmp_path):
    settings = {"steps": 4, "ppo_epochs": 2, "minibatches": 2, "value": "fitted"}
    whole = [without_time(m) for m in make(tiny_llama, **settings)]
    first = make(tiny_llama, **settings)
    assert not first.backbone.heads
    start = [without_time(next(first)) for _ in range(2)]
    first.save(tmp_path)
    second = make(tiny_llama, **settings)
    second.load(tmp_path)
    assert start + [without_time(m) for m in second] == whole
    assert whole[0]["loss/value"] > 0


def test_it_learns_with_a_fitted_value(tiny_model):
    metrics = list(make(tiny_model, steps=40, value="fitted", **LEARN))
    first, last = (sum(m["objective/scores"] for m in part) / 3 for part in (metrics[:3], metrics[-3:]))
    assert last > first + 0.1


# -- bonuses, penalties, stops -------------------------------------------------------------------------------------------

def test_the_entropy_bonus_raises_the_entropy(tiny_llama):
    quiet = {"steps": 6, "reward": constant, "kl_coef": 0.0, "kl_target": 0.0, "learning_rate": 1e-2, "value_learning_rate": 1e-6,
             "normalise_reward": False}
    gains = {}
    for bonus in (0.0, 1.0):
        metrics = list(make(tiny_llama, entropy_coef=bonus, **quiet))
        gains[bonus] = metrics[-1]["objective/entropy"] - metrics[0]["objective/entropy"]
        assert ("policy/entropy" in metrics[0]) == (bonus > 0)
    assert gains[1.0] > gains[0.0] + 0.02


def test_passes_end_when_the_policy_has_moved_too_far(tiny_llama):
    passes = {"ppo_epochs": 3, "minibatches": 2, "learning_rate": 1e-2}
    assert next(make(tiny_llama, **passes))["policy/updates"] == 6
    assert next(make(tiny_llama, update_stop=1e-12, **passes))["policy/updates"] == 1  # before the first step nothing has moved
    far = next(make(tiny_llama, update_stop=1e9, **passes))
    assert far["policy/updates"] == 6


def test_scores_are_clipped_then_scaled_then_charged_for_length(tiny_llama):
    trainer = make(tiny_llama, reward_clip=2.0, reward_scale=3.0, length_penalty=0.5, missing_end="none")
    rollout = measured(trainer, 4)
    trainer.reward_gain, trainer.reward_bias, trainer.reference_length = 2.0, 1.0, 4.0
    rollout.mask = (torch.arange(10)[None] < torch.tensor([[2], [4], [6], [10]])).float()
    scores = trainer.shape_scores(torch.tensor([0.25, 5.0, -5.0, 0.0]), rollout)
    assert scores.tolist() == pytest.approx([3 * 1.5, 3 * 2.0, 3 * -2.0 - 0.5 * 2, 3 * 1.0 - 0.5 * 6])


def test_the_length_penalty_begins_at_the_mean_length_of_the_reference(tiny_llama):
    trainer = make(tiny_llama)
    trainer.backbone.stop_ids = list(range(0, 400, 9))
    trainer.prepare()
    event = next(e for e in trainer.events if e["event"] == "reference")
    assert 1 <= trainer.reference_length == event["length"] <= 10


def test_the_three_estimates_of_the_kl_stand_side_by_side(tiny_llama):
    trainer = make(tiny_llama)
    with torch.no_grad():
        for p in trainer.backbone.parameters("policy"):
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    rollout = measured(trainer)
    kl = ((rollout.logprobs - rollout.ref_logprobs) * rollout.mask).sum(1).mean().item()
    _, returns = trainer.advantages(rollout, vowels(rollout))
    metrics = trainer.rollout_metrics(rollout, vowels(rollout), returns, kl)
    sums = [0.0, 0.0, 0.0]
    for i, ids in enumerate(rollout.response_ids):
        for t in range(len(ids)):
            d = (rollout.logprobs[i, t] - rollout.ref_logprobs[i, t]).item()
            for k, term in enumerate((d, d * d / 2, math.exp(-d) - 1 + d)):
                sums[k] += term / len(rollout)
    assert [metrics[f"objective/{name}"] for name in ("kl", "kl_k2", "kl_k3")] == pytest.approx(sums, rel=1e-3)
    assert metrics["objective/kl_k3"] > 0


def test_prompts_are_encoded_anew_only_when_the_room_for_them_changed(tiny_llama):
    trainer = make(tiny_llama)
    before = trainer.encoded
    trainer.change("kl_target", 3.0)
    trainer.change("steps", 9)
    assert trainer.encoded is before
    trainer.change("max_new_tokens", 20)
    assert trainer.encoded is not before and trainer.encoded == before


# -- less memory ---------------------------------------------------------------------------------------------------------

def test_a_full_memory_halves_the_micro_batch_and_changes_no_gradient(tiny_llama, tmp_path):
    fine, tight = make(tiny_llama), make(tiny_llama)
    backward = tight._backward

    def limited(batch, *rest):
        if len(batch.rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return backward(batch, *rest)

    tight._backward = limited
    expected, found = next(fine), next(tight)
    assert [(e["was"], e["micro_batch"]) for e in tight.events if e["event"] == "memory"] == [(8, 4), (4, 2)]
    for name in ("loss/policy", "loss/value", "grad_norm", "val/ratio"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6)
    for name, p in fine.backbone.named_parameters("policy").items():
        torch.testing.assert_close(p, tight.backbone.named_parameters("policy")[name], rtol=1e-3, atol=1e-5)
    tight.save(tmp_path)
    again = make(tiny_llama)
    again.load(tmp_path)
    assert again.micro_batch == 2  # or a resumed run would not be the one that was interrupted


def test_scoring_halves_the_micro_batch_too_and_gives_the_same_numbers(tiny_llama, monkeypatch):
    fine = measured(make(tiny_llama))
    tight = make(tiny_llama)

    class Limited(Batch):
        def __init__(self, backbone, rollout, rows):
            if len(rows) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__init__(backbone, rollout, rows)

    monkeypatch.setattr("rlhf_engine.rollout.rollout.Batch", Limited)
    found = measured(tight)
    assert [(e["was"], e["micro_batch"]) for e in tight.events if e["event"] == "memory"] == [(8, 4), (4, 2)]
    for name in ("logprobs", "ref_logprobs", "values"):
        torch.testing.assert_close(getattr(found, name), getattr(fine, name), rtol=1e-4, atol=1e-5)
    assert found.entropy == pytest.approx(fine.entropy, rel=1e-5)
    monkeypatch.setattr("rlhf_engine.rollout.rollout.Batch", None)  # another error is no lack of memory
    with pytest.raises(TypeError):
        tight.measure(found)
