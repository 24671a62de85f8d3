"""What the commands that measure share: the prompts that they read, and the folder that they write."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlhf_engine import config as configs
from rlhf_engine.arguments import check_number
from rlhf_engine.data.readers import Rows, read_prompts
from rlhf_engine.errors import UserError
from rlhf_engine.files import check_place, json_lines, json_text, write_together

FILES = ("report.json", "samples.jsonl")
"""What the folder of a measurement holds."""
MOST_SAMPLES = 1000
"""Samples per prompt and side, at most."""


def add_results(parser: argparse.ArgumentParser) -> None:
    """The prompts that a command reads, and the folder for its results."""
    parser.add_argument("--data", default="bundled-heldout", help="prompts")
    parser.add_argument("--subset", default="", help="configuration name of a Hub data set that has several")
    parser.add_argument("--split", default="", help="split of a Hub data set; empty means train")
    parser.add_argument("--limit", type=int, default=0, help="use at most this many prompts; 0 is all")
    parser.add_argument("--output", required=True, help="folder for report.json and samples.jsonl")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --output")


def read_data(args: argparse.Namespace) -> Rows:
    """The prompts that the arguments name. Raises UserError."""
    check_number(args, "limit", 0, configs.LONGEST)
    return read_prompts(args.data, subset=args.subset or None, split=args.split or None, limit=args.limit or None,
                        model=args.model)


def write_results(output: Path, report: dict, samples: list[dict] | None) -> None:
    """Write report.json and samples.jsonl, both or none. Raises UserError where they cannot be written.

    A command without samples (None) writes the report alone.
    """
    files: dict[str, str | bytes] = {} if samples is None else {"samples.jsonl": json_lines(samples)}
    write_together(output, {**files, "report.json": json_text(report, indent=1) + "\n"})


def check_folder(output: Path, what: str, *, overwrite: bool, files: Sequence[str] = FILES) -> None:
    """Raises UserError for a folder that cannot be made, or holds something that would be lost."""
    check_place(output)
    names = {file.name for file in output.iterdir()} if output.exists() else set()
    if names - set(files):
        raise UserError(f"{output} holds something else than {what}: name a new folder with --output")
    if names and not overwrite:
        raise UserError(f"{output} holds {what} already: add --overwrite to replace it, "
                        "or name a new folder with --output")
