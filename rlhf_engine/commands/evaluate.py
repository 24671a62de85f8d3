"""The command `evaluate`: two checkpoints on the same prompts.

torch is imported late, so that what can be refused without a model is refused at once.
"""

import argparse
from pathlib import Path

from rlhf_engine.arguments import add_sampling, check_number, check_sampling
from rlhf_engine.commands.results import MOST_SAMPLES, add_results, check_folder, read_data, write_results
from rlhf_engine.commands.scorers import INSTRUCTION_HELP, JUDGES, load_judges, note_trainers
from rlhf_engine.runs.resolve import resolve_adapter

HELP = "compare two checkpoints on the same prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", required=True,
                        help="the adapter to compare with: none, bundled, a run or a PEFT folder")
    parser.add_argument("--judge", required=True, nargs="+", action="extend", metavar="JUDGE",
                        help="who decides which response is better; of several, the win rate is by the first: "
                             f"{JUDGES}")
    parser.add_argument("--instruction", default="", help=INSTRUCTION_HELP)
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
    make_judges = load_judges(args.judge, instruction=args.instruction, seed=args.seed, device=args.device)
    from rlhf_engine.evaluation.compare import compare
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling
    backbone = Backbone.load(args.model, dtype=args.dtype, device=args.device)
    for role, folder in folders.items():
        if folder:
            backbone.load_role(role, folder, head=False)
    role, against = (name if folder else None for name, folder in folders.items())
    report, samples = compare(backbone, role, against, prompts, None,
                              referees=[make_judge(backbone) for make_judge in make_judges],
                              per_prompt=args.per_prompt, sampling=Sampling(*sampling), seed=args.seed)
    trainers = note_trainers(report["judges"], [args.adapter, args.against])
    report["notes"] = prompts.remarks + trainers + report["notes"]
    for note in report["notes"]:
        print(note)
    settings = {name: getattr(args, name) for name in ("model", "adapter", "against", "data", "seed")}
    settings |= {"judge": args.judge[0], "instruction": args.instruction,
                 "judge_is_trainer": report["judges"][0]["judge_is_trainer"]}
    write_results(output, settings | report, samples)
    print_report(report)


def print_report(report: dict) -> None:
    for judge in report["judges"]:
        print_judge(judge)
    print(f"over {report['samples']} samples; KL {report['kl']:.2f} nats a sequence; "
          f"perplexity x{report['perplexity_ratio']:.2f}, distinct-2 x{report['distinct_ratio']:.2f}, "
          f"empty {report['empty']:.1%}")


def print_judge(judge: dict) -> None:
    """A line about the wins by a judge."""
    line = (f"{judge['judge']}: {judge['win_rate']:.1%} wins ({judge['win_rate_low']:.1%} to "
            f"{judge['win_rate_high']:.1%})")
    control = judge["length_controlled"]
    if control["win_rate"] is not None and control["sd"]:
        line += f", {control['win_rate']:.1%} at equal length"
    if "score" in judge:
        line += f"; score {judge['score']:.3f} against {judge['score_against']:.3f}"
    print(line)
