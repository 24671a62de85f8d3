"""The command `shift`: how the distribution of a reward shifts from the start of a run over its checkpoints.

torch is imported late, so that what can be refused without a model is refused at once.
"""

import argparse
import math
from pathlib import Path

from rlhf_engine import config as configs
from rlhf_engine.arguments import add_sampling, check_number, check_sampling
from rlhf_engine.commands.results import MOST_SAMPLES, add_results, check_folder, read_data, write_results
from rlhf_engine.commands.scorers import SCORES, load_scorer, named_once, note_trainers
from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.evaluation.tax.checkpoints import Source, find_start
from rlhf_engine.runs.folder import Run, step_of

HELP = "how a reward shifts from the start of a run over its checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoints", nargs="+", default=[], metavar="STEP",
                        help="steps of the checkpoints to measure; all that the run has kept")
    parser.add_argument("--judge", required=True, nargs="+", action="extend", metavar="JUDGE",
                        help=f"the reward, which should be none that was trained on, or several: {SCORES}")
    parser.add_argument("--per-prompt", type=int, default=2, help="samples per prompt and checkpoint (2)")
    add_results(parser)
    add_sampling(parser)
    parser.set_defaults(model="", adapter="")


def run(args: argparse.Namespace) -> None:
    """Measure the start and the checkpoints of a run, and write report.json and samples.jsonl."""
    output = Path(args.output)
    check_folder(output, "an evaluation", overwrite=args.overwrite)
    check_number(args, "per_prompt", 1, MOST_SAMPLES)
    sampling = check_sampling(args)
    trained = find_run(args.adapter)
    checkpoints = find_checkpoints(trained, args.checkpoints)
    args.model = args.model or str(trained.config()["model"])
    start = start_of(args.adapter, checkpoints[0], args.model)
    prompts = read_data(args)
    named_once(args.judge)
    makers = [load_scorer(spec, "--judge", role=f"judge{i}", prompt=prompts[0]) for i, spec in enumerate(args.judge)]
    from rlhf_engine.evaluation.reward_shift import Stop, measure_shift
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling
    backbone = Backbone.load(args.model, dtype=args.dtype, device=args.device)
    scorers = {spec: make_scores(backbone) for spec, make_scores in zip(args.judge, makers)}
    stops = [Stop("start", 0, start)]
    stops += [Stop(f"step {step_of(folder)}", step_of(folder), folder / "policy") for folder in checkpoints]
    report, samples = measure_shift(backbone, stops, prompts, scorers, per_prompt=args.per_prompt,
                                    sampling=Sampling(*sampling), seed=args.seed)
    trainers = note_trainers(report["judges"], [args.adapter])
    report["notes"] = prompts.remarks + trainers + report["notes"]
    report["notes"] += [note for judge in report["judges"] for note in judge["notes"]]
    for note in report["notes"]:
        print(note)
    names = ("model", "adapter", "data", "seed", "temperature", "max_new_tokens")
    settings = {name: getattr(args, name) for name in names} | {"judge": args.judge[0]}
    write_results(output, settings | report, samples)
    print_shift(report)


def find_run(adapter: str) -> Run:
    """The run that ADAPTER names. Raises UserError for anything else."""
    run = Run(adapter)
    if not adapter or not run.exists():
        raise UserError(f"--adapter is {adapter or 'missing'}: name a run folder, whose checkpoints are to be measured")
    return run


def find_checkpoints(run: Run, given: list[str]) -> list[Path]:
    """The checkpoints of a run that are given by their steps, or all. Raises UserError where there are none."""
    if given:
        words = [word for word in ",".join(given).split(",") if word.strip()]
        steps = sorted({int(configs.coerce("checkpoints", word.strip(), int)) for word in words})
        folders = [run.checkpoint_at(step) for step in steps]
        if not folders:
            raise UserError(f"--checkpoints is {short_repr(' '.join(given))}, but must be one step or several")
    else:
        folders = run.checkpoints()
    if not folders:
        raise UserError(f"{run.path}: this run has no checkpoint yet; wait for its first, or resume it")
    for folder in folders:
        if not (folder / "policy").is_dir():
            raise UserError(f"{folder}: holds no policy; name a run that trained one")
    return folders


def start_of(adapter: str, checkpoint: Path, model: str) -> Path | None:
    """The adapter that a run started from; None is the bare base. Raises UserError where it is gone."""
    policy = checkpoint / "policy"
    try:
        return find_start(adapter, Source(adapter, policy), model)[0].folder
    except UserError as error:
        raise UserError(str(error).replace("name it with --against", "put it back")) from None


def print_shift(report: dict) -> None:
    """A small table for each reward: a row for each checkpoint."""
    for judge in report["judges"]:
        print(f"{judge['judge']} over {report['prompts']} prompts with {report['per_prompt']} samples each; the KL to "
              "the start is in nats a sequence")
        print(f"{'':>12} {'KL':>7} {'mean':>9} {'95 %':>19} {'5 %':>9} {'median':>9} {'95 %':>9} {'tokens':>7}")
        for about, row in zip(report["checkpoints"], judge["checkpoints"]):
            known = math.isfinite(row["mean_low"])
            between = f"{row['mean_low']:.4g} to {row['mean_high']:.4g}" if known else "unknown"
            quantiles = row["quantiles"]
            print(f"{row['name']:>12} {about['kl']:>7.2f} {row['mean']:>9.4g} {between:>19} {quantiles['0.05']:>9.4g} "
                  f"{quantiles['0.5']:>9.4g} {quantiles['0.95']:>9.4g} {about['length']:>7.1f}")
