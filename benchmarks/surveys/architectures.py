"""The survey of architectures: what the engine does with a tiny random model of each one in transformers.

Every model is made and asked in a process of its own, within limits of time and memory, so that a crash is a row. The
rows go to a file of JSON lines, one an architecture. A survey that is begun again goes on where the file ends.
"""

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as ARCHITECTURES
from transformers.utils import logging

from benchmarks.surveys.architecture_checks import CHECKS, Refused, Wrong, facts, write_inputs
from benchmarks.surveys.tiny_models import NotSmall, tiny_model
from rlhf_engine.errors import UserError

SECONDS, GIGABYTES = 240, 8
"""Limits of one architecture."""


def survey(kind: str, checks: list[str]) -> dict:
    """The row of one architecture: for each check "works", or what went wrong."""
    row = {"architecture": kind, "class": ARCHITECTURES[kind]}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "model"
        try:
            tiny_model(kind, folder)
        except NotSmall as error:
            return row | {"not small": str(error)[:300]}
        write_inputs(Path(home))
        for name in checks:
            row[name] = outcome(name, folder)
            if name == "states" and row[name].startswith("refused"):
                return row
        try:
            row["facts"] = facts(folder)
        except Exception as error:
            row["facts"] = f"traceback: {error}"
    return row


def outcome(name: str, folder: Path) -> str:
    """What comes of one check, in a line."""
    try:
        CHECKS[name](folder)
        return "works"
    except (UserError, Refused) as error:
        return f"refused: {str(error).replace(str(folder.parent), '')}"
    except Wrong as error:
        return f"wrong: {error}"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        text = str(error).strip().splitlines() or [""]
        return f"traceback: {type(error).__name__}: {text[0][:200]} ({where})"


def isolated(kind: str, checks: list[str], home: Path) -> dict:
    """`survey` in a child process. A child that dies or takes too long is a row, too."""
    result = home / "row.json"
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
        signal.alarm(SECONDS)
        result.write_text(json.dumps(survey(kind, checks)))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if result.exists():
        return json.loads(result.read_text())
    reason = f"took longer than {SECONDS} s" if os.WTERMSIG(status) == signal.SIGALRM else f"died with {status}"
    return {"architecture": kind, "class": ARCHITECTURES[kind], "crash": reason}


def table(rows: list[dict]) -> str:
    """The rows as a table in Markdown: each outcome, and the architectures that it is the outcome of."""
    outcomes: dict[str, list[str]] = {}
    for row in rows:
        text = verdict(row)
        if text == "works":
            decoder = row["facts"]["decoder"] if isinstance(row.get("facts"), dict) else "unknown"
            text = f"works, decoded by `{decoder}`"
        outcomes.setdefault(text.replace("|", "/"), []).append(row["architecture"])
    lines = ["| outcome | architectures |", "|---|---|"]
    for text in sorted(outcomes, key=lambda text: (not text.startswith("works"), -len(outcomes[text]))):
        lines.append(f"| {text} | {len(outcomes[text])}: {', '.join(sorted(outcomes[text]))} |")
    return "\n".join(lines)


def read_rows(file: Path) -> list[dict]:
    """The rows of a survey, the last one of each architecture."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = {row["architecture"]: row for row in map(json.loads, lines)}
    return list(rows.values())


def verdict(row: dict) -> str:
    """"works", or the first thing that does not."""
    for name, text in row.items():
        if name not in ("architecture", "class", "facts") and text != "works":
            return f"{name}: {text}"
    return "works"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("architectures.jsonl"), help="file of JSON lines")
    parser.add_argument("--only", nargs="*", default=[], help="these architectures, anew")
    parser.add_argument("--checks", nargs="*", default=list(CHECKS))
    parser.add_argument("--table", action="store_true", help="print what --output holds as a table, and do no more")
    args = parser.parse_args()
    if args.table:
        print(table(read_rows(args.output)))
        return
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    done = set() if args.only else {row["architecture"] for row in read_rows(args.output)}
    with tempfile.TemporaryDirectory() as home, open(args.output, "a", encoding="utf-8") as output:
        for kind in args.only or ARCHITECTURES:
            if kind in done:
                continue
            row = isolated(kind, args.checks, Path(home))
            output.write(json.dumps(row) + "\n")
            output.flush()
            print(f"{kind}: {verdict(row)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
