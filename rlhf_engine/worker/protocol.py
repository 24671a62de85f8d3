"""What the two ends of the connection to a worker agree on."""

import traceback

from rlhf_engine.errors import UserError, first_line

WORKER_FILE, LOG_FILE, LOCK_FILE = "worker.json", "worker.log", "worker.lock"
"""In the workspace: where a living worker listens, with its key; what it printed; and the lock that keeps it the only
one."""
CONVERSION_FILE = "conversion.json"
"""In the workspace while its worker converts a GGUF file: what a page needs to say so."""
MAX_REQUEST_BYTES = 10 << 20
"""The longest request."""
TAKEN = 3
"""The exit code of a worker that found another one in its workspace."""


class WorkerError(UserError):
    """The worker is gone, or has met an error of its own. The message is one line, as of every UserError."""


def as_user_error(error: Exception, advice: str = "") -> UserError:
    """An error as its caller gets it.

    A UserError stays as it is; any other is logged and becomes a WorkerError of one line.
    """
    if isinstance(error, UserError):
        return error
    traceback.print_exception(error)
    return WorkerError(f"{type(error).__name__}: {first_line(error)}. {advice}".strip())
