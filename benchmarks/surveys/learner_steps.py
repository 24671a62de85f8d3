"""A step of DPO, KTO, GRPO and RLOO on the CPU, ours and TRL's: seconds and memory. PPO's is in ppo_step.py.

    python -m venv --system-site-packages trl && trl/bin/pip install --no-deps trl
    python benchmarks/surveys/learner_steps.py --trl trl/bin/python [--learners dpo grpo] [--repeats 3]

A random-weight Llama of the bundled model's shape (8 layers of 256, 4096 tokens, 7.5 million parameters) in fp32, LoRA
r=8 on all linear layers, and rows that are the same for both:

- dpo: 32 pairs, kto: 64 thumbs; a prompt has 24 tokens, a response 64 to 128;
- grpo, rloo: 8 prompts of 24 tokens, 8 responses to each of 96 tokens, sampling included. One optimiser step, one pass,
  and a KL penalty: for GRPO in the loss, for RLOO in the reward. The reward is the mean token id.

TRL reads all rows of a step in one pass unless it is told otherwise, ours as many as pay on a CPU. So `trl-parts` reads
them in four, and `trl-precomputed-parts` also reads the reference once before training, as ours does.

Each run is a process of its own, and the contestants take turns. Prints a line of JSON for each contestant: medians
over all steps of seconds and of processor seconds (of all threads), the peak of memory, and the peak minus what the
imports take. `busy` is the load of the machine when the run began. Where processor seconds are far below seconds times
threads, others had the cores, and seconds say little.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.helpers.common import VOCABULARY, machine, make_model, peak_mb, prompts, say, spawn

STORYTELLER = dict(num_hidden_layers=8, tie_word_embeddings=True)
RANK, SIZE, PROMPT, RATE, BETA = 8, 8, 24, 1e-4, 0.05
LEARNERS = ("dpo", "kto", "grpo", "rloo")
SIDES = OURS, TRL, PARTS, PRECOMPUTED = ("ours", "trl", "trl-parts", "trl-precomputed-parts")
MICRO_BATCHES = 4
PAIR_LEARNERS = ("dpo", "kto")

Clock = tuple[float, float]
"""Seconds, and processor seconds of all threads of this process."""


def clock() -> Clock:
    return time.perf_counter(), time.process_time()


def between(ends: list[Clock]) -> dict[str, list[float]]:
    """The seconds of each step but the first, from the clock at the end of each."""
    pairs = list(zip(ends, ends[1:]))
    return {"seconds": [b[0] - a[0] for a, b in pairs], "processor": [b[1] - a[1] for a, b in pairs]}


def responses(count: int, tokens: int) -> list[str]:
    """Random words: two thirds of `tokens` to four thirds of it."""
    rng = random.Random(1)
    return [" ".join(f"t{rng.randrange(3, VOCABULARY)}" for _ in range(rng.randint(tokens * 2 // 3, tokens * 4 // 3)))
            for _ in range(count)]


def rows_of(learner: str, rows: int, tokens: int) -> list[dict[str, Any]]:
    """The rows of the data in TRL's columns. A pair has two responses, so there are half as many pairs."""
    texts = responses(rows, tokens)
    if learner == "dpo":
        return [{"prompt": prompt, "chosen": texts[2 * i], "rejected": texts[2 * i + 1]}
                for i, prompt in enumerate(prompts(rows // 2, PROMPT))]
    if learner == "kto":
        return [{"prompt": prompt, "completion": texts[i], "label": i % 2 == 0}
                for i, prompt in enumerate(prompts(rows, PROMPT))]
    return [{"prompt": prompt} for prompt in prompts(rows // SIZE, PROMPT)]


def reward(ids: list[int]) -> float:
    """The score of a response: a number that differs from one to the next, and costs nothing."""
    return sum(ids) / len(ids) / VOCABULARY


# -- ours --------------------------------------------------------------------------------------------------------------

def run_ours(learner: str, folder: str, rows: int, tokens: int, steps: int) -> dict[str, Any]:
    import torch

    from rlhf_engine.config import DPOConfig, GroupConfig
    from rlhf_engine.data.examples import Preference, Thumb
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.trainers.group import GroupLearner
    from rlhf_engine.trainers.preferences.dpo import DPO
    from rlhf_engine.trainers.preferences.kto import KTO

    imports = peak_mb()
    backbone = Backbone.load(folder, dtype="fp32", device="cpu")
    data = rows_of(learner, rows, tokens)
    shared: dict[str, Any] = dict(max_tokens=512, lora_rank=RANK, learning_rate=RATE)
    trainer: Any
    if learner in PAIR_LEARNERS:
        # More steps than are taken: the last one of a run also measures the policy.
        config = DPOConfig(loss="kto" if learner == "kto" else "sigmoid", batch_size=len(data), held_out=0.0,
                           steps=1000, evaluate_every=1000, max_new_tokens=8, reference_samples=2, **shared)
        kind, make = (KTO, Thumb) if learner == "kto" else (DPO, Preference)
        trainer = kind(backbone, [make(*row.values()) for row in data], config)
    else:
        estimator: Any = learner
        config = GroupConfig(estimator=estimator, steps=steps + 1, batch_size=rows, group_size=SIZE, minibatches=1,
                             max_new_tokens=tokens, reference_samples=rows, missing_end="none", kl_coef=BETA,
                             kl_target=0.0, kl_floor=0.0,
                             kl_in="corrected" if learner == "grpo" else "reward", **shared)
        trainer = GroupLearner(backbone, [row["prompt"] for row in data],
                               lambda rollout: torch.tensor([reward(ids) for ids in rollout.response_ids]), config)
    ends = []
    parts: dict[str, list[float]] = {}
    for metrics in trainer:
        ends.append(clock())
        for name, value in metrics.items():
            if name.startswith("time/"):
                parts.setdefault(name.removeprefix("time/"), []).append(value)
        if len(ends) > steps:
            break
    return {**between(ends), "parts": {name: values[1:] for name, values in parts.items()}, "imports_mb": imports,
            "peak_mb": peak_mb()}


# -- TRL's -------------------------------------------------------------------------------------------------------------

def run_trl(learner: str, folder: str, rows: int, tokens: int, steps: int, side: str) -> dict[str, Any]:
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    kind, make = {"dpo": (trl.DPOTrainer, trl.DPOConfig), "kto": (trl.KTOTrainer, trl.KTOConfig),
                  "grpo": (trl.GRPOTrainer, trl.GRPOConfig), "rloo": (trl.RLOOTrainer, trl.RLOOConfig)}[learner]
    imports = peak_mb()
    ends = []

    class Ends(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            ends.append(clock())

    options: dict[str, Any] = dict(max_steps=steps + 1, learning_rate=RATE, bf16=False, use_cpu=True,
                                   gradient_checkpointing=False, report_to="none", save_strategy="no",
                                   logging_strategy="no", disable_tqdm=True)
    given: dict[str, Any] = {}
    data = rows_of(learner, rows, tokens)
    parts = MICRO_BATCHES if side in (PARTS, PRECOMPUTED) else 1
    count = rows // 2 if learner == "dpo" else rows
    options |= dict(per_device_train_batch_size=count // parts, gradient_accumulation_steps=parts)
    if learner in PAIR_LEARNERS:
        options |= dict(precompute_ref_log_probs=side == PRECOMPUTED, max_length=512)
    else:
        options |= dict(num_generations=SIZE, max_completion_length=tokens, beta=BETA)
        given["reward_funcs"] = lambda completion_ids, **_: [reward(ids) for ids in completion_ids]
    with tempfile.TemporaryDirectory() as output:
        trainer: Any = kind(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
                            args=make(output_dir=output, **options), train_dataset=Dataset.from_list(data),
                            processing_class=AutoTokenizer.from_pretrained(folder), callbacks=[Ends()],
                            peft_config=LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear",
                                                   task_type="CAUSAL_LM"), **given)
        trainer.train()
    return {**between(ends), "imports_mb": imports, "peak_mb": peak_mb()}


# -- the contest -------------------------------------------------------------------------------------------------------

def contestants(learners: list[str], sides: list[str]) -> Iterator[str]:
    for learner in learners:
        for side in sides:
            if side != PRECOMPUTED or learner in PAIR_LEARNERS:
                yield f"{learner}/{side}"


def summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What all runs of a contestant come to."""
    def median(key: str) -> float:
        return round(statistics.median(value for run in runs for value in run[key]), 3)

    found = {"contestant": name, "seconds": median("seconds"), "processor": median("processor"),
             "fastest": round(min(value for run in runs for value in run["seconds"]), 3),
             "peak_mb": max(run["peak_mb"] for run in runs),
             "memory_mb": max(run["peak_mb"] - run["imports_mb"] for run in runs),
             "busy": [run["busy"] for run in runs]}
    if "parts" in runs[0]:
        names = runs[0]["parts"]
        found["parts"] = {part: round(statistics.median(value for run in runs for value in run["parts"][part]), 3)
                          for part in names}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="the python of an environment with TRL; without it only ours runs")
    parser.add_argument("--learners", nargs="*", default=list(LEARNERS), choices=LEARNERS)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES)
    parser.add_argument("--repeats", type=int, default=3, help="processes per contestant")
    parser.add_argument("--steps", type=int, default=4, help="measured steps per process; one more warms up")
    parser.add_argument("--rows", type=int, default=64, help="responses in a step")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of a response")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        learner, side = args.run.split("/")
        size = learner, args.model, args.rows, args.tokens, args.steps
        say(run_ours(*size) if side == OURS else run_trl(*size, side))
        return
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), **STORYTELLER)
        for _ in range(args.repeats):
            for name in contestants(args.learners, args.sides if args.trl else [OURS]):
                busy = round(os.getloadavg()[0], 1)
                run = spawn(sys.executable if name.endswith(OURS) else args.trl, __file__, "--run", name, "--model",
                            folder, "--steps", args.steps, "--rows", args.rows, "--tokens", args.tokens)
                runs.setdefault(name, []).append({**run, "busy": busy})
                print(name, run, "busy", busy, file=sys.stderr, flush=True)
    say({"benchmark": "seconds and memory of a step", "machine": machine(), "rows": args.rows, "tokens": args.tokens,
         "threads": args.threads, "repeats": args.repeats, "steps": args.steps})
    for name, found in runs.items():
        say(summary(name, found))


if __name__ == "__main__":
    main()
