"""PPO-ptx: what a reward costs the policy elsewhere, and how much of that a pretraining mix takes back.

    python benchmarks/ptx.py [--coefs 0 0.03 0.1 0.3 1] [--seeds 0 1] [--text TEXT.jsonl --held-out TEXT.jsonl]
        [--set kl_target=6 ...]

`ppo` on the bundled model against a scoring function, without a KL target, so that the policy may go as far as it
likes. A sixth of the bundled demonstrations is held out, and the rest is mixed in (or `--text` instead). Prints one
line of JSON for each run: score, wins and KL against the start on held-out prompts, and perplexities per token at the
start and at the end. These are measured on the held-out demonstrations, given their prompts, and on the first 200 texts
of `--held-out` (a column `text`) as plain text.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.helpers.common import machine, say

SETTINGS = {"steps": 16, "batch_size": 32, "ppo_epochs": 1, "minibatches": 4, "ptx_rows": 8, "max_new_tokens": 48,
            "learning_rate": 1.5e-3, "value": "head", "dtype": "bf16", "kl_coef": 0.02, "kl_target": 0.0,
            "guard": False, "schedule": "linear"}
PROMPTS = 64
"""Held-out prompts, answered twice by the start and twice by the end."""
TEXTS = 200
"""Held-out rows of each kind, at most."""


def measure(given: dict, held_out: list, function) -> dict:
    """One run, in this process; nothing is written."""
    from rlhf_engine.build import make_trainer
    from rlhf_engine.data.readers import read_prompts
    from rlhf_engine.data.tokenization import encode_examples
    from rlhf_engine.evaluation.compare import compare, mean_logprob, text_judge
    from rlhf_engine.model.generation import Sampling
    from rlhf_engine.stages import make_config

    start = time.perf_counter()
    trainer = make_trainer(make_config("ppo", given))
    backbone, config = trainer.backbone, trainer.config
    rows = list(trainer)
    seconds = time.perf_counter() - start

    def perplexity(role: str, examples: list) -> float:
        encoded, _ = encode_examples(backbone, examples, trainer.max_tokens)
        return math.exp(-mean_logprob(backbone, role, [r.prompt_ids for r in encoded],
                                      [r.completion_ids for r in encoded], 16))

    prompts, sampling = read_prompts("bundled-heldout", limit=PROMPTS), Sampling(config.max_new_tokens,
                                                                                 config.temperature)
    report, _ = compare(backbone, "policy", "reference", prompts, text_judge(function), seed=config.seed,
                        sampling=sampling)
    kept = ("win_rate", "score", "score_against", "kl", "perplexity_ratio", "distinct_ratio", "empty", "length")
    found = {name: report[name] for name in kept}
    found |= {f"perplexity_{name}": [perplexity(role, examples) for role in ("reference", "policy")]
              for name, examples in held_out.items()}
    if "loss/ptx" in rows[0]:
        found["loss_ptx"] = [statistics.mean(row["loss/ptx"] for row in part) for part in (rows[:3], rows[-3:])]
    found |= {"update": statistics.median(row["time/update"] for row in rows), "seconds": seconds,
              "parts": {part: sum(row[f"time/{part}"] for row in rows) for part in ("rollout", "score", "update")},
              "kls": [row["objective/kl"] for row in rows[::3]],
              "grad_norm": statistics.median(row["grad_norm"] for row in rows)}
    return json.loads(json.dumps(found), parse_float=lambda x: round(float(x), 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coefs", nargs="+", type=float, default=[0.0, 0.03, 0.1, 0.3, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--reward", default="sentiment", help="a built-in scoring function, or FILE.py:FUNCTION")
    parser.add_argument("--text", help="what is mixed in, in the place of the bundled demonstrations")
    parser.add_argument("--held-out", help="plain text to measure on")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    args = parser.parse_args()

    from rlhf_engine.data.batches import split_held_out
    from rlhf_engine.data.readers import read_demonstrations
    from rlhf_engine.feedback import scoring_functions

    settings = SETTINGS | dict(field.split("=", 1) for field in args.set)
    if args.reward in scoring_functions.BUILT_IN:
        function = scoring_functions.BUILT_IN[args.reward]
        settings["reward"] = f"{scoring_functions.__file__}:{args.reward}"
    else:
        function = scoring_functions.load_function(args.reward)
        settings["reward"] = args.reward
    say({"machine": machine(), "reward": args.reward, "text": Path(args.text).name if args.text else "bundled",
         "settings": settings})
    demonstrations, kept = split_held_out(list(read_demonstrations("bundled")), 1 / 6, 0,
                                          key=lambda row: str(row.prompt))
    held_out = {"demonstrations": [(row.prompt, row.completion) for row in kept[:TEXTS]]}
    if args.held_out:
        held_out["text"] = [(row.prompt, row.completion) for row in read_demonstrations(args.held_out, limit=TEXTS)]
    with tempfile.TemporaryDirectory() as folder:
        bundled = Path(folder) / "demonstrations.jsonl"
        bundled.write_text("".join(json.dumps({"prompt": row.prompt, "completion": row.completion}) + "\n"
                                   for row in demonstrations))
        for seed in args.seeds:
            for coef in args.coefs:
                given = settings | {"seed": seed, "ptx_coef": coef, "ptx_data": args.text or str(bundled)}
                say({"seed": seed, "ptx_coef": coef} | measure(given, held_out, function))


if __name__ == "__main__":
    main()
