"""Several runs beside each other as HTML: their legend, warnings, answers through time, settings and reports."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from playground import text as app_text
from playground.components import html as shared_views
from playground.components import text as shared_text
from playground.components.formatting import conversation, plain
from playground.components.html import empty, render
from playground.components.inputs import label
from playground.components.stage_views import stage_label
from playground.pages.runs import text
from playground.pages.runs.comparison_charts import RUN_COLOURS
from playground.pages.runs.curve_marks import SYMBOLS
from playground.pages.runs.diagnostics import Advice
from playground.workspace import RunSummary
from rlhf_engine import config as configs
from rlhf_engine.measures import measure
from rlhf_engine.stages import STAGES

NOT_COMPARED = ("output", "stage")
"""Settings that differ between any two runs, or that the legend shows."""


@dataclass(frozen=True)
class RunWarnings:
    """The warnings of one run."""

    name: str
    advice: list[Advice]
    journal_warnings: int
    """How many warnings the trainer itself has written into the journal."""


def legend(runs: list[RunSummary]) -> Markup:
    """The name, stage and progress of each run, in the colour of its line."""
    if not runs:
        return empty(text.NO_CURVES)
    rows = []
    for index, run in enumerate(runs):
        colour = RUN_COLOURS[index] if len(runs) > 1 else "currentcolor"
        progress = text.STEPS_TAKEN.format(state=app_text.STATES.get(run.state, run.state), step=run.step,
                                           total=run.total)
        facts = f"{stage_label(run.stage)} · {progress}"
        rows.append({"colour": colour, "index": index, "name": run.name, "facts": facts})
    return render("runs/legend.html", rows=rows)


def learners_note(note: str) -> Markup:
    """What the picture of all learners compares, and which runs are not in it."""
    return render("runs/learners_note.html", note=note)


def marks_key() -> Markup:
    """What the symbols on the curves mean."""
    marks = [(SYMBOLS[event][1], name) for event, name in text.MARKERS.items()]
    return render("runs/marks_key.html", about=text.MARKERS_ABOUT, marks=marks)


def warnings(runs: list[RunWarnings]) -> Markup | str:
    """The advice on each run, then the runs that need none, and those whose trainer has warned."""
    if not runs:
        return ""
    items = [{"name": run.name, "text": advice.text, "todo": advice.todo} for run in runs for advice in run.advice]
    sound = [run.name for run in runs if not run.advice and not run.journal_warnings]
    sentences = [text.NO_ADVICE.format(names=", ".join(sound))] if sound else []
    sentences += [text.JOURNAL_WARNS.format(name=run.name, count=run.journal_warnings) for run in runs
                  if run.journal_warnings]
    return render("runs/warnings.html", label=text.WARNINGS, items=items, rest=" ".join(sentences))


# -- answers through time --------------------------------------------------------------------------------------------

def answered_steps(rows: list[dict]) -> list[int]:
    """The steps at which the fixed prompts were answered; in a run without fixed prompts, all steps that have samples.
    """
    fixed = [row["step"] for row in rows if row.get("fixed")]
    return sorted(set(fixed or [row["step"] for row in rows]))


def nearest(steps: list[int], target: float) -> int:
    """The step nearest to a target, the earlier of two."""
    return min(steps, key=lambda step: (abs(step - target), step))


def through_time(rows: list[dict], step: int) -> Markup:
    """The answers of a step: to the fixed prompts beside those at the start, or else what was sampled for training."""
    if not any(row.get("fixed") for row in rows):
        samples = shared_views.samples([row for row in rows if row["step"] == step])
        return render("runs/sampled.html", about=text.DRAWN_ABOUT.format(step=step), samples=samples)
    steps = answered_steps(rows)
    shown = list(dict.fromkeys((steps[0], step)))
    titles = [shared_text.FIXED_START if each == steps[0] else text.ANSWERS_AT.format(step=each) for each in shown]
    answers = {(conversation(row["prompt"]), row["step"]): row["response"] for row in rows if row.get("fixed")}
    prompts = dict.fromkeys(prompt for prompt, _ in answers)
    table = [{"prompt": prompt, "answers": answer_cells(answers, prompt, shown, titles)} for prompt in prompts]
    about = text.THROUGH_ABOUT.format(step=step, place=steps.index(step) + 1, count=len(steps))
    return render("runs/through_time.html", about=about, label=text.THROUGH_TIME,
                  heads=[shared_text.FIXED_PROMPT, *titles], rows=table)


def answer_cells(answers: dict, prompt: str, steps: list[int], titles: list[str]) -> list[dict]:
    """The answers to one prompt at some steps, each under its title."""
    return [{"title": title, "answer": answers.get((prompt, step), "")} for step, title in zip(steps, titles)]


# -- settings and reports --------------------------------------------------------------------------------------------

Changes = dict[str, list[tuple[int, float]]]
"""What was changed while a run went on, as `changes_by_setting` returns it."""


def differences(runs: list[tuple[str, dict]], short: Callable[[str], str],
                changed: dict[str, Changes] | None = None) -> Markup:
    """The settings in which runs differ, each with its help; for a single run, those that are not at their default.

    runs: (name, config with its stage) of each. short: makes a path into what the page may show of it. changed: the
    changes while it went on, by the name of the run; such a setting is shown with all its values.
    """
    if not runs:
        return empty(shared_text.NO_RUNS)
    columns = runs if len(runs) > 1 else [*runs, (shared_text.DEFAULT, default_settings(runs[0][1]["stage"]))]
    changes = [(changed or {}).get(name, {}) for name, _ in runs] + [{}] * (len(columns) - len(runs))
    names = dict.fromkeys(name for _, config in columns for name in config if name not in NOT_COMPARED)
    stages, rows = [config["stage"] for _, config in runs], []
    for name in names:
        cells = [setting_cell(name, config, each, short) for (_, config), each in zip(columns, changes)]
        values = [(config.get(name), each.get(name)) for (_, config), each in zip(columns, changes)]
        if len(set(map(repr, values))) > 1:
            rows.append({"title": label(name), "help": help_of(name, stages), "values": cells})
    if not rows:
        return empty(text.ALL_ALIKE if len(runs) > 1 else text.ALL_DEFAULTS)
    title = text.DIFFERENCES_ALONE.format(name=runs[0][0]) if len(runs) == 1 else ""
    return table(text.DIFFERENCES, [shared_text.SETTING, *(name for name, *_ in columns)], rows, title=title)


def default_settings(stage: str) -> dict:
    """The settings of a stage at their defaults."""
    return configs.to_dict(STAGES[stage].config())


def setting_cell(name: str, config: dict, changes: Changes, short: Callable[[str], str]) -> str:
    """The value of a setting in a run, with what it was changed to and from which step on."""
    cell = setting_value(config[name], short) if name in config else shared_text.NOT_THERE
    later = [text.CHANGED_TO.format(value=plain(value), step=step) for step, value in changes.get(name, ())]
    return "".join([cell, *later])


def help_of(name: str, stages: list[str]) -> str:
    """The help of a setting, from the first of some stages that has it."""
    helps = [configs.docs(STAGES[stage].config).get(name, "") for stage in stages if stage in STAGES]
    return next((sentence for sentence in helps if sentence), "")


def setting_value(value, short: Callable[[str], str]) -> str:
    """The value of a setting as the page writes it."""
    if isinstance(value, bool):
        return shared_text.YES if value else shared_text.NO
    if isinstance(value, (int, float)):
        return plain(value)
    return short(str(value)) or shared_text.EMPTY_VALUE


def short_path(value: str, name_of: Callable[[str], str]) -> str:
    """A path inside the workspace by its name there, any other path by its last part: visitors do not see the folders
    of the machine."""
    name = name_of(value)
    return Path(name).name if Path(name).is_absolute() else name


def reports(runs: list[tuple[str, dict | None, dict[str, float]]]) -> Markup:
    """The numbers in the reports of some runs, and their last measured values.

    runs: (name, report.json or None, last value of each key measure) of each.
    """
    numbers = [report_numbers(report or {}) for _, report, _ in runs]
    present = dict.fromkeys(key for report in numbers for key in report)
    keys = [*(key for key in text.RESULTS if key in present), *(key for key in present if key not in text.RESULTS)]
    rows = [{"title": result_title(key), "help": "", "values": number_cells(key, numbers)} for key in keys]
    lasts = [last for *_, last in runs]
    measured = dict.fromkeys(key for last in lasts for key in last)
    rows += [{"title": text.LAST.format(name=measure(key).title), "help": "", "values": number_cells(key, lasts)}
             for key in measured]
    return table(text.REPORTS, [text.RESULT, *(name for name, *_ in runs)], rows) if rows else empty(text.NO_REPORTS)


def report_numbers(report: dict) -> dict[str, float]:
    """The finite numbers of a report."""
    return {key: value for key, value in report.items() if is_number(value)}


def result_title(key: str) -> str:
    """The name of a number in a report; one without words of its own is named after its key."""
    return text.RESULTS.get(key, key.replace("_", " ").capitalize())


def number_cells(key: str, columns: list[dict[str, float]]) -> list[str]:
    """The number under a key in each run."""
    return [plain(numbers[key]) if key in numbers else shared_text.NOT_THERE for numbers in columns]


def is_number(value) -> bool:
    """Whether a value is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def table(name: str, heads: list[str], rows: list[dict], *, title: str = "") -> Markup:
    """A table with a column for each run. rows: {"title", "help", "values"} of each."""
    return render("runs/table.html", label=name, heads=heads, rows=rows, title=title)


def events(runs: list[tuple[str, list[dict]]]) -> Markup:
    """The journal of each run under its name. runs: (name, journal) of each."""
    if not runs:
        return empty(shared_text.NO_EVENTS)
    return render("runs/events.html", runs=[(name, shared_views.events(journal)) for name, journal in runs])
