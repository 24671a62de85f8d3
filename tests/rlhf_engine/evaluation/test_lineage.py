"""What a policy was trained on, found in run folders: rewards, labelers, the runs before, and what has moved."""

import shutil
from pathlib import Path

import pytest

from rlhf_engine.evaluation.lineage import run_of, trainer_note, trainer_of, training_sources
from rlhf_engine.files import write_json
from rlhf_engine.runs.inputs import content_hash, folder_hash
from rlhf_engine.yaml_files import yaml_text


def make_run(path: Path, roles=("policy",), inputs=None, **config) -> Path:
    """A run folder with one checkpoint. Each role has weights of its own."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml_text({"stage": "ppo", "model": "m", "adapter": "none", **config}))
    write_json(path / "status.json", {"state": "done", "step": 2, "pid": 1, "born": 1.0})
    if inputs:
        write_json(path / "inputs.json", inputs)
    for role in roles:
        folder = path / "checkpoints" / "step-000002" / role
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(f"{path.name} {role}".encode())
    return path


@pytest.fixture
def reward(tmp_path) -> Path:
    return make_run(tmp_path / "reward", ["reward"], stage="reward")


def reward_content(run: Path) -> str:
    return folder_hash(run / "checkpoints" / "step-000002" / "reward")


def test_a_run_is_found_from_any_of_its_folders(tmp_path, reward):
    for place in (reward, reward / "checkpoints" / "step-000002", reward / "checkpoints" / "step-000002" / "reward"):
        assert run_of(str(place)).path == reward
    assert run_of("none") is run_of("bundled") is run_of("") is run_of(str(tmp_path)) is None


def test_the_reward_of_a_run_is_its_trainer_however_it_is_spelled(tmp_path, reward, monkeypatch):
    ppo = make_run(tmp_path / "ppo", reward=str(reward), inputs={"reward": {"place": str(reward), "content": reward_content(reward)}})
    other = make_run(tmp_path / "other", ["reward"], stage="reward")
    monkeypatch.chdir(tmp_path)
    for judge in (str(reward), "reward", "./reward/", str(reward / "checkpoints" / "step-000002")):
        for adapter in (str(ppo), "ppo", str(ppo / "checkpoints" / "step-000002" / "policy")):
            assert trainer_of(judge, adapter).kind == "reward", (judge, adapter)
    for judge in (str(other), "sentiment", "judge=x", "nowhere"):
        assert trainer_of(judge, str(ppo)) is None
    assert trainer_of(str(reward), "none") is trainer_of(str(reward), str(other)) is None
    assert "is the reward that" in trainer_note("reward", trainer_of("reward", "ppo"))


def test_a_copy_of_the_reward_is_known_by_its_weights(tmp_path, reward):
    ppo = make_run(tmp_path / "ppo", reward=str(reward), inputs={"reward": {"place": str(reward), "content": reward_content(reward)}})
    copy = tmp_path / "copy"
    shutil.copytree(reward / "checkpoints" / "step-000002" / "reward", copy)
    shutil.rmtree(reward)
    assert trainer_of(str(copy), str(ppo)).spec == str(reward)
    (copy / "adapter_model.safetensors").write_bytes(b"other weights")
    assert trainer_of(str(copy), str(ppo)) is None


def test_what_the_runs_before_learned_from_counts(tmp_path, reward):
    first = make_run(tmp_path / "first", reward=str(reward))
    second = make_run(tmp_path / "second", adapter=str(first), reward="long")
    third = make_run(tmp_path / "third", adapter=str(second / "checkpoints" / "step-000002"), stage="sft")
    assert trainer_of(str(reward), str(third)).run == first and trainer_of("long", str(third)).run == second
    (first / "config.yaml").write_text(yaml_text({"stage": "ppo", "model": "m", "adapter": str(third), "reward": str(reward)}))  # a circle
    assert len(training_sources(str(third))) == 5
    assert trainer_of("short", str(third)) is None


def test_functions_are_known_by_name_and_content(tmp_path):
    score = tmp_path / "score.py"
    score.write_text("def a(p, r): return 1.0\ndef b(p, r): return 2.0\n")
    recorded = {"reward": {"place": f"{score}:a", "content": content_hash(score)}}
    ppo = make_run(tmp_path / "ppo", reward=f"{score}:a", inputs=recorded)
    moved = Path(shutil.copy(score, tmp_path / "moved.py"))
    assert trainer_of(f"{score}:a", str(ppo)) and trainer_of(f"{moved}:a", str(ppo))
    assert trainer_of(f"{score}:b", str(ppo)) is trainer_of(f"{moved}:b", str(ppo)) is None
    score.write_text("def a(p, r): return 3.0\n")  # still what it was trained on, by its name
    assert trainer_of(f"{score}:a", str(ppo))


def test_labelers_and_rewards_that_a_run_learned_itself(tmp_path):
    teach = make_run(tmp_path / "teach", ["policy", "reward"], stage="teach", labeler="sentiment")
    again = make_run(tmp_path / "again", stage="teach", labeler=f"replay={teach}")
    assert trainer_of("sentiment", str(teach)).kind == trainer_of("sentiment", str(again)).kind == "labeler"
    assert trainer_of(str(teach), str(teach)).kind == "reward"  # the reward in its own checkpoint
    assert trainer_of("short", str(again)) is None
    assert "gave the votes" in trainer_note("sentiment", trainer_of("sentiment", str(teach)))


def test_broken_runs_say_nothing_and_raise_nothing(tmp_path):
    ppo = make_run(tmp_path / "ppo", reward="long")
    (ppo / "config.yaml").write_text(": [")
    assert training_sources(str(ppo)) == []
