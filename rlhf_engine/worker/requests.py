"""What is passed from the worker's listener to the thread that owns the model: a run to start, a base to load, a chat
to answer.

Each request is checked when it is made, so that nothing wrong reaches that thread.
"""

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from rlhf_engine.config import LARGEST_SEED
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.llm_judge import is_judge
from rlhf_engine.feedback.scoring_functions import is_function
from rlhf_engine.runs.control import RunControl
from rlhf_engine.runs.folder import Run

DTYPES = ("auto", "fp32", "bf16", "nf4")
ROLES = ("system", "user", "assistant")
MAX_ADAPTERS = 8
"""Adapters that one chat may ask."""
MAX_JUDGES = 4
"""Judges that a report may name."""
MAX_BEST_OF = 16
"""Answers of one adapter of which the best is shown, at most."""


@dataclass
class StartRequest:
    """A run to start or to resume.

    Its settings are checked by the thread that owns the model, which is the last gate.
    """

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
    """A base to load."""

    model: str
    dtype: str = "auto"
    device: str = "auto"
    result: Future = field(default_factory=Future, init=False)
    """{"dtype", "device"}: how it was loaded, and "base": what its name stands for, where it does not say it; or a
    UserError."""

    def __post_init__(self):
        if not isinstance(self.model, str) or not self.model:
            raise UserError("a load needs the name of a model: bundled, smollm2, a Hub id, a .gguf file or a local "
                            "folder")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype is {self.dtype!r}, but must be auto, fp32, bf16 or nf4")


@dataclass
class ReportRequest:
    """A report to make about a run or another adapter of the workspace."""

    adapter: str
    judges: list[str] = field(default_factory=list)
    """Built-in scores and reward runs, besides those that the run itself names."""
    result: Future = field(default_factory=Future, init=False)
    """The report's folder, or a UserError."""
    started: bool = field(default=False, init=False)
    """It is being measured."""
    tokens: int = field(default=0, init=False)
    """Forward passes and sampled tokens so far, as a sign of life."""

    def __post_init__(self):
        if not isinstance(self.adapter, str) or not self.adapter:
            raise UserError("a report needs the name of a run, or of an adapter of the gallery")
        named = isinstance(self.judges, list) and all(isinstance(judge, str) for judge in self.judges)
        if not named or len(self.judges) > MAX_JUDGES:
            raise UserError(f"a report takes at most {MAX_JUDGES} judges, by name")
        for judge in self.judges:
            if is_function(judge) or is_judge(judge):
                raise UserError(f"judge is {judge!r}, which is taken on the command line only: name a built-in score "
                                "or a reward run here")


@dataclass
class ChatRequest:
    """A conversation to answer, and the answers so far."""

    adapters: list[str]
    messages: list[dict]
    model: str = "bundled"
    dtype: str = "auto"
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    best_of: int = 1
    """Answers of each adapter, of which the best is shown."""
    reward: str = ""
    """The reward run that chooses the best."""
    texts: list[str] = field(default_factory=list, init=False)
    """The answers so far, one per adapter."""
    error: Exception | None = field(default=None, init=False)
    """Why the chat ended early."""
    done: bool = field(default=False, init=False)
    """The answers are complete, or there will be no more of them."""
    abandoned: bool = field(default=False, init=False)
    """Nobody reads the answers any more."""
    changed: threading.Event = field(default_factory=threading.Event, init=False)
    """Set when there is news for the reader."""

    def __post_init__(self):
        self._check_adapters()
        self._check_messages()
        self._check_sampling()
        self._check_best_of()
        self.messages = [{"role": message["role"], "content": message["content"]} for message in self.messages]

    def _check_adapters(self) -> None:
        named = isinstance(self.adapters, list) and all(isinstance(adapter, str) for adapter in self.adapters)
        if not named or not 1 <= len(self.adapters) <= MAX_ADAPTERS:
            raise UserError("a chat needs one to eight adapters, by name")

    def _check_messages(self) -> None:
        if not isinstance(self.messages, list) or not self.messages or not all(map(is_message, self.messages)):
            raise UserError('a chat needs messages like {"role": "user", "content": "..."}; '
                            'roles are system, user and assistant')

    def _check_sampling(self) -> None:
        valid_seed = self.seed is None or is_number(self.seed, 0, LARGEST_SEED, whole=True)
        checks = (
            ("max_new_tokens", is_number(self.max_new_tokens, 1, 1 << 20, whole=True), "a whole number from 1"),
            ("temperature", is_number(self.temperature, 0, 10), "between 0 and 10"),
            ("top_p", is_number(self.top_p, 1e-6, 1), "above 0 and at most 1"),
            ("seed", valid_seed, f"a whole number from 0 to {LARGEST_SEED}, or nothing"),
            ("dtype", self.dtype in DTYPES, "auto, fp32, bf16 or nf4"))
        for name, valid, need in checks:
            if not valid:
                raise UserError(f"{name} is {getattr(self, name)!r}, but must be {need}")

    def _check_best_of(self) -> None:
        if not is_number(self.best_of, 1, MAX_BEST_OF, whole=True):
            raise UserError(f"best_of is {self.best_of!r}, but must be a whole number from 1 to {MAX_BEST_OF}")
        if not isinstance(self.reward, str) or is_function(self.reward):
            raise UserError(f"reward is {self.reward!r}, but must be a reward run, by name: a file with a scoring "
                            "function is taken on the command line only")
        if self.best_of > 1 and not self.reward:
            raise UserError(f"best_of is {self.best_of}, but no reward chooses the best: name a reward run as reward")
        if self.best_of > 1 and not self.temperature:
            raise UserError(f"best_of is {self.best_of}, but at temperature 0 all answers are the same: raise the "
                            "temperature")

    def show(self, texts: list[str]) -> None:
        """Hand the reader the answers so far."""
        self.texts = texts
        self.changed.set()

    def end(self, error: Exception | None = None) -> None:
        """No more answers will come; `error` says why, unless they are complete."""
        self.error, self.done = error, True
        self.changed.set()


@dataclass
class LiveRun:
    """The run that has the model."""

    run: Run
    control: RunControl
    loading: bool = True

    def state(self) -> str:
        """`loading`, the state in the run folder, or `idle` if the folder was removed a moment ago."""
        try:
            return "loading" if self.loading else self.run.status()["state"]
        except (UserError, OSError):
            return "idle"


def is_message(message) -> bool:
    """Whether this is a message of a conversation: a role and a text."""
    return isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)


def is_number(value, low: float, high: float, *, whole: bool = False) -> bool:
    """Whether a value is a number between the bounds (inclusive). True and False are no numbers."""
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
