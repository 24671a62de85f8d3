"""The run folder: a trainer writes it, and everybody else only reads it.

    config.yaml inputs.json status.json metrics.jsonl samples.jsonl queries.jsonl journal.jsonl report.json
    checkpoints/step-000100/ checkpoints/last

Whole files are replaced in one motion. Lists grow by whole lines, and a reader skips a line that is still being
written.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from rlhf_engine import config as configs
from rlhf_engine.config import RunConfig
from rlhf_engine.errors import UserError
from rlhf_engine.files import (
    append_text,
    atomic_file,
    atomic_folder,
    check_place,
    disk_is_full,
    expand_user,
    json_lines,
    json_text,
    overwrite_text,
    read_json,
    read_lines,
    write_json,
    write_text,
)
from rlhf_engine.runs.journal import unsaved_events
from rlhf_engine.yaml_files import read_yaml, yaml_text

ALIVE = ("waiting", "running", "paused")
"""The states of a run whose process is still at work."""
STEP_LISTS = ("metrics.jsonl", "samples.jsonl")
"""Lists whose rows belong to a step each. A run that goes back to a checkpoint loses the rows of later steps."""
INPUTS_FILE = "inputs.json"
"""Fingerprints of what the run was made from (`inputs`)."""
OWN_FILES = ("checkpoints", *STEP_LISTS, "queries.jsonl", "journal.jsonl", "report.json", INPUTS_FILE, "config.yaml",
             "status.json")
"""What a run folder consists of, in the order in which it is removed. A new run writes the last one first, then the
last but one."""
FIRST_FILES = (".status.json", "status.json", ".config.yaml")
"""The files of a run that was killed while it was being created have names that begin like this."""


class Run:
    """A run folder. To read it, give its path; a trainer gets one from `create`."""

    def __init__(self, path: str | Path):
        self.path = Path(expand_user(str(path)))

    # -- beginning -----------------------------------------------------------------------------------------------------

    @classmethod
    def check_new(cls, path: str | Path, *, overwrite: bool = False) -> "Run":
        """The run that may begin at `path`.

        Raises UserError if the folder holds a run (unless `overwrite`) or anything else.
        """
        run = cls(path)
        check_place(run.path)
        if run.exists():
            if not overwrite:
                raise UserError(f"{path} holds a run already: "
                                "add --resume to go on with it, or --overwrite to replace it")
            run.check_idle()
        elif run.path.exists() and not all(file.name.startswith(FIRST_FILES) for file in run.path.iterdir()):
            raise UserError(f"{path} exists and is not a run folder: name a new folder with --output")
        return run

    @classmethod
    def create(cls, path: str | Path, config: RunConfig, *, overwrite: bool = False) -> "Run":
        """Make a new run folder. With `overwrite` it replaces an old run. Raises UserError as `check_new` does."""
        run = cls.check_new(path, overwrite=overwrite)
        new_id = f"{run.path.name}-{secrets.token_hex(4)}"
        settings = {"stage": config.stage, **configs.to_dict(config)}
        existed = run.path.exists()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run._remove_own_files()
            run.set_status(state="waiting", step=0, total_steps=0, error="", advice="", advice_kind="", id=new_id)
            write_text(run.path / "config.yaml", yaml_text(settings))
        except OSError as error:
            run._undo_creation(existed)
            raise UserError(f"{path} cannot be written ({error.strerror or error}): make room or get the right to "
                            "write there, or name another folder with --output") from None
        return run

    def _undo_creation(self, existed: bool) -> None:
        """Remove what a creation that failed has written."""
        with suppress(OSError):
            self._remove_own_files()
            if not existed:
                self.path.rmdir()

    def check_idle(self) -> None:
        """Raises UserError if another process is writing this run."""
        status = self.status()
        if status["state"] in ALIVE and status["pid"] != os.getpid():
            raise UserError(f"{self.path} is being written by process {status['pid']}: stop that run first")

    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "config.yaml").exists() and (self.path / "status.json").exists()

    def holds_nothing(self) -> bool:
        """Whether no step has been taken, no text written and nobody asked, so that nobody would miss the run."""
        return not (self.checkpoints() or self.metrics() or self.samples() or self.queries())

    # -- going back to a checkpoint ------------------------------------------------------------------------------------

    def truncate_to_checkpoint(self) -> None:
        """Remove what came after the last complete checkpoint, because the resumed run writes it again."""
        step = self.last_step()
        for leftover in (self.path / "checkpoints").glob(".*"):
            _remove(leftover)
        if step:
            self._point_last(self.checkpoints()[-1])
        self._remove_rows_after(step)
        self.set_status(state="waiting", step=step, error="", advice="", advice_kind="")
        self.note("resumed", step=step)

    def rewind(self, step: int, was: int) -> None:
        """At step `was`, remove what came after the checkpoint of `step`.

        The journal keeps its lines and notes the rewind.
        """
        for checkpoint in self.checkpoints():
            if step_of(checkpoint) > step:
                self._drop(checkpoint)
        self._point_last(self.checkpoint_at(step))
        self._remove_rows_after(step)
        self.note("rewound", step=step, was=was)
        self.set_status(step=step)

    def _remove_rows_after(self, step: int) -> None:
        """Keep the rows up to the checkpoint of `step`.

        Without a checkpoint (0) the run begins anew, and none stays.
        """
        for name in STEP_LISTS:
            rows = read_lines(self.path / name)
            kept = [row for row in rows if is_step(row.get("step")) and row["step"] <= step]
            self._replace_lines(name, kept if step else [])
        self._replace_lines("journal.jsonl", self.journal())  # which removes a half-written last line

    # -- reading -------------------------------------------------------------------------------------------------------

    def config(self) -> dict:
        """The settings with which the run began, under the names of today, and its `stage`."""
        return configs.current_names(read_yaml(self.path / "config.yaml"))

    def status(self) -> dict:
        """status.json.

        If the process that wrote it has died, the state is `failed` and never `running`. Raises UserError if this is no
        run.
        """
        try:
            status = read_json(self.path / "status.json")
        except ValueError:
            status = None
        if not isinstance(status, dict) or not is_status(status):
            raise UserError(f"{self.path} is not a run folder: it has no status.json with the state of a run")
        if status["state"] in ALIVE and not is_alive(status["pid"], status["born"]):
            status["state"] = "failed"
            status["error"] = "the process ended without a message (killed, or out of memory)"
            status["advice"] = "Resume it; if it dies again, lower the batch size or the response length."
            status["advice_kind"] = "killed"
        return status

    @property
    def id(self) -> str:
        """The name under which the store keeps the votes for this run: the folder's name and a random word.

        A later run of the same name does not inherit the votes.
        """
        return self.status().get("id", self.path.name)

    def metrics(self) -> list[dict]:
        """The metrics, one row a step."""
        return read_lines(self.path / "metrics.jsonl")

    def samples(self) -> list[dict]:
        """Texts that were written while the run went on, a few a step."""
        return read_lines(self.path / "samples.jsonl")

    def queries(self) -> list[dict]:
        """The questions that people were asked, the oldest first."""
        return read_lines(self.path / "queries.jsonl")

    def journal(self) -> list[dict]:
        """What happened in the run, the oldest first. A row has an `event`, mostly a `step`; warnings have a `kind`."""
        return read_lines(self.path / "journal.jsonl")

    def unsaved(self, step: int) -> list[dict]:
        """The journal's rows about what came after the checkpoint of `step` and was not undone by a rewind."""
        return unsaved_events(self.journal(), step)

    def report(self) -> dict | None:
        """report.json, or None while the run is not over."""
        return read_json(self.path / "report.json")

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, the oldest first."""
        return sorted((self.path / "checkpoints").glob("step-*"), key=lambda folder: (len(folder.name), folder.name))

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return next(reversed(self.checkpoints()), None)

    def last_step(self) -> int:
        """The step of the newest complete checkpoint; 0 if there is none."""
        checkpoint = self.last_checkpoint()
        return step_of(checkpoint) if checkpoint else 0

    def checkpoint_at(self, step: float) -> Path:
        """The checkpoint of a step. Raises UserError if there is none."""
        steps = []
        for folder in self.checkpoints():
            if step_of(folder) == step:
                return folder
            steps.append(str(step_of(folder)))
        raise UserError(f"{self.path.name} has no checkpoint of step {step}; it has {', '.join(steps) or 'none'}")

    # -- writing -------------------------------------------------------------------------------------------------------

    def set_status(self, **changes) -> None:
        """Change some entries of status.json. This process becomes the run's writer."""
        writer = {"pid": os.getpid(), "born": process_start(os.getpid()), "time": time.time()}
        write_json(self.path / "status.json", {**read_json(self.path / "status.json", {}), **changes, **writer})

    def fail(self, error: str, *, advice: str, advice_kind: str) -> None:
        """Set the state `failed`. Raises nothing: on a full disk status.json is written in place, in its old space."""
        changes = {"state": "failed", "error": error, "advice": advice, "advice_kind": advice_kind}
        try:
            self.set_status(**changes)
        except OSError:
            with suppress(OSError, ValueError):
                status = read_json(self.path / "status.json", {}) | changes
                overwrite_text(self.path / "status.json", json_text(status) + "\n")

    def log(self, metrics: dict) -> None:
        """Add the metrics of one step."""
        self._append("metrics.jsonl", [metrics])

    def add_samples(self, rows: list[dict]) -> None:
        """Add the texts of one step."""
        self._append("samples.jsonl", rows)

    def add_queries(self, rows: list[dict]) -> None:
        """Add questions to people."""
        self._append("queries.jsonl", rows)

    def note(self, event: str, **details) -> None:
        """Add one row to the journal, with the time."""
        self.note_all([{"event": event, **details}])

    def note_all(self, events: list[dict]) -> None:
        """Add several rows to the journal in one write: after a kill there are all of them or none."""
        self._append("journal.jsonl", [{**event, "time": time.time()} for event in events])

    def write_report(self, report: dict) -> None:
        """Write report.json."""
        write_json(self.path / "report.json", report)

    @contextmanager
    def checkpoint(self, step: int, keep: int = 0) -> Iterator[Path]:
        """A folder to fill with the checkpoint of `step`. Only when it is complete does it get its name, and `last`
        point to it.

        Of all checkpoints the `keep` newest stay; 0 keeps all.
        """
        final = self.path / "checkpoints" / f"step-{step:06d}"
        with atomic_folder(final) as folder:
            yield folder
            if final.exists():  # a checkpoint of the same step, written before
                self._drop(final)
        self._point_last(final)
        if keep:
            for old in self.checkpoints()[:-keep]:
                self._drop(old)

    def discard(self) -> None:
        """Remove the run folder. Files that others have put there stay, and so does a link to a folder elsewhere."""
        self._remove_own_files()
        if not self.path.is_symlink() and not any(self.path.iterdir()):
            self.path.rmdir()

    def _remove_own_files(self) -> None:
        for name in OWN_FILES:
            for item in (*self.path.glob(f".{name}*"), self.path / name):
                _remove(item)

    def _drop(self, checkpoint: Path) -> None:
        """Remove a checkpoint. It is renamed first, so that a kill never leaves half of one that looks complete."""
        doomed = checkpoint.with_name(f".gone-{checkpoint.name}")
        os.replace(checkpoint, doomed)
        shutil.rmtree(doomed)

    def _point_last(self, checkpoint: Path) -> None:
        last = checkpoint.parent / "last"
        try:
            with atomic_file(last) as link:
                link.symlink_to(checkpoint.name, target_is_directory=True)
        except OSError as error:  # some Windows accounts have no right to make links; a copy does as well
            if disk_is_full(error):
                raise
            shutil.rmtree(last, ignore_errors=True)
            shutil.copytree(checkpoint, last)

    def _append(self, name: str, rows: list[dict]) -> None:
        append_text(self.path / name, json_lines(rows))

    def _replace_lines(self, name: str, rows: list[dict]) -> None:
        write_text(self.path / name, json_lines(rows))


def is_status(status: dict) -> bool:
    """Whether a mapping has what every status.json has."""
    kinds = {"state": str, "step": int, "pid": int, "born": (int, float)}
    return all(isinstance(status.get(name), kind) for name, kind in kinds.items())


def is_step(value) -> bool:
    """Whether a value of a row is a step, as it is in every row that was written whole."""
    return isinstance(value, int) and not isinstance(value, bool)


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix("step-"))


def process_start(pid: int) -> float:
    """The start time of a process. It tells the process apart from a later one with the same id."""
    return psutil.Process(pid).create_time()


def is_alive(pid: int, started: float) -> bool:
    """Whether the process with this id and start time is still running."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _remove(item: Path) -> None:
    if item.is_dir() and not item.is_symlink():
        shutil.rmtree(item)
    else:
        item.unlink(missing_ok=True)
