"""NLPO: without a mask it is PPO to the bit; the mask's schedule, its part in ratio and KL, that it learns, and state that survives."""

import math

import pytest
import torch

from rlhf_engine import measures
from rlhf_engine.config import NLPOConfig
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.action_mask import ROLE, special_tokens
from rlhf_engine.rollout.rollout import measure
from rlhf_engine.stages import make_config
from rlhf_engine.trainers.nlpo import NLPO
from tests.rlhf_engine.helpers.trainers import LEARN, PROMPTS, low_ids, make_ppo, without_time


def make(path, reward=low_ids, dtype="fp32", **settings) -> NLPO:
    settings = {"steps": 4, "batch_size": 8, "lora_rank": 4, "max_tokens": 100, "max_new_tokens": 10, "reference_samples": 16,
                "ppo_epochs": 1, "minibatches": 1, "warmup": 0.0} | settings
    return NLPO(Backbone.load(str(path), dtype=dtype), PROMPTS, reward, NLPOConfig(**settings).validate())


def weights(trainer, role="policy"):
    return {name: p.detach().clone() for name, p in trainer.backbone.named_parameters(role).items()}


def same(one, other) -> bool:
    return all(torch.equal(one[name], p) for name, p in other.items())


def move(trainer, role="policy", spread=0.05):
    """Move a role away from where it starts."""
    with torch.no_grad():
        for name, p in trainer.backbone.named_parameters(role).items():
            if not name.startswith("head."):
                p.add_(spread * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))


def measured(trainer):
    trainer.prepare_once()
    trainer.step += 1
    rollout = trainer.sample_batch()
    trainer.measure(rollout)
    return rollout


# -- without a mask ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "settings"), [
    ("llama", {}), ("gpt2", {"value": "head", "entropy_coef": 0.01, "minibatches": 2}), ("qwen3", {"value": "fitted", "ppo_epochs": 2})])
def test_with_all_tokens_it_is_ppo_to_the_bit(name, settings, request, tmp_path):
    model = request.getfixturevalue(f"tiny_{name}")
    ppo, nlpo = make_ppo(model, **settings), make(model, top_p=1.0, mask_refresh=1, **settings)
    for _ in range(3):
        assert without_time(next(ppo)) == without_time(next(nlpo))
    assert ROLE not in nlpo.backbone.roles and ppo.backbone.roles == nlpo.backbone.roles
    for role in ppo.backbone.roles:
        assert same(weights(ppo, role), weights(nlpo, role))
    nlpo.save(tmp_path)
    assert not (tmp_path / ROLE).exists()


# -- the mask ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "settings"), [
    ("llama", {}), ("gpt2", {}), ("qwen3", {}), ("llama", {"value": "head"}), ("gpt2", {"dtype": "bf16"}), ("qwen3", {"dtype": "nf4"}), ("llama", {"dtype": "nf4"}),
    ("qwen3", {"temperature": 0.7, "mask_tokens_kept": 5})])
def test_the_first_ratio_is_one_and_the_first_kl_zero(name, settings, request):
    metrics = next(make(request.getfixturevalue(f"tiny_{name}"), **settings))
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4) and metrics["policy/clipfrac"] == 0
    assert metrics["policy/approxkl"] < 1e-7 and metrics["objective/kl"] == pytest.approx(0, abs=1e-3)
    assert 0.9 <= metrics[measures.MASK_KEPT] < 1 and 0 <= metrics[measures.MASK_ADDED] < 0.1
    assert all(math.isfinite(value) or name == measures.EXPLAINED_VARIANCE for name, value in metrics.items())


def test_the_ratio_is_masked_and_the_kl_is_not(tiny_model):
    trainer = make(tiny_model, top_p=0.6)
    move(trainer)
    rollout = measured(trainer)
    masked = trainer.masked.logprobs.clone()
    cells = rollout.mask.bool()
    # What is logged and what penalises: as PPO measures the same responses.
    logprobs, ref_logprobs, entropy = rollout.logprobs.clone(), rollout.ref_logprobs.clone(), rollout.entropy
    measure(trainer.backbone, rollout, "value")
    assert torch.equal(logprobs, rollout.logprobs) and torch.equal(ref_logprobs, rollout.ref_logprobs) and entropy == rollout.entropy
    # What the ratio is taken over: less the logarithm of what the mask keeps, never below.
    kept = trainer.masked.kept[cells]
    torch.testing.assert_close(masked[cells], logprobs[cells] - kept.log(), rtol=0, atol=1e-4)
    assert (masked[cells] > logprobs[cells]).float().mean() > 0.9 and kept.mean() < 0.95
    assert torch.equal(trainer.old_logprobs(rollout), masked)


@pytest.mark.parametrize("stop", [0.0, 1e-9])
def test_the_change_of_the_policy_is_logged_without_the_mask(tiny_llama, stop):
    """And it is what ends the passes of a step. The policy has moved since it sampled, and its mask has not."""
    trainer = make(tiny_llama, top_p=0.5, update_stop=stop)
    rollout = measured(trainer)
    before, masked = rollout.logprobs, trainer.masked.logprobs
    targets = trainer.targets(rollout, trainer.shape_scores(low_ids(rollout), rollout), None)
    move(trainer, spread=0.02)
    measure(trainer.backbone, rollout, "value")
    expected = (0.5 * (rollout.logprobs - before).square() * rollout.mask).sum() / rollout.mask.sum()
    rollout.logprobs = before
    found = trainer.update(rollout, targets)
    if stop:
        assert found[measures.UPDATES] == 0
    else:
        assert found[measures.APPROX_KL] == pytest.approx(expected.item(), rel=1e-3)
        assert not torch.equal(masked, before)


def test_the_mask_policy_is_renewed_between_steps_and_keeps_still_in_one(tiny_llama):
    trainer = make(tiny_llama, mask_refresh=2, steps=6)
    start = weights(trainer)
    assert same(start, weights(trainer, ROLE))
    expected = start
    for step in range(1, 7):
        before = weights(trainer)
        next(trainer)
        if step in (3, 5):
            expected = before
        assert same(expected, weights(trainer, ROLE)) and not same(before, weights(trainer))
    assert not same(start, expected) and ROLE not in trainer.backbone.trainable


@pytest.mark.parametrize("settings", [{"ppo_epochs": 2, "mask_refresh": 3}, {"value": "head", "gradient_checkpointing": True}])
def test_sampled_tokens_were_members_of_their_sets(tiny_llama, settings):
    """In fp32, where decoding and training hardly differ; the policy has moved away from its mask policy by then."""
    trainer = make(tiny_llama, top_p=0.5, learning_rate=1e-2, **settings)
    rows = list(trainer)
    assert max(row[measures.MASK_ADDED] for row in rows) <= 0.02
    assert rows[1][measures.MASK_KEPT] != rows[0][measures.MASK_KEPT]
    assert all(0.1 < row[measures.MASK_KEPT] <= 1 for row in rows)


def test_the_responses_of_the_reference_are_sampled_under_the_mask(tiny_llama):
    """With sets of one token they are the most likely tokens of the start, or special ones."""
    trainer = make(tiny_llama, top_p=0.01)
    trainer.prepare_once()
    rollout = trainer.sample_reference()
    always = special_tokens(trainer.backbone)
    for prompt, response in zip(rollout.prompt_ids, rollout.response_ids):
        logits = trainer.backbone.base(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1:-1]
        likely = logits.argmax(-1).tolist()
        assert all(token == best or token in always for token, best in zip(response, likely))


@pytest.mark.parametrize(("name", "settings"), [("llama", {"entropy_coef": 0.1}), ("gpt2", {"entropy_coef": 0.1, "value": "head"}), ("qwen3", {"dtype": "bf16"})])
def test_sets_of_one_token_give_no_nan(name, settings, request):
    trainer = make(request.getfixturevalue(f"tiny_{name}"), top_p=0.01, ppo_epochs=2, minibatches=2, **settings)
    for _ in range(2):
        metrics = next(trainer)
        for name, value in metrics.items():
            assert math.isfinite(value) or name == measures.EXPLAINED_VARIANCE, name
    assert all(p.isfinite().all() for p in weights(trainer).values())


@pytest.mark.parametrize("settings", [{}, {"value": "head", "entropy_coef": 0.01}])
def test_micro_batches_give_the_same_update(tiny_llama, settings):
    found = []
    for micro in (0, 1, 3):
        trainer = make(tiny_llama, micro_batch=micro, top_p=0.7, **settings)
        metrics = next(trainer)
        found.append((metrics, weights(trainer)))
    for metrics, after in found[1:]:
        for name in ("grad_norm", "val/ratio", measures.MASK_KEPT, measures.MASK_ADDED, "loss/policy"):
            assert metrics[name] == pytest.approx(found[0][0][name], rel=1e-3, abs=1e-5)
        for name, weight in after.items():
            torch.testing.assert_close(weight, found[0][1][name], rtol=1e-2, atol=3e-5)


def test_memory_that_runs_out_while_measuring_halves_the_micro_batches(tiny_llama, monkeypatch):
    expected = without_time(next(make(tiny_llama)))
    trainer = make(tiny_llama)
    original, failed = trainer.measure_further, []

    def fail_once(batch, reading):
        if not failed:
            failed.append(True)
            raise RuntimeError("out of memory")
        original(batch, reading)

    monkeypatch.setattr(trainer, "measure_further", fail_once)
    metrics = next(trainer)
    assert trainer.micro_batch == 4
    assert metrics[measures.MASK_KEPT] == pytest.approx(expected[measures.MASK_KEPT], abs=1e-5)
    assert metrics["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)


# -- bad input ---------------------------------------------------------------------------------------------------------

def test_a_mask_that_leaves_nothing_out_is_refused_in_a_line(tiny_llama):
    size = Backbone.load(str(tiny_llama)).vocabulary
    with pytest.raises(UserError) as refusal:
        make(tiny_llama, mask_tokens_kept=size)
    assert f"--mask-tokens-kept is {size}, but the model has {size} tokens" in str(refusal.value)
    make(tiny_llama, mask_tokens_kept=size, top_p=1.0)


@pytest.mark.parametrize("values", [{"top_p": 0}, {"top_p": 1.5}, {"top_p": "nan"}, {"mask_refresh": 0}, {"mask_tokens_kept": -1}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(UserError, match="--" + next(iter(values)).replace("_", "-")):
        make_config("nlpo", {"reward": "r", **values})


# -- it learns, and survives -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("settings", [{}, {"value": "head", "mask_refresh": 2}])
def test_it_learns(tiny_llama, settings):
    """More slowly than without a mask, for only likely tokens are ever chosen."""
    rows = list(make(tiny_llama, steps=14, **LEARN, **settings))
    scores = [row["objective/scores"] for row in rows]
    assert sum(scores[-4:]) / 4 > sum(scores[:4]) / 4 + 0.05
    assert rows[-1]["objective/kl"] > 0.1


@pytest.mark.parametrize("settings", [{"mask_refresh": 3}, {"mask_refresh": 2, "value": "head", "minibatches": 2}])
def test_a_resumed_run_repeats_every_number(tiny_llama, tmp_path, settings):
    """From a checkpoint in which the mask policy is neither the policy nor its start, and past a renewal."""
    whole, first = make(tiny_llama, steps=6, **settings), make(tiny_llama, steps=6, **settings)
    expected = [without_time(next(whole)) for _ in range(6)]
    assert [without_time(next(first)) for _ in range(4)] == expected[:4]
    first.save(tmp_path / "here")
    assert not same(weights(first, ROLE), {n: p for n, p in weights(first).items() if not n.startswith("head.")})
    second = make(tiny_llama, steps=6, **settings)
    second.load(tmp_path / "here")
    assert same(weights(first, ROLE), weights(second, ROLE))
    assert [without_time(next(second)) for _ in range(2)] == expected[4:]
    assert same(weights(whole), weights(second))
