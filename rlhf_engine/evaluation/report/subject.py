"""What a report is about: an adapter, and the run that made it. Reads files only, and imports no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_engine.evaluation.lineage import run_of
from rlhf_engine.evaluation.tax.checkpoints import Source, find_start
from rlhf_engine.feedback.scoring_functions import built_in
from rlhf_engine.files import ASSETS, read_json_or_none
from rlhf_engine.runs.adapter_folder import BASE_FILE
from rlhf_engine.runs.folder import Run, step_of
from rlhf_engine.runs.resolve import resolve_adapter
from rlhf_engine.stages import STAGES, starting_adapter

GALLERY = ASSETS / "adapters"
"""The adapters that ship with the project. Each may have an `about.json`, which says what it was made from."""
ABOUT_FILE = "about.json"


@dataclass(frozen=True)
class Subject:
    """An adapter, and what is known about how it was made."""

    name: str
    folder: Path | None
    """Its PEFT folder; None is the bare base."""
    start: Path | None
    """The PEFT folder that it is compared with; None is the bare base."""
    makes: str = "policy"
    """`policy`, or `reward`: a reward model."""
    step: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    """The settings of the run, and its `stage`; empty of an adapter without a run."""
    report: dict[str, Any] = field(default_factory=dict)
    """report.json of the run."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)
    """The checkpoints of the run up to this one that hold a policy, the oldest first."""
    has_run: bool = False
    """There is a run folder, whose config says what the adapter was trained on."""
    notes: list[str] = field(default_factory=list)
    """What could not be found out."""

    @property
    def stage(self) -> str:
        """The stage of the run; "" without one."""
        return str(self.config.get("stage", ""))

    @property
    def method(self) -> str:
        """What was done, in words."""
        stage = STAGES.get(self.stage)
        return (stage.method or stage.label) if stage else "an adapter without a run"

    @property
    def scorer(self) -> str:
        """What the run was rewarded or judged by: its `reward` or its `labeler`; "" of a run that has neither."""
        return str(self.config.get("reward") or self.config.get("labeler") or "")

    @property
    def built_in_scorer(self) -> str:
        """`scorer`, if it is a built-in scoring function, which a report may call by itself; else "".

        A file is never run because a run folder names it: whoever wants it as a judge says so.
        """
        return self.scorer if built_in(self.scorer) else ""


def read_subject(adapter: str, model: str, against: str = "") -> Subject:
    """What an ADAPTER is: a run folder, one of its checkpoints, a PEFT folder, `bundled` or `none`.

    `against`: what it is compared with; "" is what it started from. Raises UserError.
    """
    run = run_of(adapter)
    config = run.config() if run else {}
    stage = STAGES.get(str(config.get("stage", "")))
    role = stage.makes if stage else "policy"
    peft = resolve_adapter(adapter, model, role=role)
    about = about_adapter(peft) if peft and not run else {}
    report = (run.report() if run else None) or {}
    checkpoint = peft.parent if peft and run else None
    start, note = (resolve_adapter(against, model), "") if against else start_of(peft, adapter, config, role)
    return Subject(
        name=name_of(adapter, run, checkpoint), folder=peft, makes=role, start=start,
        notes=[note] if note else [], step=checkpoint_step(checkpoint),
        config=config or about.get("config", {}), report=report or about.get("report", {}),
        metrics=rows_until(run.metrics(), checkpoint) if run else [],
        journal=rows_until(run.journal(), checkpoint) if run else [], has_run=run is not None,
        checkpoints=checkpoints_until(run, checkpoint) if run and role == "policy" else [])


def checkpoints_until(run: Run, checkpoint: Path | None) -> list[Path]:
    """The checkpoints of a run that hold a policy, up to one of them."""
    last = checkpoint_step(checkpoint)
    return [folder for folder in run.checkpoints()
            if (folder / "policy").is_dir() and (not last or step_of(folder) <= last)]


def rows_until(rows: list[dict[str, Any]], checkpoint: Path | None) -> list[dict[str, Any]]:
    """The rows of a run that tell of steps up to that of a checkpoint."""
    step = checkpoint_step(checkpoint)
    return [row for row in rows if not step or not isinstance(row.get("step"), int) or row["step"] <= step]


def checkpoint_step(checkpoint: Path | None) -> int:
    """The step of a checkpoint's folder, or of the one that a link leads to; 0 if it has none."""
    if checkpoint is None:
        return 0
    name = checkpoint.resolve().name
    return step_of(Path(name)) if name.startswith("step-") else 0


def name_of(adapter: str, run: Run | None, checkpoint: Path | None) -> str:
    """A short name. Where files lie on somebody's machine is private."""
    if run is None:
        return Path(adapter).name if adapter not in ("none", "bundled", "") else adapter or "none"
    step = checkpoint_step(checkpoint)
    newest = step == run.last_step()
    return run.path.resolve().name + ("" if newest else f" at step {step}")


def start_of(folder: Path | None, adapter: str, config: dict[str, Any], makes: str) -> tuple[Path | None, str]:
    """(PEFT folder of the policy that a subject started from, a remark or ""). None is the bare base.

    A reward model has none; it is shown responses of the policy that its run started from.
    """
    if makes == "reward":
        return resolve_adapter(starting_adapter(config) or "none", str(config.get("model", ""))), ""
    start, note = find_start(adapter, Source(adapter, folder), str(config.get("model") or base_of(folder)))
    return start.folder, note


def about_adapter(folder: Path) -> dict[str, Any]:
    """What `about.json` beside an adapter's weights says: `config` and `report`. {} where there is none."""
    about = read_json_or_none(folder / ABOUT_FILE)
    if not isinstance(about, dict):
        return {}
    return {name: about[name] for name in ("config", "report") if isinstance(about.get(name), dict)}


def base_of(folder: Path | None) -> str:
    """The model that an adapter says it was trained on; "" where it does not say."""
    base = read_json_or_none(folder / BASE_FILE) if folder else None
    return str(base.get("model", "")) if isinstance(base, dict) else ""


# -- what a run says about its votes -----------------------------------------------------------------------------------

def guesses_of(journal: list[dict[str, Any]], choices: int = 2) -> tuple[list[bool], list[float]]:
    """(whether the reward had guessed each vote before it learned it, how likely that was by chance), the oldest first.

    The share of guesses is the prequential accuracy. Votes about which the reward said nothing are left out, and so is
    what was taken back by a rewind or repeated by a resumed run. Older runs do not record the chance: there it is one
    in `choices`.
    """
    rows: dict[int, list[tuple[float, float]]] = {}
    for row in journal:
        step = row.get("step")
        if not isinstance(step, int):
            continue
        if row.get("event") in ("rewound", "resumed"):
            rows = {kept: guesses for kept, guesses in rows.items() if kept <= step}
        elif row.get("event") == "reward" and isinstance(row.get("predictions"), list):
            predictions = row["predictions"]
            chances = row.get("chances") or [1 / max(choices, 2)] * len(predictions)
            rows.setdefault(step, []).extend((guess, chance) for guess, chance in zip(predictions, chances)
                                             if guess in (0, 1))
    known = [pair for step in sorted(rows) for pair in rows[step]]
    return [guess == 1 for guess, _ in known], [chance for _, chance in known]
