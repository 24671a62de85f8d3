"""The peak of the like of a run, found from the files of a workspace, and shown on the Runs page."""

import json
from dataclasses import replace

import pytest

from playground.pages.runs import comparison_charts as curves
from playground.pages.runs.comparison_charts import Drawing
from playground.pages.runs.page import warnings_of
from playground.run_files import find_kl_limit, labels_learned
from playground.workspace import Workspace
from rlhf_engine.config import PPOConfig
from rlhf_engine.runs.folder import Run
from rlhf_engine.studies.kl_limits import KLLimit
from tests.playground.conftest import write_run
from tests.playground.pages.runs.test_page import curve


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """A study, a reward of 60 pairs, and a run of PPO against it that has come to a KL of 20."""
    workspace = Workspace(tmp_path)
    study, reward = workspace.runs / "overopt", workspace.runs / "reward"
    study.mkdir(parents=True)
    reward.mkdir()
    (study / "report.json").write_text(json.dumps({"study": "overoptimisation", "model": "bundled", "learner": "ppo", "curves": [
        {"kind": "rl", "labels": 50, "peak_kl": 17.0}]}))
    (reward / "report.json").write_text(json.dumps({"pairs": 60}))
    return workspace


def ppo_config(workspace: Workspace, **changes) -> dict:
    return {"stage": "ppo", "model": "bundled", "reward": str(workspace.runs / "reward"), **changes}


def test_labels_are_the_pairs_of_the_reward_or_the_votes_of_the_live_loop(workspace):
    run = Run(workspace.runs / "ppo")
    assert labels_learned(run, ppo_config(workspace)) == 60
    assert labels_learned(run, ppo_config(workspace, reward=f"{workspace.runs}/reward/checkpoints/step-000006/reward")) == 60
    assert labels_learned(run, ppo_config(workspace, reward="nowhere")) is None and labels_learned(run, {"stage": "ppo"}) is None
    run.path.mkdir()
    assert labels_learned(run, {"stage": "teach", "votes": 40}) == 40
    (run.path / "metrics.jsonl").write_text('{"step": 1, "reward/votes": 24}\n')
    assert labels_learned(run, {"stage": "teach", "votes": 40}) == 24


def test_the_studies_beside_a_run_say_where_its_like_peaked(workspace):
    run = Run(workspace.runs / "ppo")
    assert find_kl_limit(run, ppo_config(workspace)) == KLLimit(17.0, 50, "overopt")
    (workspace.runs / "overopt" / "report.json").write_text("{")
    assert find_kl_limit(run, ppo_config(workspace)) is None


def test_the_runs_page_warns_of_a_run_beyond_the_peak(workspace):
    write_run(workspace.home, "ppo-1", PPOConfig(reward=str(workspace.runs / "reward")), steps=30)  # a KL of 1 to 30
    assert "past_peak" in [advice.kind for advice in warnings_of(workspace, "ppo-1").advice]
    write_run(workspace.home, "ppo-2", PPOConfig(reward=str(workspace.runs / "reward")), steps=10)
    assert "past_peak" not in [advice.kind for advice in warnings_of(workspace, "ppo-2").advice]


def test_curves_of_runs_with_one_peak_in_common_show_it_and_others_do_not():
    one, two = (replace(curve(name, [8.0, 20.0]), kl_limit=KLLimit(17.0, 50, "overopt")) for name in ("one", "two"))
    other = replace(two, kl_limit=None)

    def names(*runs) -> list:
        return [trace.get("name") for trace in curves.figure("objective/kl", list(runs), Drawing())["data"]]
    assert "past the peak of its like" in names(one, two) and not [name for name in names(one, other) if name and "peak" in name]
