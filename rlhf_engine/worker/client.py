"""The process that owns the model, and the handle with which a page or a script talks to it.

    worker = Worker("workspace")
    worker.ensure()
    run = worker.start("sft", {"model": "bundled", "steps": 50})
    for texts in worker.chat(["none", run], [{"role": "user", "content": "Once upon a time"}]): ...

A workspace has one worker. It lives on when the page or script that started it ends; any handle finds it again through
`worker.json`. Requests and replies are JSON over one local connection each, never pickle. Training writes into run
folders, and whoever wants to follow it reads those. The process itself is `worker_server` (listener, no torch) and
`worker_process` (owns the model).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json
from rlhf_engine.runs.folder import is_alive
from rlhf_engine.worker.protocol import LARGEST, TAKEN, WorkerError


class Worker:
    """A handle on the one worker of the workspace `home`; constructing it starts nothing. Safe to use from any thread."""

    def __init__(self, home: str | Path):
        self.home = Path(home).expanduser().resolve()

    def ensure(self, timeout: float = 60.0) -> None:
        """Start the process if none is alive; returns when it answers, seconds before a model is loaded. Raises WorkerError."""
        child, deadline = None, time.monotonic() + timeout
        while not self.alive():
            child = child or self._spawn()
            code = child.poll()
            if code not in (None, TAKEN):
                raise WorkerError(f"the worker ended as it started ({self._last_words()}); its log is {self.home / 'worker.log'}")
            if time.monotonic() > deadline:
                raise WorkerError(f"the worker does not answer after {timeout:.0f} seconds; its log is {self.home / 'worker.log'}")
            if code == TAKEN:  # another one starts, or ends, at this very moment
                child = None
                time.sleep(0.2)
            time.sleep(0.02)

    def alive(self) -> bool:
        return self._whereabouts() is not None

    def start(self, stage: str, config: dict, *, resume: bool = False, overwrite: bool = False) -> str:
        """Start a run, or go on with the one in config["output"]; returns the run folder's path once the input is found good.

        A run that is gone on with may get other `steps`, `epochs` or `votes`, by which it becomes longer; one that is done has to.
        An empty "output" gets a name of its own; a bare name is a folder under `home/runs`, and no other place is allowed.
        "adapter" and "reward" may be names of runs, too. Starts the process if need be. Raises UserError for bad input and
        while another run is live.
        """
        self.ensure()
        return self._ask("start", stage=stage, config=config, resume=resume, overwrite=overwrite)

    def control(self, run: str, command: str, value: float | None = None) -> None:
        """`pause`, `resume`, `step` (one step, then paused), `stop` (save, then end) or `discard` (end, remove the folder); with a
        `value`, `kl_target`, `learning_rate`, `temperature`, `max_new_tokens`, `pessimism`, `steps`, `epochs`, `votes` (new
        settings; steps and epochs are those of the whole run) or `rewind` (the step of a checkpoint).

        Takes effect between two steps; the run's status says when, the journal what was changed from what to what. Raises UserError
        if `run` is not the live run, or the value is none that the setting may have.
        """
        self._ask("control", run=str(run), command=command, value=value)

    def status(self) -> dict:
        """`run` (path of the live run, or None), `state` (`idle`, `loading` or the run's), `model` (loaded, or None) and `error`:
        why the last run failed, or that no worker is running; else empty."""
        try:
            return self._ask("status")
        except WorkerError as error:
            return {"run": None, "state": "idle", "model": None, "error": str(error)}

    def chat(self, adapters: list[str], messages: list[dict], *, model: str = "bundled", dtype: str = "auto",
             max_new_tokens: int = 128, temperature: float = 1.0, top_p: float = 1.0,
             seed: int | None = None) -> Iterator[list[str]]:
        """Answers to a conversation as they grow: per item the whole text so far, one per adapter, advancing together.

        An adapter is `none`, `bundled`, a name from the gallery, a run's name or path (of the live run: its policy as it
        is now), `RUN@step-000050`, or a PEFT folder. `messages` are {"role", "content"}; a model without a chat template
        is prompted with the last content. Answers end at `max_new_tokens`, or where the model knows no more positions.
        While a run is live, they go on between its micro-batches, and only its model can be asked. Equal seeds give equal
        texts; None draws one. Starts the process if need be. Raises UserError, at the first item.
        """
        self.ensure()
        yield from self._talk("chat", adapters=adapters, messages=messages, model=str(model), dtype=dtype,
                              max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)

    def load(self, model: str = "bundled", *, dtype: str = "auto") -> Iterator[dict]:
        """Fetch a base if it is not on this machine, and load it, so that the first chat or run does not wait for it.

        Yields {"state": "fetching", "done", "total"} (bytes) and {"state": "loading"} as it goes, and at the end {"state": "loaded",
        "dtype", "device"}. Starts the process if need be. Raises UserError, with the way out, for a model that is missing, gated, has no
        safetensors weights or needs code of its own, and while a run is live.
        """
        self.ensure()
        yield from self._talk("load", model=str(model), dtype=dtype)

    def shutdown(self, timeout: float = 10.0) -> None:
        """End the worker: a live run is saved and stopped. What does not end within `timeout` seconds is terminated, then
        killed, which costs the steps since the last checkpoint. Afterwards no process is left."""
        place = self._whereabouts()
        if place is None:
            return
        # In a thread of its own: a worker that hangs does not answer, but has to go, too.
        threading.Thread(target=self._ask_to_leave, daemon=True).start()
        kill = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has one way to end a process
        for number, patience in ((None, timeout), (signal.SIGTERM, timeout / 2), (kill, 10.0)):
            if number and is_alive(place["pid"], place["born"]):
                os.kill(place["pid"], number)
            deadline = time.monotonic() + patience
            while is_alive(place["pid"], place["born"]) and time.monotonic() < deadline:
                time.sleep(0.02)
        if child := self._children.get(place["pid"]):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10.0)  # its threads may take a moment longer
        self._reap()

    # -- inside ------------------------------------------------------------------------------------------------------

    _children: dict[int, subprocess.Popen] = {}
    """Workers that this process has started, for all handles: a parent has to collect its dead, or they stay zombies."""

    def _whereabouts(self) -> dict | None:
        """worker.json of a living worker."""
        try:
            place = read_json(self.home / "worker.json")
            if place and is_alive(place["pid"], place["born"]):
                return place
        except (ValueError, KeyError, TypeError):
            pass
        self._reap()
        return None

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                self._children.pop(pid, None)

    def _spawn(self) -> subprocess.Popen:
        self.home.mkdir(parents=True, exist_ok=True)
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        # -P: a file in the working directory must not pass for one of our modules. A session of its own: Ctrl-C or the
        # closing terminal of the page does not reach the worker.
        with open(self.home / "worker.log", "ab") as log:
            child = subprocess.Popen([sys.executable, "-P", "-u", "-m", "rlhf_engine.worker", str(self.home)],
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                     env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"})
        self._children[child.pid] = child
        return child

    def _ask_to_leave(self) -> None:
        with contextlib.suppress(UserError):  # it does not listen, or ended this moment
            self._ask("shutdown")

    def _ask(self, what: str, **details):
        """The one answer to a request."""
        [answer] = self._talk(what, **details)
        return answer

    def _talk(self, what: str, **details) -> Iterator:
        """The answers to a request, as they come. Raises UserError, WorkerError."""
        request = json.dumps({"do": what, **details}, default=str).encode()
        if len(request) > LARGEST:
            raise UserError(f"the request has {len(request):,} bytes, at most {LARGEST:,} are taken; shorten it")
        place = self._whereabouts()
        if place is None:
            raise WorkerError("no worker is running: start one with ensure()")
        try:
            with Client((place["host"], place["port"]), authkey=bytes.fromhex(place["authkey"])) as connection:
                connection.send_bytes(request)
                while "end" not in (reply := json.loads(connection.recv_bytes())):
                    if "error" in reply:
                        raise (UserError if reply["input"] else WorkerError)(reply["error"])
                    yield reply["value"]
        except (EOFError, OSError, AuthenticationError):
            raise WorkerError(f"the worker ended without an answer ({self._last_words()}); "
                              f"its log is {self.home / 'worker.log'}") from None

    def _last_words(self) -> str:
        try:
            lines = (self.home / "worker.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it left no word")
