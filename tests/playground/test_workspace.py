import os
from dataclasses import replace

import pytest

from playground.workspace import Workspace, gallery
from rlhf_engine.config import RewardConfig, SFTConfig
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.training_rows import read_training_rows
from tests.playground.conftest import write_run


def test_entries_put_live_runs_first_and_then_the_newest(workspace):
    write_run(workspace.home, "going", SFTConfig(), state="running", checkpoint=False)
    write_run(workspace.home, "newest", SFTConfig())
    assert [e.name for e in workspace.entries()] == ["going", "newest", "broken", "taste", "first"]
    assert workspace.live() == workspace.chosen("") == "going"
    assert workspace.chosen("first") == "first"


def test_entries_pass_over_what_is_no_run(workspace):
    (workspace.runs / "empty").mkdir()
    (workspace.runs / "half").mkdir()
    (workspace.runs / "half" / "config.yaml").write_text("stage: sft\n")
    (workspace.runs / "torn").mkdir()
    (workspace.runs / "torn" / "config.yaml").write_text(": : :")
    assert len(workspace.entries()) == 3


def test_an_empty_workspace_has_no_runs(tmp_path):
    empty = Workspace(tmp_path / "nothing")
    assert empty.entries() == [] and empty.live() == "" and empty.chosen("") == ""
    assert empty.data_choices() == ["bundled"] and empty.model_choices() == ["bundled"]


@pytest.mark.parametrize("name", ["", ".", "..", "../runs/first", "first/../first", "/etc", "first/checkpoints", "none", "a\0b", "first\n"])
def test_a_run_is_named_inside_the_workspace_only(workspace, name):
    with pytest.raises(UserError, match="no run"):
        workspace.run(name)


def test_a_run_may_be_named_by_its_path(workspace):
    assert workspace.run(str(workspace.runs / "first")).path == workspace.run("first").path


def test_checkpoints_are_named_as_a_chat_asks_them(workspace):
    assert workspace.checkpoints("first") == [{"name": "first@step-000003", "step": 3, "roles": ["policy"]}]


def test_names_become_paths_for_the_worker(workspace):
    got = workspace.settings("ppo", {"reward": "taste", "adapter": "first@step-000003", "data": "uploads/mine.jsonl", "output": "next", "steps": 5})
    assert got == {"reward": str(workspace.runs / "taste"), "adapter": str(workspace.runs / "first" / "checkpoints" / "step-000003"),
                   "data": str(workspace.uploads / "mine.jsonl"), "output": str(workspace.runs / "next"), "steps": 5}
    assert workspace.settings("sft", {"model": "owner/name", "data": "owner/rows"}) == {"model": "owner/name", "data": "owner/rows"}
    assert workspace.settings("reward", {"adapter": "first"})["adapter"] == str(workspace.runs / "first")


@pytest.mark.parametrize("stage, values", [
    ("sft", {"data": "/etc/passwd"}), ("sft", {"data": "../secret.jsonl"}), ("sft", {"data": "uploads/../../secret.jsonl"}),
    ("sft", {"data": "uploads/link.jsonl"}), ("sft", {"data": "uploads/missing.jsonl"}), ("sft", {"model": "/"}),
    ("sft", {"model": "../.."}), ("sft", {"model": "assets/css"}), ("sft", {"adapter": "/tmp"}), ("sft", {"adapter": "../runs/first"}),
    ("sft", {"adapter": "first@step-000099"}), ("sft", {"adapter": "first@../.."}), ("sft", {"output": "../out"}), ("sft", {"output": "/tmp/x"}),
    ("sft", {"output": ".hidden"}), ("ppo", {"reward": "score.py:length"}), ("ppo", {"reward": "/tmp/score.py:length"}), ("ppo", {"reward": ""}),
    ("sft", {"data": "bundled/../secret.jsonl"}), ("sft", {"data": "bundled.jsonl"}), ("sft", {"data": "x" * 5000}), ("sft", {"model": "x" * 5000}),
    ("ppo", {}), ("sft", {"unknown": 1}), ("sft", {"batch_size": 0}), ("dance", {})])
def test_settings_refuse_what_lies_outside(workspace, stage, values, tmp_path, monkeypatch):
    (tmp_path / "secret.jsonl").write_text("{}\n")
    os.symlink(tmp_path / "secret.jsonl", workspace.uploads / "link.jsonl")
    with pytest.raises(UserError):
        workspace.settings(stage, values)


@pytest.mark.parametrize("name", ["/etc", "../first", "first@", "first@step-000099", "first@../../x", "FILE.py:f"])
def test_a_chat_refuses_adapters_from_elsewhere(workspace, name):
    with pytest.raises(UserError):
        workspace.chat_adapter(name)


def test_a_chat_names_runs_and_their_checkpoints(workspace):
    assert workspace.chat_adapter("none") == "none"
    assert workspace.chat_adapter("first") == str(workspace.runs / "first")
    assert workspace.chat_adapter("first@step-000003") == f"{workspace.runs / 'first'}@step-000003"


def test_choices_follow_the_runs(workspace):
    write_run(workspace.home, "going", SFTConfig(), state="running", checkpoint=False)
    write_run(workspace.home, "unready", RewardConfig(), state="stopped")
    assert [value for _, value in workspace.reward_choices()] == ["taste"]
    values = [value for _, value in workspace.chat_choices("bundled")]
    assert values == ["none", "bundled", *(name for _, name in gallery()), "going", "broken", "broken@step-000003", "first", "first@step-000003"]
    assert [value for _, value in workspace.chat_choices("other/model")] == ["none"]


def test_runs_on_a_model_in_the_workspace_are_offered_with_it(workspace):
    model = workspace.models / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    write_run(workspace.home, "small", replace(SFTConfig(), model=str(model)))
    assert workspace.model_choices() == ["bundled", "models/tiny"]
    assert [value for _, value in workspace.chat_choices("models/tiny")] == ["none", "small", "small@step-000003"]
    assert workspace.model("models/tiny") == str(model)


def test_an_upload_gets_a_harmless_name(workspace, tmp_path):
    (tmp_path / "my data; rm.jsonl").write_text("{}\n")
    assert workspace.upload(tmp_path / "my data; rm.jsonl") == "uploads/my_data_rm.jsonl"
    for name in ("DATA.CSV", "pairs.JSONL.GZ", "a.tsv"):
        (tmp_path / name).write_text("q")
        assert workspace.upload(tmp_path / name) == f"uploads/{name}" and workspace.data(f"uploads/{name}")
    (tmp_path / "evil.py").write_text("")
    with pytest.raises(UserError, match="no data file"):
        workspace.upload(tmp_path / "evil.py")


def test_votes_are_data_and_a_run_gets_a_copy_of_them(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.store.add(Event("a", "thumb", "q", ("x",), "up"))
    assert workspace.data_choices() == ["bundled", "feedback.sqlite"] and workspace.data("feedback.sqlite") == str(tmp_path / "feedback.sqlite")
    first = workspace.frozen_data(workspace.data("feedback.sqlite"))
    assert first == workspace.frozen_data(workspace.data("feedback.sqlite")) == str(tmp_path / "uploads" / "votes-1.jsonl")
    workspace.store.add(Event("b", "thumb", "q", ("y",), "down"))
    second = workspace.frozen_data(workspace.data("feedback.sqlite"))
    assert [len(read_training_rows(file, "thumbs")) for file in (first, second)] == [1, 2]
    assert workspace.frozen_data("bundled") == "bundled" and workspace.frozen_data("trl-lib/tldr") == "trl-lib/tldr"
