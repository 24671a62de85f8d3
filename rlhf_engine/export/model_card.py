"""The model card of an export: facts of its run, and how to load it.

What users have written (names, paths, instructions) stays text: it is escaped in YAML and in Markdown.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlhf_engine.runs.resolve import BUNDLED_MODEL
from rlhf_engine.stages import STAGES
from rlhf_engine.yaml_files import parse_yaml

SETTINGS = ("adapter", "data", "labeler", "reward", "votes", "epochs", "batch_size", "learning_rate", "lora_rank",
            "lora_alpha", "max_tokens", "max_new_tokens", "temperature", "kl_target", "kl_coef", "dtype", "seed")
"""The settings that a card lists, where a stage has them."""
PATH_SETTINGS = ("adapter", "data", "reward", "labeler")
"""Those that may hold a path."""
MEASURES = {"votes": "votes", "kl": "KL from the policy it started from, nats per sequence",
            "kl_per_token": "the same per token",
            "perplexity_ratio": "perplexity under the bare base, over that of the start",
            "distinct_ratio": "distinct-2, over that of the start", "empty": "share of empty responses",
            "held_out_loss": "loss on held-out demonstrations", "accuracy_held_out": "accuracy on held-out pairs",
            "calibration_held_out": "calibration error on held-out pairs", "prompts": "held-out prompts",
            "samples": "samples"}
"""The numbers of report.json that a card lists, and their titles."""
LONGEST_VALUE = 200
"""Characters of a value that are shown."""
BASE_FOLDER = "BASE-FOLDER"
"""What stands in the code of a card for a base that is not on the Hub: where it is on somebody's machine is private."""
LICENCE_KEYS = ("license", "license_name", "license_link")
"""Keys of the base's card that are taken over."""


@dataclass(frozen=True)
class Card:
    """What a card is made from."""

    base: str
    """The base's id if it is on the Hub, else its folder."""
    base_folder: Path
    on_hub: bool
    """Whether the base is on the Hub."""
    merged: bool = False
    reward: bool = False
    four_bits: bool = False
    """Whether it was trained on the base in 4 bits."""
    repo: str = ""
    """The repository that it is pushed to, if it is."""
    step: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    """The settings of the run; empty if there was none."""
    report: dict[str, Any] = field(default_factory=dict)
    """report.json of the run; empty if there is none of this step."""
    flags: list[str] | None = None
    """What the report that goes along says in words; None without one."""


def card(facts: Card) -> str:
    """README.md of an export."""
    title = "Reward model" if facts.reward else "Merged model" if facts.merged else "LoRA adapter"
    parts = [front_matter(facts), f"# {title}, made with RLHF Playground", about(facts), "## Loading it",
             loading(facts)]
    if facts.config:
        parts += ["## The settings it began with", settings(facts.config)]
    if facts.report:
        parts += ["## What was measured", measured(facts.report)]
    if facts.flags is not None:
        parts += ["## The report", linked_report(facts.flags)]
    return "\n\n".join(parts) + "\n"


# -- front matter ------------------------------------------------------------------------------------------------------

def front_matter(facts: Card) -> str:
    """The card's YAML, from which the Hub reads library, base and licence."""
    values: dict[str, Any] = {"library_name": "transformers" if facts.merged else "peft"}
    if facts.on_hub:
        values["base_model"] = facts.base
        values["base_model_relation"] = "finetune" if facts.merged else "adapter"
    if not facts.reward:
        values["pipeline_tag"] = "text-generation"
    values["tags"] = ["rlhf-playground", "rlhf"]
    stage = facts.config.get("stage")
    if stage in STAGES:
        values["tags"].append(stage)
    if not facts.merged:
        values["tags"].append("lora")
    values.update(licence(facts))
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def licence(facts: Card) -> dict[str, str]:
    """The licence that the base's own card states; empty if it states none, or if there is no card."""
    text = base_card(facts)
    if not text.startswith("---\n"):
        return {}
    try:
        stated = parse_yaml(text.split("\n---", 1)[0])
    except (yaml.YAMLError, ValueError):
        return {}
    if not isinstance(stated, dict):
        return {}
    return {name: stated[name] for name in LICENCE_KEYS if isinstance(stated.get(name), str)}


def base_card(facts: Card) -> str:
    """The text of the base's own card; empty if there is none."""
    file = facts.base_folder / "README.md"
    if facts.on_hub:
        from huggingface_hub import hf_hub_download
        try:
            file = Path(hf_hub_download(facts.base, "README.md"))
        except Exception:  # there is none, or no network: then the licence stays open
            return ""
    try:
        return file.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, ValueError):
        return ""


# -- sections ----------------------------------------------------------------------------------------------------------

def about(facts: Card) -> str:
    """What it is: its base, its stage, how it was trained."""
    base = plain(facts.base if facts.on_hub else Path(facts.base).name)
    lines = [f"Base model: {base}." if facts.on_hub else f"Base model: {base}, which is no model of the Hub."]
    stage = STAGES.get(facts.config.get("stage", ""))
    if stage:
        lines.append(f"Stage: {stage.method or stage.label}, {facts.step} steps.")
    if facts.reward:
        lines.append("It is a LoRA adapter and a scalar head that reads a response's last hidden states.")
    if facts.four_bits and facts.merged:
        lines.append("It was trained on the base in 4 bits (NF4) and is merged into the full-precision one: it may "
                     "answer slightly differently.")
    elif facts.four_bits:
        lines.append("It was trained on the base in 4 bits (NF4).")
    return "\n".join(lines)


def loading(facts: Card) -> str:
    """Code that loads it without this project. Only a reward model needs the engine: no other library knows its
    head."""
    here, base = facts.repo or "THIS-FOLDER", facts.base if facts.on_hub else BASE_FOLDER
    if facts.reward:
        command = f"python -m rlhf_engine ppo --model MODEL --reward {here} --output RUN   # or evaluate --judge"
        return code("sh", command)
    if facts.merged:
        lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "",
                 f"model = AutoModelForCausalLM.from_pretrained({json.dumps(here)})"]
    else:
        lines = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer", "",
                 f"base = AutoModelForCausalLM.from_pretrained({json.dumps(base)})",
                 f"model = PeftModel.from_pretrained(base, {json.dumps(here)})"]
    lines.append(f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(here)})")
    text = code("python", "\n".join(lines))
    if not facts.merged and not facts.on_hub:
        home = " (in RLHF Playground: `assets/storyteller`)" if facts.base_folder == BUNDLED_MODEL else ""
        text += f"\n\n{BASE_FOLDER} is the folder of the base model {plain(Path(facts.base).name)}{home}."
    if facts.merged and facts.base_folder != BUNDLED_MODEL:  # llama.cpp does not know the bundled model's tokenizer
        text += "\n\nFor llama.cpp, where it knows the base's architecture and tokenizer:\n\n"
        text += code("sh", "python convert_hf_to_gguf.py THIS-FOLDER --outfile model.gguf")
    return text


def settings(config: dict[str, Any]) -> str:
    """A table of the settings."""
    rows = [(name, shown(name, config[name])) for name in SETTINGS if config.get(name) not in (None, "")]
    return table(("setting", "value"), rows)


def shown(name: str, value: Any) -> str:
    """The value of a setting as others may read it.

    Of a path it is the last part: where files are on somebody's machine is private. Of a judge it names neither model
    nor server.
    """
    if name == "labeler" and str(value).startswith("judge"):
        value = str(value).partition("=")[0]
    is_hub_id = isinstance(value, str) and value.count("/") == 1 and "\\" not in value and not Path(value).exists()
    if name in PATH_SETTINGS and not is_hub_id:
        value = re.split(r"[/\\]", str(value))[-1]
    return "fitted to the model" if name == "learning_rate" and not value else str(value)


def measured(report: dict[str, Any]) -> str:
    """A table of the numbers of report.json."""
    rows = []
    if are_numbers(report, "win_rate", "win_rate_low", "win_rate_high"):
        rows.append(("wins against the policy it started from, ties half (95 % interval)",
                     f"{report['win_rate']:.1%} ({report['win_rate_low']:.1%} to {report['win_rate_high']:.1%})"))
    rows += [(title, f"{report[name]:.4g}") for name, title in MEASURES.items() if are_numbers(report, name)]
    return table(("measure", "value"), rows)


def linked_report(flags: list[str]) -> str:
    """The report beside the card: a link, its picture, and what it says in words."""
    lines = ["[report.html](report.html) has wins, costs and samples before and after.", "",
             "![The report in one picture](card.png)", ""]
    return "\n".join([*lines, *(f"- {plain(flag)}" for flag in flags)] if flags else [*lines, "No flag was raised."])


def are_numbers(report: dict[str, Any], *names: str) -> bool:
    """Whether a report has a number under each of these names."""
    return all(isinstance(report.get(name), (int, float)) for name in names)


# -- Markdown ----------------------------------------------------------------------------------------------------------

def table(head: tuple[str, ...], rows: list[tuple[str, str]]) -> str:
    """A Markdown table; the cells of `rows` are escaped."""
    lines = [list(head), ["---"] * len(head)]
    lines += [[plain(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(language: str, text: str) -> str:
    """A fenced block of code."""
    return f"```{language}\n{text}\n```"


def plain(value: Any) -> str:
    """Text on one line that neither Markdown nor HTML takes for anything else."""
    one_line = " ".join(str(value).split())
    printable = "".join(character for character in one_line if character.isprintable())
    return re.sub(r"[^\w .,;()%+/-]|\b_|_\b", lambda match: f"&#{ord(match[0])};", printable[:LONGEST_VALUE])
