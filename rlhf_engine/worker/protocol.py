"""What the two ends of the connection to a worker agree on."""

from rlhf_engine.errors import UserError

LARGEST = 10 << 20
"""Bytes of the longest request."""


TAKEN = 3
"""Exit code of a worker that found another one in its workspace."""


class WorkerError(UserError):
    """The worker is gone, or met a mistake of its own. One line, as every UserError."""
