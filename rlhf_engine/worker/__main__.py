"""The worker process: `python -m rlhf_engine.worker HOME`."""

import os
import signal
import sys
import time
from pathlib import Path

from rlhf_engine.worker.protocol import TAKEN
from rlhf_engine.worker.server import Server, lock_workspace


def main(home: str) -> int:
    """The worker: `python -m rlhf_engine.worker HOME`. SIGTERM saves and stops a live run, then ends."""
    folder = Path(home).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_workspace(folder)
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
        from rlhf_engine.worker.model_owner import ModelOwner
        server.loading = False
        ModelOwner(server).serve()
        time.sleep(0.1)  # the last replies are on their way
    finally:
        (folder / "worker.json").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
