"""PPO: the invariants of a correct implementation, on three architectures, and that it learns."""

import pytest
import torch

from rlhf_engine.config import PPOConfig
from rlhf_engine.errors import UserError
from rlhf_engine.losses.masked import masked_mean, masked_var
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.reward_functions import RewardModel
from rlhf_engine.trainers import policy
from rlhf_engine.trainers.base import Diverged
from rlhf_engine.trainers.ppo import PPO
from rlhf_engine.trainers.reward import RewardTrainer
from tests.rlhf_engine.helpers.trainers import LEARN, PROMPTS, make_reward, without_time
from tests.rlhf_engine.helpers.trainers import low_ids as vowels
from tests.rlhf_engine.helpers.trainers import make_ppo as make


@pytest.mark.parametrize("dtype", ["fp32", "nf4", "bf16"])
def test_the_first_ratio_is_one(tiny_model, dtype):
    metrics = next(make(tiny_model, dtype=dtype))
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/approxkl"] < 1e-9
    assert metrics["policy/clipfrac"] == 0
    assert metrics["objective/kl"] == pytest.approx(0, abs=1e-4)  # policy and reference are the same model still


def test_old_log_probabilities_are_those_of_the_sampling_distribution(tiny_model):
    """Rollout by cache and left padding, training by right padding: the numbers must agree row by row."""
    trainer = make(tiny_model, temperature=0.8)
    trainer.prepare()
    rollout = trainer.rollout([0, 1, 2], torch.Generator().manual_seed(0))
    trainer.measure(rollout)
    for i in range(3):
        logits = trainer.backbone.base(input_ids=torch.tensor([rollout.prompt_ids[i] + rollout.response_ids[i]])).logits[0] / 0.8
        start = len(rollout.prompt_ids[i]) - 1
        expected = [logits[start + t].log_softmax(-1)[token] for t, token in enumerate(rollout.response_ids[i])]
        torch.testing.assert_close(rollout.logprobs[i, :len(expected)], torch.stack(expected), rtol=0, atol=1e-4)
        assert rollout.logprobs[i, len(expected):].abs().sum() == 0


def test_micro_batches_give_the_same_update(tiny_model):
    """Ragged lengths, token-count-correct: one batch of 8 equals micro-batches of 1 and 3."""
    found = []
    for micro in (0, 1, 3):
        trainer = make(tiny_model, micro_batch=micro)
        metrics = next(trainer)
        found.append((metrics, {n: p.detach().clone() for role in ("policy", "value")
                                for n, p in trainer.backbone.named_parameters(role).items()}))
    for metrics, weights in found[1:]:
        for name in ("loss/value", "grad_norm", "objective/entropy", "value/explained_variance"):
            assert metrics[name] == pytest.approx(found[0][0][name], rel=1e-3, abs=1e-5), name
        for name, weight in weights.items():
            torch.testing.assert_close(weight, found[0][1][name], rtol=1e-2, atol=3e-5)


def test_pad_equal_to_end_changes_nothing(tiny_llama):
    trainer, other = make(tiny_llama), make(tiny_llama)
    other.backbone.pad_id = other.backbone.stop_ids[0]
    for _ in range(3):
        assert without_time(next(trainer)) == without_time(next(other))


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (2, 1), (3, 4), (1, 8)])
def test_every_minibatch_is_an_optimiser_step_and_every_row_is_used_once_an_epoch(tiny_llama, epochs, minibatches):
    trainer = make(tiny_llama, ppo_epochs=epochs, minibatches=minibatches)
    seen, inner = [], trainer._optimise
    trainer._optimise = lambda rollout, targets, rows, texts: seen.append(rows) or inner(rollout, targets, rows, texts)
    next(trainer)
    assert len(seen) == epochs * minibatches
    state = next(iter(trainer.optimizer.state_dict()["state"].values()))
    assert int(state["step"]) == epochs * minibatches
    for epoch in range(epochs):
        assert sorted(i for rows in seen[epoch * minibatches:(epoch + 1) * minibatches] for i in rows) == list(range(8))


def test_the_score_lands_on_the_end_token(tiny_llama):
    trainer = make(tiny_llama, kl_coef=0.0, kl_target=0.0, gamma=1.0, gae_lambda=1.0)
    trainer.backbone.stop_ids = list(range(0, 400, 9))  # a random model ends now and then
    trainer.prepare()
    rollout = trainer.rollout(list(range(8)), torch.Generator().manual_seed(0))
    trainer.measure(rollout)
    rollout.values.zero_()
    scores = torch.arange(1.0, 9.0)
    _, returns = trainer.advantages(rollout, scores)
    assert rollout.ended.any()
    for i, ids in enumerate(rollout.response_ids):
        assert rollout.ended[i].item() == (ids[-1] in trainer.backbone.stop_ids)
        # With gamma = lambda = 1 and no values, the return of every token up to the end is the score, and nothing follows it.
        assert returns[i, :len(ids)].tolist() == [scores[i].item()] * len(ids)
        assert returns[i, len(ids):].abs().sum() == 0


def test_reward_rises_while_reference_and_base_stay_bit_equal(tiny_model):
    trainer = make(tiny_model, steps=40, **LEARN)
    frozen = {n: p.clone() for n, p in trainer.backbone.base.named_parameters() if ".policy." not in n and ".value." not in n}
    metrics = list(trainer)
    first, last = (sum(m["objective/scores"] for m in part) / 3 for part in (metrics[:3], metrics[-3:]))
    assert last > first + 0.1
    assert metrics[-1]["objective/kl"] > 0 and metrics[-1]["objective/kl_k3"] > 0
    for name, p in trainer.backbone.base.named_parameters():
        if name in frozen:
            assert torch.equal(p, frozen[name])


def test_a_negated_reward_goes_the_other_way(tiny_llama):
    ends = []
    for sign in (1, -1):
        trainer = make(tiny_llama, reward=lambda r, s=sign: s * vowels(r), steps=20, **LEARN)
        ends.append(sign * list(trainer)[-1]["objective/scores"])
    assert ends[0] > ends[1] + 0.1


def test_the_kl_penalty_holds_the_policy_back(tiny_llama):
    runs = {coef: list(make(tiny_llama, steps=10, batch_size=24, learning_rate=5e-3, kl_coef=coef, kl_target=0.0)) for coef in (0.0, 5.0)}
    assert runs[5.0][-1]["objective/kl"] < 0.5 * runs[0.0][-1]["objective/kl"]


def test_the_reward_is_normalised_on_the_reference(tiny_llama):
    trainer = make(tiny_llama, reward=lambda r: 1000 + 50 * vowels(r), reference_samples=64)
    metrics = next(trainer)
    event = next(e for e in trainer.events if e["event"] == "reference")
    assert event["gain"] * event["score_mean"] + event["bias"] == pytest.approx(0, abs=1e-2)
    assert event["gain"] * event["score_std"] == pytest.approx(1, rel=1e-4)
    assert abs(metrics["objective/scores_normalised"]) < 2 and metrics["objective/scores"] > 900


def test_a_reward_that_is_the_same_for_everything_is_refused(tiny_llama):
    with pytest.raises(UserError, match="all reference samples score the same .* --no-normalise-reward"):
        next(make(tiny_llama, reward=lambda r: torch.ones(len(r))))


@pytest.mark.parametrize(("stops", "expected"), [(range(400), "replace"), ([399], "none")])
def test_missing_end_is_chosen_by_how_often_the_reference_ends(tiny_llama, stops, expected):
    trainer = make(tiny_llama, reward=lambda r: torch.arange(float(len(r))))
    trainer.backbone.stop_ids = list(stops)
    trainer.prepare()
    assert trainer.missing_end == expected


def test_missing_end_replaces_the_score(tiny_llama):
    trainer = make(tiny_llama, missing_end="replace", missing_end_score=-3.0, normalise_reward=False)
    trainer.backbone.stop_ids = []
    assert next(trainer)["objective/scores_normalised"] == -3.0


def test_the_controller_sees_nats_per_sequence(tiny_llama):
    trainer = make(tiny_llama, steps=2, kl_coef=0.1, kl_target=1.5, kl_horizon=1000)
    with torch.no_grad():
        for name, p in trainer.backbone.named_parameters("policy").items():
            if "lora_B" in name:
                p.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    metrics = next(trainer)
    error = min(max(metrics["objective/kl"] / 1.5 - 1, -0.2), 0.2)
    assert trainer.controller.coef == pytest.approx(0.1 * (1 + error * 8 / 1000), rel=1e-9)


def test_the_kl_target_is_never_above_a_fifth_of_a_nat_per_token(tiny_llama):
    assert make(tiny_llama, kl_target=100.0, max_new_tokens=10).kl_target == pytest.approx(2.0)
    assert make(tiny_llama, kl_target=1.0, max_new_tokens=10).kl_target == 1.0


def test_above_the_hard_stop_a_step_learns_from_the_penalty_alone_and_a_run_that_stays_there_ends(tiny_llama):
    trainer = make(tiny_llama, steps=20, kl_target=0.5, kl_stop=1.0, kl_coef=0.0, learning_rate=1e-12, value_learning_rate=1e-12)
    with torch.no_grad():
        for name, p in trainer.backbone.named_parameters("policy").items():
            if "lora_B" in name:
                p.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    for _ in range(9):
        next(trainer)
        assert ["hard stop" in e["text"] and e["kind"] == "kl_stop" for e in trainer.events if e["event"] == "warning"].count(True) == 1
    with pytest.raises(Diverged, match="nats a sequence"):
        next(trainer)


def test_the_brake_pulls_a_policy_back(tiny_llama, monkeypatch):
    monkeypatch.setattr(policy, "KL_STOP_STEPS", 100)
    trainer = make(tiny_llama, steps=16, kl_target=1.0, kl_stop=1.0, kl_coef=0.5, learning_rate=3e-3, batch_size=64, ppo_epochs=2, minibatches=2)
    with torch.no_grad():
        for name, p in trainer.backbone.named_parameters("policy").items():
            if "lora_B" in name:
                p.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    kl = [metrics["objective/kl"] for metrics in trainer]
    assert kl[0] > 2 and sum(kl[-3:]) < 0.6 * sum(kl[:3])


def test_with_a_reward_model_the_value_starts_from_it(tiny_model):
    reward = make_reward(tiny_model, steps=2)
    list(reward)
    backbone = reward.backbone
    trainer = make(None, backbone=backbone, reward=RewardModel(backbone))
    for name, p in backbone.named_parameters("reward").items():
        assert torch.equal(p, backbone.named_parameters("value")[name])
    before = {n: p.clone() for n, p in backbone.named_parameters("reward").items()}
    metrics = list(trainer)
    assert len(metrics) == 4 and all(torch.equal(p, before[n]) for n, p in backbone.named_parameters("reward").items())
    assert any(not torch.equal(p, before[n]) for n, p in backbone.named_parameters("value").items())


def test_the_reward_model_scores_what_reward_training_scored(tiny_llama):
    reward = make_reward(tiny_llama, steps=2)
    assert isinstance(reward, RewardTrainer)
    list(reward)
    trainer = make(None, backbone=reward.backbone, reward=RewardModel(reward.backbone, batch=3))
    trainer.prepare()
    rollout = trainer.rollout([0, 1, 2, 3, 4], torch.Generator().manual_seed(0))
    scores = RewardModel(reward.backbone)(rollout)
    torch.testing.assert_close(trainer.reward(rollout), scores, rtol=1e-4, atol=1e-4)


def test_going_on_from_a_checkpoint_gives_the_same_metrics(tiny_model, tmp_path):
    settings = {"steps": 6, "ppo_epochs": 2, "minibatches": 2}
    whole = [without_time(m) for m in make(tiny_model, **settings)]
    first = make(tiny_model, **settings)
    head = [without_time(next(first)) for _ in range(3)]
    first.save(tmp_path)
    second = make(tiny_model, **settings)
    second.load(tmp_path)
    assert second.controller.coef == first.controller.coef
    assert head + [without_time(m) for m in second] == whole


def test_returns_are_taken_before_advantages_are_whitened(tiny_llama):
    trainer = make(tiny_llama, kl_coef=0.3)
    trainer.prepare()
    rollout = trainer.rollout(list(range(4)), torch.Generator().manual_seed(0))
    trainer.measure(rollout)
    rollout.values = rollout.mask * torch.randn(rollout.mask.shape, generator=torch.Generator().manual_seed(1))
    scores = vowels(rollout)
    advantages, returns = trainer.advantages(rollout, scores)
    raw = torch.zeros_like(returns)
    for i, ids in enumerate(rollout.response_ids):
        after = 0.0
        for t in reversed(range(len(ids))):
            value, following = rollout.values[i, t].item(), rollout.values[i, t + 1].item() if t + 1 < len(ids) else 0.0
            reward = -0.3 * (rollout.logprobs[i, t] - rollout.ref_logprobs[i, t]).item() + (scores[i].item() if t + 1 == len(ids) else 0.0)
            raw[i, t] = after = reward + following - value + 0.95 * after
    torch.testing.assert_close(returns, raw + rollout.values, rtol=1e-4, atol=1e-5)
    kept = raw[rollout.mask.bool()]
    torch.testing.assert_close(advantages[rollout.mask.bool()], (kept - kept.mean()) / kept.std(correction=0), rtol=1e-3, atol=1e-4)


def test_advantages_are_white(tiny_llama):
    trainer = make(tiny_llama)
    trainer.prepare()
    rollout = trainer.rollout(list(range(8)), torch.Generator().manual_seed(0))
    trainer.measure(rollout)
    advantages, _ = trainer.advantages(rollout, vowels(rollout))
    assert masked_mean(advantages, rollout.mask).item() == pytest.approx(0, abs=1e-5)
    assert masked_var(advantages, rollout.mask).item() == pytest.approx(1, abs=1e-3)


def test_few_prompts_are_asked_several_times(tiny_llama):
    trainer = PPO(Backbone.load(str(tiny_llama)), PROMPTS[:3], vowels, PPOConfig(steps=1, batch_size=8, max_tokens=100, max_new_tokens=4, reference_samples=4))
    metrics = next(trainer)
    assert metrics["objective/length"] > 0 and len(trainer.prompts) == 9


def test_no_prompts_is_a_clear_error(tiny_llama):
    with pytest.raises(UserError, match="no prompts"):
        PPO(Backbone.load(str(tiny_llama)), [], vowels, PPOConfig())
