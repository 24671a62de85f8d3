"""P2: tokens per second of batched sampling, ours against transformers.generate, on the same random model and batch.

    python benchmarks/decoding.py [--repeats 5]

Prints JSON. Both sample 64 tokens from the full softmax at temperature 1. End tokens are switched off. The two take
turns.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.helpers.common import machine, make_model, prompts, say
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, pad_left, sample


def ours(backbone: Backbone, rows: list[list[int]], tokens: int) -> int:
    backbone.stop_ids = [-1]
    return sum(map(len, sample(backbone, rows, Sampling(tokens), torch.Generator().manual_seed(0))))


def theirs(backbone: Backbone, rows: list[list[int]], tokens: int) -> int:
    ids, mask = pad_left(rows, backbone.pad_id, backbone.device)
    out = backbone.base.generate(input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
                                 top_p=1.0, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=backbone.pad_id)
    return (out.shape[1] - ids.shape[1]) * len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        for dtype in ("fp32", "bf16", "nf4"):
            backbone = Backbone.load(folder, dtype=dtype)
            for batch in (1, 16, 32):
                rows = [backbone.tokenizer(text)["input_ids"] for text in prompts(batch)]
                speeds = {ours: [], theirs: []}
                for repeat in range(args.repeats + 1):
                    for run in (ours, theirs):
                        start = time.perf_counter()
                        count = run(backbone, rows, args.tokens)
                        if repeat:  # the first is for warming up
                            speeds[run].append(count / (time.perf_counter() - start))
                fast, slow = (statistics.median(speeds[run]) for run in (ours, theirs))
                results.append({"dtype": dtype, "batch": batch, "ours": round(fast), "transformers": round(slow),
                                "ratio": round(fast / slow, 2)})
    say({"benchmark": "P2 decoding, tokens per second", "machine": machine(), "results": results})


if __name__ == "__main__":
    main()
