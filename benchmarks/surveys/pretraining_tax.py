"""PPO with and without the pretraining mix (PPO-ptx) in one table: what is won, and what it costs elsewhere.

    python benchmarks/surveys/pretraining_tax.py --output FILE.jsonl [--coefs 0 0.1] [--rewards animals]
        [--seeds 0 1 2] [--text DATA --pairs DATA --limit N] [--mix DATA] [--set kl_target=6 ...] [--threads 1]
    python benchmarks/surveys/pretraining_tax.py --table FILE.jsonl

A run is a process of its own: `ppo` on the bundled model from its SFT adapter, against the share of words of a class
(`benchmarks/preferences.py`), without a KL target, so that the policy may go as far as it likes. Beside it, `--coefs`
says how much text is mixed in: the bundled demonstrations, or `--mix`. At the end the policy is compared with its start
on held-out prompts (wins by the reward, KL in nats a sequence), and the tax is measured as the command `tax` does it:
perplexity on held-out texts and accuracy on minimal pairs, each beside the start's, with paired 95 % intervals. Each
run is a line of JSON. A run whose line is in the file is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import preferences
from benchmarks.helpers.common import machine, say
from benchmarks.ptx import SETTINGS

PROMPTS, PER_PROMPT = 64, 4
"""What the policy is compared with its start on."""
KEPT = ("win_rate", "win_rate_low", "win_rate_high", "kl", "distinct_ratio", "length", "score", "score_against")
"""Of the comparison."""


def measure(reward: str, coef: float, seed: int, given: dict) -> dict:
    """One run, in this process; nothing is written."""
    from rlhf_engine.build import make_trainer
    from rlhf_engine.data.readers import read_prompts
    from rlhf_engine.evaluation.compare import compare, text_judge
    from rlhf_engine.evaluation.tax.checkpoints import Checkpoint
    from rlhf_engine.evaluation.tax.measure import measure_tax
    from rlhf_engine.evaluation.tax.minimal_pairs import read_minimal_pairs
    from rlhf_engine.evaluation.tax.texts import read_texts
    from rlhf_engine.feedback.scoring_functions import score_text
    from rlhf_engine.model.generation import Sampling
    from rlhf_engine.stages import make_config

    function = getattr(preferences, reward)
    limit = given["limit"] or None
    texts, pairs = read_texts(given["text"], limit=limit), read_minimal_pairs(given["pairs"], limit=limit)
    config = make_config("ppo", SETTINGS | given["set"] | {
        "seed": seed, "reward": f"{preferences.__file__}:{reward}", "ptx_coef": coef, "ptx_data": given["mix"]})
    trainer = make_trainer(config)
    kls = [metrics["objective/kl"] for metrics in trainer]
    prompts = list(read_prompts("bundled-heldout"))[:PROMPTS]
    judge = text_judge(lambda prompt, text: score_text(function, prompt, text))
    found, _ = compare(trainer.backbone, "policy", "reference", prompts, judge, per_prompt=PER_PROMPT, seed=seed,
                       sampling=Sampling(config.max_new_tokens, config.temperature))
    base = Checkpoint("base", None)
    start = Checkpoint("start", "reference", base)
    report, _ = measure_tax(trainer.backbone, [base, start, Checkpoint("policy", "policy", start)], texts, pairs)
    rows = {row["name"]: row for row in report["checkpoints"]}
    for row in rows.values():
        row["pairs"].pop("paradigms")
    return {**{name: found[name] for name in KEPT}, "kls": kls[::3], "tax": rows,
            "text_data": report["text_data"], "pair_data": report["pair_data"]}


def rounded(value):
    """A result with four digits behind the point."""
    return json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 4))


# -- all runs, and the table -------------------------------------------------------------------------------------------

def run(reward: str, coef: float, seed: int, given: dict, threads: int) -> dict:
    """The line of a run, in a process of its own."""
    task = [sys.executable, __file__, "--one", json.dumps([reward, coef, seed, given])]
    done = subprocess.run(task, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    about = {"reward": reward, "ptx_coef": coef, "seed": seed, "code": done.returncode}
    return {**about, **(lines[-1] if lines and not done.returncode else {})}


def between(part: dict, name: str, form: str) -> str:
    """A number with its interval."""
    return f"{part[name]:{form}} ({part[f'{name}_low']:{form}} to {part[f'{name}_high']:{form}})"


def table(path: str) -> None:
    """Print Markdown rows: each run, then the means over seeds."""
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    runs = [line for line in lines if "tax" in line]
    print("| reward | `ptx_coef` | seed | wins | KL | perplexity to the start | accuracy to the start | text; pairs |")
    print("|---|---|---|---|---|---|---|---|")
    for line in sorted(runs, key=lambda line: (line["reward"], line["ptx_coef"], line["seed"])):
        policy = line["tax"]["policy"]
        print(f"| {line['reward']} | {line['ptx_coef']:g} | {line['seed']} | {between(line, 'win_rate', '.1%')} "
              f"| {line['kl']:.1f} | {between(policy['text'], 'ratio', '.3f')} "
              f"| {between(policy['pairs'], 'difference', '+.1%')} "
              f"| {policy['text']['verdict']}; {policy['pairs']['verdict']} |")
    for reward, coef in sorted({(line["reward"], line["ptx_coef"]) for line in runs}):
        same = [line for line in runs if (line["reward"], line["ptx_coef"]) == (reward, coef)]
        policies = [line["tax"]["policy"] for line in same]
        print(f"| {reward} | {coef:g} | mean of {len(same)} | {mean(line['win_rate'] for line in same):.1%} "
              f"| {mean(line['kl'] for line in same):.1f} | {mean(p['text']['ratio'] for p in policies):.3f} "
              f"| {mean(p['pairs']['difference'] for p in policies):+.1%} | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output")
    parser.add_argument("--coefs", nargs="+", type=float, default=[0.0, 0.1])
    parser.add_argument("--rewards", nargs="+", default=["animals"],
                        choices=[f.__name__ for f in (*preferences.COMMON, *preferences.RARE)])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--text", default="bundled")
    parser.add_argument("--pairs", default="bundled")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--mix", default="bundled")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", metavar="FILE.jsonl")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        say(rounded(measure(*json.loads(args.one))))
        return
    if args.table:
        table(args.table)
        return
    if not args.output:
        parser.error("--output is missing: name the file for the results")
    given = {"text": args.text, "pairs": args.pairs, "limit": args.limit, "mix": args.mix,
             "set": dict(field.split("=", 1) for field in args.set)}
    output = Path(args.output)
    before = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    if before and before[0]["given"] != given:
        parser.error(f"{output} holds runs with other settings ({before[0]['given']}): name another file")
    if not before:
        output.write_text(json.dumps({"machine": machine(), "settings": SETTINGS, "given": given}) + "\n")
    done = {(line["reward"], line["ptx_coef"], line["seed"]) for line in before if "tax" in line}
    for seed in args.seeds:
        for reward in args.rewards:
            for coef in args.coefs:
                if (reward, coef, seed) in done:
                    continue
                line = run(reward, coef, seed, given, args.threads)
                with output.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                say(line)


if __name__ == "__main__":
    main()
