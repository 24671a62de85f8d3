"""P4: a PPO step on one GPU at the shapes of Qwen3, ours and TRL 1.12.0, and which shapes fit into how much memory.

    python benchmarks/gpu.py [--trl PYTHON] [--shapes 0.6B 1.7B 4B 8B] [--only nf4/adapter caps ...] [--budget 540]
    python benchmarks/gpu.py --shapes tiny                 # on a CPU, only to see that it runs

The weights are random and made on the device, so nothing is downloaded or written. LoRA r=16 on all linear layers, 32
prompts of 128 tokens, 256 new tokens (no token ends a response), 2 PPO epochs, gradient checkpointing in the update.
Each contestant is a process of its own. After one step that warms up, `--steps` steps are measured. Each result is
printed as a line of JSON as soon as it is there, and appended to the file of `--out`. The most important contestants
come first. If `--budget` seconds are not enough for one, a line says so: call again with `--only` for the rest.

- `nf4/adapter`, `nf4/head`: ours, with the base in NF4 and the value as in PPO's setting `value` (`bf16/...` can be
  given, too). `gpu_ms_per_token` is how long the GPU works while one token of all rows is decoded. The rest of
  `ms_per_token` it waits for Python.
- `caps`: ours (nf4/adapter), two whole steps (Adam has its moments from the second on) with
  `set_per_process_memory_fraction` at 8 GiB, then 12, 16 and 24 until they fit. That setting does not count CUDA's
  context, so `memory_estimate.RUNTIME` is taken off each cap. Batches stay at 32; micro-batches get smaller.
- `trl/nf4`, `trl/bf16`: TRL at the same batch. By default all its rows go through in one pass. If memory runs out, it
  gets half as many rows and accumulates twice as often. Its value and reward models are models of the same shape. In
  NF4 only the embeddings, norms and head of the value model train, because 4-bit weights cannot. There its `bf16` is
  off, because its sampling fails with it (norms become fp32, the output layer does not). In bf16 all of the value model
  trains. TRL's PPO never switches `gradient_checkpointing` on, so this is done by hand for policy and value, outside of
  sampling.

TRL needs trl==1.12.0 with datasets and peft, and bitsandbytes for NF4. On a machine that cannot download anything,
unpack their wheels into one folder and put it on PYTHONPATH (of bitsandbytes, one library of the machine's CUDA version
is enough). Then PYTHON may be this one.
"""

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.helpers.common import (
    SHAPES,
    machine,
    make_tokenizer,
    peak_mb,
    prompts,
    random_backbone,
    random_model,
    say,
    spawn,
    time_steps,
    time_trl,
)

WORK = {"tiny": (8, 16, 32)}
"""(rows, tokens of a prompt, new tokens) where they are not (32, 128, 256)."""
RANK, EPOCHS = 16, 2
CAPS = (8, 12, 16, 24)
PLAN = ("nf4/adapter", "caps", "trl/nf4", "nf4/head", "trl/bf16")


def memory_used() -> dict:
    """Peaks in GiB; on a GPU of tensors and of what is reserved for them, and what CUDA has taken besides."""
    import torch
    if not torch.cuda.is_available():
        return {"peak_gb": round(peak_mb() / 1024, 2)}
    free, total = torch.cuda.mem_get_info()
    found = {"allocated_gb": torch.cuda.max_memory_allocated(), "reserved_gb": torch.cuda.max_memory_reserved(),
             "outside_gb": total - free - torch.cuda.memory_reserved()}
    return {name: round(size / 2 ** 30, 2) for name, size in found.items()} | {"device": torch.cuda.get_device_name()}


def summary(shape: str, contestant: str, seconds: list[float]) -> dict:
    rows, middle = WORK.get(shape, (32, 128, 256))[0], statistics.median(seconds)
    return {"shape": shape, "contestant": contestant, "samples_per_s": round(rows / middle, 3),
            "seconds": round(middle, 2), "slowest": round(max(seconds), 2)} | memory_used()


def run_ours(shape: str, contestant: str, steps: int, cap: int) -> dict:
    import torch

    from rlhf_engine.config import PPOConfig
    from rlhf_engine.model.loading import pick_device
    from rlhf_engine.runs.memory_estimate import RUNTIME, estimate, read_shape
    from rlhf_engine.trainers.ppo import PPO

    device = pick_device("auto")
    if cap:
        usable = cap * 2 ** 30 - RUNTIME["cuda"]
        torch.cuda.set_per_process_memory_fraction(usable / torch.cuda.get_device_properties(0).total_memory)
    (dtype, value), (rows, asked, new) = contestant.split("/"), WORK.get(shape, (32, 128, 256))
    backbone = random_backbone(shape, dtype, device)
    config = PPOConfig(model=shape, dtype=dtype, steps=steps, batch_size=rows, max_new_tokens=1, max_tokens=asked + new,
                       lora_rank=RANK, ppo_epochs=EPOCHS, micro_batch=rows // 2, gradient_checkpointing=True,
                       missing_end="none", normalise_reward=False, reference_samples=2, value=value)
    trainer = PPO(backbone, prompts(rows, asked), lambda rollout: torch.tensor([sum(i % 2 for i in ids) / new for ids in
                                                                               rollout.response_ids]), config)
    trainer.prepare_once()  # with one token, for nothing here hangs on the reference's samples
    trainer.change("max_new_tokens", new)
    seconds, parts = time_steps(trainer)
    found = summary(shape, contestant, seconds)
    found |= {name: round(statistics.median(part[name] for part in parts), 2)
              for name in parts[0]} | {"micro_batch": trainer.micro_batch}
    told = estimate(replace(config, micro_batch=trainer.micro_batch), read_shape(backbone.base.config.to_dict()),
                    device=device.type)
    found["estimate_gb"] = round(replace(told, reward=0).total / 2 ** 30, 2)  # the reward is a function
    if cap:  # others run beside it, so times and what is outside say nothing
        return {name: found[name] for name in ("shape", "contestant", "allocated_gb", "reserved_gb", "estimate_gb",
                                               "micro_batch")} | {
            "fits": True}
    found |= {"tokens_per_s": round(rows * new / found["rollout"]),
              "ms_per_token": round(1000 * found["rollout"] / new, 1)}
    return found | gpu_time(backbone, [row.ids for row in trainer.encoded])


def gpu_time(backbone, rows: list[list[int]], tokens: int = 16) -> dict:
    """How long the GPU itself works to decode a token of all rows."""
    import torch

    from rlhf_engine.model.generation import Sampling, decode
    if backbone.device.type != "cuda":
        return {}
    with backbone.use("policy"):
        drawn = decode(backbone, rows, Sampling(tokens + 2))
        next(drawn)  # the prompts
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                for _ in range(tokens):
                    next(drawn)
                torch.cuda.synchronize()
            found = profile.key_averages()
            return {"gpu_ms_per_token": round(sum(event.self_device_time_total for event in found) / 1000 / tokens, 1),
                    "kernels_per_token": sum(event.count for event in found if event.self_device_time_total) // tokens}
        except Exception as error:  # a profiler needs rights that not every machine gives
            return {"gpu_ms_per_token": f"not measured: {error}"[:200]}


def run_trl(shape: str, contestant: str, steps: int, each: int) -> dict:
    import torch
    device, dtype = torch.device("cuda" if torch.cuda.is_available() else "cpu"), contestant.split("/")[1]
    rows, asked, new = WORK.get(shape, (32, 128, 256))
    each = each or rows
    torch.manual_seed(0)
    policy = random_model("CausalLM", shape, dtype, device)
    value, reward = (random_model("SequenceClassification", shape, dtype, device) for _ in range(2))
    for model in (policy, value):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    seconds = time_trl(policy, value, reward, make_tokenizer(SHAPES[shape]["vocab_size"]), prompts(rows, asked), steps,
                       RANK, per_device_train_batch_size=each, gradient_accumulation_steps=rows // each,
                       local_rollout_forward_batch_size=each, num_ppo_epochs=EPOCHS, response_length=new,
                       temperature=1.0, bf16=dtype == "bf16", use_cpu=device.type == "cpu", gradient_checkpointing=True)
    return summary(shape, contestant, seconds)


def child(args) -> None:
    """One run, in this process: prints its result, or that its memory did not suffice."""
    from rlhf_engine.model.batching import out_of_memory
    try:
        say(run_trl(args.shape, args.run, args.steps, args.each) if args.run.startswith("trl") else
            run_ours(args.shape, args.run, args.steps + 1, args.cap))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        say({"shape": args.shape, "contestant": args.run, "fits": False, "why": str(error).splitlines()[0][:200]})


class Report:
    """Runs that take turns until the time is up; what they give is printed and appended to a file."""

    def __init__(self, args):
        self.args, self.until, self.found = args, time.monotonic() + args.budget, []

    def tell(self, line: dict) -> dict:
        self.found.append(line)
        say(line)
        if self.args.out:
            with open(self.args.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return line

    def run(self, shape: str, contestant: str, **flags) -> dict:
        """The result of one run, which has been told; {"skipped": ...} where there is no time for it, or it fails."""
        left, name = self.until - time.monotonic(), " ".join([shape, contestant,
                                                              *(f"{k} {v}" for k, v in flags.items())])
        if left < self.args.least:
            return self.tell({"skipped": name, "why": f"{max(left, 0):.0f} s are left of {self.args.budget}"})
        python = self.args.trl if contestant.startswith("trl") else sys.executable
        try:
            return self.tell(spawn(python, __file__, "--run", contestant, "--shape", shape, "--steps", self.args.steps,
                                   *(part for k, v in flags.items() for part in (f"--{k}", v)), seconds=left) | flags)
        except RuntimeError as error:
            return self.tell({"skipped": name, "why": str(error)[-600:]})

    def caps(self, shape: str) -> None:
        """The smallest cap into which a shape fits."""
        for cap in CAPS:
            if self.run(shape, "nf4/adapter", cap=cap, steps=1).get("fits", True):
                return

    def trl(self, shape: str, contestant: str) -> None:
        """TRL with as many rows in a pass as fit."""
        each = WORK.get(shape, (32, 128, 256))[0]
        while each and not self.run(shape, contestant, each=each).get("fits", True):
            each //= 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="the python of an environment with trl 1.12.0; without it only ours runs")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=["0.6B", "1.7B", "4B", "8B"])
    parser.add_argument("--only", nargs="*", default=PLAN, help="contestants, in this order")
    parser.add_argument("--steps", type=int, default=2, help="measured steps of a run")
    parser.add_argument("--budget", type=int, default=540, help="seconds for everything")
    parser.add_argument("--least", type=int, default=30, help="seconds that have to be left for another run to begin")
    parser.add_argument("--out", help="file to append the lines to")
    for name, kind in (("run", str), ("shape", str), ("cap", int), ("each", int)):
        parser.add_argument(f"--{name}", type=kind, default=kind(), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return child(args)
    import torch
    report = Report(args)
    report.tell({"benchmark": "P4, PPO on a GPU", "machine": machine(), "cuda": torch.version.cuda})
    for contestant in args.only:
        if contestant == "caps" and torch.cuda.is_available():
            with ThreadPoolExecutor() as pool:  # side by side, for they measure no time
                list(pool.map(report.caps, args.shapes))
        elif contestant == "caps" or contestant.startswith("trl") and not args.trl:
            report.tell({"skipped": contestant, "why": "no CUDA GPU" if contestant == "caps" else "no --trl"})
        else:
            for shape in args.shapes:
                (report.trl if contestant.startswith("trl") else report.run)(shape, contestant)
    return None


if __name__ == "__main__":
    main()
