"""The memory estimate (rlhf_engine/runs/memory_estimate.py) and what runs really take from start to end.

    python benchmarks/memory.py [--only bundled/fp32 ...] [--steps 4]

Each stage is a process of its own, on the bundled model and on a random Llama of 36 million parameters with long rows,
where the libraries are no longer most of the memory. `peak_mb` is what the run writes into its report. `off` is the
estimate over the peak, minus one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.helpers.common import machine, make_model, prompts, say
from rlhf_engine import config as configs
from rlhf_engine.runs.memory_estimate import estimate, read_model, read_shape
from rlhf_engine.runs.resolve import resolve_model
from rlhf_engine.stages import STAGES, make_config

LARGE = dict(hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4,
             vocab_size=12000)
ROW, ANSWER = 224, 64
"""Tokens of the random model's rows, and of these the longest response."""
SAME_DATA = {"teach": "ppo", "dpo": "reward"}
"""Stages that read what another one reads."""


def write_data(folder: Path) -> dict[str, Path]:
    """Rows of one length for the random model, one file a stage. A reward is a file, too."""
    texts = prompts(64, ROW - ANSWER - 1)
    rows = {"sft": [{"prompt": t, "completion": " ".join(t.split()[:ANSWER])} for t in texts],
            "reward": [{"prompt": t, "chosen": " ".join(t.split()[:ANSWER]), "rejected": " ".join(t.split()[-ANSWER:])}
                       for t in texts],
            "ppo": [{"prompt": t} for t in texts]}
    for stage, found in rows.items():
        (folder / f"{stage}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return {stage: folder / f"{SAME_DATA.get(stage, stage)}.jsonl" for stage in STAGES}


def settings(stage: str, kind: str, dtype: str, steps: int, folder: Path) -> tuple[dict, int]:
    """Settings of a short run, and the length of its longest row."""
    chosen = {"dtype": dtype, "steps": steps, "device": "cpu"}
    if stage == "teach":
        chosen |= {"labeler": "short", "votes": 30}
    if kind == "bundled":
        tokens = STAGES[stage].memory.bundled_tokens + (STAGES[stage].config().max_new_tokens
                                                        if STAGES[stage].memory.online else 0)
    else:
        tokens = ROW
        chosen |= {"model": str(folder / "model"),
                   "data": str(folder / f"{SAME_DATA.get(stage, stage)}.jsonl"), "batch_size": 8}
        chosen |= {"max_new_tokens": ANSWER, "reference_samples": 8} if stage != "sft" else {}
    return chosen, tokens


def measure(stage: str, kind: str, dtype: str, steps: int, folder: Path, extra: dict) -> dict:
    chosen, tokens = settings(stage, kind, dtype, steps, folder)
    chosen |= extra
    output = folder / f"{stage}-{kind}-{dtype}"
    if stage == "ppo":
        chosen["reward"] = str(folder / f"reward-{kind}-{dtype}")
    flags = [part for name, value in chosen.items()
             for part in (configs.flag(name), *([] if value is True else [str(value)]))]
    done = subprocess.run([sys.executable, "-m", "rlhf_engine", stage, *flags, "--output", str(output), "--overwrite"],
                          capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
                          cwd=Path(__file__).resolve().parents[1])
    if done.returncode:
        sys.exit(f"{stage} failed:\n{done.stderr[-2000:]}")
    peak = json.loads((output / "report.json").read_text())["peak_memory_mb"]
    config = make_config(stage, chosen)
    found = estimate(config, read_shape(read_model(resolve_model(config.model))), tokens=tokens)
    return {"stage": stage, "model": kind, "dtype": dtype, **extra, "peak_mb": peak, "estimate_mb": found.total >> 20,
            "off": round(found.total / (peak << 20) - 1, 2),
            "parts_mb": {name: size >> 20 for name, size in found.parts.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["bundled/fp32", "bundled/bf16", "large/fp32", "large/bf16"])
    parser.add_argument("--stages", nargs="*", default=list(STAGES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    args = parser.parse_args()
    say(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        make_model(folder / "model", **LARGE)
        for case in args.only:
            for stage in args.stages:
                say(measure(stage, *case.split("/"), args.steps, folder, {"gradient_checkpointing": True}
                            if args.checkpointing else {}))


if __name__ == "__main__":
    main()
