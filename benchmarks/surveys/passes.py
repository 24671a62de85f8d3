"""Rows of a pass: how long forward and backward take a token, and how much memory, by the number of rows of one length.

    python benchmarks/surveys/passes.py [--model MODEL] [--dtypes fp32 bf16] [--lengths 64 256] [--rows 1 2 4 8 16 32]

Each case is a process of its own with one LoRA adapter. `reward` reads states alone, `sft` also the log-probabilities
of the second half of each row. `seconds` are the processor's, of `total` rows, cut into passes of `rows`: the median
of some repeats. On one thread that nobody disturbs the clock shows the same. `peak_mb` is the most that the process
has held.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.helpers.common import machine, peak_mb, say


def measure(model: str, dtype: str, kind: str, length: int, rows: int, total: int, repeats: int) -> dict:
    import torch

    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.logprobs import response_positions, token_logprobs

    backbone = Backbone.load(model, dtype=dtype, device="cpu")
    backbone.new_role("policy", rank=8)
    backbone.train("policy")
    loaded, seconds = peak_mb(), []
    ids = torch.randint(10, 4000, (rows, length), generator=torch.Generator().manual_seed(0))
    positions = response_positions([length - length // 2] * rows, [length // 2] * rows, "cpu")
    for repeat in range(repeats + 1):
        start = time.process_time()
        for _ in range(max(1, total // rows) if repeat else 1):  # the first pass warms up
            with backbone.use("policy"):
                if kind == "reward":
                    loss = backbone.hidden(ids)[:, -1].float().square().mean()
                else:
                    loss = -token_logprobs(backbone, ids, *positions).sum()
                loss.backward()
        seconds.append(time.process_time() - start)
    middle = statistics.median(seconds[1:])
    return {"kind": kind, "dtype": dtype, "length": length, "rows": rows, "tokens": rows * length,
            "seconds": round(middle, 2), "ms_a_token": round(1000 * middle / (max(total, rows) * length), 3),
            "loaded_mb": loaded, "peak_mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--dtypes", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--kinds", nargs="*", default=["reward", "sft"])
    parser.add_argument("--lengths", nargs="*", type=int, default=[64, 256])
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--total", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", nargs=4, help="one case in this process: dtype kind length rows")
    args = parser.parse_args()
    if args.case:
        dtype, kind, length, rows = args.case
        say(measure(args.model, dtype, kind, int(length), int(rows), args.total, args.repeats))
        return
    say(machine())
    for dtype in args.dtypes:
        for kind in args.kinds:
            for length in args.lengths:
                for rows in args.rows:
                    case = [dtype, kind, str(length), str(rows)]
                    subprocess.run([sys.executable, __file__, "--model", args.model, "--total", str(args.total),
                                    "--repeats", str(args.repeats), "--case", *case], check=True)


if __name__ == "__main__":
    main()
