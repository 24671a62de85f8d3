"""The worker's process without the model: listener, answers, and what waits for the thread that owns the model.

The listener answers from its own threads, so that status and orders pass while that thread loads or trains.
"""

import json
import os
import secrets
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import closing
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.runs.folder import ALIVE, process_start
from rlhf_engine.runs.resolve import resolve_model
from rlhf_engine.worker.protocol import LARGEST, WorkerError
from rlhf_engine.worker.requests import ChatRequest, LiveRun, LoadRequest, StartRequest

CHATS = 16
"""Chats answered or waiting at once; more are told to come back."""
CONNECTIONS = 64
"""Callers at once."""


class Server:
    """Listens, answers what needs no model, and hands the rest to the thread that owns it: `job`, `loads` and `arrivals`."""

    def __init__(self, home: Path):
        self.home = home
        self.closing = False
        self.lock, self.wake = threading.Lock(), threading.Event()
        self.job: StartRequest | None = None
        self.arrivals: deque[ChatRequest] = deque()
        self.loads: deque[LoadRequest] = deque()
        self.live: LiveRun | None = None
        self.loading = True  # torch, to begin with
        self.model: str | None = None
        self.error = ""
        self._chats = 0
        self._fetching = threading.Lock()
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self._key = secrets.token_bytes(32)
        # No authkey here: each connection shakes hands in its own thread, where a silent caller keeps nobody waiting.
        self._listener = Listener(("127.0.0.1", 0), backlog=16)
        threading.Thread(target=self._listen, daemon=True).start()

    def announce(self) -> None:
        """Write worker.json, which only the owner can read: it holds the key."""
        host, port = self._listener.address
        text = json.dumps({"host": host, "port": port, "authkey": self._key.hex(), "pid": os.getpid(), "born": process_start(os.getpid())})
        fresh = self.home / ".worker.json"
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(fresh, self.home / "worker.json")

    def busy(self) -> bool:
        """Whether a run is live or about to be. A run that is over in its folder, but not yet tidied up, is not."""
        live = self.live
        return self.job is not None or (live is not None and live.state() in ("loading", *ALIVE))

    # -- requests; each yields its answers ---------------------------------------------------------------------------

    def status(self, connection: Connection) -> Iterator[dict]:
        live = self.live
        state = live.state() if live else "idle"
        yield {"run": str(live.run.path) if live else None, "state": "loading" if self.loading else state, "model": self.model,
               "error": self.error}

    def start(self, connection: Connection, **details) -> Iterator[str]:
        job = StartRequest(**details)
        with self.lock:
            self._refuse_if_closing()
            if self.busy():
                path = f" ({self.live.run.path})" if self.live else ""
                raise UserError(f"a run is live already{path}: stop it, or wait for its end")
            self.job = job
        self.wake.set()
        yield job.result.result()

    def control(self, connection: Connection, run: str, command: str, value: float | None = None) -> Iterator[None]:
        live = self.live
        path = (self.home / "runs" / run if len(Path(run).parts) == 1 else Path(run)).resolve()
        if not live or live.run.path != path or live.state() not in ("loading", *ALIVE):
            raise UserError(f"{run} is not the live run, so it cannot be told to {command}; start it with resume to go on")
        live.orders.give(command, value, live.run)
        yield None

    def load(self, connection: Connection, **details) -> Iterator[dict]:
        """Fetch a base, here, where it keeps nobody waiting, then have it loaded. Nothing is unloaded before it is all there."""
        job = LoadRequest(**details)
        self._refuse_to_load(job)
        if not self._fetching.acquire(blocking=False):
            raise UserError("another model is being loaded already: wait for it")
        try:
            far, fetched = [0, 0], Future()
            threading.Thread(target=fetch, args=(job.model, far, fetched), daemon=True).start()
            yield {"state": "fetching", "done": 0, "total": 0}
            while not done_soon(fetched):
                yield {"state": "fetching", "done": far[0], "total": far[1]}
            fetched.result()
            self._refuse_to_load(job)
            self.loads.append(job)
            self.wake.set()
            yield {"state": "loading"}
            while not done_soon(job.result):
                if self.job and job.result.cancel():  # a run came first
                    self._refuse_to_load(job)
                yield {"state": "loading"}
            yield {"state": "loaded"} | job.result.result()
        finally:
            self._fetching.release()

    def _refuse_to_load(self, job: LoadRequest) -> None:
        self._refuse_if_closing()
        if self.busy():
            raise UserError(f"a run is live, and has the model: stop it, or wait for its end, then load {job.model}")

    def chat(self, connection: Connection, **details) -> Iterator[list[str]]:
        chat = ChatRequest(**details)
        with self.lock:
            self._refuse_if_closing()
            if self._chats >= CHATS:
                raise UserError(f"busy: {CHATS} chats are waiting already; try again in a moment")
            self._chats += 1
        self.arrivals.append(chat)
        self.wake.set()
        try:
            while True:
                if not chat.changed.wait(0.5):
                    if connection.poll():  # nothing more is to be said on this line, so it has been hung up
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
            chat.gone = True
            with self.lock:
                self._chats -= 1

    def shutdown(self, connection: Connection) -> Iterator[None]:
        self.closing = True
        self.wake.set()
        yield None

    # -- connections -------------------------------------------------------------------------------------------------

    def _refuse_if_closing(self) -> None:
        if self.closing:
            raise UserError("the worker is shutting down: try again in a moment")

    def _listen(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:  # one that hung up at once, or too many open files
                time.sleep(0.05)
                continue
            if self._places.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            else:
                connection.close()

    def _serve(self, connection: Connection) -> None:
        """One connection: handshake, one request, its answers. Nothing a caller sends ends more than this."""
        try:
            with connection:
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                self._reply(connection, connection.recv_bytes(LARGEST))
        except (OSError, EOFError, AuthenticationError):
            pass  # a stranger, a request too long, or a caller that hung up
        finally:
            self._places.release()

    def _reply(self, connection: Connection, text: bytes) -> None:
        def send(reply: dict) -> None:
            connection.send_bytes(json.dumps(reply).encode())

        try:
            with closing(self._answers(connection, text)) as answers:
                for value in answers:
                    send({"value": value})
            send({"end": True})
        except UserError as error:
            send({"error": " ".join(str(error).split()), "input": not isinstance(error, WorkerError)})
        except OSError:
            raise
        except Exception as error:
            traceback.print_exc()
            send({"error": f"{type(error).__name__}: {first_line(error)}", "input": False})

    def _answers(self, connection: Connection, text: bytes) -> Iterator:
        requests = {"status": self.status, "start": self.start, "control": self.control, "chat": self.chat, "load": self.load,
                    "shutdown": self.shutdown}
        try:
            details = json.loads(text)
            answers = requests[details.pop("do")](connection, **details)
            first = next(answers)  # bad arguments show here
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, StopIteration) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"the worker does not understand this request ({type(error).__name__}: {first_line(error)})") from None
        yield first
        yield from answers


def fetch(model: str, far: list[int], fetched: Future) -> None:
    """Bring the files of a model to this machine; `far` holds the bytes so far and in all, the future what went wrong."""
    def report(done: int, total: int) -> None:
        far[:] = done, total

    try:
        fetched.set_result(resolve_model(model, report))
    except Exception as error:
        fetched.set_exception(error)


def done_soon(future: Future, seconds: float = 0.5) -> bool:
    """Whether there is a result, or an error, by then."""
    wait([future], timeout=seconds)
    return future.done()


# -- the process -------------------------------------------------------------------------------------------------------

def lock_workspace(home: Path):
    """The lock of a workspace, held as long as the returned file is open; None if another process has it.

    The system drops it when its owner dies, however that happens, so there is no stale lock to judge.
    """
    file = open(home / "worker.lock", "a")  # noqa: SIM115
    try:
        if os.name == "nt":
            import msvcrt
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except OSError:
        file.close()
        return None


