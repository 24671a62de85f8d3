"""What the page's tests share: a workspace with runs that were written by hand, and a worker that only records what it is asked."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.pages.chat.chatbot_messages import text_of
from playground.workspace import Workspace
from rlhf_engine.config import PPOConfig, RewardConfig, RunConfig, SFTConfig, TeachConfig
from rlhf_engine.errors import UserError
from rlhf_engine.runs.folder import Run

EVIL = "<img src=x onerror=\"window.hacked='yes'\"><b>bold</b> {{value}} ${window.hacked='yes'} $$x^2$$ & <script>window.hacked='yes'</script>"

RUNNING = {"state": "running", "step": 2, "total_steps": 10, "error": "", "advice": ""}
"""The status of a run."""


def assert_inert(html: str) -> None:
    """`html` shows EVIL as text, and nothing of it is markup."""
    assert "<img" not in html and "<script" not in html and "<b>" not in html and "${" not in html and "{{" not in html
    assert "&lt;img" in html


def write_run(home: Path, name: str, config: RunConfig, *, state: str = "done", steps: int = 3, checkpoint: bool = True, **status) -> Run:
    """A run folder as the engine writes it, with metrics of every name that a plot reads."""
    run = Run.create(home / "runs" / name, config)
    for step in range(1, steps + 1):
        run.log({"step": step, "loss/train": 2.0 / step, "objective/kl": 1.0 * step, "objective/scores": 0.1 * step, "objective/entropy": 2.0,
                 "objective/length": 20.0, "accuracy/train": 0.5, "loss/policy": 0.1, "loss/value": 0.2, "time/update": 0.5})
    if checkpoint:
        with run.checkpoint(steps) as folder:
            (folder / ("reward" if config.stage == "reward" else "policy")).mkdir()
    run.set_status(state=state, step=steps, total_steps=10, **status)
    return run


def ask(run: Run, number: int, count: int = 4, text: str = "") -> None:
    """Add a query to a run, as the trainer writes it."""
    run.add_queries([{"id": f"q{number}", "prompt": f"prompt {number} {text}", "responses": [f"answer {number}.{i} {text}" for i in range(1, count + 1)],
                      "scores": [0.5] * count, "step": 2, "sampling": {"max_new_tokens": 8}, "run": run.id, "checkpoint": "taste at step 2"}])


def write_teach(home: Path, name: str = "teach", *, queries: int = 5, count: int = 4, state: str = "running", text: str = "", **config) -> Run:
    """A run that asks a person, with some queries."""
    run = write_run(home, name, TeachConfig(labeler="person", **config), state=state, checkpoint=False)
    for number in range(queries):
        ask(run, number, count, text)
    return run


@pytest.fixture
def home(tmp_path) -> Path:
    """The folder of a workspace, which is still empty."""
    return tmp_path / "home"


@pytest.fixture
def workspace(home) -> Workspace:
    write_run(home, "first", SFTConfig())
    write_run(home, "taste", RewardConfig())
    write_run(home, "broken", PPOConfig(reward=str(home / "runs" / "taste")), state="failed", error=EVIL, advice="Lower micro_batch.")
    (home / "uploads").mkdir()
    (home / "uploads" / "mine.jsonl").write_text('{"prompt": "a"}\n')
    return Workspace(home)


def from_chatbot(messages: list[dict]) -> list[dict]:
    """What the Chatbot shows as role and text again: the inverse of `escaped`."""
    return [{"role": message["role"], "content": text_of(message["content"])} for message in messages]


class FakeWorker:
    """The handle's interface; `log` holds every call."""

    def __init__(self):
        self.log: list[tuple] = []

    def start(self, stage: str, config: dict, *, resume: bool = False, overwrite: bool = False) -> str:
        if config.get("seed") == 13:
            raise UserError(f"thirteen is no seed {EVIL}")
        self.log.append(("start", stage, config, resume))
        return config.get("output") or "/home/runs/fresh"

    def control(self, run: str, command: str, value: float | None = None) -> None:
        if value is not None and value < 0:
            raise UserError(f"--{command.replace('_', '-')} is {value}, but must be at least 0.0")
        self.log.append(("control", run, command) if value is None else ("control", run, command, value))

    def report(self, adapter: str, *, judges=()) -> Iterator[dict]:
        self.log.append(("report", adapter, list(judges)))
        yield {"state": "waiting"}
        if adapter == "brief":
            raise UserError(f"brief: no such adapter {EVIL}")
        yield {"state": "measuring", "tokens": 3}
        yield {"state": "done", "report": f"/home/reports/{adapter}"}

    def load(self, model: str, *, dtype: str = "auto") -> Iterator[dict]:
        self.log.append(("load", model, dtype))
        yield {"state": "fetching", "done": 0, "total": 0}
        if model == "me/gated":
            raise UserError(f"{model}: is gated; accept its licence on the Hub {EVIL}")
        yield {"state": "fetching", "done": 1 << 20, "total": 4 << 20}
        yield {"state": "loading"}
        yield {"state": "loaded", "dtype": "bf16", "device": "cpu"}

    def chat(self, adapters: list[str], messages: list[dict], **options) -> Iterator[list[str]]:
        self.log.append(("chat", adapters, messages, options))
        for end in (3, 6, 9):
            yield [f"{name}: {messages[-1]['content']}"[:end] for name in adapters]


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()
