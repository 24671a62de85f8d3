"""The main memory that a process may still take: what the system has free, and what the limits of its container leave.

A container's limit is that of its control group (cgroup), of version 1 or 2. Beyond it the kernel kills the process.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

OWN_GROUPS = Path("/proc/self/cgroup")
"""Lists the control groups of this process: lines `number:controllers:path`."""
GROUPS = Path("/sys/fs/cgroup")
"""Where their files are."""
UNLIMITED = 1 << 60
"""Bytes from which on a limit is none. Version 1 writes a huge number where there is no limit."""


@dataclass(frozen=True)
class GroupFiles:
    """The names that a version of control groups has for the limit, the use, and the part of it that can be freed."""

    limit: str
    usage: str
    cache: str
    """The line of memory.stat with the file cache that has not been used lately: the kernel gives it up when asked."""


VERSION_1 = GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = GroupFiles("memory.max", "memory.current", "inactive_file")


def free_memory() -> int:
    """Bytes that a process of this container may take, besides what is taken already."""
    return max(0, min([psutil.virtual_memory().available, *group_rooms()]))


def total_memory() -> int:
    """Bytes of this machine, or of this container where it has a limit."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in group_limits())])


def held_memory(pid: int = 0) -> int:
    """Bytes that a process (0: this one) would give back at its end; 0 for a process that is gone.

    Pages of files that it has mapped are not among them. The system counts these as free already.
    """
    try:
        memory = psutil.Process(pid or None).memory_info()
    except psutil.Error:
        return 0
    return max(0, memory.rss - getattr(memory, "shared", 0))


# -- control groups ----------------------------------------------------------------------------------------------------

def group_rooms(own: Path = OWN_GROUPS, groups: Path = GROUPS) -> list[int]:
    """Bytes that each limit leaves: of the process's group and of those around it."""
    return [limit - used for limit, used in group_limits(own, groups)]


def group_limits(own: Path = OWN_GROUPS, groups: Path = GROUPS) -> list[tuple[int, int]]:
    """(limit, bytes in use) for each control group around the process that limits its memory."""
    limits = []
    for folder, files in group_folders(own, groups):
        try:
            limit = int((folder / files.limit).read_text())
            used = int((folder / files.usage).read_text()) - reclaimable(folder / "memory.stat", files.cache)
        except (OSError, ValueError):  # there is no such file, or the limit is "max"
            continue
        if limit < UNLIMITED:
            limits.append((limit, used))
    return limits


def group_folders(own: Path, groups: Path) -> Iterator[tuple[Path, GroupFiles]]:
    """The folders of the process's groups and of those around them, from the inside out.

    In a container the path may be one of the machine outside. Then only the outermost folder exists here, and it is
    that of the container.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            files, top = VERSION_2, groups
        elif "memory" in controllers.split(","):
            files, top = VERSION_1, groups / "memory"
        else:
            continue
        folder = top / path.lstrip("/")
        yield from ((each, files) for each in [folder, *folder.parents] if each.is_relative_to(top))


def reclaimable(file: Path, name: str) -> int:
    """The number in the line `name` of a memory.stat; 0 where there is none."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(line[1]) for line in lines if line[:1] == [name]), 0)
