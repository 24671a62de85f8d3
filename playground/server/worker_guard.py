"""The worker as the page may use it: what an owner may do, what a visitor may do, and the runs of visitors where the
page is open.

The guard denies by default. It has the five methods that are written below and no others: a new method of the worker is
out of reach of the page until it is written here, with who may call it.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from playground.run_commands import WorkerHandle
from playground.server import text
from playground.workspace import Workspace
from rlhf_engine import config as configs
from rlhf_engine.errors import UserError
from rlhf_engine.stages import check_names, find_stage

VISITOR_PREFIX = "visitor-"
"""The names of runs that visitors have started begin with this."""
MAX_SECONDS = 600
"""The longest run of a visitor, from its start."""
MAX_VISITOR_RUNS = 20
"""How many runs of visitors are kept: the newest."""
VISITOR_COMMANDS = ("pause", "resume", "step", "stop")
"""What a visitor may order a visitor's run to do."""
LOWERABLE = frozenset(("steps", "epochs", "batch_size", "max_tokens", "max_new_tokens", "candidates", "choices",
                       "votes_first", "votes_per_step", "ppo_epochs", "minibatches", "ensemble", "reference_samples",
                       "rounds", "samples"))
"""Settings that a visitor may lower."""
FREE = frozenset(("labeler", "learner", "votes", "noise", "seed", "learning_rate", "kl_target", "kl_coef",
                  "temperature", "pessimism", "adapter", "reward", "output", "query"))
"""Settings that make a run neither larger nor longer, so a visitor may choose them. All others keep their defaults."""
MAX_CHAT_TOKENS, MAX_CHAT_SIDES, MAX_CHAT_BEST_OF = 512, 4, 4
"""Tokens per answer, checkpoints, and answers of each of which the best is shown, that a visitor may ask of a chat."""


class GuardedWorker:
    """A worker that asks `workspace.access` who is calling. Raises UserError for what a visitor may not do, and what
    the worker raises.

    The settings that `start` gets have been checked by `Workspace.settings`; the worker checks them once more, as the
    last gate.
    """

    def __init__(self, worker: WorkerHandle, workspace: Workspace):
        self._worker, self._workspace, self._access = worker, workspace, workspace.access

    def start(self, stage: str, config: dict, *, resume: bool = False) -> str:
        """Start or resume a run. A visitor may start a small one, where the page is open to that."""
        if not self._access.owner():
            if not self._access.open or resume:
                self._access.owners_only()
            config = self._visitor_settings(stage, config)
            self._access.limit("start")
        elif Path(config.get("output") or "").name.startswith(VISITOR_PREFIX):
            if not resume:
                raise UserError(text.VISITORS_NAME.format(prefix=VISITOR_PREFIX))
            os.utime(Path(config["output"]) / "config.yaml")  # its time begins anew
        return self._worker.start(stage, config, resume=resume)

    def control(self, run: str, command: str, value: float | None = None) -> None:
        """Give the live run an order.

        A visitor may hold, stop and go on with a visitor's run, where the page is open to that.
        """
        visitors_run = self._access.open and Path(run).name.startswith(VISITOR_PREFIX)
        if not (visitors_run and command in VISITOR_COMMANDS and value is None):
            self._access.owners_only()
        self._worker.control(run, command, value)

    # The next three return streams, but are no generators: so they check who is calling when they are called, and not
    # in the thread that takes the first item, in which nobody is.

    def load(self, model: str, *, dtype: str = "auto") -> Iterator[dict]:
        """Load a base model. For owners."""
        self._access.owners_only()
        return self._worker.load(model, dtype=dtype)

    def report(self, adapter: str, *, judges: Sequence[str] = ()) -> Iterator[dict]:
        """Make a report. For owners: it holds the model for a minute or more."""
        self._access.owners_only()
        return self._worker.report(adapter, judges=judges)

    def chat(self, adapters: list[str], messages: list[dict], **options) -> Iterator[list[str]]:
        """Answers to a conversation. For everybody; a visitor's are limited in length and in number."""
        if not self._access.owner():
            too_long = options.get("max_new_tokens", 0) > MAX_CHAT_TOKENS
            if len(adapters) > MAX_CHAT_SIDES or too_long or options.get("best_of", 1) > MAX_CHAT_BEST_OF:
                raise UserError(text.CHAT_TOO_LARGE.format(sides=MAX_CHAT_SIDES, tokens=MAX_CHAT_TOKENS,
                                                           best_of=MAX_CHAT_BEST_OF))
            self._access.limit("chat", str(messages))
        return self._worker.chat(adapters, messages, **options)

    def _visitor_settings(self, stage: str, config: dict) -> dict:
        """The settings of a visitor's run, with a name of its own.

        Raises UserError for a setting that a visitor may not choose.
        """
        check_names(stage, config)
        defaults = find_stage(stage).config()
        for name, value in configs.current_names(config).items():
            usual = getattr(defaults, name)
            if name not in FREE and value != usual and not (name in LOWERABLE and is_lower(value, usual)):
                raise UserError(text.NOT_FOR_VISITORS.format(name=configs.flag(name), value=value, usual=usual))
        if str(config.get("labeler", "")).startswith("judge"):
            raise UserError(text.NO_JUDGE_FOR_VISITORS)
        return {**config, "output": str(self._new_visitor_folder(stage))}

    def _new_visitor_folder(self, stage: str) -> Path:
        runs, prefix = self._workspace.runs, f"{VISITOR_PREFIX}{stage}-"
        endings = [folder.name.removeprefix(prefix) for folder in runs.glob(f"{prefix}*")]
        numbers = [int(ending) for ending in endings if ending.isdecimal()]
        return runs / f"{prefix}{max(numbers, default=0) + 1}"


def is_lower(value, usual) -> bool:
    """Whether a value is a positive number below the usual one. A text, or true, is no number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < usual


# -- the runs of visitors ----------------------------------------------------------------------------------------------

def watch_visitors(worker: WorkerHandle, workspace: Workspace, ended: threading.Event, *, every: float = 5.0) -> None:
    """Enforce the limits on visitors' runs every so many seconds, until `ended` is set."""
    while not ended.wait(every):
        with suppress(UserError, OSError):  # a run was removed at this moment; the next turn sees the others
            enforce_visitor_limits(worker, workspace, time.time())


def enforce_visitor_limits(worker: WorkerHandle, workspace: Workspace, now: float) -> None:
    """Stop the runs of visitors whose time is over, and remove the oldest of those that have ended."""
    runs = [entry for entry in workspace.entries() if entry.name.startswith(VISITOR_PREFIX)]
    started = {}
    for entry in runs:
        started[entry.name] = (workspace.runs / entry.name / "config.yaml").stat().st_mtime
        if entry.alive and now - started[entry.name] > MAX_SECONDS:
            with suppress(UserError):  # it has just ended
                worker.control(str(workspace.runs / entry.name), "stop")
    ended = sorted((entry.name for entry in runs if not entry.alive), key=lambda name: started[name], reverse=True)
    for name in ended[MAX_VISITOR_RUNS:]:
        shutil.rmtree(workspace.runs / name, ignore_errors=True)
