"""The orders that a run is given while it goes on: pause, resume, step, stop, discard, and settings to change.

The page's worker, the command line and tests all hold a run by a `RunControl`; the loop asks it between two steps.
"""

import threading
from collections.abc import Callable

from rlhf_engine import config as configs
from rlhf_engine.errors import UserError
from rlhf_engine.runs.folder import Run
from rlhf_engine.stages import find_stage, live_settings, make_config

ORDERS = ("pause", "resume", "step", "stop", "discard")
"""Orders without a value."""
REWIND = "rewind"
"""The order to go back to a checkpoint; its value is the step."""


def value_orders() -> tuple[str, ...]:
    """Orders with a value: the settings that can be changed while a run goes on, and `rewind`."""
    return (*live_settings(), REWIND)


class RunControl:
    """What a run is to do next. Safe to use from any thread, and from a signal handler.

    `changes` are settings to change before the first step. `shutting_down` is asked each time; when it says yes, the
    run stops.
    """

    def __init__(self, changes: dict[str, float] | None = None, *, shutting_down: Callable[[], bool] = lambda: False):
        self.shutting_down = shutting_down
        self.target = "run"
        """What the run is to do: `run`, `pause`, `step` (one step, then pause), `stop` (save, then end) or `discard`
        (end, remove)."""
        self.paused = False
        """Whether the loop has found that it is to pause. Then a chat need not leave the trainer any time."""
        self._changes = list((changes or {}).items())
        self._lock = threading.RLock()  # a signal handler runs in the main thread, which may hold the lock already

    def pause(self) -> None:
        """Wait after the step that is being taken."""
        self._set_target("pause")

    def resume(self) -> None:
        """Go on after a pause."""
        self._set_target("run")

    def step(self) -> None:
        """Take one step, then pause."""
        self._set_target("step")

    def stop(self) -> None:
        """Save a checkpoint and end."""
        self._set_target("stop")

    def discard(self) -> None:
        """End, and remove the run folder."""
        self._set_target("discard")

    def change(self, name: str, value: float) -> None:
        """Change a setting before the next step; `rewind` with a step goes back to its checkpoint."""
        with self._lock:
            self._changes.append((name, value))

    def order(self, run: Run, command: str, value: float | None = None) -> None:
        """An order by its name, for the run in the folder `run`. Raises UserError for what can be refused at once."""
        if command in value_orders():
            self.change(command, check_change(run, command, value))
            return
        if command not in ORDERS:
            raise UserError(f"there is no command {command!r}; it is one of {', '.join((*ORDERS, *value_orders()))}")
        with self._lock:
            if self.target == "discard" or (self.target == "stop" and command not in ("stop", "discard")):
                raise UserError("the run is ending already: wait for it")
            getattr(self, command)()

    def take_changes(self) -> list[tuple[str, float]]:
        """The changes that were ordered since the last call, the oldest first. Each is handed out once."""
        with self._lock:
            changes, self._changes = self._changes, []
        return changes

    def next_action(self) -> str:
        """What the loop is to do now: `run`, `pause`, `stop` or `discard`.

        A `step` becomes a `run` once, and a pause after that.
        """
        with self._lock:
            action = self.target
            if action == "step":
                self.target, action = "pause", "run"
            if action != "discard" and self.shutting_down():
                action = "stop"
            self.paused = action == "pause"
            return action

    def _set_target(self, target: str) -> None:
        with self._lock:
            self.target = target


def check_change(run: Run, name: str, value: float | None) -> float:
    """The value that the setting `name` of a live run may get. Raises UserError if it may not."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{name} needs a value, a number; it got {value!r}")
    if name == REWIND:
        run.checkpoint_at(value)
        return value
    settings = run.config()
    stage = settings.pop("stage")
    if name not in configs.field_types(find_stage(stage).config):
        raise UserError(f"{stage} has no setting {name!r} that could be changed")
    make_config(stage, {**settings, name: value})
    if name == "steps" and value:
        configs.check_length(int(value), run.status()["step"])
    return value
