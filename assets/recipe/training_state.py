"""The state of a pre-training run, from which the run continues exactly as if it had never stopped.

One safetensors file holds everything: tensors (weights, their average, the optimisers' moments, torch's generator) and,
in the file's header, JSON (settings, data fingerprints, tokenizer, counters, Python's generator, history). There is no
pickle, so the file can be copied to another machine and opened without trust.

A state folder holds two such files. `constant.safetensors` is the phase with a constant rate, which can always be
continued. `decay.safetensors` is a branch of it, in which the rate falls to zero.
"""

import json
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

CONSTANT, DECAY = "constant.safetensors", "decay.safetensors"
# What --allow-change can change. A change of the second group alters the batches of an epoch, so it begins a new epoch.
CHANGEABLE = {"tokens", "decay", "dropout", "wrong", "ema", "muon_lr", "adam_lr", "weight_decay"}
NEW_EPOCH = {"data", "weights", "swap", "batch_tokens"}
AUTOGROUP = Path("/proc/self/autogroup")
"""Linux: the group of processes that this one shares the processor with, and the group's niceness."""


class Refused(Exception):
    """The run cannot go on as asked; the message is one line that says why and what to do."""


def write_state(path: Path, tensors: dict[str, torch.Tensor], facts: dict) -> None:
    """Write beside the old file, then rename: a process that is killed leaves the old file or the new one, whole."""
    new = path.with_suffix(".new")
    save_file(tensors, new, metadata={"facts": json.dumps(facts)})
    with open(new, "rb") as file:
        os.fsync(file.fileno())
    os.replace(new, path)


def read_facts(path: Path) -> dict | None:
    """The JSON part of a state; None where there is no file."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Refused(f"{path} is no training state ({error}). Remove it to begin anew.") from None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)


def pack_tensors(model, average, optimizers) -> dict[str, torch.Tensor]:
    """All tensors of a run under unique names: `model.*`, `average.*`, `optimizer.*.KEY`, `generator.torch`."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {f"average.{name}": parameter.detach() for name, parameter in average.named_parameters()}
    for optimizer in optimizers:
        for parameter, values in optimizer.state.items():
            for key, value in values.items():
                tensors[f"optimizer.{names[parameter]}.{key}"] = value
    tensors["generator.torch"] = torch.get_rng_state()
    return tensors


@torch.no_grad()
def unpack_tensors(tensors: dict[str, torch.Tensor], model, average, optimizers) -> None:
    """Put the tensors of `pack_tensors` back where they were."""
    owner = {parameter: optimizer for optimizer in optimizers
             for group in optimizer.param_groups for parameter in group["params"]}
    for prefix, module in (("model", model), ("average", average)):
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[f"{prefix}.{name}"])
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        values = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if values:
            owner[parameter].state[parameter] = values
    torch.set_rng_state(tensors["generator.torch"])


def generator_to_json(state: tuple) -> list:
    """`random.getstate()` as JSON can hold it."""
    version, numbers, gauss = state
    return [version, list(numbers), gauss]


def generator_from_json(state: list) -> tuple:
    version, numbers, gauss = state
    return version, tuple(numbers), gauss


def find_changes(facts: dict, settings: dict, data: list[dict]) -> dict[str, tuple]:
    """What differs between a state and what is asked for now: name -> (old, new). Files are compared by content."""
    old = facts["settings"]
    changes = {name: (old.get(name), value) for name, value in settings.items() if old.get(name) != value}
    if [entry["sha256"] for entry in facts["data"]] != [entry["sha256"] for entry in data]:
        changes["data"] = ([entry["name"] for entry in facts["data"]], [entry["name"] for entry in data])
    return changes


def apply_changes(facts: dict, settings: dict, data: list[dict], allowed: list[str]) -> None:
    """Write changed settings into the facts, with a line in their history; refuse those that are not allowed."""
    changes = find_changes(facts, settings, data)
    fixed = sorted(changes.keys() - CHANGEABLE - NEW_EPOCH)
    differences = "; ".join(f"{name}: {old} -> {new}" for name, (old, new) in changes.items())
    if fixed:
        raise Refused(f"The state was made with other settings ({differences}). "
                      f"{', '.join(fixed)} cannot change within a run.")
    if changes.keys() - set(allowed):
        names = " ".join(sorted(changes))
        raise Refused(f"The state was made with other settings or data ({differences}). Give the old ones, "
                      f"or add --allow-change {names} to change them on purpose.")
    for name, (old, new) in changes.items():
        record_change(facts, name, old, new)
    facts["settings"], facts["data"] = settings, data
    if changes.keys() & NEW_EPOCH and facts["position"]:
        facts["epoch"], facts["position"], facts["generator"] = facts["epoch"] + 1, 0, None


def record_change(facts: dict, setting: str, old, new) -> None:
    facts["history"].append({"step": facts["step"], "tokens": facts["tokens"], "setting": setting,
                             "old": old, "new": new})


def choose_state(folder: Path, settings: dict, finish: int | None) -> tuple[Path, dict | None]:
    """The file from which to continue, and its facts (None for a new run).

    A decay is continued if it branched from the constant phase as that is now. Otherwise a new branch begins.
    """
    constant, decay = read_facts(folder / CONSTANT), read_facts(folder / DECAY)
    if finish and not constant:
        raise Refused(f"--finish needs a state to finish, and {folder} holds none. Start the run without it first.")
    if not constant:
        return folder / CONSTANT, None
    wanted = finish or constant["tokens"] >= constant_end(settings)
    if not wanted or not decay or decay["decay"]["from"] != constant["tokens"]:
        return folder / CONSTANT, constant
    planned = decay["decay"]["tokens"]
    if finish in (None, planned):
        return folder / DECAY, decay
    if decay["tokens"] < decay["decay"]["from"] + planned:
        raise Refused(f"{folder / DECAY} is a decay over {planned} tokens that has not ended. "
                      f"Give --finish {planned}, or remove the file to begin another.")
    return folder / CONSTANT, constant


def constant_end(settings: dict) -> int:
    """Tokens after which the planned decay begins."""
    return round(settings["tokens"] * (1 - settings["decay"]))


def lock_folder(folder: Path):
    """Keep a second process out of the state folder until this one ends. Return what holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    file = open(folder / "lock", "w")  # noqa: SIM115 (open for as long as the process lives)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Refused(f"Another process trains in {folder}. Wait for it, or give another --state.") from None
    return file


@contextmanager
def low_priority(niceness: int) -> Iterator[None]:
    """Let other processes have the processor first: 19 yields most, 0 changes nothing.

    The niceness of a process alone is often not enough. Where Linux groups processes by session
    (/proc/sys/kernel/sched_autogroup_enabled is 1), it counts only within a session. The sessions share the processor
    by the niceness of their groups, so the group's is raised, too. The group can hold the user's shell, so it gets its
    old niceness back at the end. The process's own cannot be taken back without special rights.
    """
    if hasattr(os, "nice"):  # not on Windows
        os.nice(max(0, niceness - os.nice(0)))
    changed, group_before = False, 0
    with suppress(OSError, ValueError, IndexError):  # another system, or a file that may not be written
        group_before = int(AUTOGROUP.read_text().split()[-1])  # "/autogroup-204 nice 0"
        if niceness > group_before:
            AUTOGROUP.write_text(str(niceness))
            changed = True
    try:
        yield
    finally:
        if changed:
            with suppress(OSError):
                AUTOGROUP.write_text(str(group_before))


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class StopSignal:
    """Set by SIGTERM or Ctrl-C: the run ends its step and saves. A second signal ends it at once."""

    def __init__(self):
        self.received = False
        self.kept = {number: signal.signal(number, self) for number in (signal.SIGTERM, signal.SIGINT)}

    def __call__(self, number, frame):
        self.received = True
        self.restore()

    def restore(self) -> None:
        for number in self.kept:
            signal.signal(number, signal.SIG_DFL)
