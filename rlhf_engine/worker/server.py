"""The worker's process without the model: the listener, the answers that need no model, and the queue for those that
do.

The listener answers from threads of its own, so that status and orders pass while the model is loading or training.
"""

import json
import os
import secrets
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import closing
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path

from rlhf_engine.errors import UserError, first_line, one_line
from rlhf_engine.files import expand_user, json_text, write_json
from rlhf_engine.gguf.progress import progress_of
from rlhf_engine.runs.folder import ALIVE, process_start
from rlhf_engine.runs.resolve import resolve_model
from rlhf_engine.worker.protocol import MAX_REQUEST_BYTES, WORKER_FILE, WorkerError
from rlhf_engine.worker.requests import ChatRequest, LiveRun, LoadRequest, ReportRequest, StartRequest

MAX_CHATS = 16
"""Chats that are answered or wait at once. Further ones are refused."""
MAX_CONNECTIONS = 64
"""Connections at once. Further ones are closed."""


class Server:
    """Listens, answers what needs no model, and queues the rest for the thread that owns it."""

    def __init__(self, home: Path):
        self.home = home
        self.closing = False
        """The process is to end."""
        self.wake = threading.Event()
        """Set when something was queued."""
        self.job: StartRequest | None = None
        self.chats: deque[ChatRequest] = deque()
        self.loads: deque[LoadRequest] = deque()
        self.reporting: ReportRequest | None = None
        """The report that is being made, or is next."""
        self.live: LiveRun | None = None
        self.loading = True
        """torch, a base or a run is being loaded: torch to begin with."""
        self.model: str | None = None
        """The base that is loaded."""
        self.error = ""
        """Why the last run failed."""
        self._open_chats = 0
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        self._free_connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._key = secrets.token_bytes(32)
        # No authkey here: each connection shakes hands in a thread of its own, where a silent caller keeps nobody
        # waiting.
        self._listener = Listener(("127.0.0.1", 0), backlog=16)
        threading.Thread(target=self._listen, daemon=True).start()

    def announce(self) -> None:
        """Write worker.json. Only the owner can read it, because it holds the key."""
        host, port = self._listener.address
        pid = os.getpid()
        address = {"host": host, "port": port, "authkey": self._key.hex(), "pid": pid, "born": process_start(pid)}
        write_json(self.home / WORKER_FILE, address, mode=0o600)

    def busy(self) -> bool:
        """Whether a run is live, or about to be.

        One that is over in its folder, but still has to be cleaned up here, is not.
        """
        live = self.live
        return self.job is not None or (live is not None and live.state() in ("loading", *ALIVE))

    # -- requests: each method yields the answers to one ---------------------------------------------------------------

    def status(self, connection: Connection) -> Iterator[dict]:
        """The live run, the state, the loaded model and the last error."""
        live = self.live
        run, state = (str(live.run.path), live.state()) if live else (None, "idle")
        yield {"run": run, "state": "loading" if self.loading else state, "model": self.model, "error": self.error}

    def start(self, connection: Connection, **details) -> Iterator[str]:
        """Queue a run to start; answers with its folder when it has been loaded."""
        job = StartRequest(**details)
        with self._lock:
            self._refuse_if_closing()
            if self.busy():
                path = f" ({self.live.run.path})" if self.live else ""
                raise UserError(f"a run is live already{path}: stop it, or wait for its end")
            self._refuse_if_reporting()
            self.job = job
        self.wake.set()
        yield job.result.result()

    def control(self, connection: Connection, run: str, command: str, value: float | None = None) -> Iterator[None]:
        """Give the live run an order."""
        live = self.live
        path = Path(os.path.realpath(self.home / "runs" / run if len(Path(run).parts) == 1 else run))
        if not live or live.run.path != path or live.state() not in ("loading", *ALIVE):
            raise UserError(f"{run} is not the live run, so it cannot be told to {command}; "
                            "start it with resume to go on")
        live.control.order(live.run, command, value)
        yield None

    def load(self, connection: Connection, **details) -> Iterator[dict]:
        """Download a base in a thread of this connection, then queue it to be loaded.

        The old base stays until all files are there.
        """
        job = LoadRequest(**details)
        self._refuse_to_load(job)
        if not self._fetching.acquire(blocking=False):
            raise UserError("another model is being loaded already: wait for it")
        try:
            progress, download = [0, 0], Future()
            threading.Thread(target=fetch, args=(job.model, progress, download), daemon=True).start()
            yield {"state": "fetching", "done": 0, "total": 0}
            while not finished_within(download):
                conversion = progress_of(expand_user(job.model))
                done, total = (conversion.done, conversion.total) if conversion else progress
                yield {"state": "converting" if conversion else "fetching", "done": done, "total": total}
            download.result()
            self._refuse_to_load(job)
            self.loads.append(job)
            self.wake.set()
            yield {"state": "loading"}
            while not finished_within(job.result):
                if self.job and job.result.cancel():  # a run was started first
                    self._refuse_to_load(job)
                yield {"state": "loading"}
            yield {"state": "loaded", **job.result.result()}
        finally:
            self._fetching.release()

    def _refuse_to_load(self, job: LoadRequest) -> None:
        self._refuse_if_closing()
        if self.busy():
            raise UserError(f"a run is live, and has the model: stop it, or wait for its end, then load {job.model}")
        self._refuse_if_reporting()

    def report(self, connection: Connection, **details) -> Iterator[dict]:
        """Queue a report; answers with how far it is, and at the end with its folder. It goes on if the caller leaves.
        """
        job = ReportRequest(**details)
        with self._lock:
            self._refuse_if_closing()
            if self.busy():
                raise UserError("a run is live, and has the model: stop it, or wait for its end, then make the report")
            self._refuse_if_reporting()
            self.reporting = job
        self.wake.set()
        yield {"state": "waiting"}
        while not finished_within(job.result):
            yield {"state": "measuring" if job.started else "waiting", "tokens": job.tokens}
        yield {"state": "done", "report": job.result.result()}

    def _refuse_if_reporting(self) -> None:
        if self.reporting:
            raise UserError(f"the report about {self.reporting.adapter} is being made: wait for its end")

    def chat(self, connection: Connection, **details) -> Iterator[list[str]]:
        """Queue a chat; answers with the texts so far whenever they have grown."""
        chat = ChatRequest(**details)
        with self._lock:
            self._refuse_if_closing()
            if self._open_chats >= MAX_CHATS:
                raise UserError(f"busy: {MAX_CHATS} chats are waiting already; try again in a moment")
            self._open_chats += 1
        self.chats.append(chat)
        self.wake.set()
        try:
            while True:
                if not chat.changed.wait(0.5):
                    if connection.poll():  # the caller has nothing more to say, so it has hung up
                        return
                    continue
                chat.changed.clear()
                done, texts = chat.done, chat.texts
                if chat.error:
                    raise chat.error
                yield texts
                if done:
                    return
        finally:
            chat.abandoned = True
            with self._lock:
                self._open_chats -= 1

    def shutdown(self, connection: Connection) -> Iterator[None]:
        """End the process; a live run is saved and stopped first."""
        self.closing = True
        self.wake.set()
        yield None

    # -- connections ---------------------------------------------------------------------------------------------------

    def _refuse_if_closing(self) -> None:
        if self.closing:
            raise UserError("the worker is shutting down: try again in a moment")

    def _listen(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:  # the caller hung up at once, or there are too many open files
                time.sleep(0.05)
                continue
            if self._free_connections.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            else:
                connection.close()

    def _serve(self, connection: Connection) -> None:
        """One connection: a handshake, one request, its answers.

        Whatever a caller sends, it ends no more than this connection.
        """
        try:
            with connection:
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                self._reply(connection, connection.recv_bytes(MAX_REQUEST_BYTES))
        except (OSError, EOFError, AuthenticationError):
            pass  # a caller without the key, a request that is too long, or a caller that hung up
        finally:
            self._free_connections.release()

    def _reply(self, connection: Connection, text: bytes) -> None:
        def send(reply: dict) -> None:
            connection.send_bytes(json_text(reply).encode())

        try:
            with closing(self._answers(connection, text)) as answers:
                for value in answers:
                    send({"value": value})
            send({"end": True})
        except UserError as error:
            send({"error": one_line(error), "input": not isinstance(error, WorkerError)})
        except OSError:
            raise
        except Exception as error:
            traceback.print_exc()
            send({"error": f"{type(error).__name__}: {first_line(error)}", "input": False})

    def _answers(self, connection: Connection, text: bytes) -> Generator:
        methods = {"status": self.status, "start": self.start, "control": self.control, "chat": self.chat,
                   "load": self.load, "report": self.report, "shutdown": self.shutdown}
        try:
            details = json.loads(text)
            answers = methods[details.pop("do")](connection, **details)
            first = next(answers)  # wrong arguments show here
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, StopIteration) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"the worker does not understand this request ({type(error).__name__}: "
                            f"{first_line(error)})") from None
        yield first
        yield from answers


def fetch(model: str, progress: list[int], download: Future) -> None:
    """Download a model's files.

    `progress` holds the bytes so far and in all; the future gets the folder, or what went wrong.
    """
    def report(done: int, total: int) -> None:
        progress[:] = done, total

    try:
        download.set_result(resolve_model(model, report))
    except Exception as error:
        download.set_exception(error)


def finished_within(future: Future, seconds: float = 0.5) -> bool:
    """Wait until there is a result or an error, at most so long; returns whether there is."""
    wait([future], timeout=seconds)
    return future.done()
