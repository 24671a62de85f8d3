"""Which checkpoints can answer in a chat, and which pairs are offered."""

import pytest

from playground.pages.chat.checkpoints import ChatCheckpoint, first_picks, gallery_names, presets, speaker
from playground.workspace import Workspace
from rlhf_engine.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_engine.errors import UserError
from tests.playground.conftest import write_run


def test_a_speaker_is_known_by_its_run_and_step(home, run):
    workspace = Workspace(home)
    write_run(home, "old", SFTConfig())
    assert speaker(workspace, "none") == ChatCheckpoint("none", "none", "none") and speaker(workspace, "cheerful").checkpoint == "cheerful"
    run.set_status(state="running", step=7)
    live = speaker(workspace, "taste")
    assert (live.checkpoint, live.run, live.step, live.adapter) == ("taste at step 7", run.id, 7, str(run.path))
    assert speaker(workspace, "taste@step-000003").checkpoint == "taste at step 3" and speaker(workspace, "old").step == 3
    for name in ("../old", "old@step-000009", "/etc", ""):
        with pytest.raises(UserError):
            speaker(workspace, name)


def test_presets_are_pairs_that_can_be_asked(home, run):
    workspace = Workspace(home)
    write_run(home, "sft", SFTConfig())
    write_run(home, "ppo", PPOConfig(adapter=str(home / "runs" / "sft"), reward="x"))
    write_run(home, "step", PPOConfig(adapter=str(home / "runs" / "sft" / "checkpoints" / "step-000003"), reward="x"))
    write_run(home, "gallery", PPOConfig(adapter="/some/assets/adapters/cheerful", reward="x"))
    write_run(home, "far", PPOConfig(adapter="/elsewhere/adapter", reward="x"))
    write_run(home, "gone", PPOConfig(adapter=str(home / "runs" / "removed"), reward="x"))
    write_run(home, "reward", RewardConfig())
    write_run(home, "begun", SFTConfig(), checkpoint=False)
    write_run(home, "tiny", SFTConfig(model=str(home / "models" / "tiny")))
    pairs = {pair for _, pair in presets(workspace, workspace.entries(), "bundled")}
    assert pairs == {"bundled|taste", "none|sft", "sft|ppo", "sft@step-000003|step", "cheerful|gallery", "none|bundled", *(f"bundled|{name}" for name in gallery_names())}
    offered = {value for _, value in workspace.chat_choices("bundled")}
    assert all(offered.issuperset(pair.split("|")) for pair in pairs)
    assert [pair for _, pair in presets(workspace, workspace.entries(), "models/tiny")] == ["none|tiny"]


def test_before_anybody_chooses_the_newest_trained_answers_beside_the_bare_model():
    assert first_picks([("Base", "none"), ("Live", "live"), ("Step 10", "live@step-000010")]) == ("none", "live")
    assert first_picks([("Base", "none")]) == ("none", "none")


def test_first_picks_are_as_many_as_there_are_sides():
    assert first_picks([("Base", "none"), ("A", "a"), ("B", "b")], 4) == ("none", "a", "b", "none")
