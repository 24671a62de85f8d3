"""Orders to a run, from a page or the API. They also reach a run that has ended, which an order to resume starts again."""

from playground.server.worker_guard import GuardedWorker
from rlhf_engine.runs.folder import ALIVE, Run


def ask(worker: GuardedWorker, run: Run, command: str, value: float | None = None) -> None:
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


def go_on(worker: GuardedWorker, run: Run, lengths: dict[str, float]) -> None:
    """Go on from the last checkpoint of a run that has ended, to the `steps`, `epochs` or `votes` in `lengths`. Raises UserError."""
    worker.start(run.config()["stage"], {"output": str(run.path), **lengths}, resume=True)
