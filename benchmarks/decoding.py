"""P2: tokens per second of batched sampling, ours against transformers' `generate`, on the same model and batch.

    python benchmarks/decoding.py [--model FOLDER | --shape P1|360M] [--rank R] [--threads N] [--repeats 5]

Prints JSON. Both sample the same number of tokens from the full softmax at temperature 1, with the same LoRA adapter
if `--rank` is not 0. End tokens are switched off. transformers' model has PEFT's adapter and none of our layers. The
two take turns. Speeds are of the clock on the wall (median) and of processor time (median, and best).
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmarks.helpers.common import machine, make_model, say
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, pad_left, sample
from rlhf_engine.model.loading import four_bits

SHAPES = {"P1": {}, "360M": dict(hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15,
                                 num_key_value_heads=5, vocab_size=49152, tie_word_embeddings=True)}
"""P1, and the shape of SmolLM2-360M."""


def ours(backbone: Backbone, model, rows: list[list[int]], tokens: int) -> int:
    backbone.stop_ids = [-1]
    with backbone.use("policy" if backbone.roles else None):
        return sum(map(len, sample(backbone, rows, Sampling(tokens), torch.Generator().manual_seed(0))))


def theirs(backbone: Backbone, model, rows: list[list[int]], tokens: int) -> int:
    ids, mask = pad_left(rows, backbone.pad_id, backbone.device)
    out = model.generate(input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                         max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=backbone.pad_id)
    return (out.shape[1] - ids.shape[1]) * len(rows)


def load(folder: str, dtype: str, rank: int):
    """Our backbone with a changed adapter, and transformers' model with the same."""
    backbone = Backbone.load(folder, dtype=dtype)
    options = {"quantization_config": four_bits()} if dtype == "nf4" else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32 if dtype == "fp32" else torch.bfloat16,
                                                 **options)
    model.eval()
    if rank:
        backbone.new_role("policy", rank=rank)
        with torch.no_grad():
            for parameter in backbone.parameters("policy"):
                parameter.add_(0.01 * torch.randn(parameter.shape))
        with tempfile.TemporaryDirectory() as adapter:
            backbone.save_role("policy", adapter)
            model = PeftModel.from_pretrained(model, adapter)
    return backbone, model


def measure(folder: str, dtype: str, args: argparse.Namespace) -> list[dict]:
    """A row for each batch size."""
    backbone, model = load(folder, dtype, args.rank)
    results = []
    for batch in args.batches:
        rows = torch.randint(3, 4000, (batch, args.prompt), generator=torch.Generator().manual_seed(0)).tolist()
        wall, processor = {ours: [], theirs: []}, {ours: [], theirs: []}
        for repeat in range(args.repeats + 1):
            for run in (ours, theirs):
                start, began = time.perf_counter(), time.process_time()
                count = run(backbone, model, rows, args.tokens)
                if repeat:  # the first is for warming up
                    wall[run].append(count / (time.perf_counter() - start))
                    processor[run].append(count / (time.process_time() - began))
        row = {"dtype": dtype, "batch": batch}
        for name, speeds, choose in (("wall", wall, statistics.median), ("processor", processor, statistics.median),
                                     ("best processor", processor, max)):
            fast, slow = choose(speeds[ours]), choose(speeds[theirs])
            row[name] = {"ours": round(fast, 1), "transformers": round(slow, 1), "ratio": round(fast / slow, 2)}
        results.append(row)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a folder; without it a model with random weights")
    parser.add_argument("--shape", default="P1", choices=SHAPES)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16", "nf4"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 32])
    parser.add_argument("--prompt", type=int, default=24, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        if not args.model:
            make_model(Path(folder), **SHAPES[args.shape])
        for dtype in args.dtypes:
            results += measure(args.model or folder, dtype, args)
    say({"benchmark": "P2 decoding, tokens per second", "model": args.model or args.shape, "rank": args.rank,
         "threads": torch.get_num_threads(), "machine": machine(), "results": results})


if __name__ == "__main__":
    main()
