"""A workspace with links in it: the workspace itself, its runs, a run folder, and links that lead nowhere."""

import errno
import os
from pathlib import Path

import pytest

from playground.workspace import Workspace
from rlhf_engine.config import SFTConfig
from rlhf_engine.errors import UserError
from rlhf_engine.worker.client import Worker
from tests.playground.conftest import write_run


@pytest.fixture
def linked(tmp_path) -> Workspace:
    """A workspace behind a link, whose runs lie on another disk."""
    disk, home = tmp_path / "disk", tmp_path / "home"
    disk.mkdir()
    home.mkdir()
    (home / "runs").symlink_to(disk)
    (tmp_path / "space").symlink_to(home)
    write_run(home, "here", SFTConfig())
    write_run(tmp_path / "elsewhere", "away", SFTConfig())
    (disk / "away").symlink_to(tmp_path / "elsewhere" / "runs" / "away")
    (disk / "gone").symlink_to(tmp_path / "nothing")
    (disk / "circle").symlink_to(disk / "circle")
    (disk / "parent").symlink_to(tmp_path)
    return Workspace(tmp_path / "space")


def test_runs_behind_links_are_listed_and_broken_links_are_not(linked):
    assert sorted(entry.name for entry in linked.entries()) == ["away", "here"]
    assert linked.run("away").status()["state"] == "done" and linked.checkpoints("away")[0]["name"] == "away@step-000003"
    for name in ("gone", "circle", "parent"):
        with pytest.raises(UserError):
            linked.run(name)


def test_a_run_has_one_name_whatever_way_leads_to_it(linked, tmp_path):
    for path in (tmp_path / "disk" / "here", linked.run("here").path):
        assert linked.name_of(str(path)) == "here"
    assert Path(linked.settings("sft", {"output": "new"})["output"]) == tmp_path / "disk" / "new"


def test_worker_and_page_mean_the_same_folder(linked, tmp_path):
    assert Worker(tmp_path / "space").home == linked.home == tmp_path / "home"


def test_data_behind_a_link_that_leads_outside_is_refused_in_one_line(linked, tmp_path):
    (linked.home / "uploads").mkdir()
    for name, target in (("out.jsonl", tmp_path / "secret.jsonl"), ("circle.jsonl", linked.home / "uploads" / "circle.jsonl")):
        (tmp_path / "secret.jsonl").write_text("{}")
        os.symlink(target, linked.home / "uploads" / name)
        with pytest.raises(UserError) as caught:
            linked.data(f"uploads/{name}")
        assert "\n" not in str(caught.value)


def test_an_upload_on_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "data.csv").write_text("prompt\na\n")
    workspace = Workspace(tmp_path / "home")
    with monkeypatch.context() as patch:
        def full(source, target):
            target.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr("playground.workspace.shutil.copy", full)
        with pytest.raises(UserError, match="make room"):
            workspace.upload(tmp_path / "data.csv")
    assert list(workspace.uploads.iterdir()) == []
    assert workspace.upload(tmp_path / "data.csv") == "uploads/data.csv"


def test_a_file_in_the_place_of_the_workspace_is_one_line(tmp_path, monkeypatch):
    from playground.app import launch
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("file", "circle"):
        with pytest.raises(SystemExit, match="cannot be the workspace"):
            launch(tmp_path / name)
