"""The worker's process without the model: listener, requests, and what waits for the thread that owns the model.

The listener answers from its own threads, so that status and orders pass while that thread loads or trains.
"""

import json
import os
import re
import secrets
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path

from rlhf_engine.config import UserError
from rlhf_engine.models import ASSETS, first_line
from rlhf_engine.runs import ALIVE, Run, born
from rlhf_engine.worker import LARGEST, TAKEN, WorkerError

CHATS = 16
"""Chats answered or waiting at once; more are told to come back."""
CONNECTIONS = 64
"""Callers at once."""


# -- names -----------------------------------------------------------------------------------------------------------

def locate(home: Path, name: str) -> str:
    """ADAPTER or a reward as a page names it, spelled as a path: a run's name, a gallery name, a path; each may end in
    `@step-000050`. Words such as `none`, and what names nothing, stay as they are."""
    base, at, step = name.rpartition("@step-")
    folder = Path(base if at else name)
    if len(folder.parts) == 1:
        for parent in (home / "runs", ASSETS / "adapters"):
            if folder.name not in ("none", "bundled", "auto") and (parent / folder).is_dir():
                folder = parent / folder
                break
        else:
            return name
    return str(folder / "checkpoints" / f"step-{step}") if at else str(folder)


def place_run(home: Path, stage: str, output: str) -> str:
    """The run folder that "output" means. Raises UserError for any place but directly under `home/runs`."""
    runs = (home / "runs").resolve()
    if not output:
        name = f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}"
        fresh = (runs / (name if n == 1 else f"{name}-{n}") for n in range(1, 1000))
        return str(next(path for path in fresh if not path.exists()))
    path = Path(output)
    path = runs / path if len(path.parts) == 1 else path
    if path.parent.resolve() != runs or path.resolve().parent != runs:
        raise UserError(f"--output is {output!r}, which is not in {runs}: give a name without folders; "
                        "only the command line writes elsewhere")
    if not re.fullmatch(r"\w[\w.+-]{0,99}", path.name):
        raise UserError(f"--output is {output!r}: name a run with letters, digits and . _ + - and begin with a letter or digit")
    return str(path)


# -- what passes from the listener to the thread that owns the model ---------------------------------------------------

@dataclass
class Start:
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
class Chat:
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
    """What is asked of the live run, as `stages.drive` asks for it between two steps."""

    WISHES = {"pause": "pause", "resume": "run", "step": "step", "stop": "stop", "discard": "discard"}

    def __init__(self, server: "Server"):
        self.server, self.wish, self.lock = server, "run", threading.Lock()
        self.paused = False
        """The trainer waits; a chat need not leave it any time."""

    def give(self, command: str) -> None:
        if command not in self.WISHES:
            raise UserError(f"there is no command {command!r}; it is one of {', '.join(self.WISHES)}")
        with self.lock:
            if self.wish == "discard" or (self.wish == "stop" and command not in ("stop", "discard")):
                raise UserError("the run is ending already: wait for it")
            self.wish = self.WISHES[command]

    def __call__(self) -> str:
        with self.lock:
            wish = self.wish
            if wish == "step":
                self.wish, wish = "pause", "run"
        if self.server.closing and wish != "discard":
            wish = "stop"
        self.paused = wish == "pause"
        return wish


@dataclass
class Live:
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


class Server:
    """Listens, answers what needs no model, and hands the rest to the thread that owns it: `job` and `arrivals`."""

    def __init__(self, home: Path):
        self.home = home
        self.closing = False
        self.lock, self.wake = threading.Lock(), threading.Event()
        self.job: Start | None = None
        self.arrivals: deque[Chat] = deque()
        self.live: Live | None = None
        self.loading = True  # torch, to begin with
        self.model: str | None = None
        self.error = ""
        self._chats = 0
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self._key = secrets.token_bytes(32)
        # No authkey here: each connection shakes hands in its own thread, where a silent caller keeps nobody waiting.
        self._listener = Listener(("127.0.0.1", 0), backlog=16)
        threading.Thread(target=self._listen, daemon=True).start()

    def announce(self) -> None:
        """Write worker.json, which only the owner can read: it holds the key."""
        host, port = self._listener.address
        text = json.dumps({"host": host, "port": port, "authkey": self._key.hex(), "pid": os.getpid(), "born": born(os.getpid())})
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
        job = Start(**details)
        with self.lock:
            self._refuse_if_closing()
            if self.busy():
                path = f" ({self.live.run.path})" if self.live else ""
                raise UserError(f"a run is live already{path}: stop it, or wait for its end")
            self.job = job
        self.wake.set()
        yield job.result.result()

    def control(self, connection: Connection, run: str, command: str) -> Iterator[None]:
        live = self.live
        path = (self.home / "runs" / run if len(Path(run).parts) == 1 else Path(run)).resolve()
        if not live or live.run.path != path or live.state() not in ("loading", *ALIVE):
            raise UserError(f"{run} is not the live run, so it cannot be told to {command}; start it with resume to go on")
        live.orders.give(command)
        yield None

    def chat(self, connection: Connection, **details) -> Iterator[list[str]]:
        chat = Chat(**details)
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
        requests = {"status": self.status, "start": self.start, "control": self.control, "chat": self.chat,
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


# -- the process -------------------------------------------------------------------------------------------------------

def take(home: Path):
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


def main(home: str) -> int:
    """The worker: `python -m rlhf_engine.worker HOME`. SIGTERM saves and stops a live run, then ends."""
    folder = Path(home).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = take(folder)
    if lock is None:
        return TAKEN
    server = Server(folder)

    def close(number, frame):
        server.closing = True

    signal.signal(signal.SIGTERM, close)
    signal.signal(signal.SIGINT, close)
    server.announce()
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} worker {os.getpid()} in {folder}")
    try:
        # The listener answers already while torch is imported, which takes seconds.
        from rlhf_engine.worker_process import ModelOwner
        server.loading = False
        ModelOwner(server).serve()
        time.sleep(0.1)  # the last replies are on their way
    finally:
        (folder / "worker.json").unlink(missing_ok=True)
    return 0
