"""Group learners: groups stay together, hand-made advantages, dead groups, that they learn, and state that survives."""

import pytest
import torch

from rlhf_engine import measures
from rlhf_engine.config import GroupConfig
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.rollout import join, select
from rlhf_engine.trainers.group import ATTEMPTS, GroupLearner
from tests.rlhf_engine.helpers.trainers import PROMPTS, low_ids, without_time

VARIANTS = [{}, {"estimator": "rloo"}, {"estimator": "reinforce++"}, {"loss_normaliser": "grpo"}, {"loss_normaliser": "dr_grpo"},
            {"kl_in": "loss"}, {"kl_in": "corrected"}, {"dead_groups": "resample", "entropy_coef": 0.01, "overlong_tokens": 3}]


def make(path, reward=low_ids, dtype="fp32", **settings) -> GroupLearner:
    settings = {"steps": 4, "batch_size": 8, "group_size": 4, "lora_rank": 4, "max_tokens": 100, "max_new_tokens": 10,
                "reference_samples": 16, "minibatches": 1, "warmup": 0.0} | settings
    return GroupLearner(Backbone.load(str(path), dtype=dtype), PROMPTS, reward, GroupConfig(**settings).validate())


def measured(trainer):
    trainer.prepare_once()
    trainer.step += 1
    rollout, raw = trainer.score_batch(trainer.sample_batch())
    trainer.measure(rollout)
    return rollout, raw


@pytest.mark.parametrize("dtype", ["fp32", "nf4", "bf16"])
def test_the_first_ratio_is_one(tiny_model, dtype):
    metrics = next(make(tiny_model, dtype=dtype))
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["policy/approxkl"] < 1e-7 and metrics["policy/clipfrac"] == 0
    assert metrics["objective/kl"] == pytest.approx(0, abs=1e-3)


def test_the_responses_to_a_prompt_stand_side_by_side(tiny_llama):
    trainer = make(tiny_llama)
    rollout, _ = measured(trainer)
    assert len(rollout) == 8 and len(set(rollout.prompts)) == 2
    assert len(set(rollout.prompts[:4])) == len(set(rollout.prompts[4:])) == 1
    assert len(set(rollout.responses)) > 4
    order = rollout.by_length(range(8))
    assert sorted(order[:4]) in ([0, 1, 2, 3], [4, 5, 6, 7])


def test_what_is_read_together_is_what_is_read_alone(tiny_model):
    """Log-probabilities of policy and reference, against a rollout without groups."""
    trainer = make(tiny_model)
    with torch.no_grad():
        for p in trainer.backbone.parameters("policy"):
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    rollout, _ = measured(trainer)
    together = rollout.logprobs, rollout.ref_logprobs, rollout.entropy
    rollout.group_size = 1
    trainer.measure(rollout)
    torch.testing.assert_close(together[0], rollout.logprobs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together[1], rollout.ref_logprobs, rtol=1e-3, atol=1e-4)
    assert together[2] == pytest.approx(rollout.entropy, rel=1e-4)


def test_every_group_stays_in_one_minibatch_and_comes_once_an_epoch(tiny_llama):
    trainer = make(tiny_llama, batch_size=24, minibatches=3, ppo_epochs=2)
    rollout, raw = measured(trainer)
    parts = trainer.minibatches(rollout, trainer.targets(rollout, raw.total, None))
    assert len(parts) == 6
    for epoch in (parts[:3], parts[3:]):
        assert sorted(row for part in epoch for row in part) == list(range(24))
        for part in epoch:
            assert all(part.count(row) == 1 and {row - row % 4 + k for k in range(4)} <= set(part) for row in part)


def test_advantages_are_the_same_for_all_tokens_and_sum_to_zero_in_a_group(tiny_llama):
    trainer = make(tiny_llama, kl_coef=0.0, kl_target=0.0)
    rollout, raw = measured(trainer)
    scores = trainer.shape_scores(raw.total, rollout)
    advantages = trainer.targets(rollout, scores, None).advantages
    for group in range(2):
        rows = scores[4 * group:4 * group + 4]
        for i in range(4):
            row = advantages[4 * group + i][rollout.mask[4 * group + i].bool()]
            expected = (rows[i] - rows.mean()) / (rows.std() + 1e-4)
            assert row.tolist() == pytest.approx([expected.item()] * len(row), rel=1e-4, abs=1e-5)
        assert advantages[4 * group:4 * group + 4, 0].sum().item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("settings", VARIANTS)
def test_micro_batches_give_the_same_update(tiny_llama, settings):
    found = []
    for micro in (0, 1, 3):
        trainer = make(tiny_llama, micro_batch=micro, **settings)
        metrics = next(trainer)
        weights = {n: p.detach().clone() for n, p in trainer.backbone.named_parameters("policy").items()}
        found.append((metrics, weights))
    for metrics, weights in found[1:]:
        assert metrics["grad_norm"] == pytest.approx(found[0][0]["grad_norm"], rel=1e-3, abs=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, found[0][1][name], rtol=1e-2, atol=3e-5)


# -- dead groups -----------------------------------------------------------------------------------------------------------

class FirstPromptAlike:
    """Some prompts have responses that all score the same."""

    def __init__(self, alike):
        self.alike, self.calls = alike, 0

    def __call__(self, rollout):
        self.calls += 1
        scores = low_ids(rollout)
        return torch.where(torch.tensor([prompt in self.alike for prompt in rollout.prompts]), 0.5, scores)


def test_dead_groups_have_no_policy_gradient_and_are_left_out_or_kept(tiny_llama):
    first = make(tiny_llama)
    prompts = measured(first)[0].prompts
    alike = FirstPromptAlike({prompts[0]})
    for how, rows in (("drop", 4), ("keep", 8)):
        trainer = make(tiny_llama, reward=alike, dead_groups=how, kl_coef=0.0, kl_target=0.0)
        rollout, raw = measured(trainer)
        targets = trainer.targets(rollout, trainer.shape_scores(raw.total, rollout), None)
        assert rollout.prompts == prompts and trainer.dead_share == 0.5
        assert targets.advantages[:4].abs().sum() == 0 and targets.advantages[4:].abs().sum() > 0
        assert sum(len(part) for part in trainer.minibatches(rollout, targets)) == rows


def test_other_prompts_take_the_places_of_dead_groups(tiny_llama):
    prompts = measured(make(tiny_llama))[0].prompts
    trainer = make(tiny_llama, reward=FirstPromptAlike({prompts[0]}), dead_groups="resample")
    rollout, raw = measured(trainer)
    assert prompts[0] not in rollout.prompts and prompts[4] in rollout.prompts
    assert len(rollout) == 8 == len(raw.total) and 0 < trainer.dead_share < 0.5
    torch.testing.assert_close(raw.total, low_ids(rollout))
    again = measured(make(tiny_llama, reward=FirstPromptAlike({prompts[0]}), dead_groups="resample"))[0]
    assert again.response_ids == rollout.response_ids


def test_the_reward_of_a_step_is_that_of_all_that_was_sampled_first(tiny_llama):
    """Prompts that take the places of others are hard ones: their score says little about the policy."""
    def score_of_a_step(how: str) -> float:
        trainer = make(tiny_llama, reward=FirstPromptAlike({PROMPTS[0]}), dead_groups=how)
        return next(trainer)[measures.SCORES]

    assert score_of_a_step("resample") == score_of_a_step("drop")


@pytest.mark.parametrize("how", ["drop", "resample"])
def test_a_constant_reward_ends_the_search_and_skips_the_step(tiny_llama, how):
    reward = FirstPromptAlike(set(PROMPTS))
    trainer = make(tiny_llama, reward=reward, dead_groups=how, normalise_reward=False)
    trainer.prepare_once()
    before = reward.calls
    weights = {n: p.detach().clone() for n, p in trainer.backbone.named_parameters("policy").items()}
    metrics = next(trainer)
    assert reward.calls - before == (1 + ATTEMPTS if how == "resample" else 1)
    assert metrics[measures.UPDATES] == 0 and metrics[measures.DEAD_GROUPS] == 1 and measures.LOSS_POLICY not in metrics
    assert [event["text"] for event in trainer.events if event.get("kind") == "dead_step"][0].startswith("in each of the 2 groups")
    for name, p in trainer.backbone.named_parameters("policy").items():
        assert torch.equal(p, weights[name])


def test_above_the_hard_stop_a_step_learns_from_the_penalty_alone(tiny_llama):
    """Also from groups that are dead without their scores."""
    trainer = make(tiny_llama, kl_target=0.01, max_new_tokens=10)
    with torch.no_grad():
        for p in trainer.backbone.parameters("policy"):
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    metrics = next(trainer)
    assert any(event.get("kind") == "kl_stop" for event in trainer.events)
    assert metrics[measures.UPDATES] == 1 and metrics["grad_norm"] > 0


# -- bad input -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("settings", "message"), [
    ({"batch_size": 9}, "--batch-size (9) is no multiple of --group-size (4)"),
    ({"group_size": 1}, "--group-size is 1, but grpo compares the responses to a prompt"),
    ({"minibatches": 4}, "--minibatches is 4, but a step has 2 groups"),
    ({"overlong_tokens": 30}, "--overlong-tokens (30) is more than --max-new-tokens (10)"),
])
def test_settings_that_do_not_fit_are_refused_in_a_line(settings, message):
    given = {"batch_size": 8, "group_size": 4, "max_new_tokens": 10, "minibatches": 1} | settings
    with pytest.raises(UserError) as refusal:
        GroupConfig(**given).validate()
    assert message in str(refusal.value)


def test_reinforce_plus_plus_needs_no_groups(tiny_llama):
    metrics = next(make(tiny_llama, estimator="reinforce++", group_size=1))
    assert metrics[measures.UPDATES] == 1 and metrics[measures.DEAD_GROUPS] == 0


# -- it learns, and survives -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("settings", VARIANTS)
def test_it_learns(tiny_llama, settings):
    trainer = make(tiny_llama, batch_size=32, steps=12, minibatches=2, ppo_epochs=2, learning_rate=5e-2, kl_coef=0.01,
                   kl_target=0.0, guard=False, **settings)
    rows = list(trainer)
    assert max(row["objective/scores"] for row in rows[-3:]) > rows[0]["objective/scores"] + 0.1
    assert rows[-1]["objective/kl"] > 0.1


@pytest.mark.parametrize("settings", [{"minibatches": 2}, {"dead_groups": "resample", "estimator": "rloo"}])
def test_a_resumed_run_repeats_every_number(tiny_llama, tmp_path, settings):
    prompts = measured(make(tiny_llama))[0].prompts
    reward = FirstPromptAlike({prompts[0]})
    whole, first = make(tiny_llama, reward=reward, **settings), make(tiny_llama, reward=reward, **settings)
    expected = [without_time(next(whole)) for _ in range(4)]
    assert [without_time(next(first)) for _ in range(2)] == expected[:2]
    first.save(tmp_path / "here")
    second = make(tiny_llama, reward=reward, **settings)
    second.load(tmp_path / "here")
    assert [without_time(next(second)) for _ in range(2)] == expected[2:]


def test_rows_are_taken_out_and_put_together_again(tiny_llama):
    trainer = make(tiny_llama)
    trainer.prepare_once()
    trainer.step += 1
    rollout = trainer.sample_batch()
    again = join(select(rollout, [4, 5, 6, 7]), select(rollout, [0, 1, 2, 3]))
    order = [4, 5, 6, 7, 0, 1, 2, 3]
    assert again.response_ids == [rollout.response_ids[i] for i in order] and again.group_size == 4
    assert again.responses == [rollout.responses[i] for i in order]
    torch.testing.assert_close(again.mask, rollout.mask[order])
    assert again.ended.tolist() == rollout.ended[order].tolist()
