"""From a trainer to a run folder: take the steps, follow the orders given between them, and write everything down."""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import torch
from tqdm import tqdm

from rlhf_engine.config import LENGTH_FIELDS, checkpoint_period
from rlhf_engine.errors import UserError, one_line
from rlhf_engine.measures import MEASURES
from rlhf_engine.runs.control import REWIND, RunControl
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.resolve import describe_base
from rlhf_engine.trainers.failures import record_failure
from rlhf_engine.trainers.interface import AnyTrainer

FINAL_STATES = {"end": "done", "stop": "stopped", "discard": "discarded"}
"""The action with which the loop ends -> the state in which it leaves the run."""


def drive(trainer: AnyTrainer, run: Run, *, control: RunControl | None = None, progress: bool = True) -> str:
    """Run a trainer to its end and write the run folder; returns the final state: done, stopped or discarded.

    A resumed run repeats, step by step, what the journal says about the steps after its checkpoint: votes consumed,
    settings changed. A run that has taken all its steps goes on if the journal, or an order, makes it longer. An
    exception sets the state `failed`, with the reason and an advice, and is raised again.
    """
    control = control or RunControl()
    begin(trainer, run)
    replay = JournalReplay(trainer, run)
    bar = tqdm(total=trainer.total_steps, initial=trainer.step, desc=trainer.config.stage, disable=not progress,
               file=sys.stderr)

    def take_news() -> None:
        if words := first_votes(trainer.events):
            bar.set_postfix_str(words)
        write_news(trainer, run, replay, show=progress)

    trainer.on_news = take_news
    saved_step = trainer.step
    try:
        while (action := next_action(trainer, run, control, replay)) == "run":
            metrics = next(trainer)
            write_step(trainer, run, metrics, replay=replay, show=progress)
            bar.total = trainer.total_steps
            bar.set_postfix_str(headline(metrics), refresh=False)
            bar.update(trainer.step - bar.n)
            if trainer.step % checkpoint_period(trainer.config.checkpoint_every, trainer.total_steps) == 0:
                saved_step = save(trainer, run)
        if action == "discard":
            run.discard()
        else:
            if saved_step != trainer.step:
                save(trainer, run)
            bar.set_postfix_str("measuring for the report")  # `teach` samples some hundred responses for it
            report = {**trainer.report(), "steps": trainer.step, "peak_memory_mb": peak_memory_mb()}
            run.write_report(report)
            run.set_status(state=FINAL_STATES[action], step=trainer.step, advice="", advice_kind="")
        return FINAL_STATES[action]
    except BaseException as error:
        record_failure(run, error, trainer.config)
        raise
    finally:
        bar.close()


def begin(trainer: AnyTrainer, run: Run) -> None:
    """Set the state `running`. A new run also notes what its base is where the name does not say it, remarks on its
    data, and a learning rate that was fitted."""
    if trainer.step == 0 and not run.journal():
        if line := describe_base(trainer.config.model, trainer.backbone.path):
            run.note("base", text=line)
        for note in trainer.data_notes:
            run.note("data", text=note)
        if not trainer.config.learning_rate:
            run.note("fitted", learning_rate=trainer.peak_lr, width=trainer.backbone.hidden_size)
    run.set_status(state="running", total_steps=trainer.total_steps, step=trainer.step, error="", advice="",
                   advice_kind="")


EARLY = ("reward", "turned", "takeover", "passes", "warning")
"""Events that are written as they happen in the first step, minutes before it is over."""


def early_key(row: dict) -> tuple:
    """What tells such an event apart from others of its run."""
    details = [row.get(name, "") for name in ("outdated", "reward", "tokens", "kind")]
    return row["event"], row["step"], *row.get("consumed", ()), *details


class JournalReplay:
    """What the journal of a resumed run says about the steps after its checkpoint."""

    def __init__(self, trainer: AnyTrainer, run: Run):
        rows = run.unsaved(trainer.step)
        self.changes = [row for row in rows if row["event"] == "changed"]
        """Changes of settings that are still to be repeated, the oldest first."""
        events = [row for row in rows if row["event"] != "changed"]
        self.last_step = max((row["step"] for row in events), default=0)
        """The last step of which events are in the journal already."""
        whole = [row["step"] for row in events if row["step"] > 1 or row["event"] not in EARLY]
        self.whole_step = max(whole, default=0)
        """The last step of which all events are in the journal. Of the first step, those of the votes come early."""
        self.early = [early_key(row) for row in events if row["event"] in EARLY]
        trainer.replay_journal(rows)

    def new_rows(self, trainer: AnyTrainer) -> list[dict]:
        """The events of a trainer that a run which was killed has not written into its journal."""
        if trainer.step > self.last_step:
            return trainer.events
        return [row for row in trainer.events if not self._holds(row, trainer.step)]

    def _holds(self, row: dict, step: int) -> bool:
        return early_key(row) in self.early if row["event"] in EARLY else step <= self.whole_step

    def repeat_changes(self, trainer: AnyTrainer) -> None:
        """Repeat the changes of settings that were made at the step which the trainer has reached."""
        while self.changes and self.changes[0]["step"] <= trainer.step:
            row = self.changes.pop(0)
            trainer.change(row["name"], row["new"])


# -- between two steps -------------------------------------------------------------------------------------------------

def next_action(trainer: AnyTrainer, run: Run, control: RunControl, replay: JournalReplay) -> str:
    """What the loop does next: `run`, `stop`, `discard`, or `end` if no step is left.

    First makes the changes that were ordered, and waits while the run is paused or has to wait for people. New changes
    are made after those of the journal, which are older.
    """
    shown = ("running", "")
    while True:
        action = control.next_action()
        replay.repeat_changes(trainer)
        if not replay.changes:
            for name, value in control.take_changes():
                change(trainer, run, name, value)
        if trainer.step >= trainer.total_steps and action != "discard":
            return "end"
        reason = trainer.blocked_reason() if action == "run" else ""
        state = "paused" if action == "pause" else "waiting" if reason else "running"
        if (state, reason) != shown:
            run.set_status(state=state, advice=reason, advice_kind="waiting" if reason else "", step=trainer.step)
            shown = (state, reason)
        if state == "running" or action in ("stop", "discard"):
            return action
        trainer.on_microbatch()
        time.sleep(0.05)


def change(trainer: AnyTrainer, run: Run, name: str, value: float) -> None:
    """Change a setting, or rewind, and note it in the journal.

    What cannot be done becomes a warning there and changes nothing.
    """
    try:
        if name == REWIND:
            was, step = trainer.step, int(value)
            trainer.load(run.checkpoint_at(step))
            run.rewind(step, was)
        else:
            old = trainer.change(name, value)
            run.note("changed", step=trainer.step, name=name, old=old, new=getattr(trainer.config, name))
        run.set_status(total_steps=trainer.total_steps)
    except UserError as error:
        kind = "length" if name in LENGTH_FIELDS else "rejected_change"
        run.note("warning", step=trainer.step, kind=kind, text=str(error))


# -- what is written ---------------------------------------------------------------------------------------------------

def write_step(trainer: AnyTrainer, run: Run, metrics: dict, *, replay: JournalReplay, show: bool = False) -> None:
    """Write the rows of a step, but for events that stand in the journal already (`replay`). `show` prints warnings."""
    note_events(run, replay.new_rows(trainer), show)
    run.add_samples(trainer.samples)
    run.log(metrics)
    run.set_status(state="running", step=trainer.step, total_steps=trainer.total_steps, peak_memory_mb=peak_memory_mb())


def write_news(trainer: AnyTrainer, run: Run, replay: JournalReplay, *, show: bool = False) -> None:
    """Write what a trainer has to tell before its first step is over, with the time at which it happened."""
    note_events(run, replay.new_rows(trainer), show)
    run.add_samples(trainer.samples)
    trainer.events, trainer.samples = [], []


def first_votes(events: list[dict]) -> str:
    """The votes behind the progress bar before the first step is over, which may take minutes; "" without any."""
    learned = [event["votes"] for event in events if event["event"] == "reward"]
    return f"votes {learned[-1]}" if learned else ""


def note_events(run: Run, events: list[dict], show: bool) -> None:
    """Write events into the journal, and with `show` warnings on the console, above the progress bar."""
    run.note_all(events)
    for event in events:
        if show and event["event"] == "warning":
            tqdm.write(one_line(f"warning: {event['text']}"))


def save(trainer: AnyTrainer, run: Run) -> int:
    """Write a checkpoint; returns its step."""
    with run.checkpoint(trainer.step, keep=trainer.config.keep_checkpoints) as folder:
        trainer.save(folder)
    return trainer.step


def headline(metrics: dict) -> str:
    """The measures behind the progress bar, as text."""
    shown = [row for row in MEASURES.values() if row.headline and row.key in metrics]
    return "  ".join(f"{row.headline} {metrics[row.key]:.3g}" for row in shown)


# -- memory ------------------------------------------------------------------------------------------------------------

def peak_memory_mb() -> int:
    """The most memory that this process has held: on the GPU if one is in use, else in all."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() >> 20
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset >> 20
    # On Linux: what getrusage says may be the parent's, and is never reset.
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def reset_peak_memory() -> None:
    """Let `peak_memory_mb` begin anew, where the system can: a run must not report the memory of an earlier one."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


# -- signals -----------------------------------------------------------------------------------------------------------

def stop_on_signals(control: RunControl) -> None:
    """On the first Ctrl-C or SIGTERM, finish the step, save and stop. On the second, end at once."""
    def handle(number, frame):
        if control.target == "stop":
            raise KeyboardInterrupt
        control.stop()
        # Not print, which could come in the middle of another print.
        os.write(2, b"\nstopping after this step; again to end at once\n")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handle)
        signal.signal(signal.SIGTERM, handle)
