"""The worker as the page may use it: what an owner may do, what a visitor may, and the runs of visitors, where the page is open to them."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from playground.server import text
from playground.workspace import Workspace
from rlhf_engine import config as configs
from rlhf_engine.errors import UserError
from rlhf_engine.stages import make_config

VISITORS = "visitor-"
"""Names of runs that visitors started begin with this."""
SECONDS, KEPT = 600, 20
"""Longest run of a visitor, from its start; and how many of them are kept, the newest."""
COMMANDS = ("pause", "resume", "step", "stop")
"""What a visitor may do to them."""
SMALLER = frozenset(("steps", "epochs", "batch_size", "max_tokens", "max_new_tokens", "candidates", "choices", "votes_first",
                     "votes_per_step", "ppo_epochs", "minibatches", "ensemble", "reference_samples"))
"""Settings that a visitor may lower."""
FREE = frozenset(("labeler", "votes", "noise", "seed", "learning_rate", "kl_target", "kl_coef", "temperature", "pessimism", "adapter",
                  "reward", "output", "query"))
"""Settings that make a run neither larger nor longer: a visitor sets them as they like, and all others stay as they are by default."""
LONGEST, SIDES = 512, 4
"""Tokens and checkpoints that a visitor may ask of a chat."""


class GuardedWorker:
    """A `Worker` that asks `workspace.access` first. Raises UserError, besides what the worker raises, for what a visitor may not do."""

    def __init__(self, worker, workspace: Workspace):
        self._worker, self._workspace, self._access = worker, workspace, workspace.access

    def __getattr__(self, name: str):
        return getattr(self._worker, name)

    def start(self, stage: str, config: dict, *, resume: bool = False) -> str:
        if not self._access.owner():
            if not self._access.open or resume:
                self._access.owners_only()
            config = self._visitors(stage, config)
            self._access.limit("start")
        elif Path(config.get("output") or "").name.startswith(VISITORS):
            if not resume:
                raise UserError(text.VISITORS_NAME.format(prefix=VISITORS))
            os.utime(Path(config["output"]) / "config.yaml")  # its time begins anew
        return self._worker.start(stage, config, resume=resume)

    def control(self, run: str, command: str, value: float | None = None) -> None:
        if not (self._access.open and Path(run).name.startswith(VISITORS) and command in COMMANDS and value is None):
            self._access.owners_only()
        self._worker.control(run, command, value)

    # No generators: what they check is checked where they are called, and not in a thread that takes their first item.

    def load(self, model: str, *, dtype: str = "auto") -> Iterator[dict]:
        self._access.owners_only()
        return self._worker.load(model, dtype=dtype)

    def chat(self, adapters: list[str], messages: list[dict], **options) -> Iterator[list[str]]:
        if not self._access.owner():
            if len(adapters) > SIDES or options.get("max_new_tokens", 0) > LONGEST:
                raise UserError(text.CHAT_TOO_LARGE.format(sides=SIDES, tokens=LONGEST))
            self._access.limit("chat", str(messages))
        return self._worker.chat(adapters, messages, **options)

    def _visitors(self, stage: str, config: dict) -> dict:
        """The settings of a visitor's run, under a name of its own."""
        given = make_config(stage, config)
        defaults = type(given)()
        for name, value in vars(given).items():
            usual = getattr(defaults, name)
            if name not in FREE and value != usual and not (name in SMALLER and 0 < value < usual):
                raise UserError(text.NOT_FOR_VISITORS.format(name=configs.flag(name), value=value, usual=usual))
        if str(config.get("labeler", "")).startswith("judge"):
            raise UserError(text.NO_JUDGE_FOR_VISITORS)
        taken = {int(folder.name.rpartition("-")[2]) for folder in self._workspace.runs.glob(f"{VISITORS}{stage}-*")
                 if folder.name.rpartition("-")[2].isdecimal()}
        return config | {"output": str(self._workspace.runs / f"{VISITORS}{stage}-{max(taken, default=0) + 1}")}


def watch(worker, workspace: Workspace, ended: threading.Event, *, every: float = 5.0) -> None:
    """Stop runs of visitors when their time is over, and remove the oldest of them, until `ended` is set."""
    while not ended.wait(every):
        with suppress(UserError, OSError):  # a run has gone at this moment; the next look finds the others
            enforce_visitor_limits(worker, workspace, time.time())


def enforce_visitor_limits(worker, workspace: Workspace, now: float) -> None:
    """One look at the runs of visitors."""
    runs = [entry for entry in workspace.entries() if entry.name.startswith(VISITORS)]
    begun = {entry.name: (workspace.runs / entry.name / "config.yaml").stat().st_mtime for entry in runs}
    for entry in runs:
        if entry.alive and now - begun[entry.name] > SECONDS:
            with suppress(UserError):  # it has just ended
                worker.control(str(workspace.runs / entry.name), "stop")
    over = sorted((entry.name for entry in runs if not entry.alive), key=begun.get, reverse=True)
    for name in over[KEPT:]:
        shutil.rmtree(workspace.runs / name, ignore_errors=True)
