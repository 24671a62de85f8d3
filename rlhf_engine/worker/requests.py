"""What is asked of a worker: names as a page writes them, a run to start, a chat to answer, orders to the live run.

Checked here, as everything that comes over the line is, before it reaches the thread that owns the model.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from rlhf_engine import config as configs
from rlhf_engine.errors import UserError
from rlhf_engine.runs.folder import Run
from rlhf_engine.stages import STAGES, live_settings, make_config

REWIND = "rewind"


def value_commands() -> tuple[str, ...]:
    """Commands that take a value: the settings that may change while a run goes on, and `rewind` (the step of a checkpoint)."""
    return (*live_settings(), REWIND)


# -- names -----------------------------------------------------------------------------------------------------------


# -- what passes from the listener to the thread that owns the model ---------------------------------------------------

@dataclass
class StartRequest:
    """A run that was asked for."""

    stage: str
    config: dict
    resume: bool = False
    overwrite: bool = False
    result: Future = field(default_factory=Future)
    """The run folder's path, or a UserError."""

    def __post_init__(self):
        if not isinstance(self.config, dict) or not isinstance(self.stage, str):
            raise UserError("a start needs a stage and a mapping of its settings")


@dataclass
class LoadRequest:
    """A base that is to be loaded."""

    model: str
    dtype: str = "auto"
    device: str = "auto"
    result: Future = field(default_factory=Future, init=False)
    """{"dtype", "device"}: what it is loaded as."""

    def __post_init__(self):
        if not isinstance(self.model, str) or not self.model:
            raise UserError("a load needs the name of a model: bundled, a Hub id or a local folder")
        if self.dtype not in ("auto", "fp32", "bf16", "nf4"):
            raise UserError(f"dtype is {self.dtype!r}, but must be auto, fp32, bf16 or nf4")


@dataclass
class ChatRequest:
    """A conversation to answer, and the answers as far as they are."""

    adapters: list[str]
    messages: list[dict]
    model: str = "bundled"
    dtype: str = "auto"
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    texts: list[str] = field(default_factory=list, init=False)
    error: Exception | None = field(default=None, init=False)
    done: bool = field(default=False, init=False)
    gone: bool = field(default=False, init=False)
    """Nobody reads the answers any more."""
    changed: threading.Event = field(default_factory=threading.Event, init=False)

    def __post_init__(self):
        def number(value, low, high, kind=(int, float)):
            return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high

        texts = isinstance(self.adapters, list) and all(isinstance(a, str) for a in self.adapters)
        if not texts or not 1 <= len(self.adapters) <= 8:
            raise UserError("a chat needs one to eight adapters, by name")
        if not isinstance(self.messages, list) or not self.messages or not all(
                isinstance(m, dict) and m.get("role") in ("system", "user", "assistant") and isinstance(m.get("content"), str)
                for m in self.messages):
            raise UserError('a chat needs messages like {"role": "user", "content": "..."}; roles are system, user and assistant')
        for name, fine, need in (
                ("max_new_tokens", number(self.max_new_tokens, 1, 1 << 20, int), "a whole number from 1"),
                ("temperature", number(self.temperature, 0, 10), "between 0 and 10"),
                ("top_p", number(self.top_p, 1e-6, 1), "above 0 and at most 1"),
                ("seed", self.seed is None or number(self.seed, 0, (1 << 63) - 1, int), "a whole number from 0, or nothing"),
                ("dtype", self.dtype in ("auto", "fp32", "bf16", "nf4"), "auto, fp32, bf16 or nf4")):
            if not fine:
                raise UserError(f"{name} is {getattr(self, name)!r}, but must be {need}")
        self.messages = [{"role": m["role"], "content": m["content"]} for m in self.messages]

    def show(self, texts: list[str]) -> None:
        self.texts = texts
        self.changed.set()

    def end(self, error: Exception | None = None) -> None:
        self.error, self.done = error, True
        self.changed.set()


class Orders:
    """What is asked of the live run, as `drive` asks for it between two steps."""

    WISHES = {"pause": "pause", "resume": "run", "step": "step", "stop": "stop", "discard": "discard"}

    def __init__(self, closing: Callable[[], bool], changes: dict[str, float] | None = None):
        self.closing, self.wish, self.lock = closing, "run", threading.Lock()
        self.paused = False
        """The trainer waits; a chat need not leave it any time."""
        self.waiting: list[tuple[str, float]] = list((changes or {}).items())
        """Changes that the trainer has not made yet."""

    def give(self, command: str, value: float | None = None, run: Run | None = None) -> None:
        """An order to `run`. Raises UserError for what can be refused at once."""
        if command not in (*self.WISHES, *value_commands()):
            raise UserError(f"there is no command {command!r}; it is one of {', '.join((*self.WISHES, *value_commands()))}")
        if command in value_commands():
            check_change(run, command, value)
            with self.lock:
                self.waiting.append((command, value))
            return
        with self.lock:
            if self.wish == "discard" or (self.wish == "stop" and command not in ("stop", "discard")):
                raise UserError("the run is ending already: wait for it")
            self.wish = self.WISHES[command]

    def changes(self) -> list[tuple[str, float]]:
        with self.lock:
            waiting, self.waiting = self.waiting, []
        return waiting

    def __call__(self) -> str:
        with self.lock:
            wish = self.wish
            if wish == "step":
                self.wish, wish = "pause", "run"
        if self.closing() and wish != "discard":
            wish = "stop"
        self.paused = wish == "pause"
        return wish


def check_change(run: Run, name: str, value: float | None) -> None:
    """Whether the live setting `name` of `run` may become `value`. Raises UserError."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{name} needs a value, a number; it got {value!r}")
    if name == REWIND:
        run.checkpoint_at(value)
        return
    held = run.config()
    stage = held.pop("stage")
    if name not in configs.field_types(STAGES[stage].config):
        raise UserError(f"{stage} has no setting {name!r} that could be changed")
    make_config(stage, held | {name: value})
    if name == "steps" and value:
        configs.check_length(value, run.status()["step"])


@dataclass
class LiveRun:
    """The run that owns the model."""

    run: Run
    orders: Orders
    loading: bool = True

    def state(self) -> str:
        """`loading`, the state in the run folder, or `idle` if that was removed a moment ago."""
        try:
            return "loading" if self.loading else self.run.status()["state"]
        except (UserError, OSError):
            return "idle"
