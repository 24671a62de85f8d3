"""Orders to a run, from a page or the API.

They also reach a run that has ended, which an order to resume starts again.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from rlhf_engine.runs.folder import ALIVE, Run


class WorkerHandle(Protocol):
    """What the page needs of a worker: `rlhf_engine.worker.client.Worker`, or in tests one that only records calls."""

    def start(self, stage: str, config: dict, *, resume: bool = False) -> str:
        """Start or resume a run; returns its folder."""
        ...

    def control(self, run: str, command: str, value: float | None = None) -> None:
        """Give the live run an order."""
        ...

    def load(self, model: str, *, dtype: str = "auto") -> Iterator[dict]:
        """Load a base model; yields how far that is."""
        ...

    def report(self, adapter: str, *, judges: Sequence[str] = ()) -> Iterator[dict]:
        """Make a report about an adapter; yields how far that is."""
        ...

    def chat(self, adapters: list[str], messages: list[dict], *, model: str = "bundled", max_new_tokens: int = 128,
             temperature: float = 1.0) -> Iterator[list[str]]:
        """Answers to a conversation as they grow."""
        ...


def ask(worker: WorkerHandle, run: Run, command: str, value: float | None = None) -> None:
    """Give a run an order. Raises UserError.

    `resume` also goes on with a run that has ended; with a `value`, to that many steps in all.
    """
    if command != "resume":
        worker.control(str(run.path), command, value)
        return
    lengths = {} if value is None else {"steps": value}
    if run.status()["state"] not in ALIVE:
        go_on(worker, run, lengths)
        return
    for name, steps in lengths.items():
        worker.control(str(run.path), name, steps)
    worker.control(str(run.path), "resume")


def go_on(worker: WorkerHandle, run: Run, lengths: dict[str, float]) -> None:
    """Go on from the last checkpoint of a run that has ended, to the `steps`, `epochs` or `votes` in `lengths`.

    Raises UserError.
    """
    worker.start(run.config()["stage"], {"output": str(run.path), **lengths}, resume=True)
