"""The command `leaderboard`: checkpoints ranked by people's votes and scores. It needs no model."""

import argparse
from pathlib import Path
from typing import Any

from rlhf_engine import config as configs
from rlhf_engine.arguments import check_number
from rlhf_engine.commands.results import check_folder, write_results
from rlhf_engine.errors import one_line

HELP = "rank checkpoints by the votes on them"
LONGEST_NAME = 40
"""Characters of a checkpoint's name in a printed table; the report has all of it."""
CLUSTERS = ("prompt", "voter")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True,
                        help="votes: a workspace, its feedback.sqlite, or an exported .jsonl or .parquet file")
    parser.add_argument("--blind", action="store_true", help="only votes of people who did not see the checkpoints")
    parser.add_argument("--run", default="", help="only votes of the run with this id")
    parser.add_argument("--voter", default="", help="only votes of this person")
    parser.add_argument("--anchor", default="", metavar="CHECKPOINT",
                        help="the checkpoint whose strength is 1000; without it the mean is")
    parser.add_argument("--cluster", default="prompt", choices=CLUSTERS,
                        help="what the intervals ask: would other prompts, or other voters, give the same? (prompt)")
    parser.add_argument("--seed", type=int, default=0, help="of the orders in which Elo takes the votes")
    parser.add_argument("--output", required=True, help="folder for report.json")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --output")


def run(args: argparse.Namespace) -> None:
    """Rank the checkpoints in the votes, and write report.json."""
    output = Path(args.output)
    check_folder(output, "a leaderboard", overwrite=args.overwrite)
    check_number(args, "seed", 0, configs.LARGEST_SEED)
    from rlhf_engine.evaluation.leaderboard.report import make_report
    from rlhf_engine.evaluation.leaderboard.votes import Choice, load_events
    report = make_report(load_events(args.data), Choice(args.blind, args.run, args.voter), cluster=args.cluster,
                         anchor=args.anchor, seed=args.seed)
    names = ("data", "blind", "run", "voter", "seed")
    write_results(output, {name: getattr(args, name) for name in names} | report, None)
    print_report(report)


def print_report(report: dict[str, Any]) -> None:
    """The tables of the votes and of the scores, then the remarks."""
    for number, group in enumerate(report["leaderboard"], 1):
        if len(report["leaderboard"]) > 1:
            print(f"group {number} of {len(report['leaderboard'])}")
        print_strengths(group["rows"], f"{report['model']}; 95 % intervals over {group['clusters']} "
                                       f"{report['cluster']}s; 400 is odds of 10 to 1")
    if report["likert"]:
        print_scores(report["likert"])
    agreement = report["agreement"]
    if agreement["voters_agree"] is not None:
        print(f"voters agree on {agreement['voters_agree']:.1%} ({agreement['voters_agree_low']:.1%} to "
              f"{agreement['voters_agree_high']:.1%}) of what one of them decides, over {agreement['pairs']} pairs")
    for note in report["notes"]:
        print(one_line(note))


def print_strengths(rows: list[dict[str, Any]], about: str) -> None:
    width = max([len("checkpoint"), *(len(short_name(row["checkpoint"])) for row in rows)])
    print(f"{'':>3} {'checkpoint':<{width}} {'strength':>8} {'95 %':>14} {'ranks':>7} {'votes':>6} {'wins':>6} "
          f"{'ties':>6} {'Elo':>6} {'over orders':>14}")
    for row in rows:
        between, orders = (f"{row[low]:.0f} to {row[high]:.0f}" for low, high in (("low", "high"),
                                                                                  ("elo_low", "elo_high")))
        ranks = f"{row['rank_low']} to {row['rank_high']}"
        print(f"{row['rank']:>3} {short_name(row['checkpoint']):<{width}} {row['strength']:>8.0f} {between:>14} "
              f"{ranks:>7} {row['votes']:>6} {row['wins']:>6} {row['ties']:>6} {row['elo']:>6.0f} {orders:>14} "
              f"{', '.join(row['flags']).replace('_', ' ')}".rstrip())
    print(about)


def print_scores(scores: dict[str, Any]) -> None:
    rows = scores["rows"]
    width = max([len("checkpoint"), *(len(short_name(row["checkpoint"])) for row in rows)])
    print(f"{'':>3} {'checkpoint':<{width}} {'scores':>6} {'mean':>5} {'95 %':>12} {'effect':>7} {'95 %':>16}")
    for rank, row in enumerate(rows, 1):
        effect, between = "-", ""
        if row["effect"] is not None:
            effect, between = f"{row['effect']:+.2f}", f"{row['effect_low']:+.2f} to {row['effect_high']:+.2f}"
        means = f"{row['mean_low']:.2f} to {row['mean_high']:.2f}"
        print(f"{rank:>3} {short_name(row['checkpoint']):<{width}} {row['scores']:>6} {row['mean']:>5.2f} {means:>12} "
              f"{effect:>7} {between:>16} {', '.join(row['flags']).replace('_', ' ')}".rstrip())
    print(f"scores 1 to 7: {scores['model']}, {scores['raters']} raters, {scores['prompts']} prompts; effects in "
          "logits")


def short_name(name: str) -> str:
    """A checkpoint's name on one line, cut in the middle where it is long."""
    name = one_line(name)
    half = (LONGEST_NAME - 3) // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}...{name[-half:]}"


