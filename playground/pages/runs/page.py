"""The Runs page: several runs over each other, what deserves a warning, and what their policies said as they learned."""

from functools import lru_cache
from pathlib import Path

import gradio as gr

from playground import text as app_text
from playground.components import charts as figures
from playground.components import text as shared_text
from playground.components.inputs import Choice
from playground.components.notices import mark_seen
from playground.components.plots import LivePlot
from playground.pages.runs import comparison_charts as curves
from playground.pages.runs import diagnostics as advice
from playground.pages.runs import text
from playground.pages.runs import views as runs_views
from playground.pages.runs.comparison_charts import Curves, Look
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.files import read_lines
from rlhf_engine.runs.folder import Run

PLOTS, HEIGHT = 8, 280
FILES = ("metrics.jsonl", "journal.jsonl", "samples.jsonl", "report.json")


class Slider(gr.Slider):
    """A slider whose ends may have moved since the browser looked last: whoever reads the value takes the nearest that fits."""

    def get_block_name(self) -> str:
        return "slider"

    def preprocess(self, payload):
        return payload


class RunsPage:
    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        with gr.Row(elem_classes="run-choice"):
            self.picker = Choice([], value=[], multiselect=True, max_choices=curves.MOST, label=text.RUNS_CHOSEN, info=text.RUNS_CHOSEN_INFO,
                                 elem_id="runs-chosen", min_width=300, scale=3)
            self.measures = Choice([], value=[], multiselect=True, max_choices=PLOTS, label=text.MEASURES, info=text.MEASURES_INFO,
                                   elem_id="runs-measures", min_width=300, scale=2)
        with gr.Row(elem_classes="run-choice"):
            self.smoothing = Slider(0, 0.95, 0, step=0.05, label=text.SMOOTHING, info=text.SMOOTHING_INFO, elem_id="runs-smoothing",
                                       min_width=300, scale=3)
            self.window = Choice([(name, steps) for steps, name in text.WINDOWS.items()], value=0, label=text.WINDOW, info=text.WINDOW_INFO,
                                 elem_id="runs-window", min_width=150, scale=1)
            self.scale = gr.Radio([(name, scale) for scale, name in text.SCALES.items()], value="linear", label=text.SCALE, info=text.SCALE_INFO,
                                  elem_id="runs-scale", min_width=150, scale=1)
        self.legend = gr.HTML(runs_views.legend([]), elem_id="runs-legend", apply_default_css=False)
        self.warnings = gr.HTML("", elem_id="runs-advice", apply_default_css=False)
        with gr.Row(elem_classes="plot-grid"):
            self.plots = [LivePlot(figures.empty(), height=HEIGHT, elem_id=f"runs-plot-{i + 1}", visible=False) for i in range(PLOTS)]
        self.key = gr.HTML(runs_views.marks_key(), elem_id="runs-marks", apply_default_css=False, visible=False)
        with gr.Accordion(text.THROUGH_TIME, open=True):
            with gr.Row(elem_classes="run-choice"):
                self.reader = Choice([], value=None, label=text.READER, elem_id="runs-reader", visible=False, min_width=200, scale=1)
                self.step = Slider(0, 1, 0, step=1, label=text.READER_STEP, elem_id="runs-step", visible=False, min_width=300, scale=3)
            self.answers = gr.HTML(f'<p class="empty">{text.NOTHING_SAID}</p>', elem_id="runs-answers", apply_default_css=False)
        with gr.Row():
            with gr.Column(min_width=340), gr.Accordion(text.DIFFERENCES, open=True):
                self.differences = gr.HTML("", elem_id="runs-differences", apply_default_css=False)
            with gr.Column(min_width=340), gr.Accordion(text.REPORTS, open=True):
                self.reports = gr.HTML("", elem_id="runs-reports", apply_default_css=False)
        with gr.Accordion(text.RUNS_EVENTS, open=True):
            self.events = gr.HTML("", elem_id="runs-events", apply_default_css=False)

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        return {self.picker, self.measures, self.smoothing, self.window, self.scale, self.reader, self.step}

    @property
    def outputs(self) -> list:
        return [self.picker, self.measures, self.legend, self.warnings, *self.plots, self.key, self.reader, self.step, self.answers,
                self.differences, self.reports, self.events]

    @property
    def triggers(self) -> list:
        """Events that ask for a look at once."""
        return [part.change for part in (self.picker, self.measures, self.smoothing, self.window, self.scale, self.reader, self.step)]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """Updates as on the Train page."""
        known = dict(seen)
        try:
            changes = self._look(values, entries, known)
        except (UserError, OSError):  # a run is being removed at this moment: the next look is at the others
            return {}
        seen.update(known)
        return changes

    def _look(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        changes, names = {}, [entry.name for entry in entries]
        picked = [name for name in values[self.picker] or [] if name in names]
        if mark_seen(seen, "runs offered", [(e.name, e.state) for e in entries]):
            offered = [(shared_text.RUN_CHOICE.format(name=e.name, stage=shared_text.STAGES[e.stage], state=app_text.STATES[e.state]), e.name) for e in entries]
            gone = picked != (values[self.picker] or [])
            changes[self.picker] = gr.update(choices=offered, **({"value": picked} if gone else {}))
        shown = chosen(entries, picked)
        files = {e.name: [version_of(self.workspace.runs / e.name / file) for file in FILES] for e in shown}
        if mark_seen(seen, "runs legend", [(e.name, e.state, e.step, e.total) for e in shown]):
            changes[self.legend] = runs_views.legend([(e.name, e.stage, e.state, e.step, e.total) for e in shown])
        if mark_seen(seen, "runs", [files, [e.state for e in shown]]):
            changes |= {part: html for part, html in self._tell(shown).items() if mark_seen(seen, part.elem_id, hash(html))}
        look = Look(min(max(number(values[self.smoothing]), 0.0), 0.99), values[self.scale] == "log", int(number(values[self.window])))
        wanted = [key for key in values[self.measures] or [] if isinstance(key, str)][:PLOTS]
        lines = tuple((name, *versions[:2]) for name, versions in files.items())
        if mark_seen(seen, "runs curves", [lines, str(look), wanted]):
            changes |= self._draw(lines, look, wanted, seen)
        return changes | self._read(values, shown, files, seen)

    def _tell(self, shown: list[RunSummary]) -> dict:
        """All but curves and answers."""
        runs = [(e.name, self.workspace.config(e.name), self.workspace.run(e.name)) for e in shown]

        def short(value: str) -> str:
            return runs_views.short_path(value, self.workspace.name_of)

        return {self.warnings: runs_views.warnings([judged(self.workspace, name) for name, *_ in runs]),
                self.events: runs_views.events([(name, rows_of(run, "journal.jsonl")) for name, _, run in runs]),
                self.differences: runs_views.differences([(name, config) for name, config, _ in runs], short),
                self.reports: runs_views.reports([(name, run.report(), curves.last(self._curves(name))) for name, _, run in runs])}

    def _draw(self, lines: tuple, look: Look, wanted: list[str], seen: dict) -> dict:
        """lines: (name of a run, versions of the files that its curve is made from), a run each."""
        runs = [self._curves(name) for name, *_ in lines]
        known, keys, changes = curves.measures(runs), wanted or curves.key_measures(runs, PLOTS), {}
        if mark_seen(seen, "runs measures", known):
            changes[self.measures] = gr.update(choices=[(curves.title_of(key), key) for key in known])
        for place, plot in enumerate(self.plots):
            if place < len(keys):
                # The height goes along: what was not visible at first has lost its other properties in the browser.
                changes[plot] = gr.update(value=_figure(self, keys[place], lines, look), visible=True, height=HEIGHT)
            if mark_seen(seen, f"runs plot {place}", place < len(keys)) and place >= len(keys):
                changes[plot] = gr.update(visible=False)
        marked = any(curves.marks(run.journal) for run in runs)
        return changes | ({self.key: gr.update(visible=marked)} if mark_seen(seen, "runs marked", marked) else {})

    def _curves(self, name: str) -> Curves:
        run = self.workspace.run(name)
        journal = advice.without_rewound(rows_of(run, "journal.jsonl"))
        return Curves(name, advice.effective_settings(self.workspace.config(name), journal), rows_of(run, "metrics.jsonl"), journal)

    def _read(self, values: dict, shown: list[RunSummary], files: dict, seen: dict) -> dict:
        """One run's answers at the step on the slider, which stays at the end if it was there."""
        talking = [e.name for e in shown if files[e.name][2][1]]
        name = values[self.reader] if values[self.reader] in talking else next(iter(talking), None)
        rows = rows_of(self.workspace.run(name), "samples.jsonl") if name else []
        steps = runs_views.answered(rows)
        if not steps:
            gone = mark_seen(seen, "runs answers", None)
            return {self.answers: f'<p class="empty">{text.NOTHING_SAID}</p>', self.reader: gr.update(visible=False),
                    self.step: gr.update(visible=False)} if gone else {}
        changes, old = {}, seen.get("runs steps")
        at = number(values[self.step], steps[-1])
        step = runs_views.nearest(steps, at if old and old[0] == name and at < old[2] else steps[-1])
        if mark_seen(seen, "runs reader", [talking, name]):
            changes[self.reader] = gr.update(choices=talking, value=name, visible=len(talking) > 1)
        if mark_seen(seen, "runs steps", [name, steps[0], steps[-1]]):
            changes[self.step] = gr.update(minimum=steps[0], maximum=steps[-1], value=step, visible=len(steps) > 1)
        if mark_seen(seen, "runs answers", [name, step, len(steps), len(rows) if step == steps[-1] else 0]):
            changes[self.answers] = runs_views.through_time(rows, step)
        return changes


def chosen(entries: list[RunSummary], picked: list[str]) -> list[RunSummary]:
    """The runs that are picked; while none is, the newest that has taken a step, and the one of its stage before it."""
    by_name = {entry.name: entry for entry in entries}
    if picked:
        return [by_name[name] for name in dict.fromkeys(picked)][:curves.MOST]
    begun = [entry for entry in entries if entry.step]
    return [entry for entry in begun if entry.stage == begun[0].stage][:2]


def warnings_of(workspace: Workspace, name: str) -> str:
    """The warnings of one run as HTML, for any page. Raises UserError for anything that is not a run of the workspace."""
    return runs_views.warnings([judged(workspace, name)])


def judged(workspace: Workspace, name: str) -> tuple[str, list[advice.Advice], int]:
    """(name, advice on the run, how many warnings its trainer wrote into the journal); of a failed run why it failed comes first."""
    run = workspace.run(name)
    journal, status = rows_of(run, "journal.jsonl"), run.status()
    failed = [advice.Advice("failed", status["error"], status.get("advice", ""))] if status.get("error") else []
    found = failed + advice.advise(workspace.config(name), rows_of(run, "metrics.jsonl"), journal, rows_of(run, "samples.jsonl"))
    return name, found, sum(row.get("event") == "warning" for row in journal)


def number(value, default: float = 0.0) -> float:
    """What a slider or a list says, or the default for what is no number (a field that is being typed in)."""
    return value if isinstance(value, (int, float)) and value == value else default


def version_of(path: Path) -> tuple[int, int]:
    """(time of the last change in nanoseconds, bytes): what differs when a file does."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def rows_of(run: Run, file: str) -> list[dict]:
    """The rows of a run's list, parsed once per version of the file."""
    return _rows(run.path / file, version_of(run.path / file))


@lru_cache(maxsize=48)
def _rows(path: Path, _version: tuple[int, int]) -> list[dict]:
    return read_lines(path)


@lru_cache(maxsize=64)
def _figure(page: RunsPage, key: str, lines: tuple, look: Look) -> dict:
    """Drawn once, however many people look at it."""
    return curves.figure(key, [page._curves(name) for name, *_ in lines], look)
