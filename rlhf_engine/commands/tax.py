"""The command `tax`: what checkpoints lost on held-out text and on minimal pairs while they learned to please.

torch is imported late, so that what can be refused without a model is refused at once.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from rlhf_engine import config as configs
from rlhf_engine.arguments import check_number
from rlhf_engine.commands.results import check_folder, write_results
from rlhf_engine.data.readers import Rows
from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.tax.checkpoints import load_checkpoints, plan
from rlhf_engine.evaluation.tax.minimal_pairs import MinimalPairs, read_minimal_pairs
from rlhf_engine.evaluation.tax.texts import read_texts

HELP = "what checkpoints lost elsewhere while they learned: perplexity, minimal pairs, lm-eval"
NONE = "none"
"""Given as --text or --pairs, it leaves that part out."""
SMALLEST_WINDOW, LARGEST_WINDOW = 8, 1 << 20
Read = TypeVar("Read", Rows, MinimalPairs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="bundled", help="bundled, smollm2, a Hub id, a .gguf file or a local folder")
    add("--adapter", nargs="+", required=True, metavar="A",
        help="the checkpoints: bundled, run folders or PEFT folders; none measures the base alone")
    add("--against", help="the adapter to compare all of them with; without it, each is compared with its start")
    add_inputs(parser)
    add("--limit", type=int, default=0,
        help="use at most this many texts, pairs of each paradigm, and rows of each task of lm-eval; 0 is all")
    add("--window", type=int, default=1024, help="tokens that are read at a time, at most (1024)")
    add("--lm-eval", default="", metavar="TASK[,TASK...]",
        help="tasks of EleutherAI's lm-evaluation-harness as well, such as hellaswag,arc_easy, or FILE.yaml")
    add("--dtype", default="auto", choices=("auto", "fp32", "bf16", "nf4"))
    add("--device", default="auto")
    add("--output", required=True, help="folder for report.json and samples.jsonl")
    add("--overwrite", action="store_true", help="replace what is in --output")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """The texts and the pairs that are read."""
    add = parser.add_argument
    add("--text", default="bundled",
        help="held-out texts: bundled, a file (a column text, or plain text) or a Hub id; none leaves them out")
    add("--text-subset", default="", help="configuration name of a Hub data set of texts that has several")
    add("--text-split", default="", help="its split; empty means train")
    add("--pairs", default="bundled",
        help="minimal pairs: bundled, a file (columns good, bad, paradigm), a folder of files, or a Hub id such as "
             "nyu-mll/blimp; none leaves them out")
    add("--pairs-subset", default="", metavar="NAME[,NAME...]", help="use these paradigms only; empty means all")
    add("--pairs-split", default="", help="split of a Hub data set of pairs; empty means train")


def run(args: argparse.Namespace) -> None:
    """Measure checkpoints and their starts, and write report.json and samples.jsonl."""
    output = Path(args.output)
    check_folder(output, "a measurement", overwrite=args.overwrite)
    check_number(args, "limit", 0, configs.LONGEST)
    check_number(args, "window", SMALLEST_WINDOW, LARGEST_WINDOW)
    adapters = [configs.check_text("adapter", adapter) for adapter in args.adapter]
    tasks = names_in(args.lm_eval)
    if args.text == args.pairs == NONE and not tasks:
        raise UserError("--text and --pairs are both none, so there is nothing to measure; leave one of them out")
    pairs_of_adapters, notes = plan(adapters, args.against, args.model)
    texts, pairs = read_inputs(args)
    if tasks:
        from rlhf_engine.evaluation.tax.lm_eval_tasks import check_tasks
        check_tasks(tasks)
    from rlhf_engine.evaluation.tax.measure import measure_tax
    from rlhf_engine.model.backbone import Backbone
    backbone = Backbone.load(args.model, dtype=args.dtype, device=args.device)
    checkpoints = load_checkpoints(backbone, pairs_of_adapters)
    notes += texts.remarks + pairs.notes + equal_notes(checkpoints)
    for note in notes:
        print(note)
    measured = {}
    if tasks:  # first, because their data may be missing
        from rlhf_engine.evaluation.tax.lm_eval_tasks import measure_tasks
        measured["tasks"] = measure_tasks(backbone, checkpoints, tasks, limit=args.limit or None)
    report, rows = measure_tax(backbone, checkpoints, texts, pairs, window=args.window, say=partial(print, flush=True))
    report |= measured
    settings = {name: getattr(args, name) for name in ("model", "against", "text", "pairs", "limit")}
    write_results(output, {**settings, "adapter": adapters, "dtype": backbone.dtype, "notes": notes, **report}, rows)
    print_report(report)


def names_in(text: str) -> list[str]:
    """The names in a list with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


# -- what is read ------------------------------------------------------------------------------------------------------

def read_inputs(args: argparse.Namespace) -> tuple[Rows, MinimalPairs]:
    """The texts and the pairs that the arguments name; none where they say none. Raises UserError."""
    limit = args.limit or None
    texts, pairs = Rows(), MinimalPairs()
    if args.text != NONE:
        texts = with_flags("text", lambda: read_texts(args.text, subset=args.text_subset or None,
                                                      split=args.text_split or None, limit=limit))
    if args.pairs != NONE:
        pairs = with_flags("pairs", lambda: read_minimal_pairs(args.pairs, subsets=names_in(args.pairs_subset),
                                                               split=args.pairs_split or None, limit=limit))
    return texts, pairs


def with_flags(flag: str, read: Callable[[], Read]) -> Read:
    """What `read` gives. Its messages name our flag, and the flags of its subset and split."""
    try:
        return read()
    except UserError as error:
        message = str(error).replace("--data", f"--{flag}")
        for part in ("subset", "split"):
            message = message.replace(f"--{part}", f"--{flag}-{part}")
        raise UserError(f"--{flag} {message}") from None


def equal_notes(checkpoints: list) -> list[str]:
    """A line for each checkpoint that goes by several names, since it was measured once."""
    return [f"{' and '.join([each.name, *each.also])} are equal, and measured once"
            for each in checkpoints if each.also]


# -- what is printed ---------------------------------------------------------------------------------------------------

def print_report(report: dict) -> None:
    """A table: a row for each checkpoint."""
    about = []
    if texts := report.get("text_data"):
        about.append(f"{counted(texts['documents'], 'text')} with {counted(texts['tokens'], 'token')}")
    if pairs := report.get("pair_data"):
        about.append(f"{counted(pairs['pairs'], 'minimal pair')} of {counted(pairs['paradigms'], 'paradigm')} "
                     f"(intervals over {pairs['clusters']}s)")
    if about:
        print(f"{' and '.join(about)}; intervals of 95 %")
    rows = [row_of(row) for row in report["checkpoints"]]
    for part in ("text_data", "pair_data"):
        if note := report.get(part, {}).get("note"):
            print(note)
    print_table(["checkpoint", "start", "perplexity", "nats/char", "ratio to the start", "accuracy",
                 "less that of the start", "verdict"], rows)
    for name, tasks in report.get("tasks", {}).items():
        for task, values in tasks.items():
            print(f"{name}, {task}: {'; '.join(task_words(metric, value) for metric, value in values.items())}")


def counted(count: int, noun: str) -> str:
    """A number of things: 1 text, 2 texts."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Columns of text, each as wide as its longest cell; columns without any cell are left out."""
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    widths = [max(len(line[i]) for line in [head, *rows]) for i in used]
    for line in [head, *rows]:
        print("  ".join(line[i].ljust(width) for i, width in zip(used, widths)).rstrip())


def row_of(row: dict) -> list[str]:
    """The cells of a checkpoint's row."""
    text, pairs = row.get("text", {}), row.get("pairs", {})
    cells = [row["name"], row["start"] or ""]
    cells += [f"{text['perplexity']:.3f}", f"{text['nats_per_character']:.4f}"] if text else ["", ""]
    cells.append(interval(text, "ratio", ".3f"))
    cells.append(f"{pairs['accuracy']:.1%}" if pairs else "")
    cells.append(interval(pairs, "difference", "+.1%"))
    return [*cells, row.get("verdict", "")]


def interval(part: dict, name: str, form: str) -> str:
    """A number with its interval; empty where the part has it not."""
    if name not in part:
        return ""
    ends = [part[f"{name}_low"], part[f"{name}_high"]]
    if not all(map(math.isfinite, ends)):
        return f"{part[name]:{form}} (no interval)"
    return f"{part[name]:{form}} ({ends[0]:{form}} to {ends[1]:{form}})"


def task_words(metric: str, value: dict) -> str:
    """A metric of a task of lm-eval in words."""
    if "difference" not in value:
        return f"{metric} {value['value']:.4f}"
    verdict = f", {value['verdict']}" if "verdict" in value else ""
    return f"{metric} {value['value']:.4f}, {interval(value, 'difference', '+.4f')} to the start{verdict}"
