"""The report as one HTML file that loads nothing: text, tables and figures, for a screen, a phone and paper."""

import random
import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlhf_engine import config as configs
from rlhf_engine.arguments import command_line
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.evaluation.report import figures
from rlhf_engine.evaluation.report.flags import Flag
from rlhf_engine.evaluation.report.subject import Subject
from rlhf_engine.export.model_card import shown
from rlhf_engine.stages import STAGES

TEMPLATES = Path(__file__).parent / "templates"
SAMPLES = 6
"""Prompts whose responses are shown."""
LONGEST_TEXT = 1500
"""Characters of a response that are shown."""


def report_page(subject: Subject, report: dict[str, Any], rows: list[dict[str, Any]], flags: list[Flag],
                command: str) -> str:
    """The whole file.

    `report`: what stands in report.json. `rows`: the samples. `command`: what makes this report.
    """
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, two=two_decimals)
    judges = report["judges"]
    return environment.get_template("report.html").render(
        subject=subject, report=report, flags=flags, judges=judges, tax=tax_table(report.get("tax") or {}),
        lead=lead_judge(judges), samples=chosen_samples(rows, report["seed"]),
        figures=[(caption, Markup(svg)) for caption, svg in figures_of(subject, report) if svg],
        settings=settings_of(subject), commands=commands_of(subject, command), date=time.strftime("%d %B %Y"))


def lead_judge(judges: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The judge that the head of the report is about: the first that may be believed, else the first."""
    judged = [row for row in judges if "win_rate" in row]
    return next((row for row in judged if row["is_gold"]), judged[0] if judged else None)


def figures_of(subject: Subject, report: dict[str, Any]) -> list[tuple[str, str]]:
    """(caption, SVG) of each figure; "" for one that has nothing to show."""
    judges, found = report["judges"], []
    if any("win_rate" in row for row in judges):
        found.append(("Wins over the start, with 95 % intervals over prompts", figures.wins_figure(judges)))
    found.append(("The run, step by step", figures.curves_figure(subject.metrics)))
    shift = report.get("shift") or {"judges": []}
    found += [("The scores on the way, each checkpoint above the one before",
               figures.shift_figure(judge, [row["kl"] for row in shift["checkpoints"]])) for judge in shift["judges"]]
    alone = subject.makes == "reward"
    found += [("What it scores" if alone else "How the scores moved", figures.scores_figure(row, reward_alone=alone))
              for row in judges[:2] if row["histograms"] and not row["alike"]]
    return found


def tax_table(tax: dict[str, Any]) -> dict[str, Any]:
    """What a policy cost, as a table: `head`, `rows` and a sentence `about` the data."""
    about = []
    if data := tax.get("text_data"):
        about.append(f"{data['documents']:,} held-out texts ({data['tokens']:,} tokens)")
    if data := tax.get("pair_data"):
        about.append(f"{data['pairs']:,} minimal pairs of {data['paradigms']} kinds")
    rows = [[row["name"], *tax_cells(row)] for row in tax.get("checkpoints", [])]
    return {"about": f"Read on {' and '.join(about)}. 95 % intervals, in pairs." if about else "", "rows": rows,
            "head": ["", "perplexity of text", "beside the start", "right pairs", "less the start's"]}


def tax_cells(row: dict[str, Any]) -> list[str]:
    """The cells of a checkpoint; a dash for what was not measured."""
    text, pairs = row.get("text") or {}, row.get("pairs") or {}
    cells = [f"{text['perplexity']:.2f}" if text else "–", "–", f"{pairs['accuracy']:.1%}" if pairs else "–", "–"]
    if "ratio" in text:
        cells[1] = f"×{text['ratio']:.3f} ({text['ratio_low']:.3f} to {text['ratio_high']:.3f})"
    if "difference" in pairs:
        ends = f"{pairs['difference_low']:+.1%} to {pairs['difference_high']:+.1%}"
        cells[3] = f"{pairs['difference']:+.1%} ({ends})"
    return cells


def chosen_samples(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """A few rows of different prompts, chosen at random and not by how good they are."""
    order = random.Random(f"{seed} shown").sample(range(len(rows)), len(rows))
    chosen, prompts = [], set()
    for place in order:
        prompt = str(rows[place]["prompt"])
        if prompt not in prompts and len(chosen) < SAMPLES:
            prompts.add(prompt)
            row = rows[place]
            chosen.append({**row, "prompt": prompt_text(row["prompt"]), "response": cut(row["response"]),
                           "against": cut(row.get("against", "")), "scores": row.get("scores"),
                           "scores_against": row.get("scores_against")})
    return chosen


def prompt_text(prompt: Prompt) -> str:
    """A prompt as text; of a conversation, each turn with who speaks."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def cut(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"


def settings_of(subject: Subject) -> list[tuple[str, str]]:
    """The settings of the run that are not at their default, as others may read them: no path of this machine."""
    stage = STAGES.get(subject.stage)
    if stage is None:
        return [(name, shown(name, value)) for name, value in subject.config.items() if value not in ("", None)]
    kinds = configs.field_types(stage.config)
    return [(name, shown(name, value)) for name, value in subject.config.items()
            if name in kinds and name != "output" and value != getattr(stage.config, name)]


def commands_of(subject: Subject, command: str) -> list[tuple[str, str]]:
    """(what it does, command) of the run and of this report."""
    found = []
    if subject.stage in STAGES:
        settings = {name: shown(name, value) if isinstance(value, str) else value
                    for name, value in subject.config.items() if name != "stage"}
        settings["output"] = subject.name.partition(" at step ")[0]
        found.append(("The run", command_line(subject.stage, settings)))
    return [*found, ("This report", command)]


def percent(share: float | None, digits: int = 0) -> str:
    """A share as a percentage; a dash where there is none."""
    return "–" if share is None else f"{share:.{digits}%}"


def two_decimals(value: float | None) -> str:
    """A number with two decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.2f}"
