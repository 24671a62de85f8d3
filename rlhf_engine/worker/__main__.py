"""The worker process: `python -m rlhf_engine.worker HOME`."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from rlhf_engine.console import accept_any_text
from rlhf_engine.gguf import progress
from rlhf_engine.worker.conversion_note import write_note
from rlhf_engine.worker.protocol import LOCK_FILE, TAKEN, WORKER_FILE
from rlhf_engine.worker.server import Server


def main(home: str) -> int:
    """Serve the workspace `home` until a shutdown is requested or SIGTERM arrives, which saves and stops a live run
    first.

    Returns the exit code: 0, or TAKEN if the workspace has a worker already.
    """
    accept_any_text()
    folder = Path(home).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # The system drops the lock when this process ends, however that happens. So no lock is ever left over.
        with FileLock(folder / LOCK_FILE, blocking=False):
            serve(folder)
    except Timeout:
        return TAKEN
    return 0


def serve(folder: Path) -> None:
    """Listen at once, then import torch and own the model."""
    server = Server(folder)

    def close(number, frame):
        server.closing = True

    signal.signal(signal.SIGTERM, close)
    signal.signal(signal.SIGINT, close)
    server.announce()
    write_note(folder)  # a worker that was killed may have left one
    progress.WATCHERS.append(partial(write_note, folder))
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} worker {os.getpid()} in {folder}")
    try:
        # The import takes seconds, in which the listener answers already.
        from rlhf_engine.worker.model_owner import ModelOwner
        server.loading = False
        ModelOwner(server).serve()
        time.sleep(0.1)  # the last replies are on their way
    finally:
        (folder / WORKER_FILE).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
