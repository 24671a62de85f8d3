"""The model card of an export: facts of its run, and how to load it. What users have written stays text, in YAML and in Markdown."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from rlhf_engine.runs.resolve import BUNDLED_MODEL
from rlhf_engine.stages import STAGES

SETTINGS = ("adapter", "data", "labeler", "reward", "votes", "epochs", "batch_size", "learning_rate", "lora_rank", "lora_alpha",
            "max_tokens", "max_new_tokens", "temperature", "kl_target", "kl_coef", "dtype", "seed")
"""Those that matter, where a stage has them."""
REPORT = {"votes": "votes", "kl": "KL from the policy it started from, nats per sequence", "kl_per_token": "the same per token",
          "perplexity_ratio": "perplexity under the bare base, over that of the start",
          "distinct_ratio": "distinct-2, over that of the start", "empty": "share of empty responses",
          "held_out_loss": "loss on held-out demonstrations", "accuracy_held_out": "accuracy on held-out pairs",
          "calibration_held_out": "calibration error on held-out pairs", "prompts": "held-out prompts", "samples": "samples"}
LONGEST = 200
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Card:
    """What a card is made from. `base` is an id on the Hub if `on_hub`, else a folder; `repo` is where it is pushed to, or nothing."""

    base: str
    base_folder: Path
    on_hub: bool
    merged: bool = False
    reward: bool = False
    four_bits: bool = False
    repo: str = ""
    step: int = 0
    config: dict = field(default_factory=dict)
    report: dict = field(default_factory=dict)


def card(given: Card) -> str:
    """README.md of an export."""
    title = "Reward model" if given.reward else "Merged model" if given.merged else "LoRA adapter"
    parts = [front_matter(given), f"# {title}, made with RLHF Playground", about(given), "## Loading it", loading(given)]
    if given.config:
        parts += ["## The settings it began with", settings(given.config)]
    if given.report:
        parts += ["## What was measured", measured(given.report)]
    return "\n\n".join(parts) + "\n"


def front_matter(given: Card) -> str:
    stage = given.config.get("stage")
    values = {"library_name": "transformers" if given.merged else "peft"}
    if given.on_hub:
        values["base_model"] = given.base
        values["base_model_relation"] = "finetune" if given.merged else "adapter"
    if not given.reward:
        values["pipeline_tag"] = "text-generation"
    values["tags"] = ["rlhf-playground", "rlhf", *([stage] if stage in STAGES else []), *([] if given.merged else ["lora"])]
    return f"---\n{yaml.safe_dump(values | licence(given), sort_keys=False)}---"


def licence(given: Card) -> dict:
    """What the base's own card says of its licence; nothing where it says nothing, or where there is no card."""
    text = base_card(given)
    if not text.startswith("---\n"):
        return {}
    try:
        stated = yaml.safe_load(text.split("\n---", 1)[0])
    except yaml.YAMLError:
        return {}
    names = ("license", "license_name", "license_link")
    return {name: stated[name] for name in names if isinstance(stated.get(name), str)} if isinstance(stated, dict) else {}


def base_card(given: Card) -> str:
    file = given.base_folder / "README.md"
    if given.on_hub:
        from huggingface_hub import hf_hub_download
        try:
            file = Path(hf_hub_download(given.base, "README.md"))
        except Exception:  # none, or no network: then its licence stays open
            return ""
    try:
        return file.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, ValueError):
        return ""


def about(given: Card) -> str:
    base = plain(given.base) if given.on_hub else f"{plain(Path(given.base).name)}, which is no model of the Hub"
    stage = STAGES.get(given.config.get("stage", ""))
    done = (stage.method or stage.label) if stage else None
    lines = [f"Base model: {base}.", *([f"Stage: {done}, {given.step} steps."] if done else [])]
    if given.reward:
        lines.append("It is a LoRA adapter and a scalar head that reads a response's last hidden states.")
    if given.four_bits:
        lines.append("It was trained on the base in 4 bits (NF4)" + (" and is merged into the full-precision one: it may answer slightly "
                                                                     "differently." if given.merged else "."))
    return "\n".join(lines)


def loading(given: Card) -> str:
    """Code that loads it with nothing of ours; a reward model, whose head no other library knows, with the engine."""
    here = given.repo or "THIS-FOLDER"
    if given.reward:
        return code("sh", f"python -m rlhf_engine ppo --model MODEL --reward {here} --output RUN   # or evaluate --judge")
    names = ("AutoModelForCausalLM", "AutoTokenizer")
    lines = [f"from transformers import {', '.join(names)}", ""]
    if given.merged:
        lines.append(f"model = {names[0]}.from_pretrained({json.dumps(here)})")
    else:
        lines[:1] = ["from peft import PeftModel", lines[0]]
        lines.append(f"base = {names[0]}.from_pretrained({json.dumps(given.base)})")
        lines.append(f"model = PeftModel.from_pretrained(base, {json.dumps(here)})")
    lines.append(f"tokenizer = {names[1]}.from_pretrained({json.dumps(here)})")
    text = code("python", "\n".join(lines))
    if given.merged and given.base_folder != BUNDLED_MODEL:  # of which llama.cpp does not know the tokenizer
        text += ("\n\nFor llama.cpp, where it knows the base's architecture and tokenizer:\n\n"
                 + code("sh", "python convert_hf_to_gguf.py THIS-FOLDER --outfile model.gguf"))
    return text


def settings(config: dict) -> str:
    return table(("setting", "value"), [(name, shown(name, config[name])) for name in SETTINGS if config.get(name) not in (None, "")])


def shown(name: str, value) -> str:
    """Of a path the last part: where files lie on somebody's machine is nobody else's. Of a judge neither model nor server."""
    if name == "labeler":
        value = str(value).partition("=")[0] if str(value).startswith("judge") else value
    is_id = isinstance(value, str) and value.count("/") == 1 and "\\" not in value and not Path(value).exists()
    if name in ("adapter", "data", "reward", "labeler") and not is_id:
        value = re.split(r"[/\\]", str(value))[-1]
    return "fitted to the model" if name == "learning_rate" and not value else str(value)


def measured(report: dict) -> str:
    """A table of the numbers of report.json."""
    rows = []
    if numbers(report, "win_rate", "win_rate_low", "win_rate_high"):
        rows.append(("wins against the policy it started from, ties half (95 % interval)",
                     f"{report['win_rate']:.1%} ({report['win_rate_low']:.1%} to {report['win_rate_high']:.1%})"))
    rows += [(title, f"{report[name]:.4g}") for name, title in REPORT.items() if numbers(report, name)]
    return table(("measure", "value"), rows)


def numbers(report: dict, *names: str) -> bool:
    return all(isinstance(report.get(name), (int, float)) for name in names)


def table(heads: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [heads, ["---"] * len(heads), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def plain(value) -> str:
    """Text that neither Markdown nor HTML takes for anything else, on one line."""
    kept = "".join(c for c in " ".join(str(value).split()) if c.isprintable())[:LONGEST]
    return re.sub(r"[^\w .,;()%+/-]|\b_|_\b", lambda found: f"&#{ord(found[0])};", kept)
