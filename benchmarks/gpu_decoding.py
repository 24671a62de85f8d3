"""Would a CUDA graph be faster? Decoding as it is, and the same pass recorded once and replayed, at P4's shapes.

    python benchmarks/gpu_decoding.py [--shapes 0.6B 1.7B 4B 8B] [--dtype nf4]
    python benchmarks/gpu_decoding.py --shapes tiny   # on a CPU, without a graph: only to see that the numbers agree

32 prompts of 128 tokens and 256 greedy tokens under a LoRA policy r=16. Prints milliseconds per token (without the
prompts, the median of the repeats) and GiB at the peak. `same` is the share of tokens that both chose until their rows
first differ, because bf16 rounds differently in other kernels. `GraphDecoder` is for rows of one length of which none
ends. It moves into the engine, with padding and with rows that leave, only if it is faster.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import StaticCache

from benchmarks.gpu import RANK, WORK
from benchmarks.helpers.common import SHAPES, machine, prompts, random_backbone, say, spawn
from rlhf_engine.model.cpu_decoder import VERDICTS
from rlhf_engine.model.decoders import CHOICES, CachedDecoder
from rlhf_engine.model.generation import Sampling, decode
from rlhf_engine.model.loading import pick_device


class GraphDecoder:
    """`CachedDecoder` with a cache of fixed size.

    The first token is computed as usual, the second is recorded, and all others are replayed.
    """

    def __init__(self, base, length: int):
        self.base, self.cache, self.length, self.tokens = base, StaticCache(config=base.config,
                                                                            max_cache_len=length), length, 0
        self.graph = torch.cuda.CUDAGraph() if base.device.type == "cuda" else None

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        if hidden is not None:  # the prompts
            place = torch.arange(self.length, device=ids.device)
            self.seen = place[None, None, None] < ids.shape[1]  # of the cache, by the next token
            self.ids, self.positions = torch.zeros_like(ids[:, :1]), torch.zeros_like(ids[:, :1])
            return self._pass(ids, positions, place[None, None, None] <= place[:ids.shape[1], None])
        self.ids.copy_(ids)
        self.positions.copy_(positions)
        self.seen[..., positions[0]] = True
        self.tokens += 1
        if self.tokens == 1 or ids.device.type != "cuda":  # the first warms up what must not be recorded
            return self._pass(self.ids, self.positions, self.seen)
        if self.tokens == 2:
            with torch.cuda.graph(self.graph):
                self.logits = self._pass(self.ids, self.positions, self.seen)
        self.graph.replay()
        return self.logits

    def _pass(self, ids, positions, seen) -> torch.Tensor:
        return self.base(input_ids=ids, attention_mask=seen, position_ids=positions, past_key_values=self.cache,
                         use_cache=True, logits_to_keep=1).logits[:, 0]


def run(shape: str, dtype: str, repeats: int) -> dict:
    """Both decoders in turn, on one model."""
    device, (rows, asked, new) = pick_device("auto"), WORK.get(shape, (32, 128, 256))
    cuda = device.type == "cuda"
    backbone = random_backbone(shape, dtype, device)
    backbone.new_role("policy", rank=RANK)
    VERDICTS[backbone.base] = False
    asks = [backbone.tokenizer(text)["input_ids"] for text in prompts(rows, asked)]
    kinds = {"cached": CachedDecoder, "graph": lambda base: GraphDecoder(base, asked + new)}
    times, peaks, tokens = ({name: [] for name in kinds} for _ in range(3))
    for _ in range(repeats):
        for name, kind in kinds.items():
            CHOICES[backbone.base] = lambda frozen, kind=kind: kind(frozen.base)
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            with backbone.use("policy"):
                steps = decode(backbone, asks, Sampling(new, temperature=0))
                drawn, clock = [next(steps)], time.perf_counter()
                drawn += list(steps)
            times[name].append((time.perf_counter() - clock) / (new - 1))
            peaks[name].append(torch.cuda.max_memory_reserved() / 2 ** 30 if cuda else 0.0)
            tokens[name] = [[step[row][1] for step in drawn] for row in range(rows)]
    until = [next((i for i, (a, b) in enumerate(zip(*pair)) if a != b), new)
             for pair in zip(tokens["cached"], tokens["graph"])]
    found = {f"{name}_ms": round(1000 * statistics.median(times[name]), 2) for name in kinds}
    found |= {f"{name}_gb": round(max(peaks[name]), 2) for name in kinds if cuda}
    return {"shape": shape, "dtype": dtype} | found | {"times_faster": round(found["cached_ms"] / found["graph_ms"], 2),
                                                       "same": round(sum(until) / rows / new, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=["0.6B", "1.7B", "4B", "8B"])
    parser.add_argument("--dtype", default="nf4", choices=("nf4", "bf16"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return say(run(args.run, args.dtype, args.repeats))
    say({"benchmark": "decoding on a GPU, with a graph and without", "machine": machine(), "cuda": torch.version.cuda})
    for shape in args.shapes:
        try:
            say(spawn(sys.executable, __file__, "--run", shape, "--dtype", args.dtype, "--repeats", args.repeats))
        except RuntimeError as error:
            say({"skipped": shape, "why": str(error)[-600:]})
    return None


if __name__ == "__main__":
    main()
