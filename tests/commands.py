"""Command lines in processes of their own, which can be interrupted and killed as a user or a crash would."""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Children are forked from a server that has imported the libraries and the engine once. So they are real processes,
# but do not take five seconds each to start.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["rlhf_engine.build", "rlhf_engine.evaluation.compare", "datasets"])


class Process:
    """A main function and its arguments in a process. What it prints goes to the file `log`."""

    def __init__(self, main: Callable, *args, log: Path):
        self.log = log
        self.process = SERVER.Process(target=_run, args=(main, [str(arg) for arg in args], str(log)), daemon=True)
        self.process.start()

    def wait(self) -> int:
        """The exit code; minus the signal's number for a process that a signal ended."""
        self.process.join()
        return self.process.exitcode

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def until(self, reached) -> bool:
        """Wait for `reached()`; False if the process ended before."""
        while not reached():
            if not self.process.is_alive():
                return False
            time.sleep(0.001)
        return True

    def kill_when(self, reached) -> None:
        """kill -9 as soon as `reached()`."""
        assert self.until(reached), f"ended before it could be killed: {self.log.read_text()}"
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL


class Command(Process):
    """`python -m rlhf_engine ARGS`."""

    def __init__(self, *args, log: Path):
        super().__init__(_engine, *args, log=log)


class Script(Process):
    """`python PATH ARGS`."""

    def __init__(self, path: Path, *args, log: Path):
        super().__init__(_script, path, *args, log=log)


def run_process(*args, log: Path) -> None:
    """A command of the engine that must succeed."""
    assert Command(*args, log=log).wait() == 0, log.read_text()


def _run(main: Callable, args: list[str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.nice(5)  # the test that watches goes first, or the run might be over before it is interrupted
    import torch
    torch.set_num_threads(1)
    sys.exit(main(args))


def _engine(args: list[str]) -> int:
    from rlhf_engine.cli import main
    return main(args)


def _script(args: list[str]) -> None:
    sys.argv = args
    sys.path.insert(0, str(Path(args[0]).parent))
    runpy.run_path(args[0], run_name="__main__")
