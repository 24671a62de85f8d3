"""What the padding of an update costs: rows cut into micro-batches by length, and other ways to cut them.

    python benchmarks/lengths.py [--dtype bf16] [--rows 16] [--repeats 3]

P1's model with LoRA r=8, and minibatches of random rows. Their lengths are like those of a chat (prompts lognormal,
median 55 tokens; responses exponential, mean 120; each at most 256), uniform, or like those of stories that mostly run
to their limit. `padding` is the tokens computed over the tokens that are there, minus one. `seconds` is the median of a
forward and backward pass of one minibatch. The ways take turns.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.helpers.common import VOCABULARY, machine, make_model, say

SPREADS = {"chat": lambda rng: (min(256, max(4, int(rng.lognormvariate(4, 0.8)))),
                                min(256, max(2, int(rng.expovariate(1 / 120))))),
           "uniform": lambda rng: (rng.randint(8, 128), rng.randint(16, 256)),
           "stories": lambda rng: (rng.randint(4, 18), 48 if rng.random() < 0.9 else rng.randint(10, 47))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "nf4"))
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    import torch

    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.batching import micro_batches, pass_overhead
    from rlhf_engine.model.logprobs import pad_right, response_positions, token_logprobs

    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone.load(str(make_model(Path(folder))), dtype=args.dtype, device="cpu")
    backbone.new_role("policy", rank=8)
    backbone.train("policy")
    say(machine())
    for spread, draw in SPREADS.items():
        rng = random.Random(0)
        seconds, padding, passes = ({} for _ in range(3))
        for _ in range(args.repeats):
            drawn = [draw(rng) for _ in range(args.rows)]
            ids = [[rng.randrange(3, VOCABULARY) for _ in range(sum(pair))] for pair in drawn]
            rows, lengths = list(range(args.rows)), list(map(sum, drawn))
            ordered = sorted(rows, key=lengths.__getitem__)
            ways = {"one pass": [rows], "fours at random": micro_batches(rows, 4),
                    "fours by length": micro_batches(ordered, 4),
                    "cut by length": micro_batches(ordered, 0, lengths.__getitem__, pass_overhead(backbone.device))}
            for way, parts in ways.items():
                start = time.perf_counter()
                for part in parts:
                    batch = pad_right([ids[i] for i in part], backbone.pad_id, backbone.device)
                    where = response_positions(*zip(*(drawn[i] for i in part)), batch.device)
                    with backbone.use("policy"):
                        token_logprobs(backbone, batch, *where).sum().backward()
                seconds.setdefault(way, []).append(time.perf_counter() - start)
                padding.setdefault(way, []).append(sum(len(p) * max(lengths[i] for i in p)
                                                       for p in parts) / sum(lengths) - 1)
                passes.setdefault(way, []).append(len(parts))
                for parameter in backbone.parameters("policy"):
                    parameter.grad = None
        for way in seconds:
            say({"lengths": spread, "way": way, "padding": round(statistics.mean(padding[way]), 2),
                 "passes": statistics.mean(passes[way]), "seconds": round(statistics.median(seconds[way]), 2),
                 "torch_threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
