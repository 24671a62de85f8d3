"""K answers to one prompt, which is read once or K times: sampling, one step of K-wise reward training, scoring.

    python benchmarks/shared_prompts.py [--prompt 24-64] [--dtype fp32] [--repeats 3]

Prints JSON, one line for each K: medians of seconds [read once, read K times, ratio] of runs that take turns, and the
largest differences of the numbers. The model is the bundled one with its SFT adapter. Prompts and responses (48 to 80
tokens; 64 when sampling) are text of stories.
"""

import argparse
import json
import random
import statistics
import sys
import time
from itertools import combinations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.helpers.common import machine, say
from rlhf_engine.config import RewardConfig
from rlhf_engine.data.readers import Preference
from rlhf_engine.files import ASSETS
from rlhf_engine.model import prefix_packing as shared
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.cpu_decoder import cpu_decoder
from rlhf_engine.model.generation import Sampling, sample
from rlhf_engine.rollout.reward_functions import score_all
from rlhf_engine.runs.resolve import BUNDLED_ADAPTER
from rlhf_engine.trainers.reward import Group, Pair, RewardTrainer

supports_packing = shared.supports_packing
ANSWER = 64


def stories(tokenizer) -> list[int]:
    with open(ASSETS / "demonstrations.jsonl", encoding="utf-8") as lines:
        texts = [row["prompt"] + row["completion"] for row in map(json.loads, lines)]
    return tokenizer("\n".join(texts[:2000]), add_special_tokens=False, verbose=False)["input_ids"]


def make_trainer(dtype: str) -> RewardTrainer:
    """At a learning rate at which nothing moves, so that all steps have the same numbers."""
    backbone = Backbone.load("bundled", dtype=dtype)
    backbone.load_role("policy", BUNDLED_ADAPTER)
    trainer = RewardTrainer(backbone, [Preference("a", "b", "c")] * 2,
                            RewardConfig(learning_rate=1e-12, steps=1 << 30, held_out=0.0))
    trainer.prepare = lambda: None
    return trainer


def timed(repeats: int, run) -> tuple[list[float], list]:
    """([median seconds with prompts read once, K times, ratio], what `run(once)` returned for both)."""
    seconds, found = {True: [], False: []}, {}
    for repeat in range(repeats + 1):
        for once in (True, False):
            shared.supports_packing = supports_packing if once else lambda *args: False
            start = time.perf_counter()
            found[once] = run(once)
            if repeat:  # the first is for warming up
                seconds[once].append(time.perf_counter() - start)
    fast, slow = (statistics.median(seconds[once]) for once in (True, False))
    return [round(fast, 3), round(slow, 3), round(slow / fast, 2)], [found[True], found[False]]


@torch.no_grad()
def first_logits(backbone: Backbone, prompt: list[int], count: int) -> float:
    """The largest difference between logits after a prompt that `count` rows share and one that each row reads."""
    positions, found = torch.arange(len(prompt)), []
    for rows in (1, count):
        decoder = cpu_decoder(backbone.base, rows, len(prompt) + 2)
        logits = decoder(torch.tensor([prompt] * rows), positions.expand(rows, -1))
        if rows < count:
            decoder.keep(torch.zeros(count, dtype=torch.long))
        after = decoder(torch.arange(5, 5 + count)[:, None], positions[None, -1:].expand(count, 1) + 1)
        found.append(torch.cat([logits.expand(count, -1), after]))
    return (found[0] - found[1]).abs().max().item()


def measure(trainer: RewardTrainer, text: list[int], count: int, prompt: tuple[int, int], prompts: int,
            repeats: int) -> dict:
    backbone, rng = trainer.backbone, random.Random(count)

    def piece(shortest: int, longest: int) -> list[int]:
        start = rng.randrange(len(text) - longest)
        return text[start:start + rng.randint(shortest, longest)]

    asked = [piece(*prompt) for _ in range(prompts)]
    trainer.groups = [Group([p + piece(ANSWER - 16, ANSWER + 16) for _ in range(count)],
                            [Pair(i, j, False, 0.0) for i, j in combinations(range(count), 2)], [1.0]) for p in asked]
    rows = [row for group in trainer.groups for row in group.rows]
    many = [p for p in asked for _ in range(count)]
    # As many tokens as in `many`, and nothing that begins alike.
    unlike = [[5 + i, *p[1:]] for i, p in enumerate(many)]

    def draw(once: bool):
        with backbone.use("policy"):
            sample(backbone, many if once else unlike, Sampling(ANSWER), torch.Generator().manual_seed(0))

    sampling, _ = timed(repeats, draw)
    training, steps = timed(repeats, lambda once: next(trainer))
    scoring, scores = timed(repeats, lambda once: score_all(backbone, rows, batch=32))
    with backbone.use("policy"):
        logits = max(first_logits(backbone, p, count) for p in asked)
    found = [sum(shared.packed_length(rows, places) for places in shared.group_by_prefix(rows, backbone.hidden_size)),
             sum(map(len, rows))]
    apart = {name: abs(steps[0][name] - steps[1][name]) for name in ("loss/train", "grad_norm")}
    return {"K": count, "sampling": sampling, "training": training, "scoring": scoring, "tokens": found, "difference": {
        "logits": logits, "scores": (scores[0] - scores[1]).abs().max().item(), **apart,
        "of grad_norm": steps[1]["grad_norm"]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="24-64", help="shortest and longest prompt in tokens")
    parser.add_argument("--prompts", type=int, default=4, help="in a step")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--answers", type=int, nargs="*", default=list(range(2, 10)), help="values of K")
    args = parser.parse_args()
    trainer = make_trainer(args.dtype)
    trainer.backbone.stop_ids = [-1]
    text = stories(trainer.backbone.tokenizer)
    say({"benchmark": "shared prompts", "machine": machine(), "threads": torch.get_num_threads(), **vars(args)})
    for count in args.answers:
        say(measure(trainer, text, count, tuple(map(int, args.prompt.split("-"))), args.prompts, args.repeats))


if __name__ == "__main__":
    main()
