"""The command `best-of`: what the best of n responses is worth, over n.

torch is imported late, so that what can be refused without a model is refused at once.
"""

import argparse
import math
from pathlib import Path

from rlhf_engine import config as configs
from rlhf_engine.arguments import add_sampling, check_number, check_sampling
from rlhf_engine.commands.results import MOST_SAMPLES, add_results, check_folder, read_data, write_results
from rlhf_engine.commands.scorers import SCORES, load_scorer
from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.runs.resolve import resolve_adapter

HELP = "what the best of n responses is worth, over n"
SIZES = (1, 2, 4, 8, 16)
"""Each n of a curve of best-of-n, unless the command names others; those above the number of samples are left out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reward", required=True, help=f"what chooses the best, the proxy: {SCORES}")
    parser.add_argument("--judge", "--gold", default="",
                        help="what says how good the best is, likewise; without it, the reward judges its own choice")
    parser.add_argument("--samples", type=int, default=32,
                        help="samples per prompt (32); the KL and the wins of the best of n want twice n")
    parser.add_argument("--at", nargs="+", metavar="N", help="each n of the curve (1 2 4 8 16)")
    add_results(parser)
    add_sampling(parser)


def run(args: argparse.Namespace) -> None:
    """Measure the best of n responses over n, and write report.json and samples.jsonl."""
    output = Path(args.output)
    check_folder(output, "an evaluation", overwrite=args.overwrite)
    check_number(args, "samples", 1, MOST_SAMPLES)
    sizes = curve_sizes(args.at, args.samples)
    sampling = check_sampling(args)
    if not args.temperature:
        raise UserError("--temperature is 0, at which all responses to a prompt are the same, and none is the best: "
                        "raise it")
    prompts = read_data(args)
    adapter = resolve_adapter(args.adapter, args.model)
    make_proxy = load_scorer(args.reward, "--reward", prompt=prompts[0])
    make_gold = load_scorer(args.judge, "--judge", role="gold", prompt=prompts[0]) if args.judge else None
    from rlhf_engine.evaluation.best_of_curve import measure_best_of
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling
    backbone = Backbone.load(args.model, dtype=args.dtype, device=args.device)
    if adapter:
        backbone.load_role("policy", adapter, head=False)
    report, samples = measure_best_of(
        backbone, "policy" if adapter else None, prompts, make_proxy(backbone),
        make_gold(backbone) if make_gold else None, sizes, samples=args.samples, sampling=Sampling(*sampling),
        seed=args.seed)
    report["notes"] = prompts.remarks + report["notes"]
    if make_gold is None:
        report["notes"].append("there is no --judge, so the reward judges its own choice, and `gold` is `proxy`")
    for note in report["notes"]:
        print(note)
    names = ("model", "adapter", "data", "reward", "judge", "seed", "temperature", "max_new_tokens")
    write_results(output, {name: getattr(args, name) for name in names} | report, samples)
    print_curve(report)


def curve_sizes(given: list[str] | None, samples: int) -> list[int]:
    """Each n of the curve, in ascending order. Raises UserError for what is no number from 1 to `samples`."""
    if not given:
        return [n for n in SIZES if n <= samples]
    sizes = set()
    for text in ",".join(given).split(","):
        if not text.strip():
            continue
        size = int(configs.coerce("at", text.strip(), int))
        if not 1 <= size <= samples:
            raise UserError(f"--at is {size}, but must be at least 1 and at most --samples ({samples}): the best of n "
                            "is taken from the samples of a prompt")
        sizes.add(size)
    if not sizes:
        raise UserError(f"--at is {short_repr(' '.join(given))}, but must be one whole number or several")
    return sorted(sizes)


def print_curve(report: dict) -> None:
    """A small table: a row for each n."""
    print(f"best of n, over {report['prompts']} prompts with {report['per_prompt']} samples each; the KL is in nats a "
          "sequence")
    print(f"{'n':>5} {'gold':>9} {'95 %':>19} {'proxy':>9} {'KL':>6} {'bound':>6} {'wins':>6} {'bound':>6} "
          f"{'tokens':>7} {'distinct-2':>10}")
    for row in report["curve"]:
        wins = "-" if row["win_rate"] is None else f"{row['win_rate']:.1%}"
        between = f"{row['gold_low']:.4g} to {row['gold_high']:.4g}" if math.isfinite(row["gold_low"]) else "unknown"
        print(f"{row['n']:>5} {row['gold']:>9.4g} {between:>19} {row['proxy']:>9.4g} {row['kl']:>6.2f} "
              f"{row['kl_bound']:>6.2f} {wins:>6} {row['win_rate_bound']:>6.1%} {row['length']:>7.1f} "
              f"{row['distinct_2']:>10.3f}")
    if any(row["win_rate"] is None for row in report["curve"]):
        print(f"no wins of the best of {report['per_prompt']}: there is no further sample to win over; more --samples "
              "give one")
