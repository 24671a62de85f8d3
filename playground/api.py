"""Typed endpoints for scripts and other programs: `gradio_client.Client(url).predict(..., api_name="/status")`."""

import functools
from collections.abc import Callable, Iterator

import gradio as gr

from playground import strings as s
from playground.workspace import Workspace
from rlhf_engine.config import UserError

IDLE = {"run": None, "stage": None, "state": "idle", "step": 0, "total_steps": 0, "error": "", "advice": "", "metrics": {}}
COMMANDS = ("pause", "resume", "step", "stop", "discard")


class Api:
    """Names in, JSON out. A run is named by its folder's name in the workspace; nothing outside of that can be named."""

    def __init__(self, workspace: Workspace, worker):
        self.workspace, self.worker = workspace, worker
        for endpoint in (self.status, self.start, self.control, self.checkpoints):
            gr.api(plain_errors(endpoint), api_name=endpoint.__name__, concurrency_limit=8)
        gr.api(plain_errors_of_stream(self.chat), api_name="chat", concurrency_id="chat", concurrency_limit=4)

    def status(self, run: str = "") -> dict:
        """State, progress and latest metrics of a run; an empty name is the live run, or else the newest, or else `run` is null."""
        name = self.workspace.chosen(run)
        if not name:
            return IDLE
        folder, config = self.workspace.run(name), self.workspace.config(name)
        status, metrics = folder.status(), folder.metrics()
        return {name: status.get(name) for name in IDLE} | {"run": folder.path.name, "stage": config["stage"],
                                                            "metrics": metrics[-1] if metrics else {}}

    def start(self, stage: str, config: dict) -> dict:
        """Start a run of `stage` (sft, reward, ppo) with settings by name; the others keep their defaults. Returns its name."""
        return {"run": self.workspace.name_of(self.worker.start(stage, self.workspace.settings(stage, config)))}

    def control(self, run: str, command: str, value: float | None = None) -> dict:
        """pause, resume (a stopped or failed run goes on from its last checkpoint), step, stop (and save), or discard.

        No command takes a `value` yet.
        """
        if command not in COMMANDS:
            raise UserError(s.COMMAND_UNKNOWN.format(command=command, known=", ".join(COMMANDS)))
        folder = self.workspace.run(self.workspace.chosen(run))
        ask(self.worker, folder, command)
        return {"run": folder.path.name, "command": command}

    def chat(self, adapters: list, messages: list, model: str = "bundled", max_new_tokens: int = 128,
             temperature: float = 1.0) -> Iterator[dict]:
        """Answers of several adapters (none, bundled, a gallery name, RUN, RUN@step-000050) to one conversation, as they grow."""
        names = [self.workspace.chat_adapter(name) for name in adapters]
        for texts in self.worker.chat(names, messages, model=self.workspace.model(model), max_new_tokens=max_new_tokens,
                                      temperature=temperature):
            yield {"responses": texts}

    def checkpoints(self, run: str) -> dict:
        """The complete checkpoints of a run, oldest first, by the names under which a chat can ask them."""
        name = self.workspace.chosen(run)
        return {"run": name, "checkpoints": self.workspace.checkpoints(name) if name else []}


def ask(worker, run, command: str) -> None:
    """One command to a run; `resume` also starts a stopped or failed one from its last checkpoint. Raises UserError."""
    if command == "resume" and run.status()["state"] in ("stopped", "failed"):
        config = run.config()
        worker.start(config.pop("stage"), config | {"output": str(run.path)}, resume=True)
    else:
        worker.control(str(run.path), command)


def plain_errors(endpoint: Callable) -> Callable:
    """A UserError reaches the caller as its one line, without a traceback in the log."""
    @functools.wraps(endpoint)
    def call(*args, **kwargs):
        try:
            return endpoint(*args, **kwargs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
    return call


def plain_errors_of_stream(endpoint: Callable) -> Callable:
    @functools.wraps(endpoint)
    def call(*args, **kwargs):
        try:
            yield from endpoint(*args, **kwargs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
    return call
