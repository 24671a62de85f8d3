"""The good inputs that the fuzzer spoils: a tiny model, two runs, an adapter, data of every format, settings and a scoring function."""

import json
import shutil
from pathlib import Path

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from tests.conftest import make_tokenizer, save, sentences

SCORE = '''
def length(prompt, response):
    return -abs(len(response) - 20) / 10
'''
SMALL = {"steps": 1, "batch_size": 2, "lora_rank": 2, "max_tokens": 64}
SETTINGS: dict[str, dict] = {
    "sft": {"model": "model", "data": "data/prompt-completion.jsonl", "output": "out", **SMALL},
    "reward": {"model": "model", "data": "data/pairs.jsonl", "output": "out", "reference_samples": 4, "max_new_tokens": 4, **SMALL},
    "ppo": {"model": "model", "data": "data/prompts.jsonl", "output": "out", "reward": "score.py:length", "reference_samples": 4, "max_new_tokens": 4, "minibatches": 1, "ppo_epochs": 1, **SMALL},
    "teach": {"model": "model", "data": "data/prompts.jsonl", "output": "out", "labeler": "short", "votes": 2, "votes_first": 2, "candidates": 2, "choices": 2, "ensemble": 1,
              "reference_samples": 4, "max_new_tokens": 4, "minibatches": 1, **SMALL},
}
"""The settings of a small run of each stage, as a YAML file and as flags have them."""
COMMANDS: dict[str, list[str]] = {
    "chat": ["chat", "--model", "model", "--adapter", "adapter", "--prompt", "hello there", "--max-new-tokens", "4", "--seed", "1"],
    "evaluate": ["evaluate", "--model", "model", "--adapter", "adapter", "--against", "none", "--data", "data/prompts.jsonl", "--judge", "score.py:length", "--limit", "2", "--per-prompt", "1",
                 "--max-new-tokens", "4", "--output", "out"],
    "export": ["export", "--model", "model", "--adapter", "adapter", "--output", "out"],
    "merge": ["export", "--model", "model", "--adapter", "adapter", "--output", "out", "--merge"],
}
"""Command lines of the commands that are no stages."""


def flags_of(settings: dict) -> list[str]:
    """Settings as flags."""
    return [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), str(value))]


def command(stage: str, **changes) -> list[str]:
    """The command line of a small run."""
    return [stage, *flags_of(SETTINGS[stage] | changes)]


def data_rows() -> dict[str, tuple[str, list[dict]]]:
    """Rows of every format by name, with the stage that reads them."""
    texts = sentences(8, seed=7)
    parts = [(t[:15], t[15:30], t[30:45]) for t in texts]

    def turns(*contents: str) -> list[dict]:
        return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]

    def dialogue(a: str, b: str) -> str:
        return f"\n\nHuman: {a}\n\nAssistant: {b}"
    formats = {
        "prompts": ("ppo", [{"prompt": a} for a, _, _ in parts]),
        "prompt-turns": ("ppo", [{"prompt": turns(a)} for a, _, _ in parts]),
        "prompt-completion": ("sft", [{"prompt": a, "completion": b} for a, b, _ in parts]),
        "turns-completion": ("sft", [{"prompt": turns(a), "completion": turns("", b)[1:]} for a, b, _ in parts]),
        "messages": ("sft", [{"messages": turns(a, b)} for a, b, _ in parts]),
        "parts": ("sft", [{"messages": [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in turns(a, b)]} for a, b, _ in parts]),
        "conversations": ("sft", [{"conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]} for a, b, _ in parts]),
        "alpaca": ("sft", [{"instruction": a, "input": b, "output": c} for a, b, c in parts]),
        "text": ("sft", [{"text": t} for t in texts]),
        "thumbs": ("sft", [{"prompt": a, "completion": b, "label": True} for a, b, _ in parts]),
        "pairs": ("reward", [{"prompt": a, "chosen": b, "rejected": c} for a, b, c in parts]),
        "margins": ("reward", [{"prompt": a, "chosen": b, "rejected": c, "margin": 0.5} for a, b, c in parts]),
        "pair-turns": ("reward", [{"prompt": turns(a), "chosen": turns("", b)[1:], "rejected": turns("", c)[1:]} for a, b, c in parts]),
        "pair-dialogues": ("reward", [{"chosen": turns(a, b), "rejected": turns(a, c)} for a, b, c in parts]),
        "hh": ("reward", [{"chosen": dialogue(a, b), "rejected": dialogue(a, c)} for a, b, c in parts]),
        "ranking": ("reward", [{"prompt": a, "responses": [b, c, a], "ranking": [1, 2, 2]} for a, b, c in parts]),
        "scores": ("reward", [{"prompt": a, "responses": [b, c], "scores": [1.0, 0.0]} for a, b, c in parts]),
    }
    return dict(formats)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_inputs(folder: Path) -> Path:
    """Write all of it into `folder` (new), and return it. The two runs are made by the command line."""
    from tests.fuzz.runner import quiet_main
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    tokenizer = make_tokenizer(chat=True)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
                         initializer_range=0.2)
    save(LlamaForCausalLM(config), tokenizer, folder / "model")
    (folder / "data").mkdir()
    for name, (_, rows) in data_rows().items():
        write_jsonl(folder / "data" / f"{name}.jsonl", rows)
    (folder / "score.py").write_text(SCORE)
    for stage, settings in SETTINGS.items():
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump({"stage": stage, **settings}))
    for stage in ("sft", "reward"):
        outcome = quiet_main(command(stage, output=f"runs-{stage}"), folder)
        assert outcome.code == 0, outcome.stderr
    shutil.copytree(folder / "runs-sft" / "checkpoints" / "step-000001" / "policy", folder / "adapter")
    return folder
