"""The fuzzer as a program: spoils good inputs by the seed and says what broke the command line's promises.

    python -m tests.fuzz [--mutations 1000] [--seed 0] [--first 0] [--only NUMBER ...] [--targets yaml api ...] [--list]

Prints a line of JSON for each finding, with the mutation and the command that makes it again, and at the end the counts. Exit code 1
where anything was found. `tests/fuzz/runner.py` says what is promised. Takes about five minutes for 1000 mutations on one core.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # a mutation may turn a path into the name of a repository

import argparse  # noqa: E402
import faulthandler  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections import Counter  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from tests.fuzz.cases import Fuzzer  # noqa: E402
from tests.fuzz.inputs import make_inputs  # noqa: E402
from tests.fuzz.runner import PATIENCE  # noqa: E402
from tests.fuzz.targets import TARGETS  # noqa: E402

ROOM = 12 << 30
"""Bytes of address space: a case that wants more gets a MemoryError instead of the machine's memory."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, nargs="+", help="only these cases")
    parser.add_argument("--targets", nargs="+", choices=[*TARGETS, "api"], default=(), help="spoil only these (other numbers than with all)")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds after which a case is interrupted")
    parser.add_argument("--list", action="store_true", help="print every case, not only findings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    terminal = os.fdopen(os.dup(2), "w")
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        fuzzer = Fuzzer(make_inputs(Path(name) / "good"), args.seed, tuple(args.targets), args.patience)
        for number in args.only or range(args.first, args.first + args.mutations):
            faulthandler.dump_traceback_later(10 * args.patience, exit=True, file=terminal)
            result = fuzzer.case(number)
            faulthandler.cancel_dump_traceback_later()
            targets = f" --targets {' '.join(map(repr, args.targets))}" if args.targets else ""
            again = {"again": f"python -m tests.fuzz --seed {args.seed}{targets} --only {number}"}
            counts[f"{result.target}: {'found' if result.problems else f'exit {result.outcome.code}'}"] += 1
            counts["findings"] += bool(result.problems)
            counts["cases"] += 1
            if result.problems or args.list:
                print(json.dumps(result.as_dict() | again), flush=True)
        fuzzer.close()
    print(json.dumps(dict(sorted(counts.items()))))
    return 1 if counts["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
