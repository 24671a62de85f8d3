"""The run folder: the one place where a trainer writes and everybody else reads.

    config.yaml status.json metrics.jsonl samples.jsonl queries.jsonl journal.jsonl report.json
    checkpoints/step-000100/ checkpoints/last

Whole files are replaced atomically; lists grow by whole lines, and a reader skips a line that is still being written.
"""

import json
import os
import secrets
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

from rlhf_engine import config as configs
from rlhf_engine.config import LENGTH_FIELDS, RunConfig
from rlhf_engine.errors import UserError
from rlhf_engine.files import check_place, read_json, read_lines, write_json, write_text
from rlhf_engine.runs.journal import effective_settings, without_rewound
from rlhf_engine.stages import make_config

ALIVE = ("waiting", "running", "paused")
LISTS = ("metrics.jsonl", "samples.jsonl")
OWN = ("checkpoints", *LISTS, "queries.jsonl", "journal.jsonl", "report.json", "config.yaml", "status.json")
"""What a run folder consists of, in the order in which it is removed; it is begun with the last, then the last but one."""
FIRST = (".status.json", "status.json", ".config.yaml")
"""How the names of files begin that are left of a run which was killed while it was being made."""


class Run:
    """A run folder. Reading needs only the path; a trainer gets one from `create` or `resume`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    # -- beginning ---------------------------------------------------------------------------------------------------

    @classmethod
    def check_new(cls, path: str | Path, *, overwrite: bool = False) -> "Run":
        """Whether a run may begin here. Raises UserError if the folder holds a run (unless `overwrite`) or anything else."""
        run = cls(path)
        check_place(run.path)
        if run.exists():
            if not overwrite:
                raise UserError(f"{path} holds a run already: add --resume to go on with it, or --overwrite to replace it")
            run.check_idle()
        elif run.path.exists() and not all(file.name.startswith(FIRST) for file in run.path.iterdir()):
            raise UserError(f"{path} exists and is not a run folder: name a new folder with --output")
        return run

    @classmethod
    def create(cls, path: str | Path, config: RunConfig, *, overwrite: bool = False) -> "Run":
        """A new run folder, in the place of an old run if `overwrite`. Raises UserError as `check_new` does."""
        run = cls.check_new(path, overwrite=overwrite)
        run.path.mkdir(parents=True, exist_ok=True)
        run._clear()
        run.set_status(state="waiting", step=0, total_steps=0, error="", advice="", id=f"{run.path.name}-{secrets.token_hex(4)}")
        write_text(run.path / "config.yaml", configs.yaml_text({"stage": config.stage, **configs.to_dict(config)}))
        return run

    def check_resume(self, stage: str, given: dict) -> dict:
        """The settings with which an interrupted run began. Raises UserError if there is none, if it is being written, if it is of
        another stage, or if one of the settings in `given` is not the run's own, its length apart (`length_overrides`)."""
        if not self.exists():
            raise UserError(f"{self.path} holds no run to resume: leave out --resume to start one")
        self.check_idle()
        held = self.config()
        if held.pop("stage", None) != stage:
            raise UserError(f"{self.path} is a run of another stage: resume it with that command")
        changed = [f"{name} is {held.get(name)!r} in the run and {value!r} now" for name, value in given.items()
                   if held.get(name) != value and name not in LENGTH_FIELDS]
        if changed:
            raise UserError(f"{self.path} cannot be resumed with other settings: {'; '.join(changed)}. Leave them out, or start a new run")
        return held

    def length_overrides(self, given: dict) -> dict[str, float]:
        """The `LENGTH_FIELDS` in `given` that are not in force, for a run that is gone on with. Raises UserError for what cannot be one, and
        if the run is done and they would leave it so."""
        held = self.config()
        stage, now = held.pop("stage"), effective_settings(held, without_rewound(self.journal()))
        found = {name: given[name] for name in LENGTH_FIELDS if name in given and given[name] != now.get(name)}
        make_config(stage, held | found)
        if steps := found.get("steps"):
            configs.check_length(steps, self.last_step())
        if found and not {"steps", "epochs"} & set(found) and self.status()["state"] == "done":
            raise UserError(f"{self.path} is done, and {configs.flag(*found)} gives it no more steps: ask for more with --steps as well")
        return found

    def check_idle(self) -> None:
        status = self.status()
        if status["state"] in ALIVE and status["pid"] != os.getpid():
            raise UserError(f"{self.path} is being written by process {status['pid']}: stop that run first")

    def truncate_to_checkpoint(self) -> None:
        """Forget what came after the last complete checkpoint, so that a resumed run writes it again."""
        step = self.last_step()
        for leftover in (self.path / "checkpoints").glob(".*"):
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
        if step:
            self._point_last(self.checkpoints()[-1])
        self._forget_after(step)
        self.set_status(state="waiting", step=step, error="", advice="")
        self.note("resumed", step=step)

    def rewind(self, step: int, was: int) -> None:
        """Forget, at step `was`, what came after the checkpoint of `step`; the journal keeps it, and says so."""
        for later in [folder for folder in self.checkpoints() if step_of(folder) > step]:
            self._drop(later)
        self._point_last(self.checkpoint_at(step))
        self._forget_after(step)
        self.note("rewound", step=step, was=was)
        self.set_status(step=step)

    def _forget_after(self, step: int) -> None:
        for name in LISTS:
            self._replace_lines(name, [row for row in read_lines(self.path / name) if row["step"] <= step])
        self._replace_lines("journal.jsonl", self.journal())

    def exists(self) -> bool:
        return (self.path / "config.yaml").exists() and (self.path / "status.json").exists()

    # -- reading -----------------------------------------------------------------------------------------------------

    def config(self) -> dict:
        """The settings that the run began with, under the names of today, and its `stage`."""
        return configs.current_names(configs.read_yaml(self.path / "config.yaml"))

    def status(self) -> dict:
        """status.json, set right where its writer has died: a dead process never shows as running."""
        try:
            status = read_json(self.path / "status.json")
        except ValueError:
            status = None
        if not isinstance(status, dict) or not {"state", "step", "pid", "born"} <= set(status):
            raise UserError(f"{self.path} is not a run folder: it has no status.json with the state of a run")
        if status["state"] in ALIVE and not is_alive(status["pid"], status["born"]):
            status |= {"state": "failed", "error": "the process ended without a word (killed, or out of memory)",
                       "advice": "Resume it; if it dies again, lower the batch size or the response length."}
        return status

    @property
    def id(self) -> str:
        """Under which the store keeps the votes for this run: its name and a random word, so that a later run of the same name
        does not inherit them."""
        return self.status().get("id", self.path.name)

    def metrics(self) -> list[dict]:
        return read_lines(self.path / "metrics.jsonl")

    def samples(self) -> list[dict]:
        return read_lines(self.path / "samples.jsonl")

    def queries(self) -> list[dict]:
        """What was asked of people, the oldest first."""
        return read_lines(self.path / "queries.jsonl")

    def journal(self) -> list[dict]:
        return read_lines(self.path / "journal.jsonl")

    def unsaved(self, step: int) -> list[dict]:
        """The journal's lines about what came after the checkpoint of `step`, and was not undone by a rewind."""
        found = []
        for row in self.journal():
            if row["event"] == "rewound":
                found = [old for old in found if old["step"] <= row["step"] and (old["event"] != "changed" or old["step"] < row["step"])]
            elif row["event"] not in ("data", "fitted", "resumed") and "step" in row:
                found.append(row)
        # A setting is changed between two steps, after a checkpoint of the first.
        return [row for row in found if row["step"] > step or (row["event"] == "changed" and row["step"] == step)]

    def report(self) -> dict | None:
        return read_json(self.path / "report.json")

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("step-*"), key=lambda folder: (len(folder.name), folder.name))

    def last_checkpoint(self) -> Path | None:
        return next(reversed(self.checkpoints()), None)

    def last_step(self) -> int:
        """Step of the last complete checkpoint; 0 when there is none."""
        found = self.last_checkpoint()
        return step_of(found) if found else 0

    def checkpoint_at(self, step: int) -> Path:
        """The checkpoint of a step. Raises UserError if there is none."""
        for folder in (found := self.checkpoints()):
            if step_of(folder) == step:
                return folder
        raise UserError(f"{self.path.name} has no checkpoint of step {step}; it has {', '.join(str(step_of(f)) for f in found) or 'none'}")

    # -- writing -----------------------------------------------------------------------------------------------------

    def set_status(self, **changes) -> None:
        status = read_json(self.path / "status.json", {})
        write_json(self.path / "status.json", status | changes | {"pid": os.getpid(), "born": process_start(os.getpid()), "time": time.time()})

    def log(self, metrics: dict) -> None:
        self._append("metrics.jsonl", [metrics])

    def add_samples(self, rows: list[dict]) -> None:
        self._append("samples.jsonl", rows)

    def add_queries(self, rows: list[dict]) -> None:
        self._append("queries.jsonl", rows)

    def note(self, event: str, **details) -> None:
        """One line in the journal: what happened, and when."""
        self.note_all([{"event": event, **details}])

    def note_all(self, events: list[dict]) -> None:
        """Several, in one write: a kill leaves all of them or none."""
        self._append("journal.jsonl", [{**event, "time": time.time()} for event in events])

    def write_report(self, report: dict) -> None:
        write_json(self.path / "report.json", report)

    @contextmanager
    def checkpoint(self, step: int, keep: int = 0):
        """A folder to fill; it gets its name, and `last` points to it, only when it is complete."""
        folder = self.path / "checkpoints"
        final, partial = folder / f"step-{step:06d}", folder / f".step-{step:06d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if final.exists():  # the same step again
            self._drop(final)
        os.replace(partial, final)
        self._point_last(final)
        for old in self.checkpoints()[:-keep] if keep else []:
            self._drop(old)

    def discard(self) -> None:
        """Remove the run folder; files that others have put there stay."""
        self._clear()
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _clear(self) -> None:
        for name in OWN:
            for item in (*self.path.glob(f".{name}*"), self.path / name):
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink(missing_ok=True)

    def _drop(self, checkpoint: Path) -> None:
        """Remove a checkpoint, under another name: a kill in between leaves no half of one that looks complete."""
        gone = checkpoint.with_name(f".gone-{checkpoint.name}")
        os.replace(checkpoint, gone)
        shutil.rmtree(gone)

    def _point_last(self, final: Path) -> None:
        last, fresh = final.parent / "last", final.parent / ".last"
        try:
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(final.name, target_is_directory=True)
            os.replace(fresh, last)
        except OSError:  # a Windows account without the right to make links: a copy says the same
            shutil.rmtree(last, ignore_errors=True)
            shutil.copytree(final, last)

    def _append(self, name: str, rows: list[dict]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(text)

    def _replace_lines(self, name: str, rows: list[dict]) -> None:
        write_text(self.path / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def process_start(pid: int) -> float:
    """Start time of a process: with it, a process id that was given to another process is told apart."""
    return psutil.Process(pid).create_time()


def is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
