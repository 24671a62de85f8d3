"""The command `agreement`: how often judges agree with people on held-out preferences.

A base is loaded only for a reward model. torch is imported late, so that what can be refused without a model is
refused at once.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_engine import config as configs
from rlhf_engine.arguments import check_number
from rlhf_engine.commands.results import check_folder, write_results
from rlhf_engine.commands.scorers import INSTRUCTION_HELP, JUDGES, check_instruction, checked_scorer, named_once
from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.agreement import (
    Comparison,
    Opinion,
    agreement_report,
    answer_opinion,
    comparisons_of,
    score_opinion,
)
from rlhf_engine.evaluation.judging import ask_twice
from rlhf_engine.evaluation.lineage import run_of
from rlhf_engine.feedback.llm_judge import Judge, find_judge, is_judge
from rlhf_engine.feedback.scoring_functions import built_in, is_function
from rlhf_engine.feedback.training_rows import read_training_rows
from rlhf_engine.runs.folder import Run

if TYPE_CHECKING:
    from rlhf_engine.evaluation.compare import ScoreFunction
    from rlhf_engine.model.backbone import Backbone

HELP = "how often judges agree with people on held-out preferences"
MAX_TOKENS = 512
"""Longest prompt plus response in tokens that a reward reads, unless its run was trained on others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--judge", required=True, nargs="+", action="extend", metavar="JUDGE",
                        help=f"who is compared with people: {JUDGES}")
    parser.add_argument("--instruction", default="", help=INSTRUCTION_HELP)
    parser.add_argument("--data", required=True,
                        help="preferences or rankings that nothing was trained on, as `reward` reads them")
    parser.add_argument("--subset", default="", help="configuration name of a Hub data set that has several")
    parser.add_argument("--split", default="", help="split of a Hub data set; empty means train")
    parser.add_argument("--limit", type=int, default=200, help="use at most this many rows (200); 0 is all")
    parser.add_argument("--output", required=True, help="folder for report.json and samples.jsonl")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --output")
    parser.add_argument("--model", default="",
                        help="the base of the reward runs: bundled, smollm2, a Hub id, a .gguf file or a local folder; "
                             "empty is that of the first one")
    parser.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16", "nf4"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of the marks around texts that a chat model is shown")


def run(args: argparse.Namespace) -> None:
    """Compare judges with people, and write report.json and samples.jsonl."""
    output = Path(args.output)
    check_folder(output, "an evaluation", overwrite=args.overwrite)
    check_number(args, "limit", 0, configs.LONGEST)
    check_number(args, "seed", 0, configs.LARGEST_SEED)
    named_once(args.judge)
    check_instruction(args.instruction, args.judge)
    rows = read_training_rows(args.data, "preferences", subset=args.subset or None, split=args.split or None,
                              limit=args.limit or None)
    comparisons, even = comparisons_of(rows)
    if not comparisons:
        raise UserError(f"{args.data}: people call all its pairs even, so there is nothing to agree with; choose other "
                        "data")
    makers = {spec: None if is_judge(spec) else checked_scorer(spec, f"judge{i}", comparisons[0].prompt)
              for i, spec in enumerate(args.judge)}
    judges = {spec: find_judge(spec, args.instruction, args.seed, device=args.device)
              for spec, maker in makers.items() if maker is None}
    notes = list(rows.remarks)
    if even:
        notes.append(f"people call {even:,} pairs even; these are left out")
    notes += [note for spec in args.judge for note in training_overlap(spec, comparisons)]
    args.model = args.model or base_of(args.judge)
    opinions, reading_notes = hear_judges(args, makers, judges, comparisons)
    report = agreement_report(comparisons, opinions)
    report["people_even"] = even
    report["notes"] = notes + reading_notes + [note for judge in report["judges"] for note in judge["notes"]]
    for note in report["notes"]:
        print(note)
    names = ("model", "data", "limit", "seed", "instruction")
    settings = {name: getattr(args, name) for name in names} | {"judge": args.judge[0]}
    write_results(output, settings | report, sample_rows(comparisons, opinions))
    print_agreement(report)


# -- what is read ------------------------------------------------------------------------------------------------------

def is_reward_model(spec: str) -> bool:
    """Whether a judge is a reward model, which needs a base."""
    return not is_judge(spec) and built_in(spec) is None and not is_function(spec)


def base_of(specs: Sequence[str]) -> str:
    """The base of the first reward run among the judges; `bundled` where none says it."""
    runs = [run_of(spec) for spec in specs if is_reward_model(spec)]
    return next((str(run.config().get("model") or "bundled") for run in runs if run), "bundled")


def trained_tokens(spec: str) -> int:
    """Longest row in tokens on which the reward run SPEC was trained."""
    run = run_of(spec) if is_reward_model(spec) else None
    return int(run.config().get("max_tokens") or MAX_TOKENS) if run else MAX_TOKENS


def training_overlap(spec: str, comparisons: Sequence[Comparison]) -> list[str]:
    """A line where a reward run was trained from some of the comparisons, or where nobody can tell; none elsewhere."""
    run = run_of(spec) if is_reward_model(spec) else None
    if run is None:
        return []
    trained = training_pairs(run)
    if trained is None:
        return [f"the data that {spec} was trained on cannot be read here, so whether these pairs are among it has not "
                "been checked"]
    seen = sum(pair_key(pair) in trained for pair in comparisons)
    if not seen:
        return []
    return [f"{seen} of the {len(comparisons)} pairs are in the data that {spec} was trained from, so its agreement is "
            "not that on new pairs: give others"]


def training_pairs(run: Run) -> set[tuple[str, frozenset[str]]] | None:
    """The pairs in the data of a reward run; None where it is not on this machine or cannot be read."""
    config = run.config()
    source = str(config.get("data") or "")
    if not os.path.isfile(os.path.expanduser(source)):
        return None
    try:
        rows = read_training_rows(source, "preferences", limit=int(config.get("limit") or 0) or None)
    except (UserError, OSError, ValueError):
        return None
    return {pair_key(pair) for pair in comparisons_of(rows)[0]}


def pair_key(pair: Comparison) -> tuple[str, frozenset[str]]:
    """What makes two comparisons the same, whichever response was preferred."""
    return str(pair.prompt), frozenset((pair.better, pair.worse))


# -- what the judges say -----------------------------------------------------------------------------------------------

def hear_judges(args: argparse.Namespace, makers: "dict[str, Callable[[Backbone], ScoreFunction] | None]",
                judges: dict[str, Judge], comparisons: Sequence[Comparison]) -> tuple[dict[str, Opinion], list[str]]:
    """(the opinion of each judge by its name, lines about rows that were cut)."""
    from rlhf_engine.evaluation.compare import score_once
    prompts = [pair.prompt for pair in comparisons] * 2
    texts = [pair.better for pair in comparisons] + [pair.worse for pair in comparisons]
    opinions, notes = {}, []
    backbone: Backbone | None = None
    for spec, maker in makers.items():
        if maker is None:
            opinions[spec] = answer_opinion(ask_twice(spec, judges[spec], prompts[:len(comparisons)],
                                                      texts[:len(comparisons)], texts[len(comparisons):]))
            continue
        front, responses = [[] for _ in texts], [[i] for i in range(len(texts))]
        if is_reward_model(spec):
            backbone = backbone or load_base(args)
            front, responses, cut = encode_texts(backbone, prompts, texts, trained_tokens(spec))
            notes += [note for note in cut if note not in notes]
        scores = score_once(maker(backbone), prompts, front, responses, texts)  # pyright: ignore[reportArgumentType]
        opinions[spec] = score_opinion(scores[:len(comparisons)], scores[len(comparisons):])
    return opinions, notes


def load_base(args: argparse.Namespace) -> "Backbone":
    """The base that the arguments name."""
    from rlhf_engine.model.backbone import Backbone
    return Backbone.load(args.model, dtype=args.dtype, device=args.device)


def encode_texts(backbone: "Backbone", prompts: Sequence, texts: Sequence[str],
                 max_tokens: int) -> tuple[list[list[int]], list[list[int]], list[str]]:
    """(prompt ids, response ids, lines about cut rows), as a reward is trained on them."""
    from rlhf_engine.data.tokenization import encode_examples
    encoded, notes = encode_examples(backbone, list(zip(prompts, texts)), min(max_tokens, backbone.longest))
    return [row.prompt_ids for row in encoded], [row.completion_ids for row in encoded], notes


def sample_rows(comparisons: Sequence[Comparison], opinions: dict[str, Opinion]) -> list[dict]:
    """The rows of samples.jsonl: each comparison with what each judge says."""
    rows: list[dict] = []
    for i, pair in enumerate(comparisons):
        row = {"prompt": pair.prompt, "chosen": pair.better, "rejected": pair.worse,
               "right": {name: opinion.right[i] for name, opinion in opinions.items()}}
        scores = {name: [side[i] for side in opinion.scores] for name, opinion in opinions.items() if opinion.scores}
        answers = {name: list(opinion.answers[i]) for name, opinion in opinions.items() if opinion.answers}
        rows.append(row | ({"scores": scores} if scores else {}) | ({"answers": answers} if answers else {}))
    return rows


def print_agreement(report: dict) -> None:
    """A small table: a row for each judge, and one for the longer response."""
    print(f"{'':>24} {'agrees':>7} {'95 %':>17} {'ties':>6}   where the better is longer, shorter")
    for row in [*report["judges"], {"judge": "the longer response", "split": {}, **report["length"]}]:
        places = ("length_right", "length_wrong")
        shares = [row["split"][place]["accuracy"] for place in places if place in row["split"]]
        split = ", ".join("-" if share is None else f"{share:.1%}" for share in shares)
        between = f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}"
        print(f"{row['judge'][-24:]:>24} {row['accuracy']:>7.1%} {between:>17} {row['ties']:>6.1%}   {split}")
