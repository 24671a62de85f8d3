"""How a run begins, new or resumed. The command line and the worker both do these three steps:

    start = check_new(...) or check_resume(...)         refuses what can be refused without a model
    trainer = make_trainer(start.config, checkpoint=start.checkpoint, votes_upto=start.votes_upto)        reads data
    run = start.open_folder(trainer)                    makes the run folder, or cuts it back to its checkpoint
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rlhf_engine import config as configs
from rlhf_engine.config import LENGTH_FIELDS, RunConfig
from rlhf_engine.errors import UserError
from rlhf_engine.runs.damage import check_journal, explain_damage
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.inputs import (
    Inputs,
    check_inputs,
    check_settings,
    read_inputs,
    recorded_head,
    store_head,
    where_inputs_are,
)
from rlhf_engine.runs.journal import effective_settings, without_rewound
from rlhf_engine.stages import make_config


class RunIsDone(UserError):
    """The run has taken all its steps, and nobody asked for more."""


class HasFingerprint(Protocol):
    """The part of a backbone that is needed here."""

    fingerprint: str
    """Of the base's weights."""


class LoadedTrainer(Protocol):
    """The part of a trainer that is needed here."""

    @property
    def backbone(self) -> HasFingerprint: ...

    def check(self, changes: dict[str, float]) -> None:
        """Raises UserError if these changes of settings cannot be made."""
        ...


@dataclass(frozen=True)
class RunStart:
    """A run that may begin or go on. Nothing has been changed yet."""

    run: Run
    config: RunConfig
    """The settings. Of a resumed run, those with which it began; its journal has what was changed since."""
    resumed: bool = False
    overwrite: bool = False
    """Replace the run that is in the folder."""
    checkpoint: Path | None = None
    """The checkpoint from which a resumed run goes on; None if it has to begin anew."""
    lengths: dict[str, float] = field(default_factory=dict)
    """The `LENGTH_FIELDS` that get a new value, which makes a resumed run longer or shorter."""
    inputs: Inputs | None = None
    """The inputs of a resumed run, compared with those that it began with."""
    votes_upto: int | None = None
    """The number of the newest event that the run reads, where its data is a store of votes, which goes on growing."""

    def open_folder(self, trainer: LoadedTrainer) -> Run:
        """Make the run folder, or cut it back to its checkpoint, and record the inputs.

        Raises UserError if the run cannot have its new length.
        """
        if self.inputs is None:
            inputs = read_inputs(self.config, trainer.backbone.fingerprint, votes_upto=self.votes_upto)
            run = Run.create(self.run.path, self.config, overwrite=self.overwrite)
            inputs.write(run)
            return run
        trainer.check(self.lengths)
        self.run.truncate_to_checkpoint()
        for note in self.inputs.notes:
            self.run.note("inputs", text=note)
        self.inputs.write(self.run)
        return self.run


def check_new(config: RunConfig, *, overwrite: bool = False) -> RunStart:
    """A new run in the folder `config.output`.

    Raises UserError if there is a run (unless `overwrite`) or anything else.
    """
    return RunStart(Run.check_new(config.output, overwrite=overwrite), config, overwrite=overwrite,
                    votes_upto=store_head(config.data))


def check_resume(run: Run, stage: str, settings: dict) -> RunStart:
    """The run in a folder, to go on with what `settings` asks for.

    Raises RunIsDone, and UserError if there is no run, if another process is writing it, if it is of another stage, or
    if a setting is not the run's own; only its length may be another. Data, base and functions must have the content
    with which it began, wherever they are now.
    """
    with explain_damage(run.path, "start a new run, or put the files back as they were"):
        return _check_resume(run, stage, settings)


def _check_resume(run: Run, stage: str, settings: dict) -> RunStart:
    began_with = settings_at_start(run, stage, settings)
    check_settings(run)
    check_journal(run)
    places = where_inputs_are(run, began_with, settings)
    config = make_config(stage, {**began_with, "output": str(run.path), **places})
    lengths = length_overrides(run, settings)
    status = run.status()
    if status["state"] == "done" and not lengths:
        more = configs.flag(next((name for name in ("steps", "rounds") if name in began_with), "steps"))
        raise RunIsDone(f"{run.path} is done already: {status['step']} steps; to go on, ask for more ({more})")
    checkpoint = run.last_checkpoint()
    votes_upto = recorded_head(run, config)
    inputs = check_inputs(run, config, resumed=checkpoint is not None, votes_upto=votes_upto)
    return RunStart(run, config, resumed=True, checkpoint=checkpoint, lengths=lengths, inputs=inputs,
                    votes_upto=votes_upto)


def settings_at_start(run: Run, stage: str, settings: dict) -> dict:
    """The settings with which a run began. Raises UserError as `check_resume` does."""
    if not run.exists():
        raise UserError(f"{run.path} holds no run to resume: leave out --resume to start one")
    run.check_idle()
    began_with = run.config()
    if began_with.pop("stage", None) != stage:
        raise UserError(f"{run.path} is a run of another stage: resume it with that command")
    may_change = ("output", *LENGTH_FIELDS, *where_inputs_are(run, began_with, settings))
    changed = [f"{name} is {began_with.get(name)!r} in the run and {value!r} now" for name, value in settings.items()
               if name not in may_change and began_with.get(name) != value]
    if changed:
        raise UserError(f"{run.path} cannot be resumed with other settings: {'; '.join(changed)}. "
                        "Leave them out, or start a new run")
    return began_with


def length_overrides(run: Run, settings: dict) -> dict[str, float]:
    """The `LENGTH_FIELDS` in `settings` that are not in force already.

    Raises UserError for a length that the run cannot have, and if the run is done and would still be done with it.
    """
    began_with = run.config()
    stage = began_with.pop("stage")
    in_force = effective_settings(began_with, without_rewound(run.journal()))
    lengths = {}
    for name in LENGTH_FIELDS:
        if name in settings and settings[name] != in_force.get(name):
            lengths[name] = settings[name]
    make_config(stage, {**began_with, **lengths})
    if steps := lengths.get("steps"):
        configs.check_length(steps, run.last_step())
    if lengths and set(lengths) == {"votes"} and run.status()["state"] == "done":
        flags = ", ".join(configs.flag(name) for name in lengths)
        raise UserError(f"{run.path} is done, and {flags} gives it no more steps: ask for more with --steps as well")
    return lengths
