"""The command line in processes of its own, which can be interrupted and killed as a user or a crash would."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

# Children are forked from a server that has imported torch and the engine once: real processes without five seconds each.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["rlhf_engine.build", "rlhf_engine.evaluation.compare"])


class Command:
    """`python -m rlhf_engine ARGS` as a process; what it prints goes to the file `log`."""

    def __init__(self, *args, log: Path):
        self.log = log
        self.process = SERVER.Process(target=_run, args=([str(a) for a in args], str(log)), daemon=True)
        self.process.start()

    def wait(self) -> int:
        """Exit code; minus the signal's number for a process that a signal ended."""
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


def run_process(*args, log: Path) -> None:
    """A command that must succeed."""
    assert Command(*args, log=log).wait() == 0, log.read_text()


def _run(args: list[str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.nice(5)  # the test that watches goes first, or the run might be over before it is interrupted
    import torch

    from rlhf_engine.cli import main
    torch.set_num_threads(1)
    sys.exit(main(args))
