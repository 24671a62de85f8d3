"""The memory of this machine: what a run may take on the GPU, or else in main memory. Nothing here imports torch."""

import re
import subprocess
import time
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from playground import text
from rlhf_engine.files import read_json
from rlhf_engine.runs.memory.free import free_memory, held_memory, total_memory

GPU_CACHE_SECONDS = 5
"""nvidia-smi is called at most once in so many seconds."""


@dataclass(frozen=True)
class Machine:
    """The device on which a run would train.

    device: "cpu" or "cuda". free: bytes that the run may take; what the worker holds at the moment counts as free.
    total: bytes in all.
    """

    device: str
    name: str
    free: int
    total: int


def machine(home: Path, device: str = "auto") -> Machine:
    """The first GPU, if torch can use one and `device` is not "cpu"; otherwise this computer. `home` is the workspace
    of the worker."""
    pid = worker_pid(home)
    gpu = None if device == "cpu" else gpu_memory(pid, int(time.monotonic() / GPU_CACHE_SECONDS))
    if gpu:
        return gpu
    held = held_memory(pid) if pid else 0
    return Machine("cpu", text.THIS_MACHINE, free_memory() + held, total_memory())


def worker_pid(home: Path) -> int:
    """The process id of the worker of a workspace; 0 if none is known."""
    try:
        return int((read_json(home / "worker.json") or {}).get("pid", 0))
    except (ValueError, OSError, AttributeError):
        return 0


@lru_cache(maxsize=4)
def gpu_memory(pid: int, _moment: int) -> Machine | None:
    """The first GPU that nvidia-smi lists. None if there is none, or if the installed torch was built without CUDA.

    `_moment` is the time in units of GPU_CACHE_SECONDS; a new one makes the cache ask nvidia-smi again.
    """
    if not torch_has_cuda():
        return None
    try:
        name, free, total = (part.strip() for part in query_gpu("gpu=name,memory.free,memory.total")[0].split(","))
        rows = [line.split(",") for line in query_gpu("compute-apps=pid,used_memory")]
        held = sum(int(used) for owner, used in rows if pid and int(owner) == pid)
        return Machine("cuda", name, (int(free) + held) << 20, int(total) << 20)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def query_gpu(query: str) -> list[str]:
    """The lines of CSV that nvidia-smi answers to a query; numbers are in MiB."""
    command = ["nvidia-smi", f"--query-{query}", "--format=csv,noheader,nounits"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    return [line for line in process.stdout.splitlines() if line.strip()]


@lru_cache(maxsize=1)
def torch_has_cuda() -> bool:
    """Whether the installed torch was built with CUDA, by its version file, which is read without importing torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        source = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return bool(re.search(r"^cuda\b[^=]*=\s*['\"]", source, re.MULTILINE))
