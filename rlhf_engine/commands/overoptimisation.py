"""The command `overoptimisation`: when does a policy that maximises a learned reward become worse (Gao et al. 2022)?

torch is imported late, so that what can be refused without a model is refused at once.
"""

import argparse
import dataclasses
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_engine import config as configs
from rlhf_engine.arguments import add_fields
from rlhf_engine.commands.scorers import load_scorer
from rlhf_engine.config import RunConfig, flag
from rlhf_engine.data.readers import Rows, read_prompts
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.scoring_functions import built_in
from rlhf_engine.files import check_place, read_json_or_none, write_json
from rlhf_engine.runs.inputs import read_inputs
from rlhf_engine.runs.resolve import fingerprint, resolve_adapter, resolve_model
from rlhf_engine.stages import default_adapter
from rlhf_engine.studies import golds
from rlhf_engine.studies.pieces import PIECES, StudyStopped, plan, read_pieces
from rlhf_engine.studies.settings import PRESETS, StudySettings, different, parse_labels, to_dict
from rlhf_engine.studies.study_report import REPORT, make_report, table, write_report

if TYPE_CHECKING:
    from rlhf_engine.studies.overoptimisation import Study

HELP = "when a policy that maximises a learned reward becomes worse: gold and proxy over the KL"
STUDY_FILE, FIGURE = "study.json", "figure.svg"
FEWEST_PROMPTS = 2
"""Held-out prompts, at least: a peak is chosen on one half of them and read off on the other."""
OWN_FILES = (STUDY_FILE, REPORT, FIGURE, PIECES, "labels", "samples", "proxies")
"""What the folder of a study consists of."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=PRESETS, help="quick: one seed and two numbers of labels, on the bundled "
                        "model in under half an hour on two cores; flags win")
    parser.add_argument("--output", required=True, help="folder for report.json, figure.svg and all that was trained")
    parser.add_argument("--resume", action="store_true",
                        help="go on with the study in --output, perhaps to more --seeds and --labels")
    parser.add_argument("--overwrite", action="store_true", help="replace the study in --output")
    add_fields(parser, StudySettings)


def run(args: argparse.Namespace) -> None:
    """Do the pieces of a study that are not done yet, and write report.json after each."""
    output = Path(args.output)
    if args.resume and args.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    stored = read_stored(output, args)
    settings = read_settings(args, stored)
    config = settings.learner_config(settings.seed, 1.0)
    prompts = read_prompts(settings.data, model=settings.model)
    adapter = resolve_adapter(default_adapter(config), settings.model)
    make_gold = load_scorer(gold_spec(settings.gold), "--gold", role="gold", prompt=prompts[0])
    base = fingerprint(resolve_model(settings.model))
    inputs = study_inputs(config, settings.gold, base)
    check_inputs(output, stored, inputs)

    from rlhf_engine.loop import stop_on_signals
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.runs.control import RunControl
    from rlhf_engine.studies.overoptimisation import START, Study
    control = RunControl()

    def check_stop() -> None:
        if control.target == "stop":
            raise StudyStopped

    train, held_out = split_prompts(prompts, config)
    dtype = "bf16" if settings.dtype == "auto" and settings.model == "bundled" else settings.dtype
    backbone = Backbone.load(settings.model, dtype=dtype, device=settings.device)
    if adapter:
        backbone.load_role(START, adapter, head=False)
    gold = make_gold(backbone)
    study = Study(backbone, gold, train, held_out, settings, output, on_microbatch=check_stop)
    begin(output, settings, inputs, overwrite=args.overwrite)
    stop_on_signals(control)
    state = go(study, base, fresh=not stored)
    if state == "stopped":
        print(f"go on with: python -m rlhf_engine overoptimisation --output {output} --resume")


def go(study: "Study", base: str, fresh: bool) -> str:
    """Do all pieces of a study; returns its state, done or stopped. Whatever ends it leaves a report behind."""
    settings, output = study.settings, study.folder
    wanted = plan(settings)

    def write(state: str) -> dict[str, Any]:
        pieces = {piece: row for piece, row in read_pieces(output).items() if piece in set(wanted)}
        report = make_report(settings, pieces, len(wanted), state, base)
        write_report(output, report)
        return report

    state = "failed"
    try:
        write("running")
        for row in study.run(say=partial(print, flush=True)):
            report = write("running")
            print_last(report, row)
        state = "done"
    except StudyStopped:
        state = "stopped"
    except UserError:
        if fresh and not read_pieces(output):
            remove(output)  # nothing was learned from it but that it is refused
        raise
    finally:
        if output.exists() and (output / STUDY_FILE).exists():
            report = write(state)
    print("\n".join(table(report)))
    draw(report, output)
    print(f"{output}: {state}, {report['pieces']} of {report['pieces_wanted']} pieces, "
          f"{report['processor_seconds']:.0f} processor seconds")
    return state


def print_last(report: dict[str, Any], row: dict[str, Any]) -> None:
    """One line about the piece that was done last."""
    [curve] = [curve for curve in report["curves"] if (curve["kind"], curve["labels"]) == (row["kind"], row["labels"])]
    print(f"    {curve['sentence']} ({row['processor_seconds']:.0f} processor seconds)", flush=True)


def draw(report: dict[str, Any], output: Path) -> None:
    """Write the figure, where matplotlib is there."""
    from rlhf_engine.studies.figures import draw_figure
    if not report["curves"]:
        return
    try:
        draw_figure(report, output / FIGURE)
    except UserError as error:
        print(f"no figure: {error}")


# -- settings ----------------------------------------------------------------------------------------------------------

def read_settings(args: argparse.Namespace, stored: dict[str, Any]) -> StudySettings:
    """The settings of the flags, over those of a study that goes on, over the preset's. Raises UserError."""
    kinds = configs.field_types(StudySettings)
    given = {name: value for name, value in vars(args).items() if name in kinds}
    given = {name: parse_labels(value) if name == "labels" else configs.coerce(name, value, kinds[name])
             for name, value in given.items()}
    before = stored.get("settings", {})
    known = {name: value for name, value in before.items() if name in kinds}
    preset = {} if before or not args.preset else PRESETS[args.preset]
    values = {**preset, **known, **given}
    if "labels" in values:
        values["labels"] = parse_labels(",".join(map(str, values["labels"])))
    settings = StudySettings(**values).validate()
    if changed := different(before, settings):
        name = changed[0]
        raise UserError(f"{flag(name)} is {getattr(settings, name)}, but the study in {args.output} has "
                        f"{before[name]}: leave it out to go on, or name a new folder with --output")
    return settings


def gold_spec(gold: str) -> str:
    """What `load_scorer` reads: a gold that the study knows by name as a function of a file."""
    known = golds.GOLDS.get(gold)
    return f"{golds.__file__}:{known.__name__}" if known else gold


def study_inputs(config: RunConfig, gold: str, base: str) -> dict[str, dict[str, str]]:
    """Fingerprints of base, data, adapter and gold, by setting."""
    named = gold in golds.GOLDS or built_in(gold) is not None
    assert isinstance(config, RunConfig)
    found = read_inputs(dataclasses.replace(config, reward="" if named else gold), base).settings  # pyright: ignore[reportCallIssue]
    if "reward" in found:
        found["gold"] = found.pop("reward")
    return found


def split_prompts(prompts: Rows, config: RunConfig) -> tuple[list, list]:
    """(prompts to label and train on, held-out prompts to measure on)."""
    from rlhf_engine.build import hold_out
    train, held_out = hold_out(prompts, config)
    if len(held_out) < FEWEST_PROMPTS:
        raise UserError(f"--data {config.data}: {len(held_out)} of its {len(prompts)} prompts would be held out to "
                        f"measure on, and a study needs {FEWEST_PROMPTS}: give more prompts")
    return train, held_out


# -- the folder --------------------------------------------------------------------------------------------------------

def read_stored(output: Path, args: argparse.Namespace) -> dict[str, Any]:
    """study.json of the study that goes on; {} for a new one. Raises UserError for a folder that fits neither."""
    check_place(output)
    names = {file.name for file in output.iterdir()} if output.exists() else set()
    stored = read_json_or_none(output / STUDY_FILE) if STUDY_FILE in names else None
    if args.resume:
        if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
            raise UserError(f"{output} holds no study to go on with: leave --resume out, or name the folder of one")
        return stored
    if names and STUDY_FILE not in names:
        raise UserError(f"{output} holds something else than a study: name a new folder with --output")
    if names and not args.overwrite:
        raise UserError(f"{output} holds a study already: add --resume to go on with it, or --overwrite to replace it")
    return {}


def check_inputs(output: Path, stored: dict[str, Any], inputs: dict[str, dict[str, str]]) -> None:
    """Raises UserError where base, data, adapter or gold have another content than when the study began."""
    before = stored.get("inputs", {})
    for name, entry in inputs.items():
        was = before.get(name, {}).get("content")
        if was and entry["content"] and was != entry["content"]:
            raise UserError(f"{flag(name)} {entry['place']}: has changed since the study in {output} began: put the "
                            "old one back, or name a new folder with --output")


def begin(output: Path, settings: StudySettings, inputs: dict[str, dict[str, str]], *, overwrite: bool) -> None:
    """Make the folder of a study, or note the settings of one that goes on. Raises UserError."""
    try:
        if overwrite:
            remove(output)
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / STUDY_FILE, {"settings": to_dict(settings), "inputs": inputs})
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror or error}): make room or get the right to write "
                        "there, or name another folder with --output") from None


def remove(output: Path) -> None:
    """Remove a study's own files, and the folder where nothing else is in it."""
    for name in OWN_FILES:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        output.rmdir()
