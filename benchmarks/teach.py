"""How well, how fast and how safely `teach` follows people whom it has never met, from 40 votes.

    python benchmarks/teach.py [--labelers animals ...] [--seeds 0 1 2] [--model M --data PROMPTS] [--set noise=0.2 ...]

Each run is a process of its own, `--jobs` at a time with `--threads` threads each. (The seconds mean something only
with one job and two threads.) Prints one line of JSON for each run: the report of the run, and how the KL went. `--at 5
10 20 40` also measures within the run, whenever so many votes were in. `--turn 22` turns every preference into its
opposite after 22 steps: half of the votes are given before, half after that (`--turn 22 --set votes=80 steps=52`). The
labelers are those of `preferences` (without `--labelers` the ten of words), `helpers.kept_preferences` and
`helpers.further_preferences`.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import preferences
from benchmarks.helpers import further_preferences, kept_preferences
from benchmarks.helpers.common import machine, say
from benchmarks.preferences import COMMON, RARE


def measure(given: dict, at: list[int], turn: int) -> dict:
    """One run, in this process."""
    from rlhf_engine.build import make_trainer
    from rlhf_engine.stages import make_config

    config = make_config("teach", given)
    trainer, rows, along = make_trainer(config), [], {}
    if turn:
        hold_back(trainer.labeler, config.votes // 2, turn)
    for metrics in trainer:
        rows.append(metrics)
        if metrics["step"] == turn:
            first = trainer.report()
            along["before"] = {name: round(first[name], 3) for name in ("win_rate", "kl", "seconds")}
            turn_round(trainer)
        if at and metrics["reward/votes"] >= at[0]:
            votes = at.pop(0)
            found = trainer.report()
            along[votes] = {name: round(found[name], 3) for name in ("win_rate", "kl", "seconds")}
    found = trainer.report()
    kept = {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()
            if name != "notes"}
    guesses = [row["reward/guessed"] for row in rows if "reward/guessed" in row]
    return kept | {"steps": len(rows), "outdated": len(trainer.reward.outdated),
                   "kls": [round(row["objective/kl"], 1) for row in rows],
                   "scores": [round(row["objective/scores"], 1) for row in rows],
                   "coefs": [round(row["objective/kl_coef"], 2) for row in rows],
                   "guessed": round(sum(guesses) / max(len(guesses), 1), 3), "along": along}


def hold_back(labeler, votes: int, step: int) -> None:
    """No more than so many votes until a step is over."""
    wants = labeler.queries_wanted
    labeler.queries_wanted = lambda config, asked, now: wants(config, asked, now) if asked < votes or now > step else 0


def turn_round(trainer) -> None:
    """From now on the labeler likes best what it liked least."""
    score = trainer.labeler.score
    trainer.labeler.score = lambda prompt, response: -score(prompt, response)
    trainer.gold = [-scores for scores in trainer.gold]


def run(given: dict, at: list[int], turn: int, threads: int) -> dict:
    """The same in a process of its own."""
    task = [sys.executable, __file__, "--one", json.dumps({"given": given, "at": at, "turn": turn})]
    done = subprocess.run(task, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.returncode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labelers", nargs="+", default=[preference.__name__ for preference in (*COMMON, *RARE)])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--data", default="bundled")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--at", nargs="+", type=int, default=[])
    parser.add_argument("--turn", type=int, default=0, metavar="STEP")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        say(measure(**json.loads(args.one)))
        return
    say({"machine": machine(), "set": args.set, "turn": args.turn, "jobs": args.jobs, "threads": args.threads})
    settings = dict(field.split("=", 1) for field in args.set) | {"model": args.model, "data": args.data}

    def work(labeler: str, seed: int) -> None:
        home = next(each for each in (preferences, kept_preferences, further_preferences) if hasattr(each, labeler))
        given = settings | {"labeler": f"{home.__file__}:{labeler}", "seed": seed}
        say({"labeler": labeler, "seed": seed} | run(given, list(args.at), args.turn, args.threads))

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda pair: work(*pair), [(labeler, seed) for seed in args.seeds for labeler in args.labelers]))


if __name__ == "__main__":
    main()
