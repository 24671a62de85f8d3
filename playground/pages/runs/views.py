"""Several runs beside each other as HTML: who they are, warnings, answers through time, settings, reports."""

import math
from pathlib import Path

from playground import text as app_text
from playground.components import html as views
from playground.components import text as shared_text
from playground.components.formatting import conversation, plain
from playground.components.html import escape
from playground.components.inputs import label
from playground.pages.runs import text
from playground.pages.runs.comparison_charts import RUN_COLOURS, title_of
from playground.pages.runs.diagnostics import Advice
from rlhf_engine import config as configs
from rlhf_engine.stages import STAGES


def legend(runs: list[tuple[str, str, str, int, int]]) -> str:
    """(name, stage, state, step, total) of each run, in the colour of its line, and what the marks on the lines mean."""
    if not runs:
        return f'<p class="empty">{text.NO_CURVES}</p>'
    items = "".join(
        f'<li><i style="--run:{RUN_COLOURS[place] if len(runs) > 1 else "currentcolor"}" class="dash-{place}" aria-hidden="true"></i>'
        f'<strong>{escape(name)}</strong> <span class="facts">{shared_text.STAGES[stage]} · '
        f'{escape(text.STEPS_TAKEN.format(state=app_text.STATES.get(state, state), step=step, total=total))}</span></li>'
        for place, (name, stage, state, step, total) in enumerate(runs))
    return f'<ul class="run-legend">{items}</ul>'


def marks_key() -> str:
    """The symbols on the curves."""
    symbols = {"reward": "▲", "changed": "◆", "rewound": "✖", "warning": "●"}
    said = "".join(f"<span><b aria-hidden='true'>{symbols[kind]}</b> {name}</span>" for kind, name in text.MARKERS.items())
    return f'<p class="marks-key">{text.MARKERS_ABOUT} {said}</p>'


def warnings(found: list[tuple[str, list[Advice], int]]) -> str:
    """(name, advice, warnings in its journal) of each run."""
    if not found:
        return ""
    items = "".join(f'<li><strong>{escape(name)}</strong> {escape(advice.text)} <span>{escape(advice.todo)}</span></li>'
                    for name, advices, _ in found for advice in advices)
    sound = ", ".join(name for name, advices, count in found if not advices and not count)
    own = " ".join(text.JOURNAL_WARNS.format(name=name, count=count) for name, _, count in found if count)
    rest = " ".join(part for part in (text.NO_ADVICE.format(names=sound) if sound else "", own) if part)
    return (f'<section class="advices" aria-label="{text.WARNINGS}">{f"<ul>{items}</ul>" if items else ""}'
            f'{f"<p>{escape(rest)}</p>" if rest else ""}</section>')


# -- answers through time --------------------------------------------------------------------------------------------

def answered(rows: list[dict]) -> list[int]:
    """The steps at which the fixed prompts were answered; of a run without such, those that have samples."""
    fixed = [row["step"] for row in rows if row.get("fixed")]
    return sorted(set(fixed or [row["step"] for row in rows]))


def nearest(steps: list[int], wanted: float) -> int:
    """The step nearest to the wanted one, the earlier of two."""
    return min(steps, key=lambda step: (abs(step - wanted), step))


def through_time(rows: list[dict], step: int) -> str:
    """The answers of a step: to the fixed prompts, beside those at the start, or what was sampled for training."""
    if not any(row.get("fixed") for row in rows):
        about = text.DRAWN_ABOUT.format(step=step)
        return f'<p class="facts" role="status">{escape(about)}</p>{views.samples([row for row in rows if row["step"] == step])}'
    steps = answered(rows)
    shown = list(dict.fromkeys((steps[0], step)))
    titles = [shared_text.FIXED_START if at == steps[0] else text.ANSWERS_AT.format(step=at) for at in shown]
    answers = {(conversation(row["prompt"]), row["step"]): row["response"] for row in rows if row.get("fixed")}
    prompts = dict.fromkeys(prompt for prompt, _ in answers)
    heads = "".join(f'<th scope="col">{escape(title)}</th>' for title in (shared_text.FIXED_PROMPT, *titles))
    body = "".join(f'<tr><td class="prompt">{escape(prompt)}</td>' + "".join(
        f'<td data-title="{escape(title)}">{escape(answers.get((prompt, at), ""))}</td>' for at, title in zip(shown, titles)) + "</tr>"
        for prompt in prompts)
    about = text.THROUGH_ABOUT.format(step=step, place=steps.index(step) + 1, count=len(steps))
    return (f'<p class="facts" role="status">{escape(about)}</p><div class="samples fixed" tabindex="0" role="region" '
            f'aria-label="{text.THROUGH_TIME}"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>')


# -- settings and reports --------------------------------------------------------------------------------------------

def differences(runs: list[tuple[str, dict]], short) -> str:
    """The settings in which runs (name, config with its stage) differ, each with its help; of a single run, what is not at its default.

    short(value) -> str: a path as the page may name it.
    """
    if not runs:
        return f'<p class="empty">{shared_text.NO_RUNS}</p>'
    columns = runs if len(runs) > 1 else [*runs, (shared_text.DEFAULT, configs.to_dict(STAGES[runs[0][1]["stage"]].config()))]
    names = list(dict.fromkeys(name for _, config in columns for name in config if name not in ("output", "stage")))
    differing = [name for name in names if len({repr(config.get(name)) for _, config in columns}) > 1]
    rows = [((label(name), help_of(name, [config["stage"] for _, config in runs])),
             [shown(config[name], short) if name in config else shared_text.NOT_THERE for _, config in columns]) for name in differing]
    title = f'<p class="facts">{escape(text.DIFFERENCES_ALONE.format(name=runs[0][0]))}</p>' if len(runs) == 1 else ""
    if not rows:
        return f'<p class="empty">{text.ALL_ALIKE if len(runs) > 1 else text.ALL_DEFAULTS}</p>'
    return title + table(text.DIFFERENCES, shared_text.SETTING, [name for name, _ in columns], rows)


def help_of(name: str, stages: list[str]) -> str:
    return next((about for stage in stages if (about := configs.docs(STAGES[stage].config).get(name))), "")


def shown(value, short) -> str:
    if isinstance(value, bool):
        return shared_text.YES if value else shared_text.NO
    if isinstance(value, (int, float)):
        return plain(value)
    return short(str(value)) or shared_text.EMPTY_VALUE


def short_path(value: str, name_of) -> str:
    """A path inside the workspace by its name there, any other by its last part: a visitor need not know the machine's folders."""
    named = name_of(value)
    return Path(named).name if Path(named).is_absolute() else named


def reports(runs: list[tuple[str, dict | None, dict[str, float]]]) -> str:
    """The numbers of the reports beside each other, and what was measured last: (name, report, last measures) of each run."""
    numbers = [{key: value for key, value in (report or {}).items() if is_number(value)} for _, report, _ in runs]
    found = dict.fromkeys(key for report in numbers for key in report)
    names = {key: text.RESULTS.get(key, key.replace("_", " ").capitalize()) for key in [*(k for k in text.RESULTS if k in found), *found]}
    measured = dict.fromkeys(key for *_, last in runs for key in last)
    rows = [((name, ""), [plain(report[key]) if key in report else shared_text.NOT_THERE for report in numbers]) for key, name in names.items()]
    rows += [((text.LAST.format(name=title_of(key)), ""), [plain(last[key]) if key in last else shared_text.NOT_THERE for *_, last in runs])
             for key in measured]
    return table(text.REPORTS, text.RESULT, [name for name, *_ in runs], rows) if rows else f'<p class="empty">{text.NO_REPORTS}</p>'


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def table(title: str, first: str, columns: list[str], rows: list[tuple[tuple[str, str], list[str]]]) -> str:
    """rows: ((name, help), a value per column)."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in (first, *columns))
    body = "".join(f'<tr><th scope="row"{f" title={chr(34)}{escape(about)}{chr(34)}" if about else ""}>{escape(name)}</th>'
                   + "".join(f"<td>{escape(value)}</td>" for value in values) + "</tr>" for (name, about), values in rows)
    return (f'<div class="run-table" tabindex="0" role="region" aria-label="{escape(title)}"><table><thead><tr>{heads}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>')


def events(runs: list[tuple[str, list[dict]]]) -> str:
    """The journals, each under the name of its run."""
    return "".join(f"<h4>{escape(name)}</h4>{views.events(journal)}" for name, journal in runs) or f'<p class="empty">{shared_text.NO_EVENTS}</p>'
