"""GRPO against a rule of yes or no: does a story name what was asked for, as a whole word, and end in time?

    python benchmarks/surveys/names_the_thing.py [--rule names_noun] [--seeds 0 1 2] [--set steps=60 ...]

Each run starts from the bundled SFT adapter. Its reward is a rule of `benchmarks/preferences.py`: `names_noun` wants
the puppy of "a shiny puppy", `names_thing` also wants it to be shiny. A story that does not end in time gets the score
of a missing end. Prints a line of JSON for each seed, measured on held-out prompts:
the share of stories that name the thing and end in time, before and after (with 95 % intervals); KL in nats a sequence;
distinct-2 and mean length as ratios to the start; and the seconds of training on the clock. They mean something on two
quiet cores only.
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import preferences
from benchmarks.helpers.common import machine, say
from benchmarks.people.assistant import share

PROMPTS, PER_PROMPT, LONGEST = 128, 4, 96


def measure(rule: str, seed: int, changed: dict) -> dict:
    """The line of one seed."""
    from rlhf_engine.build import make_trainer
    from rlhf_engine.data.readers import read_prompts
    from rlhf_engine.evaluation.compare import compare
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling
    from rlhf_engine.stages import make_config

    settings = {"reward": f"{preferences.__file__}:{rule}", "dtype": "bf16", "max_new_tokens": LONGEST}
    function = getattr(preferences, rule)
    config = make_config("grpo", {**settings, "seed": seed, **changed})
    backbone = Backbone.load("bundled", dtype=config.dtype)
    started = time.perf_counter()
    trainer = make_trainer(config, backbone=backbone)
    for _ in trainer:
        pass
    seconds = time.perf_counter() - started

    def judge(prompts, prompt_ids, response_ids, texts) -> list[float]:
        return [float(function(str(prompt), text) and ids[-1] in backbone.stop_ids)
                for prompt, ids, text in zip(prompts, response_ids, texts)]

    held_out = list(read_prompts("bundled-heldout"))
    prompts = random.Random(0).sample(held_out, min(PROMPTS, len(held_out)))
    found, rows = compare(backbone, "policy", "reference", prompts, judge, per_prompt=PER_PROMPT, seed=seed,
                          sampling=Sampling(LONGEST))
    lengths = [sum(len(backbone.tokenizer(row[name]).input_ids) for row in rows) for name in ("response", "against")]
    return {"seed": seed, "steps": trainer.step, "seconds": round(seconds),
            "before": share([row["score_against"] for row in rows]), "after": share([row["score"] for row in rows]),
            "kl": round(found["kl"], 2), "distinct": round(found["distinct_ratio"], 3),
            "perplexity": round(found["perplexity_ratio"], 3), "length": round(lengths[0] / lengths[1], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rule", default="names_noun", choices=("names_noun", "names_thing"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    args = parser.parse_args()
    say({"machine": machine(), "rule": args.rule, "set": args.set})
    for seed in args.seeds:
        say(measure(args.rule, seed, dict(field.split("=", 1) for field in args.set)))


if __name__ == "__main__":
    main()
