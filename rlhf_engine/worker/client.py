"""The handle with which a page or a script talks to the process that owns the model.

    worker = Worker("workspace")
    worker.ensure()
    run = worker.start("sft", {"model": "bundled", "steps": 50})
    for texts in worker.chat(["none", run], [{"role": "user", "content": "Once upon a time"}]): ...

A workspace has one worker. It lives on when the page or script that started it ends; any handle finds it again through
`worker.json`. Each request has a local connection of its own; requests and replies are JSON, never pickle. Training
writes into run folders, and those who want to follow it read them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

from rlhf_engine.errors import UserError
from rlhf_engine.files import PROJECT, expand_user, read_json_or_none
from rlhf_engine.runs.folder import is_alive
from rlhf_engine.worker.protocol import LOG_FILE, MAX_REQUEST_BYTES, TAKEN, WORKER_FILE, WorkerError


class Worker:
    """A handle on the worker of the workspace `home`. Making a handle starts nothing. Safe to use from any thread."""

    def __init__(self, home: str | Path):
        self.home = Path(os.path.realpath(expand_user(str(home))))

    def ensure(self, timeout: float = 60.0) -> None:
        """Start the process if none is alive; returns when it answers, seconds before a model is loaded.

        Raises WorkerError.
        """
        child, deadline = None, time.monotonic() + timeout
        while not self.alive():
            child = child or self._spawn()
            code = child.poll()
            if code not in (None, TAKEN):
                raise WorkerError(f"the worker ended as it started ({self._last_log_line()}); its log is {self._log}")
            if time.monotonic() > deadline:
                raise WorkerError(f"the worker does not answer after {timeout:.0f} seconds; its log is {self._log}")
            if code == TAKEN:  # another worker is starting, or ending, at this very moment
                child = None
                time.sleep(0.2)
            time.sleep(0.02)

    def alive(self) -> bool:
        """Whether the process is running."""
        return self._address() is not None

    def start(self, stage: str, config: dict, *, resume: bool = False, overwrite: bool = False) -> str:
        """Start a run, or resume the one in config["output"]; returns the run folder's path once the input has been
        checked and loaded.

        A run that is resumed may get other `steps`, `epochs` or `votes`, which make it longer; a run that is done must
        get them. An empty "output" gets a new name; a bare name is a folder under `home/runs`, and no other place is
        allowed. "adapter" and "reward" may be names of runs, too. Starts the process if need be. Raises UserError for
        bad input, and while another run is live.
        """
        self.ensure()
        return self._ask("start", stage=stage, config=config, resume=resume, overwrite=overwrite)

    def control(self, run: str, command: str, value: float | None = None) -> None:
        """Give the live run an order; it takes effect between two steps. The run's status and its journal say when.

        Without a value: `pause`, `resume`, `step` (one step, then pause), `stop` (save, then end) or `discard` (end,
        remove the folder). With a `value`: `kl_target`, `learning_rate`, `temperature`, `max_new_tokens`, `pessimism`,
        `steps`, `epochs`, `votes` (a new setting; steps and epochs are those of the whole run) or `rewind` (the step of
        a checkpoint).

        Raises UserError if `run` is not the live run, or if the setting may not have that value.
        """
        self._ask("control", run=str(run), command=command, value=value)

    def status(self) -> dict:
        """What the worker is doing.

        `run`: path of the live run, or None. `state`: `idle`, `loading`, or the run's. `model`: the loaded one or None.
        `error`: why the last run failed, or that no worker is running; else empty.
        """
        try:
            return self._ask("status")
        except WorkerError as error:
            return {"run": None, "state": "idle", "model": None, "error": str(error)}

    def chat(self, adapters: list[str], messages: list[dict], *, model: str = "bundled", dtype: str = "auto",
             max_new_tokens: int = 128, temperature: float = 1.0, top_p: float = 1.0, seed: int | None = None,
             best_of: int = 1, reward: str = "") -> Iterator[list[str]]:
        """Answers to a conversation as they grow: each item is the whole text so far, one per adapter.

        An adapter is `none`, `bundled`, a name from the gallery, a run's name or path (of the live run: its policy as
        it is now), `RUN@step-000050`, or a PEFT folder. `messages` are {"role", "content"}; a model without a chat
        template is prompted with the last content. An answer ends after `max_new_tokens`, or where the model has no
        more positions. While a run is live, it answers between micro-batches, and only with the run's model. Equal
        seeds give equal texts; None draws a seed. With `best_of`, each adapter gives so many answers at once; the first
        is shown as it grows, and at the end the one that `reward`, a reward run, scores highest. Starts the process if
        need be. Raises UserError, at the first item.
        """
        self.ensure()
        yield from self._request("chat", adapters=adapters, messages=messages, model=str(model), dtype=dtype,
                                 max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed,
                                 best_of=best_of, reward=reward)

    def load(self, model: str = "bundled", *, dtype: str = "auto") -> Iterator[dict]:
        """Download a base if it is not on this machine, and load it, so that the first chat or run does not wait for
        it.

        Yields {"state": "fetching", "done", "total"} (bytes), of a GGUF file that is new here {"state": "converting",
        "done", "total"} (bytes), then {"state": "loading"}, and at the end {"state": "loaded", "dtype", "device"}.
        Starts the process if need be. Raises UserError, which says what to do, for a model that is missing, gated, has
        no safetensors weights or needs code of its own, and while a run is live.
        """
        self.ensure()
        yield from self._request("load", model=str(model), dtype=dtype)

    def report(self, adapter: str, *, judges: Sequence[str] = ()) -> Iterator[dict]:
        """Make a report about a run of the workspace, `RUN@step-000050`, or an adapter of the gallery.

        `judges` are built-in scores and reward runs. Yields {"state": "waiting" or "measuring"}, and at the end
        {"state": "done", "report": its folder}. It is made between runs, and goes on if nobody takes the items. Raises
        UserError, and while a run is live.
        """
        self.ensure()
        yield from self._request("report", adapter=adapter, judges=list(judges))

    def shutdown(self, timeout: float = 10.0) -> None:
        """End the process; a live run is saved and stopped. Afterwards no process is left.

        A process that does not end within `timeout` seconds is terminated, then killed, which costs the steps since the
        last checkpoint.
        """
        address = self._address()
        if address is None:
            return
        # In a thread of its own: a worker that hangs does not answer, but has to end, too.
        threading.Thread(target=self._ask_to_end, daemon=True).start()
        kill = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has one way to end a process
        for number, patience in ((None, timeout), (signal.SIGTERM, timeout / 2), (kill, 10.0)):
            if number and is_alive(address["pid"], address["born"]):
                os.kill(address["pid"], number)
            deadline = time.monotonic() + patience
            while is_alive(address["pid"], address["born"]) and time.monotonic() < deadline:
                time.sleep(0.02)
        if child := self._children.get(address["pid"]):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10.0)  # its threads may take a moment longer
        self._collect_ended_children()

    # -- the process ---------------------------------------------------------------------------------------------------

    _children: dict[int, subprocess.Popen] = {}
    """The workers that this process has started, for all handles. A parent has to wait for its dead children, or they
    stay zombies."""

    @property
    def _log(self) -> Path:
        return self.home / LOG_FILE

    def _address(self) -> dict | None:
        """worker.json of a worker that is alive, or None."""
        try:
            address = read_json_or_none(self.home / WORKER_FILE)
            if address and is_alive(address["pid"], address["born"]):
                return address
        except (KeyError, TypeError):
            pass  # the file of something else
        self._collect_ended_children()
        return None

    def _collect_ended_children(self) -> None:
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                self._children.pop(pid, None)

    def _spawn(self) -> subprocess.Popen:
        self.home.mkdir(parents=True, exist_ok=True)
        python_path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        # -P: a file in the working directory must not pass for one of our modules. A session of its own: Ctrl-C, or the
        # closing terminal of the page, does not reach the worker.
        with open(self._log, "ab") as log:
            child = subprocess.Popen([sys.executable, "-P", "-u", "-m", "rlhf_engine.worker", str(self.home)],
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                     env={**os.environ, "PYTHONPATH": python_path, "TOKENIZERS_PARALLELISM": "false",
                                          "PYTHONIOENCODING": "utf-8:backslashreplace"})
        self._children[child.pid] = child
        return child

    def _last_log_line(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")

    # -- requests ------------------------------------------------------------------------------------------------------

    def _ask_to_end(self) -> None:
        with contextlib.suppress(UserError):  # it hangs, or has ended this moment
            self._ask("shutdown")

    def _ask(self, method: str, **details):
        """The one answer to a request."""
        [answer] = self._request(method, **details)
        return answer

    def _request(self, method: str, **details) -> Iterator:
        """The answers to a request, as they come. Raises UserError, WorkerError."""
        request = json.dumps({"do": method, **details}, default=str).encode()
        if len(request) > MAX_REQUEST_BYTES:
            raise UserError(f"the request has {len(request):,} bytes, at most {MAX_REQUEST_BYTES:,} are taken; "
                            "shorten it")
        address = self._address()
        if address is None:
            raise WorkerError("no worker is running: start one with ensure()")
        try:
            with Client((address["host"], address["port"]), authkey=bytes.fromhex(address["authkey"])) as connection:
                connection.send_bytes(request)
                while "end" not in (reply := json.loads(connection.recv_bytes())):
                    if "error" in reply:
                        raise (UserError if reply["input"] else WorkerError)(reply["error"])
                    yield reply["value"]
        except (EOFError, OSError, AuthenticationError):
            raise WorkerError(f"the worker ended without an answer ({self._last_log_line()}); "
                              f"its log is {self._log}") from None
