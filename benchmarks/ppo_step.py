"""P1: a PPO step on the CPU, ours and TRL 1.12.0.

    python -m venv trl && trl/bin/pip install torch trl==1.12.0 peft
    python benchmarks/ppo_step.py --trl trl/bin/python [--repeats 3]

A random-weight Llama (5.8 million parameters), LoRA r=8 on all linear layers, 16 prompts of 24 tokens, 64 new tokens, 4
PPO epochs, one minibatch. Each run is a process of its own, and the contestants take turns. Prints the medians over all
steps as JSON. `memory_mb` is the peak minus what the imports take.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.helpers.common import machine, make_model, peak_mb, prompts, say, spawn, time_steps, time_trl

ROWS, TOKENS, EPOCHS = 16, 64, 4
CONTESTANTS = ("trl", "fp32/adapter", "bf16/adapter", "nf4/adapter", "fp32/head", "bf16/head", "nf4/head")


def run_ours(folder: str, steps: int, dtype: str, value: str) -> dict:
    import torch

    from rlhf_engine.config import PPOConfig
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.trainers.ppo import PPO

    imports = peak_mb()
    backbone = Backbone.load(folder, dtype=dtype)
    config = PPOConfig(steps=steps + 1, batch_size=ROWS, ppo_epochs=EPOCHS, minibatches=1, max_new_tokens=TOKENS,
                       max_tokens=256, lora_rank=8, learning_rate=1e-4, reference_samples=ROWS, missing_end="none",
                       value=value)
    trainer = PPO(backbone, prompts(ROWS), lambda rollout: torch.tensor([float(len(set(ids)))
                                                                         for ids in rollout.response_ids]), config)
    seconds, parts = time_steps(trainer)
    return {"seconds": seconds, "parts": parts, "imports_mb": imports, "peak_mb": peak_mb()}


def run_trl(folder: str, steps: int) -> dict:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOTrainer  # noqa: F401, imported before memory is read

    imports = peak_mb()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    value, reward = (AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
                     for _ in range(2))
    seconds = time_trl(policy, value, reward, tokenizer, prompts(ROWS), steps, 8, per_device_train_batch_size=ROWS,
                       num_ppo_epochs=EPOCHS, response_length=TOKENS, local_rollout_forward_batch_size=ROWS, bf16=False,
                       use_cpu=True, gradient_checkpointing=False)
    return {"seconds": seconds, "imports_mb": imports, "peak_mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="the python of an environment with trl 1.12.0; without it only ours runs")
    parser.add_argument("--repeats", type=int, default=3, help="processes per contestant")
    parser.add_argument("--steps", type=int, default=4, help="measured steps per process; one more warms up")
    parser.add_argument("--only", nargs="*", default=CONTESTANTS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        say(run_trl(args.model, args.steps) if args.run == "trl"
            else run_ours(args.model, args.steps, *args.run.split("/")))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        contestants = [c for c in CONTESTANTS if c in args.only and (c != "trl" or args.trl)]
        runs = {contestant: [] for contestant in contestants}
        for _ in range(args.repeats):
            for contestant in contestants:
                runs[contestant].append(spawn(args.trl if contestant == "trl" else sys.executable, __file__, "--run",
                                              contestant, "--model", folder, "--steps", args.steps))
    results = {}
    for contestant, found in runs.items():
        results[contestant] = {"seconds": round(statistics.median(s for run in found for s in run["seconds"]), 3),
                               "peak_mb": max(run["peak_mb"] for run in found),
                               "memory_mb": max(run["peak_mb"] - run["imports_mb"] for run in found)}
        if "parts" in found[0]:
            results[contestant] |= {name: round(statistics.median(part[name] for run in found for part in run["parts"]),
                                                3)
                                    for name in ("rollout", "score", "update")}
        if "trl" in results and contestant != "trl":
            results[contestant]["times_faster"] = round(results["trl"]["seconds"] / results[contestant]["seconds"], 2)
    say({"benchmark": "P1, seconds per PPO step", "machine": machine(), "results": results})


if __name__ == "__main__":
    main()
