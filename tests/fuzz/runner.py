"""Runs one case in this process, with a watchdog, and finds what it broke of the command line's promises.

Exit code 0 or 2; with 2 one line on stderr that begins with `error:`, and nothing written, unless a run had begun, which then has
the state `failed`. What is written is complete: runs end in a final state, and no JSON holds NaN.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from rlhf_engine.cli import main
from rlhf_engine.runs.folder import Run

EXPECTED = re.compile(r"^\w+: +\d+%\|.*\]|stopping after this step")
"""Lines on stderr that are no message: a progress bar, and what follows an interruption."""
PATIENCE = 20.0
"""Seconds after which a case is interrupted as Ctrl-C would; a run then saves and stops, which is right."""


@dataclass
class Outcome:
    """What a case did."""

    code: int | str | None
    stdout: str
    stderr: str
    seconds: float
    crash: str = ""
    """The traceback of an exception that nobody caught."""
    interrupted: bool = False
    """The watchdog interrupted it."""


# -- one case in this process ----------------------------------------------------------------------------------------------

@contextlib.contextmanager
def captured() -> Iterator[Callable[[], tuple[str, str]]]:
    """Take what this process prints, by Python and by libraries, away from the terminal; call for (stdout, stderr)."""
    files = [tempfile.TemporaryFile("w+b") for _ in range(2)]  # noqa: SIM115 (closed below)
    old = sys.stdout, sys.stderr
    for stream in old:
        stream.flush()
    saved = os.dup(1), os.dup(2)
    raw = [io.FileIO(os.dup(file.fileno()), "w") for file in files]
    streams = [io.TextIOWrapper(io.BufferedWriter(each), encoding="utf-8", errors="backslashreplace", write_through=True) for each in raw]

    def read() -> tuple[str, str]:
        texts = []
        for file, stream in zip(files, streams):
            stream.flush()
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        return texts[0], texts[1]
    try:
        os.dup2(files[0].fileno(), 1)
        os.dup2(files[1].fileno(), 2)
        sys.stdout, sys.stderr = streams
        yield read
    finally:
        sys.stdout, sys.stderr = old
        for number, copy in zip((1, 2), saved):
            os.dup2(copy, number)
            os.close(copy)
        for handle in (*files, *streams):
            handle.close()


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[list[float]]:
    """Interrupt the block after `seconds`, and again after as many. Yields a list that holds the times of it."""
    barks: list[float] = []

    def bark(number, frame):
        barks.append(time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, seconds)
        os.kill(os.getpid(), signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield barks
        return
    numbers = (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGALRM, bark)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield barks
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in `folder`, which is also the home of the user."""
    here, home = Path.cwd(), os.environ.get("HOME")
    os.chdir(folder)
    os.environ["HOME"] = str(folder)
    try:
        yield
    finally:
        os.chdir(here)
        if home is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = home


def run(act: Callable[[], int | str | None], folder: Path, patience: float = PATIENCE) -> Outcome:
    """Call `act` in `folder`. Whatever it raises becomes part of the outcome."""
    code, crash, start, stdin = None, "", time.monotonic(), sys.stdin
    with captured() as read, inside(folder), watchdog(patience) as barks, warnings.catch_warnings():
        sys.stdin = io.StringIO("hello\n")
        try:
            code = act()
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            crash = traceback.format_exc()
        finally:
            sys.stdin = stdin
            torch.set_grad_enabled(True)
        out, err = read()
    return Outcome(code, out, err, time.monotonic() - start, crash, bool(barks))


def quiet_main(argv: list[str], folder: Path, patience: float = PATIENCE) -> Outcome:
    """The command line in `folder`."""
    return run(lambda: main(argv), folder, patience)


# -- what it broke ---------------------------------------------------------------------------------------------------------

def snapshot(folder: Path) -> dict[str, str]:
    """What is in a folder: relative path -> kind and content."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place) / name
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = f"link to {os.readlink(path)}"
            elif path.is_file():
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[key] = "folder"
    return {key: value for key, value in found.items() if "__pycache__" not in key}


def problems(outcome: Outcome, folder: Path, before: dict[str, str]) -> list[str]:
    """What an outcome broke; empty where all is well."""
    found = [*wrong_words(outcome)]
    after = snapshot(folder)
    changed = sorted({key for key in {**before, **after} if before.get(key) != after.get(key)})
    tops = sorted({Path(key).parts[0] for key in changed})
    for top in tops:
        path = folder / top
        if top not in after:
            found.append(f"{top} is gone")
        elif (path / "status.json").exists() and (path / "config.yaml").exists():
            found += [f"{top}: {what}" for what in wrong_run(path, outcome, {folder / key for key in changed})]
        elif outcome.code != 0:
            found.append(f"exit {outcome.code}, but {top} has changed: {', '.join(changed[:4])}")
        elif top in {Path(key).parts[0] for key in before}:
            found.append(f"{top} was there before, and has changed: {', '.join(changed[:4])}")
        else:
            found += [f"{top}: {what}" for what in wrong_json({folder / key for key in changed})]
    return found


def wrong_words(outcome: Outcome) -> Iterator[str]:
    """What is wrong with the exit code and with what was printed."""
    if outcome.crash:
        yield "an exception that nobody caught:\n" + outcome.crash
        return
    if "Traceback (most recent call last)" in outcome.stderr + outcome.stdout:
        yield "a traceback was printed:\n" + outcome.stderr[-3000:]
    lines = [line for line in outcome.stderr.replace("\r", "\n").split("\n") if line.strip() and not EXPECTED.search(line)]
    if outcome.code not in (0, None, 2):
        yield f"exit code {outcome.code}" + (" after an interruption" if outcome.interrupted else "")
    elif outcome.code == 2:
        if len(lines) != 1 or not lines[0].startswith("error: "):
            yield f"exit {outcome.code} with {len(lines)} lines: " + " | ".join(lines)[-1500:]
        elif len(lines[0]) > 2100:
            yield f"a message of {len(lines[0])} characters: {lines[0][:200]}"
        elif any(ord(c) < 32 or ord(c) == 127 for c in lines[0]):
            yield f"control characters in the message: {lines[0]!r}"[:400]
    elif lines:
        yield "exit 0 with words on stderr: " + " | ".join(lines)[-800:]


def wrong_run(path: Path, outcome: Outcome, changed: set[Path]) -> Iterator[str]:
    """What is wrong with a run folder in which a case has changed these files."""
    try:
        status = Run(path).status()
    except ValueError as error:
        yield f"status.json: {error}"
        return
    state = status["state"]
    if outcome.code == 0 and state not in ("done", "stopped"):
        yield f"exit 0, but the run is {state}"
    if outcome.code != 0 and not (state == "failed" and status["error"] and status["advice"]):
        yield f"exit {outcome.code}, but the run is {state} ({status['error']}; {status['advice']})"
    yield from wrong_json(changed)
    if state == "done" and (status["step"] != status["total_steps"] or not (path / "checkpoints" / "last").exists() or not (path / "report.json").exists()):
        yield f"done at step {status['step']} of {status['total_steps']}, without report or last checkpoint"
    if state in ("done", "stopped"):
        for file in path.glob("checkpoints/last/*/*.safetensors"):
            if not all(weight.isfinite().all() for weight in load_file(file).values()):
                yield f"{file.relative_to(path)} holds numbers that are not finite"


def wrong_json(changed: set[Path]) -> Iterator[str]:
    """What is wrong with files that were written: NaN in JSON, half of a file, and temporary files that were left."""
    def refuse(name: str):
        raise ValueError(f"it holds {name}")
    for file in sorted(changed):
        if file.name.startswith(".") and os.path.lexists(file):
            yield f"{file.name} was left over"
        if file.suffix not in (".json", ".jsonl") or not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8")
            for line in [text] if file.suffix == ".json" else text.splitlines():
                json.loads(line, parse_constant=refuse)
        except ValueError as error:
            yield f"{file.name}: {error}"
