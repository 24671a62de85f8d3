"""The larger reward of the live loop: it learns the same votes as the sparse one, and leads once it predicts them better."""

import math
import random
from functools import partial

import pytest
import torch

from rlhf_engine.config import TeachConfig
from rlhf_engine.feedback.events import Event
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.folder import Run
from rlhf_engine.teach.likelihood import log_likelihood
from rlhf_engine.teach.takeover import adapter_reward
from rlhf_engine.teach.takeover.adapter_reward import AdapterReward
from rlhf_engine.teach.takeover.live_reward import LiveReward
from rlhf_engine.teach.takeover.reward_contest import ENOUGH, STAKE, RewardContest
from rlhf_engine.trainers.state import load_state, save_state
from tests.rlhf_engine.helpers.teach import SMALL, make_simulated, vowels
from tests.rlhf_engine.helpers.trainers import without_time
from tests.rlhf_engine.teach.test_trainer import anchors, events_of, flags

EARLY = {"adapter_reward_from": 4}
KINDS = ("comparison", "ranking", "edit", "thumb", "score")


def reward_of(path, cls=LiveReward, **settings) -> LiveReward:
    backbone = Backbone.load(str(path))
    reward = cls(backbone, TeachConfig(**SMALL | EARLY | settings))
    reward.set_anchors(anchors(backbone))
    return reward


@pytest.fixture
def one_pass(monkeypatch):
    """Votes are learned once, so that the adapter of a small run is ready at once."""
    monkeypatch.setattr(adapter_reward, "PASSES", 1)


def leading(reward: LiveReward) -> LiveReward:
    reward.contest.adapter_leads = True
    return reward


# -- which one leads --------------------------------------------------------------------------------------------------------

def test_the_evidence_of_a_vote_by_hand():
    contest = RewardContest()
    for features, adapter, evidence in ((0, 1, math.log(1.3)), (1, 0, max(0.0, math.log(1.3 * 0.7))), (1, 1, 0.0), (0.5, 1, math.log(1.15))):
        contest.add(features, adapter)
        assert contest.evidence == pytest.approx(evidence)
    assert STAKE == 0.3 and (contest.votes, contest.features_right, contest.adapter_right) == (4, 2.5, 3.0)


def test_the_better_one_takes_over_and_gives_back():
    contest = RewardContest()
    for _ in range(30):
        contest.add(1, 0)  # worse at first: that does not hold it back for long
    needed = 0
    while not contest.adapter_leads:
        contest.add(0, 1)
        needed += 1
    assert needed == 31 > ENOUGH / math.log1p(STAKE)  # by then its accuracy is higher, too
    assert contest.last_change == {"reward": "adapter", "votes": 61, "features_accuracy": 30 / 61, "adapter_accuracy": 31 / 61}
    while contest.adapter_leads:
        contest.add(1, 0)
    assert contest.last_change == {"reward": "features", "votes": 8, "features_accuracy": 1.0, "adapter_accuracy": 0.0}


def test_equals_hardly_ever_take_turns_and_a_worse_one_never_leads():
    changes = leads = 0
    for seed in range(40):
        rng, contest, worse = random.Random(seed), RewardContest(), RewardContest()
        led = False
        for _ in range(300):
            contest.add(rng.random() < 0.6, rng.random() < 0.6)
            changes, led = changes + (contest.adapter_leads != led), contest.adapter_leads
            worse.add(rng.random() < 0.7, rng.random() < 0.5)
            leads += worse.adapter_leads
    assert changes / 40 < 2 and leads == 0


# -- scores -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("cap", [0.8])
def test_what_ppo_is_told_of_the_tokens_sums_up_to_the_score(tiny_model, one_pass, cap):
    trainer = make_simulated(tiny_model, score_cap_quantile=cap, **EARLY)
    leading(trainer.reward)
    next(trainer)
    reward = trainer.reward
    assert reward.leader and reward.leader.head.weight.abs().sum() > 0
    rollout = trainer.learner.sample_reference()  # the anchors are these very samples
    plain = reward.score(reward.anchors)
    torch.testing.assert_close(plain, reward.anchor_scores(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(plain.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    spread = plain.std(0, correction=0)  # less for a model of which one batch makes next to nothing
    assert torch.all(spread < reward.trust + 1e-3) and (tiny_model.name == "qwen3" or torch.all(spread > reward.trust - 1e-3))
    told, bound = reward(rollout), reward.lower_bound(plain)
    if cap:
        limit = bound.quantile(cap)
        bound = limit - 0.5 * torch.log1p(torch.exp((limit - bound) / 0.5))
    torch.testing.assert_close(told.sum(1), bound, rtol=1e-3, atol=1e-3)
    assert torch.equal(told * rollout.mask, told) and (told != 0).sum() > len(told)  # at more than one token


def test_a_score_reads_the_mean_state_and_the_last_one(tiny_model, one_pass):
    """Against a forward pass of each row alone."""
    reward = reward_of(tiny_model)
    reward.learn(events_of("comparison", 6))
    adapter = reward.adapter
    with torch.no_grad(), reward.backbone.use("reward"):
        for prompt, response in reward.anchors[:4]:
            states = reward.backbone.hidden(torch.tensor([prompt + response]))[0, len(prompt):]
            both = (torch.cat([states.mean(0), states[-1]]) - adapter.centre) / adapter.size
            expected = adapter.head.gain * (adapter.head.weight @ both + adapter.head.bias) + adapter.head.shift
            torch.testing.assert_close(adapter.score([(prompt, response)])[0], expected, rtol=1e-3, atol=1e-4)


# -- learning ---------------------------------------------------------------------------------------------------------------

def test_it_starts_as_the_starting_policy_and_changes_no_other_role(tiny_llama):
    trainer = make_simulated(tiny_llama)
    backbone = trainer.backbone
    before = {name: value.clone() for name, value in backbone.named_parameters("policy").items()}
    reward = AdapterReward(backbone, trainer.config, anchors(backbone))
    reward.standardise()
    ids = torch.tensor([reward.anchors[0][0]])
    with torch.no_grad(), backbone.use("reward"):
        start = backbone.hidden(ids)
    with torch.no_grad(), backbone.use("reference"):
        assert torch.equal(start, backbone.hidden(ids))
    votes = events_of("comparison", 8)
    live = LiveReward(backbone, trainer.config)
    reward.learn(votes, live.rows_of, lambda vote: torch.ones(2), 1000)
    with torch.no_grad(), backbone.use("reward"):
        assert not torch.equal(start, backbone.hidden(ids))
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_parameters("policy").items())
    assert backbone.trainable == ["policy", "reward"]  # PPO's own go on to be trained
    reward.drop()
    assert backbone.roles == ["policy"] and backbone.trainable == ["policy"]


def test_the_gradient_is_that_of_the_likelihood_however_it_is_cut(tiny_llama, monkeypatch):
    """All kinds at once, in one pass and vote by vote, against the formula over scores that were read apart."""
    votes = [events_of(kind, 2)[1] for kind in KINDS]
    shares = torch.tensor([[1.0, 0.5], [2.0, 1.0], [0.1, 3.0], [1.0, 1.0], [0.7, 0.2]])
    found = []
    for rows in (0, 2):
        reward = reward_of(tiny_llama)
        adapter = AdapterReward(reward.backbone, reward.config, reward.anchors, rows_per_pass=partial(int, rows))
        adapter.standardise()
        torch.nn.init.normal_(adapter.head.weight, generator=torch.Generator().manual_seed(0))
        monkeypatch.setattr(adapter.optimizer, "step", lambda: None)
        monkeypatch.setattr(adapter.optimizer, "zero_grad", lambda: None)
        reward.config.max_grad_norm = 0.0
        loss = adapter._step(votes, [reward.rows_of(vote) for vote in votes], shares, 5)
        gradients = [p.grad for p in [*reward.backbone.parameters("reward"), *adapter.head.parameters()]]
        expected = 0.0
        with torch.no_grad():
            for vote, share in zip(votes, shares):
                scores = torch.cat([adapter.score([row]) for row in reward.rows_of(vote)])
                for member in range(2):
                    expected -= (share[member] * log_likelihood(vote.kind, vote.value, scores[:, member], adapter.response_model)).item() / 10
        assert loss == pytest.approx(expected, rel=1e-4)
        found.append(gradients)
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    assert any(gradient.abs().max() > 0 for gradient in found[0][:4])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_vote_teaches_it(tiny_llama, kind):
    reward = reward_of(tiny_llama, batch_size=256)
    reward.learn(events_of(kind, 40))
    assert reward.adapter.ready and reward.adapter.visits_due == 0 and set(reward.adapter.visits.values()) == {4}
    later = [event for event in events_of("comparison", 40, seed=5) if not event.tie]
    right = [reward.adapter.guess(event, reward.rows_of(event)) for event in later]
    assert sum(right) / len(right) > 0.7, kind


def test_an_update_is_bounded_and_votes_are_learned_evenly(tiny_llama):
    reward = reward_of(tiny_llama)  # a batch of 8 votes of two responses, and 16 responses at an update
    votes = events_of("comparison", 24)
    reward.learn(votes[:20])
    for number in range(2, 6):
        reward.learn(votes[18 + number:19 + number])
        assert reward.adapter.batches == number and sum(reward.adapter.visits.values()) == 8 * number
    assert not reward.adapter.ready and max(reward.adapter.visits.values()) <= 2
    reward = reward_of(tiny_llama, batch_size=128)
    reward.learn(events_of("comparison", 20))
    assert reward.adapter.visits_due == 0 and reward.adapter.batches == 10
    for number in range(1, 9):
        reward.learn(events_of("comparison", 2, seed=number))
    assert reward.adapter.ready and reward.adapter.batches - 10 <= 16  # two batches of 8 for two votes, not one for each pass


# -- votes that count no more -------------------------------------------------------------------------------------------------

def retract(event: Event) -> Event:
    return Event(f"undo {event.id}", "retract", value=event.id)


def test_it_starts_anew_when_a_vote_that_it_learned_is_taken_back(tiny_llama):
    votes = events_of("comparison", 12)
    reward = leading(reward_of(tiny_llama, batch_size=64))
    reward.learn(votes)
    assert reward.take_changes()[0]["reward"] == "adapter" and reward.leader
    reward.learn([retract(votes[3])])
    other = leading(reward_of(tiny_llama, batch_size=64))
    other.learn([vote for vote in votes if vote is not votes[3]])
    assert set(reward.adapter.visits) == set(other.adapter.visits) and votes[3].id not in reward.adapter.visits
    assert torch.equal(reward.score(reward.anchors), other.score(other.anchors))  # as if the vote had never been
    reward.learn([retract(vote) for vote in votes[4:]])
    assert reward.adapter is None and "reward" not in reward.backbone.roles  # too few are left
    assert reward.take_changes() == [{"reward": "features"}]


def test_a_change_of_mind_turns_it(tiny_llama):
    """What was said before counts no more, for it as for the sparse reward, and the contest begins anew."""
    reward = leading(reward_of(tiny_llama, batch_size=64))
    votes = [event for event in events_of("comparison", 60) if not event.tie]
    for start in range(0, len(votes), 8):
        reward.learn(votes[start:start + 8])
    assert reward.leader
    turned = {"left": "right", "right": "left"}
    opposite = [Event(f"now {e.id}", e.kind, e.prompt, e.responses, turned[e.value]) for e in events_of("comparison", 60, seed=7) if not e.tie]
    for number in range(0, len(opposite), 2):
        if "outdated" in reward.learn(opposite[number:number + 2]):
            break
    assert reward.outdated and not reward.contest.adapter_leads and reward.leader is None
    assert reward.adapter is None or not set(reward.adapter.visits) & reward.outdated
    for more in range(number + 2, number + 14, 2):
        reward.learn(opposite[more:more + 2])
    consonants, vowels_ = reward.score([row for row in reward.anchors]).mean(1), [vowels("", reward.backbone.tokenizer.decode(r)) for _, r in reward.anchors]
    many = torch.tensor(vowels_) > 0.4
    assert consonants[~many].mean() > consonants[many].mean()
    assert reward.adapter is None or not set(reward.adapter.visits) & reward.outdated


# -- runs -------------------------------------------------------------------------------------------------------------------

def test_below_the_number_nothing_of_it_runs(tiny_llama, monkeypatch):
    never = make_simulated(tiny_llama, adapter_reward_from=0)
    expected = [without_time(metrics) for metrics in never]
    monkeypatch.setattr(AdapterReward, "__init__", lambda *args, **options: pytest.fail("it must not be made"))
    trainer = make_simulated(tiny_llama, adapter_reward_from=11)
    assert [without_time(metrics) for metrics in trainer] == expected and "reward" not in trainer.backbone.roles
    next(make_simulated(tiny_llama, adapter_reward_from=1, tamer=True))


@pytest.mark.parametrize("leads", [False, True])
def test_resuming_makes_no_difference(tiny_qwen3, tmp_path, one_pass, leads):
    def make():
        trainer = make_simulated(tiny_qwen3, **EARLY)
        trainer.reward.contest.adapter_leads = leads
        return trainer
    whole = make()
    expected = [without_time(next(whole)) for _ in range(4)]
    assert bool(whole.reward.leader) == leads
    first = make()
    found = [without_time(next(first)) for _ in range(2)]
    first.save(tmp_path)
    assert "reward" not in {path.name for path in tmp_path.iterdir()}  # it is a part of the trainer's state, and no reward model of `ppo`
    second = make_simulated(tiny_qwen3, **EARLY)
    second.load(tmp_path)
    found += [without_time(next(second)) for _ in range(2)]
    assert found == expected
    for role in ("policy", "reward"):
        ours, theirs = second.backbone.named_parameters(role), whole.backbone.named_parameters(role)
        assert theirs and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert second.reward.adapter.visits == whole.reward.adapter.visits and torch.equal(second.reward.adapter.head.weight, whole.reward.adapter.head.weight)


def test_a_trainer_goes_back_to_a_checkpoint_without_it(tiny_llama, tmp_path):
    trainer = make_simulated(tiny_llama, adapter_reward_from=8)
    next(trainer)
    trainer.save(tmp_path)
    next(trainer)
    assert trainer.reward.adapter
    trainer.load(tmp_path)
    assert trainer.reward.adapter is None and "reward" not in trainer.backbone.roles


def test_runs_of_earlier_versions_go_on_without_it(tiny_llama, tmp_path):
    old = make_simulated(tiny_llama, adapter_reward_from=0)
    next(old)
    assert "larger" not in old.state_dict()["reward"]
    save_state(tmp_path, old.reward.state_dict())
    reward = LiveReward(old.backbone, TeachConfig(**SMALL | EARLY))
    reward.load_state_dict(load_state(tmp_path))
    reward.learn(events_of("comparison", 12))
    assert reward.adapter is None and "larger" not in reward.state_dict()  # nor after the next resume


def test_the_journal_says_when_it_takes_over(cli, tiny_llama, inputs, tmp_path, monkeypatch, one_pass):
    """A sparse reward that is always wrong, and an adapter that is always right."""
    monkeypatch.setattr(LiveReward, "_adapter_guesses", lambda self, events: [1.0 if self.adapter and self.adapter.ready else None for _ in events])
    monkeypatch.setattr(LiveReward, "_guess", lambda self, event: 0.0)
    monkeypatch.setattr(adapter_reward, "MOST_ANCHORS", 5)
    code, _, err = cli(*flags(inputs, votes=40, votes_first=8, votes_per_step=8, steps=4, batch_size=32, adapter_reward_from=4), "--model", tiny_llama, "--labeler",
                       f"{inputs / 'score.py'}:vowels", "--output", tmp_path / "run")
    assert code == 0, err
    journal = Run(tmp_path / "run").journal()
    takeover, = [row for row in journal if row["event"] == "takeover"]
    assert {name: takeover[name] for name in ("reward", "features_accuracy", "adapter_accuracy")} == {
        "reward": "adapter", "features_accuracy": 0.0, "adapter_accuracy": 1.0} and takeover["votes"] == 8
    rows = [row for row in journal if row["event"] == "reward"]
    assert all(row["drift"] > 0 and math.isfinite(row["loss"]) for row in rows)
    assert all(len(row["predictions"]) == len(row["consumed"]) for row in rows)
    assert rows[-1]["guessed"] == rows[-1]["guesses"] == 8  # the guesses are those of the reward that leads
