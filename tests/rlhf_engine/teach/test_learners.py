"""The live loop with each learner: it runs, it learns, and a resumed run repeats every number."""

import pytest

from rlhf_engine import measures
from rlhf_engine.config import TeachConfig
from rlhf_engine.errors import UserError
from rlhf_engine.trainers.group import GroupLearner
from rlhf_engine.trainers.ppo import PPO
from tests.rlhf_engine.helpers.teach import make_simulated as make
from tests.rlhf_engine.helpers.trainers import without_time

LEARNERS = ["ppo", "grpo", "rloo", "dpo", "tamer"]
GROUPS = {"group_size": 4}


@pytest.mark.parametrize("learner", LEARNERS)
def test_each_learner_follows_the_votes_and_a_resumed_run_repeats_every_number(tiny_llama, tmp_path, learner):
    whole, first = make(tiny_llama, learner=learner, **GROUPS), make(tiny_llama, learner=learner, **GROUPS)
    expected = [without_time(next(whole)) for _ in range(4)]
    assert [without_time(next(first)) for _ in range(2)] == expected[:2]
    first.save(tmp_path / "here")
    second = make(tiny_llama, learner=learner, **GROUPS)
    second.load(tmp_path / "here")
    assert [without_time(next(second)) for _ in range(2)] == expected[2:]
    assert expected[-1][measures.VOTES_LEARNED] == 10 and expected[-1][measures.KL_K3] > 0
    if learner != "tamer":
        assert 0 <= expected[-1][measures.GOLD_WINS] <= 1


@pytest.mark.parametrize("learner", ["grpo", "rloo"])
def test_group_learners_sum_what_the_reward_gives_each_token(tiny_llama, learner):
    trainer = make(tiny_llama, learner=learner, **GROUPS)
    assert isinstance(trainer.learner, GroupLearner)
    rows = []
    inner = trainer.learner.targets
    trainer.learner.targets = lambda rollout, scores, tokens: rows.append((scores, tokens)) or inner(rollout, scores, tokens)
    for _ in range(3):
        next(trainer)
    for scores, tokens in rows:
        assert scores.tolist() == pytest.approx(tokens.sum(1).tolist(), abs=1e-4)


def test_settings_of_earlier_versions_still_name_tamer_and_contradictions_are_refused():
    assert TeachConfig(tamer=True).validate().learner == "tamer" and TeachConfig(learner="tamer").validate().tamer
    assert TeachConfig().validate().learner == "ppo"
    with pytest.raises(UserError, match="--tamer is the same as --learner tamer, but --learner is dpo"):
        TeachConfig(tamer=True, learner="dpo").validate()
    with pytest.raises(UserError, match="no multiple of --group-size"):
        TeachConfig(learner="grpo", batch_size=60).validate()
    assert TeachConfig(learner="ppo", batch_size=60).validate().batch_size == 60  # PPO has no groups


def test_ppo_is_what_it_was(tiny_llama):
    assert type(make(tiny_llama).learner) is PPO
