"""All learners on the same reward: how far each comes, at what KL, from how many samples and in how many seconds.

    python benchmarks/surveys/learners.py --output FILE.jsonl [--learners ppo grpo ...] [--rewards animals takes_up]
        [--seeds 0 1 2] [--set steps=40 ...] [--jobs 2 --threads 1]
    python benchmarks/surveys/learners.py --table FILE.jsonl [--samples 2048] [--seconds 120]

A run is a process of its own, on the bundled model from its SFT adapter. Every few steps the policy is compared with
that start on held-out prompts; the clock stands still meanwhile. It counts processor time, so that other processes do
not count: with one thread that is the time on a quiet core. Each comparison is a line of JSON: samples that the learner
has drawn so far, seconds, wins over the start by the reward itself, KL (nats per sequence), distinct-2 and
perplexity as ratios to the start, and length in tokens. A run whose lines are all in the file is not run again.

The preference learners (`dpo`, `kto`) get votes on samples of the start: four responses a prompt, of which the reward
chooses the best; these samples and seconds count. `best-of-4` learns nothing and has one line. `--table` reads each
curve off at the same number of samples and at the same seconds, between its measurements in a straight line, and gives
the mean over seeds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import preferences
from benchmarks.helpers import further_preferences, kept_preferences
from benchmarks.helpers.common import machine, say

CRITIC = {"value": "fitted", "batch_size": 64, "ppo_epochs": 1}
SHARED = {"minibatches": 4, "kl_coef": 0.1, "kl_floor": 0.05, "kl_lookahead": 0.2}
"""Settings of all online learners: without floor and lookahead, some end far above the target of the KL."""
ONLINE = {
    "ppo": ("ppo", CRITIC), "nlpo": ("nlpo", CRITIC),
    "grpo": ("grpo", {"loss_normaliser": "grpo"}),
    "dapo": ("grpo", {"loss_normaliser": "dapo"}),
    "dr_grpo": ("grpo", {"loss_normaliser": "dr_grpo"}),
    "rloo": ("grpo", {"estimator": "rloo"}),
}
"""Learners that sample as they go: the stage and its settings. All others are the stage's own."""
PAIRS = {"dpo": {"loss": "sigmoid"}, "kto": {"loss": "kto"}}
LEARNERS = (*ONLINE, *PAIRS, "rft", "best-of-4")
STEPS, EVERY = 40, 8
CHOICES, VOTES = 4, 512
"""Responses of a vote of the preference learners, and how many votes they get."""
PROMPTS, PER_PROMPT = 64, 4
"""What a comparison with the start is measured on."""


def measure(learner: str, reward: str, seed: int, changed: dict) -> Iterator[dict]:
    """The lines of one run, in this process."""
    from rlhf_engine.data.readers import read_prompts
    from rlhf_engine.evaluation.compare import compare, text_judge
    from rlhf_engine.feedback.scoring_functions import score_text
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling

    function = function_of(reward)
    backbone = Backbone.load("bundled", dtype="bf16")
    trainer, drawn, spent = make(learner, backbone, reward, seed, changed)
    held_out = list(read_prompts("bundled-heldout"))[:PROMPTS]
    judge = text_judge(lambda prompt, text: score_text(function, prompt, text))

    def look(step: int, samples: int, seconds: float) -> dict:
        found, _ = compare(backbone, "policy", "reference", held_out, judge, per_prompt=PER_PROMPT, seed=seed,
                           sampling=Sampling(96))
        kept = ("win_rate", "kl", "distinct_ratio", "perplexity_ratio", "length", "score")
        return {"step": step, "samples": samples, "seconds": round(seconds, 1),
                **{name: round(found[name], 4) for name in kept if name in found}}

    started = time.process_time()
    for metrics in trainer:
        spent += time.process_time() - started
        if is_time(trainer, metrics["step"]):
            yield look(metrics["step"], drawn(metrics["step"]), spent)
        started = time.process_time()


def is_time(trainer, step: int) -> bool:
    """Whether the policy is compared with the start now: every fifth of a run, and of `rft` after each round."""
    if trainer.config.stage == "rft":
        return trainer.updates > 0 and trainer.updated == trainer.updates
    return step % max(1, EVERY * trainer.total_steps // STEPS) == 0 or step == trainer.total_steps


def function_of(reward: str) -> Callable[[str, str], float]:
    home = next(each for each in (preferences, kept_preferences, further_preferences) if hasattr(each, reward))
    return getattr(home, reward)


def make(learner: str, backbone, reward: str, seed: int, changed: dict):
    """(trainer, samples drawn after so many steps, seconds spent before the first)."""
    from rlhf_engine.build import make_trainer
    from rlhf_engine.config import field_types
    from rlhf_engine.stages import STAGES, make_config

    def config_of(stage: str, settings: dict):
        known = field_types(STAGES[stage].config)
        given = {"seed": seed, "dtype": "bf16", **settings, **{k: v for k, v in changed.items() if k in known}}
        return make_config(stage, given)

    scores = f"{sys.modules[function_of(reward).__module__].__file__}:{reward}"
    if learner in ONLINE:
        stage, settings = ONLINE[learner]
        config = config_of(stage, {"steps": STEPS, **SHARED, **settings, "reward": scores})
        trainer = make_trainer(config, backbone=backbone)
        return trainer, lambda step: config.reference_samples + step * config.batch_size, 0.0
    if learner == "rft":
        config = config_of("rft", {"rounds": 2, "samples": 4, "round_prompts": 320, **changed, "reward": scores})
        trainer = make_trainer(config, backbone=backbone)
        return trainer, lambda step: trainer.round * config.samples * config.round_prompts, 0.0
    if learner in PAIRS:
        started = time.process_time()
        config = config_of("dpo", PAIRS[learner])
        trainer = make_preference_learner(learner, config, backbone, vote(backbone, function_of(reward), seed))
        return trainer, lambda step: CHOICES * VOTES, time.process_time() - started
    raise SystemExit(f"there is no learner {learner}; it is one of {', '.join(LEARNERS)}")


def load_start(backbone) -> None:
    """The role `policy`: the bundled SFT adapter."""
    from rlhf_engine.runs.resolve import resolve_adapter

    backbone.load_role("policy", resolve_adapter("bundled", "bundled"), head=False)


def vote(backbone, function: Callable[[str, str], float], seed: int) -> list:
    """Pairs of the best of `CHOICES` responses of the start with each of the others, for `VOTES` prompts."""
    from rlhf_engine.data.readers import Preference, read_prompts
    from rlhf_engine.data.tokenization import encode_prompts
    from rlhf_engine.model.generation import Sampling, sample, seeded_generator, text_of

    load_start(backbone)
    prompts = list(read_prompts("bundled"))[:VOTES]
    encoded, _ = encode_prompts(backbone, prompts, backbone.longest - 96)
    with backbone.use("policy"):
        responses = sample(backbone, [row.ids for row in encoded for _ in range(CHOICES)], Sampling(96),
                           seeded_generator(seed + 1), batch=64)
    rows = []
    for number, prompt in enumerate(prompts):
        texts = [text_of(backbone, ids) for ids in responses[CHOICES * number:CHOICES * (number + 1)]]
        scores = [function(str(prompt), text) for text in texts]
        best = scores.index(max(scores))
        rows += [Preference(prompt, texts[best], text) for text, score in zip(texts, scores) if score < scores[best]]
    return rows


def make_preference_learner(learner: str, config, backbone, rows: list):
    from rlhf_engine.trainers.preferences.dpo import DPO
    from rlhf_engine.trainers.preferences.kto import KTO

    return (KTO if learner == "kto" else DPO)(backbone, rows, config)


def measure_best_of_4(reward: str, seed: int) -> dict:
    """The one line of best-of-4: nothing is learned, and each answer costs four."""
    from rlhf_engine.data.readers import read_prompts
    from rlhf_engine.evaluation.best_of_curve import measure_best_of
    from rlhf_engine.evaluation.compare import text_judge
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling

    function = function_of(reward)
    backbone = Backbone.load("bundled", dtype="bf16")
    load_start(backbone)
    judge = text_judge(lambda prompt, text: function(str(prompt), text))
    prompts = list(read_prompts("bundled-heldout"))[:PROMPTS]
    found, _ = measure_best_of(backbone, "policy", prompts, judge, None, [4], samples=16, sampling=Sampling(96),
                               seed=seed)
    return {"step": 0, "samples": 0, "seconds": 0.0, **found["curve"][0]}


# -- all runs, and the table -------------------------------------------------------------------------------------------

def run(learner: str, reward: str, seed: int, args: argparse.Namespace) -> list[dict]:
    """The lines of a run, in a process of its own."""
    task = [sys.executable, __file__, "--one", json.dumps([learner, reward, seed, dict(f.split("=", 1)
                                                                                      for f in args.set)])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(task, env=environment, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    about = {"learner": learner, "reward": reward, "seed": seed}
    return [{**about, **line} for line in lines] + [{**about, "done": True, "code": done.returncode}]


def read_off(lines: list[dict], axis: str, at: float, name: str) -> float | None:
    """A curve at a place of an axis, in a straight line between its measurements; None beyond its ends."""
    points = [(0.0, {"win_rate": 0.5, "kl": 0.0}.get(name, 1.0))] if name != "length" else []
    points += [(line[axis], line[name]) for line in lines if name in line]
    for (low, before), (high, after) in zip(points, points[1:]):
        if low <= at <= high and high > low:
            return before + (after - before) * (at - low) / (high - low)
    return None


def table(path: str, samples: float, seconds: float) -> None:
    """Print Markdown rows: each learner at so many samples, at so many seconds, and at its end."""
    curves: dict[tuple, list[dict]] = defaultdict(list)
    for line in map(json.loads, Path(path).read_text().splitlines()):
        if "win_rate" in line:
            curves[line["reward"], line["learner"], line["seed"]].append(line)
    names = ("win_rate", "kl", "distinct_ratio", "perplexity_ratio", "length")
    for reward, learner in dict.fromkeys((reward, learner) for reward, learner, _ in curves):
        of_seeds = [lines for key, lines in curves.items() if key[:2] == (reward, learner)]
        for axis, at in (("samples", samples), ("seconds", seconds), ("end", 0.0)):
            found = {}
            for name in names:
                values = [lines[-1].get(name) if axis == "end" else read_off(lines, axis, at, name)
                          for lines in of_seeds]
                known = [value for value in values if value is not None]
                found[name] = f"{mean(known):.3g}" if len(known) == len(of_seeds) else ""
            print(f"| {reward} | {learner} | {axis} | {' | '.join(found.values())} | {len(of_seeds)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output")
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=LEARNERS)
    parser.add_argument("--rewards", nargs="+", default=["animals", "takes_up"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", metavar="FILE.jsonl")
    parser.add_argument("--samples", type=float, default=2048)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        learner, reward, seed, changed = json.loads(args.one)
        lines = [measure_best_of_4(reward, seed)] if learner == "best-of-4" else measure(learner, reward, seed, changed)
        for line in lines:
            say(line)
        return
    if args.table:
        table(args.table, args.samples, args.seconds)
        return
    if not args.output:
        parser.error("--output is missing: name the file for the results")
    output = Path(args.output)
    before = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(line["learner"], line["reward"], line["seed"]) for line in before if line.get("done") and not line["code"]}
    if not before:
        output.write_text(json.dumps({"machine": machine(), "set": args.set, "jobs": args.jobs,
                                      "threads": args.threads}) + "\n")

    def work(task: tuple[str, str, int]) -> None:
        lines = run(*task, args)
        with output.open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        say(lines[-2] if len(lines) > 1 else lines[-1])

    tasks = [(learner, reward, seed) for seed in args.seeds for reward in args.rewards for learner in args.learners]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(work, [task for task in tasks if task not in done]))


if __name__ == "__main__":
    main()
