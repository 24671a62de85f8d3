"""Commands to a run, from a page or the API."""

from rlhf_engine.runs.folder import ALIVE


def ask(worker, run, command: str, value: float | None = None) -> None:
    """One command to a run; `resume` also goes on with one that has ended, and with a value it is to have so many steps. Raises
    UserError."""
    if command != "resume":
        worker.control(str(run.path), command, value)
        return
    longer = {} if value is None else {"steps": value}
    if run.status()["state"] not in ALIVE:
        go_on(worker, run, longer)
        return
    for name, steps in longer.items():
        worker.control(str(run.path), name, steps)
    worker.control(str(run.path), "resume")


def go_on(worker, run, longer: dict) -> None:
    """From the last checkpoint of a run that has ended, to the `steps`, `epochs` or `votes` in `longer`. Raises UserError."""
    worker.start(run.config()["stage"], {"output": str(run.path), **longer}, resume=True)
