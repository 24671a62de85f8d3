"""From a trainer to a run folder: steps, what is ordered between them, what is written, and how it ends."""

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

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.measures import MEASURES
from rlhf_engine.model.batching import out_of_memory
from rlhf_engine.runs.folder import Run
from rlhf_engine.trainers.base import Diverged
from rlhf_engine.trainers.interface import AnyTrainer


class Control:
    """What is asked of a running trainer between two steps: go on, pause, stop (and save), or discard; and settings to change, some
    perhaps from the start."""

    def __init__(self, changes: dict[str, float] | None = None):
        self.wish = "run"
        self.waiting = list((changes or {}).items())

    def __call__(self) -> str:
        return self.wish

    def changes(self) -> list[tuple[str, float]]:
        """Settings and their new values, each told once, in the order in which they were ordered; "rewind" with a step is one, too."""
        waiting, self.waiting = self.waiting, []
        return waiting


ENDS = {"end": "done", "stop": "stopped", "discard": "discarded"}
"""The state in which each wish leaves a run."""


def drive(trainer: AnyTrainer, run: Run, *, control: Control | None = None, progress: bool = True) -> str:
    """Run a trainer to its end, writing the run folder; returns the final state: done, stopped, or discarded.

    A resumed run repeats, step by step, what the journal says about the steps since its checkpoint: votes consumed, settings changed. One
    that is over goes on if that, or an order, makes it longer.
    An exception leaves the state `failed` with the reason and an advice, and goes on to the caller.
    """
    control = control or Control()
    begin(trainer, run)
    past = JournalReplay(trainer, run)
    bar = tqdm(total=trainer.total_steps, initial=trainer.step, desc=trainer.config.stage, disable=not progress, file=sys.stderr)
    saved = trainer.step
    try:
        while (wish := next_action(trainer, run, control, past)) == "run":
            metrics = next(trainer)
            write_step(trainer, run, metrics, noted=trainer.step <= past.until)
            bar.total = trainer.total_steps
            bar.set_postfix_str(headline(metrics), refresh=False)
            bar.update(trainer.step - bar.n)
            if trainer.step % trainer.config.checkpoint_every == 0:
                saved = save(trainer, run)
        state = ENDS[wish]
        if state == "discarded":
            run.discard()
            return state
        if saved != trainer.step:
            save(trainer, run)
        run.write_report(trainer.report() | {"steps": trainer.step, "peak_memory_mb": peak_memory_mb()})
        run.set_status(state=state, step=trainer.step, advice="")
        return state
    except BaseException as error:
        run.set_status(state="failed", error=f"{type(error).__name__}: {first_line(error)}", advice=failure_hint(error))
        raise
    finally:
        bar.close()


def begin(trainer: AnyTrainer, run: Run) -> None:
    if trainer.step == 0 and not run.journal():
        for note in trainer.data_notes:
            run.note("data", text=note)
        if not trainer.config.learning_rate:
            run.note("fitted", learning_rate=trainer.peak_lr, width=trainer.backbone.hidden_size)
    run.set_status(state="running", total_steps=trainer.total_steps, step=trainer.step, error="", advice="")


class JournalReplay:
    """What the journal of a resumed run says about steps that its checkpoint does not hold yet."""

    def __init__(self, trainer: AnyTrainer, run: Run):
        entries = run.unsaved(trainer.step)
        self.changes = [row for row in entries if row["event"] == "changed"]
        self.until = max((row["step"] for row in entries if row["event"] != "changed"), default=0)
        """The last step whose events stand in the journal already."""
        trainer.replay_journal(entries)

    def change(self, trainer: AnyTrainer) -> None:
        """The settings that were changed at this point."""
        while self.changes and self.changes[0]["step"] <= trainer.step:
            row = self.changes.pop(0)
            trainer.change(row["name"], row["new"])


def next_action(trainer: AnyTrainer, run: Run, control: Control, past: JournalReplay) -> str:
    """Do what was ordered, and wait while the run is paused or has to wait for people; returns the wish to act on: run, stop or discard,
    or "end" where no step is left. New orders wait until those of the past are repeated, which they were given after."""
    said = ("running", "")
    while True:
        wish = control()
        past.change(trainer)
        for name, value in control.changes() if not past.changes else ():
            change(trainer, run, name, value)
        if trainer.step >= trainer.total_steps and wish != "discard":
            return "end"
        reason = trainer.blocked_reason() if wish == "run" else ""
        now = ("paused" if wish == "pause" else "waiting" if reason else "running", reason)
        if now != said:
            run.set_status(state=now[0], advice=reason, step=trainer.step)
            said = now
        if now[0] == "running" or wish in ("stop", "discard"):
            return wish
        trainer.on_microbatch()
        time.sleep(0.05)


def change(trainer: AnyTrainer, run: Run, name: str, value: float) -> None:
    """One live control, and its line in the journal. What cannot be done is a warning there, and changes nothing."""
    try:
        if name == "rewind":
            was, step = trainer.step, int(value)
            trainer.load(run.checkpoint_at(step))
            run.rewind(step, was)
        else:
            run.note("changed", step=trainer.step, name=name, old=trainer.change(name, value), new=getattr(trainer.config, name))
        run.set_status(total_steps=trainer.total_steps)
    except UserError as error:
        run.note("warning", step=trainer.step, text=str(error))


def write_step(trainer: AnyTrainer, run: Run, metrics: dict, *, noted: bool = False) -> None:
    """The lines of a step; `noted`: its events are in the journal already."""
    if not noted:
        run.note_all(trainer.events)
    run.add_samples(trainer.samples)
    run.log(metrics)
    run.set_status(state="running", step=trainer.step, total_steps=trainer.total_steps, peak_memory_mb=peak_memory_mb())


def save(trainer: AnyTrainer, run: Run) -> int:
    with run.checkpoint(trainer.step, keep=trainer.config.keep_checkpoints) as folder:
        trainer.save(folder)
    return trainer.step


def headline(metrics: dict) -> str:
    """The measures that the progress bar shows."""
    shown = [row for row in MEASURES.values() if row.headline and row.key in metrics]
    return "  ".join(f"{row.headline} {metrics[row.key]:.3g}" for row in shown)


def failure_hint(error: BaseException) -> str:
    """What a user can do about a failed run, in one sentence."""
    if out_of_memory(error):
        return "Lower micro_batch or max_new_tokens, use dtype nf4, or switch gradient_checkpointing on; then resume."
    if isinstance(error, Diverged):
        return "Lower learning_rate or raise kl_coef and start again from the last good checkpoint."
    if isinstance(error, UserError):
        return "Mend the input, then resume."
    if isinstance(error, KeyboardInterrupt):
        return "Resume it to go on from the last checkpoint."
    return "Resume from the last checkpoint; if it fails again, report the error with the run's config.yaml."


def peak_memory_mb() -> int:
    """Most memory this process held: of the GPU where one is used, else of the whole process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() >> 20
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset >> 20
    with contextlib.suppress(OSError, StopIteration):  # Linux; what getrusage says may be the parent's, and is never forgotten
        return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")) >> 10
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def forget_peak() -> None:
    """Let `peak_memory_mb` begin anew, where the system can: a worker's next run is not to report what the one before took."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def stop_on_signals(control: Control) -> None:
    """First Ctrl-C or SIGTERM: finish the step, save, stop. A second one ends at once."""
    def ask(number, frame):
        if control.wish == "stop":
            raise KeyboardInterrupt
        control.wish = "stop"
        os.write(2, b"\nstopping after this step; again to end at once\n")  # print could come in the middle of another print
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)
