"""The command line: `python -m rlhf_engine COMMAND`. Exit 0 done; 2 bad input, 1 a machine that fails: one line."""

import argparse
import os
import sys
from pathlib import Path

from rlhf_engine import config as configs
from rlhf_engine.arguments import clean_arguments, make_parser
from rlhf_engine.commands import COMMANDS
from rlhf_engine.console import accept_any_text, quiet_libraries
from rlhf_engine.errors import UserError, first_line, one_line
from rlhf_engine.files import what_failed
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.start import RunIsDone, RunStart, check_new, check_resume
from rlhf_engine.stages import STAGES, check_names, make_config
from rlhf_engine.yaml_files import read_yaml

EXIT_CODES = {"diverged": 2, "not_finite": 2, "out_of_memory": 1, "disk_full": 1, "disk_fails": 1}
"""Kinds of failures of a run (`failures.FAILURE_HINTS`) which one line explains -> the exit code: 2 where the settings,
the data or the model are at fault, 1 where the machine is. What else goes wrong is a bug."""


# -- the stages ------------------------------------------------------------------------------------------------------

def train(args: argparse.Namespace) -> int:
    """Start a run, or go on with one. Returns the exit code."""
    if args.resume and args.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    kinds = configs.field_types(STAGES[args.command].config)
    settings = read_config(args.config, args.command) if args.config else {}
    for name, value in vars(args).items():
        if name in kinds:
            settings[name] = configs.coerce(name, value, kinds[name])
    if not settings.get("output"):
        raise UserError("--output is missing: name the run folder to write")
    if args.resume:
        return resume(args.command, settings["output"], settings)
    start = check_new(make_config(args.command, settings), overwrite=args.overwrite)
    return begin(start)


def resume(stage: str, output: str, settings: dict) -> int:
    """Go on with the run in `output`. One that is done says so, which is no error."""
    try:
        start = check_resume(Run(output), stage, settings)
    except RunIsDone as message:
        print(message)
        return 0
    return begin(start)


def begin(start: RunStart) -> int:
    """Make the trainer of a run that may begin, open its folder, and take its steps."""
    from rlhf_engine.build import make_trainer
    for note in start.inputs.notes if start.inputs else []:
        print(note)
    trainer = make_trainer(start.config, checkpoint=start.checkpoint, home=workspace_home(),
                           votes_upto=start.votes_upto)
    run = start.open_folder(trainer)
    try:
        return go(trainer, run, start.lengths)
    except UserError:  # such as a reward that is the same for all samples
        if not start.resumed and run.holds_nothing():
            run.discard()
        raise


def workspace_home() -> Path:
    """The workspace whose store holds the votes of `teach --labeler person`: PLAYGROUND_HOME, else ./workspace.

    The command line is the only part of the engine that reads this variable.
    """
    return Path(os.environ.get("PLAYGROUND_HOME") or "workspace").expanduser()


def go(trainer, run: Run, changes: dict | None = None) -> int:
    """Take the steps of a run. Returns the exit code: 0, or another where its advice explains how it failed."""
    from rlhf_engine.loop import RunControl, drive, stop_on_signals
    from rlhf_engine.trainers.failures import failure_hint, failure_kind
    for note in trainer.data_notes:
        print(note)
    control = RunControl(changes)
    stop_on_signals(control)
    try:
        state = drive(trainer, run, control=control)
    except Exception as error:
        kind = failure_kind(error)
        if kind not in EXIT_CODES:
            raise
        print(f"error: {run.path}: {type(error).__name__}: {first_line(error)}. "
              f"{failure_hint(error, run, trainer.config)}", file=sys.stderr)
        return EXIT_CODES[kind]
    report = run.report() or {}
    peak = report.get("peak_memory_mb")
    if "warning" in report:
        print(f"warning: {report['warning']}")
    print(f"{run.path}: {state} after {trainer.step} of {trainer.total_steps} steps, peak memory {peak} MB")
    if state == "stopped":
        print(f"go on with: python -m rlhf_engine {trainer.config.stage} --output {run.path} --resume")
    return 0


def read_config(path: str, stage: str) -> dict:
    """The settings in a YAML file, checked. Raises UserError that names the file."""
    values = read_yaml(path)
    if values.pop("stage", stage) != stage:
        raise UserError(f"{path}: is the config of another stage; use it with that command")
    try:
        check_names(stage, values)
        values = configs.current_names(values)
        kinds = configs.field_types(STAGES[stage].config)
        return {name: configs.coerce(name, value, kinds[name]) for name, value in values.items()}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    quiet_libraries()
    accept_any_text()
    try:
        args = clean_arguments(make_parser(COMMANDS).parse_args(argv))
        if args.command not in COMMANDS:
            return train(args)
        COMMANDS[args.command].run(args)
        return 0
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone; Python would say so once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {one_line(what_failed(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
