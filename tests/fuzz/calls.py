"""Calls of the page's typed endpoints with strange arguments, answered by the worker's own code in this process."""

import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from playground.server.access import Access
from playground.server.api import Api, plain_errors, plain_errors_of_stream
from playground.server.worker_guard import GuardedWorker
from playground.voting import VotingService
from playground.workspace import Workspace
from rlhf_engine.config import TeachConfig
from rlhf_engine.errors import UserError
from rlhf_engine.runs.control import ORDERS, RunControl, value_orders
from rlhf_engine.runs.folder import Run
from rlhf_engine.worker.model_owner import ModelOwner
from rlhf_engine.worker.protocol import WorkerError
from rlhf_engine.worker.requests import ChatRequest, LiveRun, StartRequest
from rlhf_engine.worker.server import Server
from tests.fuzz.inputs import SETTINGS
from tests.fuzz.mutations import mutate_tree, strange_value
from tests.fuzz.runner import Outcome, run, snapshot, wrong_run


class Broken(Exception):
    """The worker met an error of its own, which it would have logged with a traceback."""


class LocalWorker:
    """The worker in this process: requests pass through JSON and the checks of the real one, and runs are run at once."""

    def __init__(self, home: Path):
        self.home = home
        self.server = Server(home)
        self.owner = ModelOwner(self.server)
        self.server.loading = False

    def start(self, stage: str, config: dict, *, resume: bool = False, overwrite: bool = False) -> str:
        job = StartRequest(**through_json({"stage": stage, "config": config, "resume": resume, "overwrite": overwrite}))
        self.server.job = job
        self.owner.run(job)
        return answer_of(job.result)

    def control(self, run: str, command: str, value: float | None = None) -> None:
        folder = Run(run)
        if folder.status()["state"] in ("running", "waiting", "paused"):
            self.server.live = LiveRun(Run(folder.path.resolve()), RunControl(), loading=False)
        try:
            next(self.server.control(None, **through_json({"run": str(run), "command": command, "value": value})))  # pyright: ignore[reportArgumentType]
        finally:
            self.server.live = None

    def chat(self, adapters: list, messages: list, *, model: str = "bundled", max_new_tokens: int = 128, temperature: float = 1.0) -> Iterator[list[str]]:
        chat = ChatRequest(**through_json({"adapters": adapters, "messages": messages, "model": model, "max_new_tokens": max_new_tokens, "temperature": temperature}))
        self.server.chats.append(chat)
        while not chat.done:
            self.owner.chats.advance_all()
        if chat.error:
            raise chat.error
        yield chat.texts

    def load(self, model: str, *, dtype: str = "auto") -> Iterator[dict]:
        raise UserError("nothing is loaded here")


def through_json(details: dict) -> dict:
    """What is left of a request after its way to the worker."""
    return json.loads(json.dumps(details, default=str))


def answer_of(result) -> Any:
    """The result of a request. Raises Broken where it is an error of the worker's own."""
    try:
        return result.result(timeout=0)
    except WorkerError as error:
        raise Broken(str(error)) from error


class Pages:
    """A workspace with two runs, one that asks, and the endpoints of the API on it."""

    def __init__(self, inputs: Path):
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-api-"))
        self.home = self.folder / "home"
        for source, target in (("runs-sft", "runs/sft"), ("runs-reward", "runs/taste"), ("model", "models/tiny"), ("data", "uploads")):
            shutil.copytree(inputs / source, self.home / target, symlinks=True)
        for name in ("sft", "taste"):
            config = self.home / "runs" / name / "config.yaml"
            config.write_text(config.read_text().replace("model: model", f"model: {self.home / 'models/tiny'}"))
        self.write_asking()
        workspace = Workspace(self.home, Access())
        self.worker = LocalWorker(self.home)
        with gr.Blocks():
            api = Api(workspace, GuardedWorker(self.worker, workspace), VotingService(workspace))
        names = ("status", "start", "control", "checkpoints", "next_query", "vote")
        self.endpoints: dict[str, Callable] = {name: plain_errors(getattr(api, name)) for name in names}
        self.endpoints["chat"] = plain_errors_of_stream(api.chat)

    def write_asking(self) -> None:
        """A run that is live, by its status, and has two queries."""
        asking = Run.create(self.home / "runs" / "asking", TeachConfig(labeler="person", model=str(self.home / "models/tiny")))
        for number in range(2):
            asking.add_queries([{"id": f"q{number}", "prompt": "once", "responses": ["a dog", "a cat", "a bird", "the end"], "scores": [0.5] * 4, "step": 1, "sampling": {"max_new_tokens": 8},
                                 "run": asking.id, "checkpoint": "asking at step 1"}])
        asking.set_status(state="running", step=1, total_steps=22)

    def good_call(self, rng: random.Random) -> tuple[str, list]:
        """A call that works."""
        name = rng.choice(["status", "start", "start", "start", "control", "control", "checkpoints", "next_query", "vote", "vote", "chat", "chat"])
        run_name = rng.choice(["asking", "asking", "sft", "taste", ""])
        stage = rng.choice(list(SETTINGS))
        config = SETTINGS[stage] | {"model": "models/tiny", "data": "uploads/" + Path(SETTINGS[stage]["data"]).name, "output": f"fresh-{rng.randrange(10**9)}"}
        if stage == "ppo":
            config["reward"] = "taste"
        arguments: dict[str, list] = {
            "status": [run_name], "start": [stage, config], "checkpoints": [run_name], "next_query": [run_name],
            "control": [run_name, rng.choice([*ORDERS, *value_orders()]), rng.choice([None, 1, 2.0, 0.5, 40])],
            "vote": [rng.choice(["asking", ""]), "q0", rng.choice(["1", "4", "tie", "both_bad", "skip", "undo", "up:2", "down:1", "score:2:5", "edit:1:better"]), f"e{rng.randrange(10**6)}"],
            "chat": [[rng.choice(["none", "sft", "sft@step-000001"])], [{"role": "user", "content": "hello"}], "models/tiny", 4, 1.0]}
        return name, arguments[name]

    def call(self, rng: random.Random, patience: float) -> tuple[str, list, Outcome, list[str]]:
        """One call with something changed: (endpoint, arguments, outcome, what it broke)."""
        name, arguments = self.good_call(rng)
        for _ in range(rng.choice([1, 1, 2])):
            at = rng.randrange(len(arguments))
            if isinstance(arguments[at], dict | list) and arguments[at] and rng.random() < 0.8:
                arguments[at], _ = mutate_tree(rng, arguments[at])
            else:
                arguments[at] = strange_value(rng)
        arguments = json.loads(json.dumps(arguments))  # as the browser sends them
        before = snapshot(self.home)
        answers: list = []

        def act() -> int:
            try:
                answer = self.endpoints[name](*arguments)
                answers.extend(answer if name == "chat" else [answer])
            except gr.Error as error:
                if not str(error.message).strip() or "\n" in str(error.message) or len(str(error.message)) > 2100:
                    raise Broken(f"a message of several lines, or a long one: {error.message!r}"[:2000]) from error
                return 2
            return 0
        outcome = run(act, self.folder, patience)
        return name, arguments, outcome, [*self.wrong(outcome, answers), *self.restore(name, outcome, before)]

    def wrong(self, outcome: Outcome, answers: list) -> Iterator[str]:
        """What is wrong with an answer."""
        if outcome.crash:
            yield "an exception that nobody caught:\n" + outcome.crash
        elif "Traceback" in outcome.stderr:
            yield "the worker logged a traceback:\n" + outcome.stderr[-3000:]
        try:
            json.dumps(answers, allow_nan=False)
        except (TypeError, ValueError) as error:
            yield f"the answer is no JSON: {error}"

    def restore(self, name: str, outcome: Outcome, before: dict[str, str]) -> Iterator[str]:
        """What is wrong with the folders that a call has written, which are removed."""
        after = snapshot(self.home)
        changed = {key for key in {**before, **after} if before.get(key) != after.get(key)}
        known = {"asking", "sft", "taste"}
        for folder in sorted({Path(key).parts[1] for key in changed if Path(key).parts[0] == "runs" and len(Path(key).parts) > 1} - known):
            for what in wrong_run(self.home / "runs" / folder, Outcome(0 if outcome.code == 0 else 1, "", "", 0), {self.home / key for key in changed}):
                yield f"runs/{folder}: {what}"
            shutil.rmtree(self.home / "runs" / folder, ignore_errors=True)
        strange = {key for key in changed if Path(key).parts[0] not in ("runs", "feedback.sqlite", "feedback.sqlite-wal", "feedback.sqlite-shm")}
        if strange:
            yield f"the call has changed {', '.join(sorted(strange)[:4])}"
        Run(self.home / "runs" / "asking").set_status(state="running", time=time.time())

    def close(self) -> None:
        """Remove the workspace."""
        shutil.rmtree(self.folder, ignore_errors=True)
