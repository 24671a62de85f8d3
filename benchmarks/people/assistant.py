"""A real small assistant on this machine: the reward stage on people's pairs, PPO on a scoring function, and `teach`.

    python benchmarks/people/assistant.py --runs FOLDER [--model smollm2] [--tasks reward ppo teach]
        [--pairs PAIRS.jsonl.gz] [--seeds 0] [--set steps=12 ...]

Each task is a run of its own in FOLDER, by the command line of the engine and in a process of its own. A task that was
ended goes on from its last checkpoint; of one that is done the result stands beside it. Prints a line of JSON for each:

- `reward` (needs `--pairs`, such as HH): accuracy on the pairs held out, with a 95 % interval, beside chance and "the
  longer one" on the same pairs;
- `ppo`: by how many standard deviations of the start's scores the score has risen in the mean of the last three steps,
  and the KL there, in nats a sequence;
- `teach`, with three labelers and 40 votes each: the report of the run (wins, KL, perplexity, distinct, seconds).

All have the seconds of their steps; the processor time of the process, with loading and the measurement at the end;
and its peak memory. The last two are those of the last part of a run that was resumed. A task has the settings of its
stage in assets/presets/smollm2; `--set` changes settings of all tasks, and what a task does not know is left out.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.helpers.common import machine, peak_mb, say

REQUESTS = Path(__file__).resolve().parents[2] / "assets" / "everyday-requests.jsonl"
PRESETS = REQUESTS.parent / "presets" / "smollm2"
LABELERS = ("short_answers", "list_instead_of_prose", "ends_with_question")
PAIRS, HELD_OUT = 600, 0.3
"""Pairs for the reward, and the share of them that is held out."""
SETTINGS = {
    "reward": {"batch_size": 16, "limit": PAIRS, "held_out": HELD_OUT, "reference_samples": 32, "max_new_tokens": 40},
    "ppo": {"max_new_tokens": 40, "data": str(REQUESTS)},
    "teach": {"data": str(REQUESTS)},
}
"""What is set besides the preset of the stage (`PRESETS`)."""
RESAMPLES = 2000


# -- what the labelers like, and what PPO is to raise ------------------------------------------------------------------

def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def short_answers(prompt: str, response: str) -> float:
    """Fewer words; an answer of fewer than five is none."""
    count = len(words(response))
    return -float(count) if count >= 5 else -1000.0


def list_instead_of_prose(prompt: str, response: str) -> float:
    """Lines that begin like those of a list."""
    return float(len(re.findall(r"(?m)^\s*(?:[-*•]|\d+[.)])\s+\S", response)))


def ends_with_question(prompt: str, response: str) -> float:
    """A question at the end. Questions before it are worth something, as long as few answers end with one."""
    return 2.0 * response.rstrip().endswith("?") + 0.5 * min(response.count("?"), 2)


def plain_words(prompt: str, response: str) -> float:
    """For PPO: short words in the mean, of ten words at least."""
    found = words(response)
    return -sum(map(len, found)) / len(found) if len(found) >= 10 else -8.0


# -- one task, in this process -----------------------------------------------------------------------------------------

def run_task(task: dict) -> dict:
    """Start the run of a task, or go on with it; returns what it has measured, which it writes beside the run."""
    from rlhf_engine.cli import main as command_line
    from rlhf_engine.runs.folder import Run

    run = Run(task["output"])
    given = ["--output", task["output"]]
    if run.exists() and run.last_checkpoint():
        given.append("--resume")
    else:
        given.append("--overwrite")
        for name, value in task["settings"].items():
            given += [f"--{name.replace('_', '-')}", str(value)]
    if not (run.exists() and run.status()["state"] == "done"):
        code = command_line([task["stage"], *given])
        if code:
            sys.exit(code)
    measured = {"stage": task["stage"], "steps": len(run.metrics()), "seconds": round(seconds_of(run)),
                "peak_mb": peak_mb()}
    measured["processor_seconds"] = round(time.process_time())
    measured |= {"reward": measure_reward, "ppo": measure_ppo, "teach": measure_teach}[task["stage"]](run)
    Path(f"{task['output']}.json").write_text(json.dumps(measured))
    return measured


def seconds_of(run) -> float:
    """What the steps of a run have taken."""
    return sum(value for row in run.metrics() for name, value in row.items() if name.startswith("time/"))


def measure_reward(run) -> dict:
    """Accuracy on the pairs held out, of the reward and of "the longer one", with intervals over the pairs."""
    from rlhf_engine.build import make_trainer
    from rlhf_engine.data.readers import read_preferences
    from rlhf_engine.data.tokenization import encode_examples
    from rlhf_engine.rollout.reward_functions import score_members
    from rlhf_engine.stages import make_config
    from rlhf_engine.trainers.reward import RewardTrainer

    config = make_config("reward", {name: value for name, value in run.config().items() if name != "stage"})
    trainer = make_trainer(config)
    assert isinstance(trainer, RewardTrainer)
    trainer.load(run.checkpoint_at(run.last_step()))
    rows = read_preferences(config.data, limit=config.limit or None)
    texts = [(row.prompt, text) for row in rows for text in (row.chosen, row.rejected)]
    encoded, _ = encode_examples(trainer.backbone, texts, trainer.max_tokens)
    length_of = {tuple(row.ids): len(row.completion_ids) for row in encoded}
    reward, longer = [], []
    for group in trainer.held_out:
        scores = score_members(trainer.backbone, group.rows, batch=2).mean(-1).tolist()
        lengths = [length_of[tuple(row)] for row in group.rows]
        for pair in group.pairs:
            for values, found in ((scores, reward), (lengths, longer)):
                better, worse = values[pair.better], values[pair.worse]
                found.append(1.0 if better > worse else 0.5 if better == worse else 0.0)
    return {"held_out": len(reward), "accuracy": share(reward), "longer": share(longer), "chance": 0.5,
            "calibration": run.report().get("calibration_held_out")}


def share(found: list[float], seed: int = 0) -> list[float]:
    """[mean, and a 95 % interval] by bootstrap."""
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(found, k=len(found))) / len(found) for _ in range(RESAMPLES))
    ends = means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]
    return [round(value, 3) for value in (sum(found) / len(found), *ends)]


def measure_ppo(run) -> dict:
    """How far the score has risen, in standard deviations of the scores of the start, and the KL that it took."""
    start = next(row for row in run.journal() if row["event"] == "reference")
    last = run.metrics()[-3:]
    score = sum(row["objective/scores"] for row in last) / len(last)
    kls = [row["objective/kl"] for row in run.metrics()]
    return {"rise": round((score - start["score_mean"]) / start["score_std"], 2),
            "kl": round(sum(kls[-3:]) / len(kls[-3:]), 2), "highest_kl": round(max(kls), 2),
            "start": round(start["score_mean"], 3), "end": round(score, 3)}


def measure_teach(run) -> dict:
    """The report, and what the reward guessed."""
    kept = {name: round(value, 4) if isinstance(value, float) else value for name, value in run.report().items()
            if name not in ("stage", "notes")}
    rows = [row for row in run.journal() if row["event"] == "reward"]
    guesses = sum(row["guesses"] for row in rows)
    liked = rows[-1].get("likes_features") if rows else None
    return kept | {"guessed": round(sum(row["guessed"] for row in rows) / max(guesses, 1), 3), "likes": liked}


# -- all tasks ---------------------------------------------------------------------------------------------------------

def tasks_of(args) -> list[dict]:
    """The tasks with their settings; each has a folder named by what it is."""
    from rlhf_engine.config import field_types
    from rlhf_engine.stages import STAGES
    from rlhf_engine.yaml_files import read_yaml

    changed = dict(field.split("=", 1) for field in args.set)
    tasks = []
    for stage in args.tasks:
        for seed in args.seeds:
            for labeler in args.labelers if stage == "teach" else [""]:
                settings = read_yaml(str(PRESETS / f"{stage}.yaml")) | SETTINGS[stage]
                settings |= {"model": args.model, "seed": seed}
                if stage == "reward":
                    settings["data"] = args.pairs
                if stage == "ppo":
                    settings["reward"] = f"{Path(__file__).resolve()}:plain_words"
                if labeler:
                    settings["labeler"] = f"{Path(__file__).resolve()}:{labeler}"
                known = field_types(STAGES[stage].config)
                settings |= {name: value for name, value in changed.items() if name in known}
                name = "-".join(filter(None, (stage, labeler, str(seed))))
                tasks.append({"stage": stage, "name": name, "settings": settings,
                              "output": str(Path(args.runs).resolve() / name)})
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", help="folder of the runs")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tasks", nargs="+", default=["reward", "ppo", "teach"], choices=("reward", "ppo", "teach"))
    parser.add_argument("--labelers", nargs="+", default=list(LABELERS), choices=LABELERS)
    parser.add_argument("--pairs", default="", help="people's pairs, for the reward")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        say(run_task(json.loads(args.one)))
        return
    if not args.runs:
        parser.error("name a folder with --runs")
    if "reward" in args.tasks and not args.pairs:
        parser.error("the task reward needs --pairs, a file of preferences")
    say({"machine": machine(), "model": args.model, "set": args.set, "threads": args.threads})
    for task in tasks_of(args):
        file = Path(f"{task['output']}.json")
        if file.exists():
            say({"task": task["name"]} | json.loads(file.read_text()))
            continue
        command = [sys.executable, __file__, "--one", json.dumps(task)]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(args.threads)}, stdout=subprocess.PIPE,
                              text=True)
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.returncode}
        say({"task": task["name"]} | found)


if __name__ == "__main__":
    main()
