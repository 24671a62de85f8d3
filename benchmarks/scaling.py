"""The cost of a PPO step against batch, response length and model size. One varies at a time, from P1's shape.

    python benchmarks/scaling.py [--dtype fp32] [--value head] [--steps 3]

Prints JSON: seconds per step (median), its parts, and seconds per thousand response tokens. Each shape is a process of
its own.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.helpers.common import machine, make_model, peak_mb, prompts, say, spawn, time_steps

SIZES = {"1M": dict(hidden_size=128, intermediate_size=352, num_hidden_layers=4), "6M": {},
         "25M": dict(hidden_size=512, intermediate_size=1408, num_hidden_layers=7, num_attention_heads=8,
                     num_key_value_heads=8),
         "100M": dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=7, num_attention_heads=16,
                      num_key_value_heads=16)}
SHAPES = [("6M", batch, 64) for batch in (4, 8, 16, 32, 64)] + [("6M", 16, tokens) for tokens in (16, 32, 128, 256)] + [
    (size, 16, 64) for size in ("1M", "25M", "100M")]


def run(size: str, batch: int, tokens: int, dtype: str, value: str, steps: int) -> dict:
    import torch

    from rlhf_engine.config import PPOConfig
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.trainers.ppo import PPO

    imports = peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone.load(str(make_model(Path(folder), **SIZES[size])), dtype=dtype)
    config = PPOConfig(steps=steps + 1, batch_size=batch, ppo_epochs=4, minibatches=1, max_new_tokens=tokens,
                       max_tokens=512, reference_samples=2, missing_end="none", normalise_reward=False, value=value)
    backbone.stop_ids = [-1]  # every response has its full length
    trainer = PPO(backbone, prompts(batch), lambda rollout: torch.tensor([float(len(set(ids)))
                                                                          for ids in rollout.response_ids]), config)
    seconds, parts = time_steps(trainer)
    found = statistics.median(seconds)
    return {"size": size, "batch": batch, "tokens": tokens, "seconds": round(found, 2),
            **{name: round(statistics.median(part[name] for part in parts), 2) for name in parts[0]},
            "per_thousand_tokens": round(1000 * found / batch / tokens, 2), "memory_mb": peak_mb() - imports}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "nf4"))
    parser.add_argument("--value", default="head", choices=("head", "adapter"))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        size, batch, tokens = args.run
        say(run(size, int(batch), int(tokens), args.dtype, args.value, args.steps))
        return
    results = []
    for shape in SHAPES:
        results.append(spawn(sys.executable, __file__, "--dtype", args.dtype, "--value", args.value, "--steps",
                             args.steps, "--run", *shape))
    say({"benchmark": f"cost of a PPO step, {args.dtype}, value {args.value}", "machine": machine(),
         "results": results})


if __name__ == "__main__":
    main()
