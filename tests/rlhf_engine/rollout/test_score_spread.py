"""A reward that is the same for (nearly) all samples of the start: noticed early, and said with what helps."""

import json

import pytest
import torch

from rlhf_engine.cli import main
from rlhf_engine.config import PPOConfig
from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.compare import judge_remarks
from rlhf_engine.feedback.events import Event
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.score_spread import EARLY, ScoreSpread, early_remark, growing_batches
from rlhf_engine.runs.folder import Run
from rlhf_engine.teach.trainer import all_ties
from rlhf_engine.trainers.ppo import PPO
from tests.conftest import sentences


def test_batches_grow_up_to_a_bound():
    assert [len(part) for part in growing_batches(list(range(70)), 32)] == [8, 16, 32, 14]
    assert [len(part) for part in growing_batches(list(range(7)), 3)] == [3, 3, 1]
    assert sum(growing_batches(list(range(70)), 32), []) == list(range(70))


def test_what_is_said_while_the_samples_come_in():
    assert early_remark(torch.zeros(8), 64) == "" and early_remark(torch.zeros(64), 64) == ""
    assert early_remark(torch.tensor([0.0] * 23 + [1.0]), 64) == ""
    assert early_remark(torch.zeros(EARLY), 64).startswith(f"the first {EARLY} samples of the starting policy all score 0; 40 more")


def test_the_near_case_says_which_share_and_how_many_a_step_are_left():
    config = PPOConfig(reward="r", batch_size=32, max_new_tokens=48)
    line = ScoreSpread(torch.tensor([0.0] * 62 + [1.0, 2.0]), 0.25, config).warning()
    assert line.startswith("97% of the 64 samples of the starting policy score the same (0), so the policy learns from the others, about 1 of 32 in a step.")
    for words in ("prompts that ask", "part of the score", "--max-new-tokens is 48, which cut 75% of them off", "--reference-samples is 64"):
        assert words in line
    assert "\n" not in line and ScoreSpread(torch.arange(64.0), 1.0, config).warning() == ""
    assert ScoreSpread(torch.tensor([0.0] * 57 + [1.0] * 7), 1.0, config).warning() == ""
    assert "99.9%" in ScoreSpread(torch.tensor([0.0] * 999 + [1.0]), 1.0, config).warning()


def make(model, score, **settings):
    config = PPOConfig(batch_size=32, steps=1, minibatches=1, ppo_epochs=1, reference_samples=40, max_new_tokens=4, device="cpu", **settings)
    scores = lambda rollout: torch.tensor([score(i) for i in range(len(rollout))])  # noqa: E731
    trainer = PPO(Backbone.load(str(model), dtype="fp32", device="cpu"), sentences(8), scores, config)
    news = []
    trainer.on_news = lambda: news.append([event.get("kind", event["event"]) for event in trainer.events])
    return trainer, news


def test_a_constant_reward_ends_with_what_helps_and_is_told_early(tiny_llama):
    trainer, news = make(tiny_llama, lambda i: 0.0)
    with pytest.raises(UserError) as caught:
        next(trainer)
    line = str(caught.value)
    assert "\n" not in line and "all reference samples score the same (0)" in line and "in 40 samples" in line
    assert "prompts that ask for what is rewarded" in line and "--max-new-tokens is 4" in line and "--no-normalise-reward" in line
    assert news[-1][-1] == "alike_so_far"


def test_without_normalisation_a_constant_reward_is_a_warning(tiny_llama):
    trainer, _ = make(tiny_llama, lambda i: 2.5, normalise_reward=False)
    trainer.prepare_once()
    line = next(event["text"] for event in trainer.events if event.get("kind") == "scores_alike")
    assert line.startswith("100% of the 40 samples of the starting policy score the same (2.5), so there is nothing to learn from until")


def test_scores_that_differ_are_those_of_the_responses(tiny_llama):
    trainer, news = make(tiny_llama, float)
    rollout, scores = trainer.score_reference()
    assert len(rollout) == len(scores) == 40 and scores.tolist() == [*range(8), *range(16), *range(16)]
    assert not [kinds for kinds in news if "alike_so_far" in kinds]
    assert rollout.prompts == [trainer.prompts[i] for i in trainer._reference_prompts()]


def test_the_command_ends_with_code_2_and_leaves_nothing(tiny_llama, tmp_path, capsys):
    (tmp_path / "zero.py").write_text("def asks(prompt, response):\n    return 0\n")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in sentences(6)))
    code = main(["ppo", "--model", str(tiny_llama), "--data", str(tmp_path / "p.jsonl"), "--reward", f"{tmp_path / 'zero.py'}:asks", "--batch-size", "16",
                 "--reference-samples", "32", "--max-new-tokens", "3", "--steps", "1", "--output", str(tmp_path / "run"), "--device", "cpu"])
    out, err = capsys.readouterr()
    assert code == 2 and not Run(tmp_path / "run").exists()
    assert "warning: the first 24 samples of the starting policy all score 0" in out
    assert [line for line in err.splitlines() if line.startswith("error: ")][0].startswith("error: the reward cannot be normalised: all reference samples")


def test_a_labeler_and_a_judge_that_tell_nothing_apart_are_remarked():
    tie = Event("1", "comparison", "p", ("a", "b"), "tie")
    left = Event("2", "comparison", "p", ("a", "b"), "left")
    assert all_ties([tie] * 7) == "" and all_ties([tie] * 8 + [left]) == ""
    assert all_ties([tie] * 24).startswith("all 24 votes so far are ties: the labeler tells none of these responses apart")
    assert judge_remarks([1.0, 2.0]) == [] and "all 2 responses the same score (1)" in judge_remarks([1.0, 1.0])[0]
