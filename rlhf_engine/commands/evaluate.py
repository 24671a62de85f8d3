"""The command `evaluate`: two checkpoints on the same prompts.

torch is imported late, so that what can be refused without a model is refused at once.
"""

import argparse
from pathlib import Path

from rlhf_engine.arguments import check_number, check_sampling
from rlhf_engine.commands.results import add_results, check_folder, read_data, write_results
from rlhf_engine.commands.sampling import add_sampling
from rlhf_engine.commands.scorers import SCORES, load_scorer
from rlhf_engine.runs.resolve import resolve_adapter

HELP = "compare two checkpoints on the same prompts"
MOST_SAMPLES = 1000
"""Samples per prompt and side, at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", required=True,
                        help="the adapter to compare with: none, bundled, a run or a PEFT folder")
    parser.add_argument("--judge", required=True, help=f"what scores the responses: {SCORES}")
    parser.add_argument("--per-prompt", type=int, default=2, help="samples per prompt and side (2)")
    add_results(parser)
    add_sampling(parser)


def run(args: argparse.Namespace) -> None:
    """Compare two checkpoints on the same prompts, and write report.json and samples.jsonl."""
    output = Path(args.output)
    check_folder(output, "an evaluation", overwrite=args.overwrite)
    check_number(args, "per_prompt", 1, MOST_SAMPLES)
    sampling = check_sampling(args)
    prompts = read_data(args)
    folders = {"policy": resolve_adapter(args.adapter, args.model),
               "against": resolve_adapter(args.against, args.model)}
    make_judge = load_scorer(args.judge, "--judge")
    from rlhf_engine.evaluation.compare import compare
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling
    backbone = Backbone.load(args.model, dtype=args.dtype, device=args.device)
    for role, folder in folders.items():
        if folder:
            backbone.load_role(role, folder, head=False)
    role, against = (name if folder else None for name, folder in folders.items())
    report, samples = compare(backbone, role, against, prompts, make_judge(backbone), per_prompt=args.per_prompt,
                              sampling=Sampling(*sampling), seed=args.seed)
    report["notes"] = prompts.remarks + report["notes"]
    for note in report["notes"]:
        print(note)
    settings = {name: getattr(args, name) for name in ("model", "adapter", "against", "data", "judge", "seed")}
    write_results(output, settings | report, samples)
    print_report(report)


def print_report(report: dict) -> None:
    print(f"{report['win_rate']:.1%} wins ({report['win_rate_low']:.1%} to {report['win_rate_high']:.1%}) "
          f"over {report['samples']} samples; score {report['score']:.3f} against {report['score_against']:.3f}; "
          f"KL {report['kl']:.2f} nats a sequence; perplexity x{report['perplexity_ratio']:.2f}, "
          f"distinct-2 x{report['distinct_ratio']:.2f}, empty {report['empty']:.1%}")
