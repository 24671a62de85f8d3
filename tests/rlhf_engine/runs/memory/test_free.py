"""The limits of a container, as Linux writes them down in both versions of control groups."""

import subprocess
import sys
from pathlib import Path

import psutil

from rlhf_engine.runs.memory import free

GIB = 1 << 30


def group(folder: Path, files: free.GroupFiles, limit: int | str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files.limit).write_text(f"{limit}\n")
    (folder / files.usage).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{files.cache} {cache}\n")


def test_version_2_counts_the_tightest_group_and_gives_back_the_cache(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("0::/pods/mine\n")
    group(tmp_path / "fs/pods/mine", free.VERSION_2, "max", 2 * GIB, 0)
    group(tmp_path / "fs/pods", free.VERSION_2, 4 * GIB, 3 * GIB, GIB)
    group(tmp_path / "fs", free.VERSION_2, 8 * GIB, 3 * GIB, 0)
    assert free.group_limits(own, tmp_path / "fs") == [(4 * GIB, 2 * GIB), (8 * GIB, 3 * GIB)]
    assert min(free.group_rooms(own, tmp_path / "fs")) == 2 * GIB


def test_version_1_in_a_container_that_sees_the_path_of_the_machine_outside(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("5:cpuset:/x\n4:memory:/docker/0123\n0::/\n")
    group(tmp_path / "fs/memory", free.VERSION_1, 3 * GIB, 2 * GIB, GIB // 2)
    assert free.group_rooms(own, tmp_path / "fs") == [3 * GIB // 2]
    (tmp_path / "fs/memory" / free.VERSION_1.limit).write_text("9223372036854771712")
    assert free.group_rooms(own, tmp_path / "fs") == []


def test_without_limits_it_is_what_the_system_has(tmp_path, monkeypatch):
    assert free.group_rooms(tmp_path / "missing", tmp_path) == []
    monkeypatch.setattr(free, "group_limits", lambda *_: [])
    assert 0 < free.free_memory() <= free.total_memory() == psutil.virtual_memory().total
    monkeypatch.setattr(free, "group_limits", lambda *_: [(GIB, GIB - 5)])
    assert (free.free_memory(), free.total_memory()) == (5, GIB)
    monkeypatch.setattr(free, "group_limits", lambda *_: [(GIB, 2 * GIB)])
    assert free.free_memory() == 0


def test_what_a_process_holds():
    assert free.held_memory() > 1 << 20
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert free.held_memory(gone.pid) == 0
