"""The Runs page: the curves of several runs in one plot, warnings, and the answers of their policies through time."""

from functools import lru_cache

import gradio as gr

from playground.components.charts import empty_figure
from playground.components.html import empty
from playground.components.inputs import Choice, Slider, run_choices
from playground.components.notices import mark_seen
from playground.components.plots import LivePlot
from playground.pages.runs import text, views
from playground.pages.runs.comparison_charts import (
    MOST_RUNS,
    Curves,
    Drawing,
    all_measures,
    figure,
    last_values,
    leading_measures,
)
from playground.pages.runs.curve_marks import find_marks
from playground.pages.runs.diagnostics import Advice, advise, past_peak
from playground.pages.runs.learner_courses import Measurement, Names
from playground.pages.runs.learner_picture import find_picture, learner_figure, picture_note
from playground.run_files import (
    FILES,
    JOURNAL,
    METRICS,
    REPORT,
    SAMPLES,
    evaluation_files,
    evaluation_reports,
    find_kl_limit,
    read_journal,
    read_metrics,
    read_samples,
    version_of,
)
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.measures import measure
from rlhf_engine.runs.journal import changes_by_setting, without_rewound

PLOTS, HEIGHT = 8, 280
LEARNERS_HEIGHT = 360
MOST_SMOOTHING = 0.99


class RunsPage:
    """Builds its components inside the current `gr.Blocks`; `refresh` returns what has changed since a browser last
    asked."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._build_choices()
        self._build_plots()
        self._build_answers()
        self._build_tables()

    def _build_choices(self) -> None:
        with gr.Row(elem_classes="run-choice"):
            self.picker = Choice([], value=[], multiselect=True, max_choices=MOST_RUNS, label=text.RUNS_CHOSEN,
                                 info=text.RUNS_CHOSEN_INFO,
                                 elem_id="runs-chosen", min_width=300, scale=3)
            self.measures = Choice([], value=[], multiselect=True, max_choices=PLOTS, label=text.MEASURES,
                                   info=text.MEASURES_INFO,
                                   elem_id="runs-measures", min_width=300, scale=2)
        with gr.Row(elem_classes="run-choice"):
            self.smoothing = Slider(0, 0.95, 0, step=0.05, label=text.SMOOTHING, info=text.SMOOTHING_INFO,
                                    elem_id="runs-smoothing",
                                    min_width=300, scale=3)
            windows = [(name, steps) for steps, name in text.WINDOWS.items()]
            self.window = Choice(windows, value=0, label=text.WINDOW, info=text.WINDOW_INFO, elem_id="runs-window",
                                 min_width=150, scale=1)
            scales = [(name, scale) for scale, name in text.SCALES.items()]
            self.scale = gr.Radio(scales, value="linear", label=text.SCALE, info=text.SCALE_INFO, elem_id="runs-scale",
                                  min_width=150,
                                  scale=1)

    def _build_plots(self) -> None:
        self.legend = gr.HTML(views.legend([]), elem_id="runs-legend", apply_default_css=False)
        self.warnings = gr.HTML("", elem_id="runs-advice", apply_default_css=False)
        with gr.Row(elem_classes="plot-grid single"):
            self.learners = LivePlot(empty_figure(), height=LEARNERS_HEIGHT, elem_id="runs-learners", visible=False)
        self.learners_note = gr.HTML("", elem_id="runs-learners-note", apply_default_css=False, visible=False)
        with gr.Row(elem_classes="plot-grid"):
            self.plots = [LivePlot(empty_figure(), height=HEIGHT, elem_id=f"runs-plot-{number}", visible=False)
                          for number in range(1, PLOTS + 1)]
        self.key = gr.HTML(views.marks_key(), elem_id="runs-marks", apply_default_css=False, visible=False)

    def _build_answers(self) -> None:
        with gr.Accordion(text.THROUGH_TIME, open=True):
            with gr.Row(elem_classes="run-choice"):
                self.reader = Choice([], value=None, label=text.READER, elem_id="runs-reader", visible=False,
                                     min_width=200, scale=1)
                self.step = Slider(0, 1, 0, step=1, label=text.READER_STEP, elem_id="runs-step", visible=False,
                                   min_width=300, scale=3)
            self.answers = gr.HTML(empty(text.NOTHING_SAID), elem_id="runs-answers", apply_default_css=False)

    def _build_tables(self) -> None:
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
        """The components whose values `refresh` reads."""
        return {self.picker, self.measures, self.smoothing, self.window, self.scale, self.reader, self.step}

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [self.picker, self.measures, self.legend, self.warnings, self.learners, self.learners_note, *self.plots,
                self.key, self.reader, self.step, self.answers, self.differences, self.reports, self.events]

    @property
    def triggers(self) -> list:
        """Events after which the page is refreshed at once."""
        return [part.change for part in (self.picker, self.measures, self.smoothing, self.window, self.scale,
                                         self.reader, self.step)]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """Updates for everything whose mark differs from the one in `seen`, which is brought up to date."""
        marks = dict(seen)
        try:
            changes = self._changes(values, entries, marks)
        except (UserError, OSError):  # a run is being removed at this moment: the next refresh does not list it
            return {}
        seen.update(marks)
        return changes

    def _changes(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        changes, names = {}, [entry.name for entry in entries]
        picked = [name for name in values[self.picker] or [] if name in names]
        if mark_seen(seen, "runs offered", [(entry.name, entry.state) for entry in entries]):
            changes[self.picker] = gr.update(choices=run_choices(entries))
            if picked != (values[self.picker] or []):  # some of them are gone
                changes[self.picker] = gr.update(choices=run_choices(entries), value=picked)
        shown = shown_runs(entries, picked)
        files = {entry.name: self._versions(entry.name) for entry in shown}
        if mark_seen(seen, "runs legend", [(entry.name, entry.state, entry.step, entry.total) for entry in shown]):
            changes[self.legend] = views.legend(shown)
        if mark_seen(seen, "runs", [files, [entry.state for entry in shown]]):
            for part, html in self._tables(shown).items():
                if mark_seen(seen, part.elem_id, hash(html)):
                    changes[part] = html
        drawing = self._drawing(values)
        wanted = [key for key in values[self.measures] or [] if isinstance(key, str)][:PLOTS]
        versions = tuple((name, files[name][METRICS], files[name][JOURNAL], self._curves(name).kl_limit)
                         for name in files)
        if mark_seen(seen, "runs curves", [versions, str(drawing), wanted]):
            changes.update(self._plots(versions, drawing, wanted, seen))
        reports = [files[name][REPORT] for name in files]
        evaluations = list(evaluation_files(self.workspace.runs).items())
        if mark_seen(seen, "runs learners", [versions, reports, str(drawing), evaluations]):
            changes.update(self._learners(list(files), drawing, seen))
        changes.update(self._answers(values, shown, files, seen))
        return changes

    def _versions(self, name: str) -> dict:
        """The version of each file of a run that the page shows."""
        return {file: version_of(self.workspace.runs / name / file) for file in FILES}

    def _drawing(self, values: dict) -> Drawing:
        """How the fields say that curves are drawn; a field that is being typed in counts as 0."""
        smoothing = min(max(number_or(values[self.smoothing], 0.0), 0.0), MOST_SMOOTHING)
        return Drawing(smoothing, values[self.scale] == "log", int(number_or(values[self.window], 0.0)))

    def _tables(self, shown: list[RunSummary]) -> dict:
        """The HTML of everything but curves and answers."""
        names = [entry.name for entry in shown]
        runs = {name: self.workspace.run(name) for name in names}

        def short(value: str) -> str:
            return views.short_path(value, self.workspace.name_of)

        changed = {name: changes_by_setting(read_journal(run)) for name, run in runs.items()}
        reports = [(name, run.report(), last_values(self._curves(name))) for name, run in runs.items()]
        return {self.warnings: views.warnings([warnings_of(self.workspace, name) for name in names]),
                self.events: views.events([(name, read_journal(run)) for name, run in runs.items()]),
                self.differences: views.differences([(name, self.workspace.config(name)) for name in names], short,
                                                    changed),
                self.reports: views.reports(reports)}

    def _plots(self, versions: tuple, drawing: Drawing, wanted: list[str], seen: dict) -> dict:
        """Updates of the plots. versions: (name of a run, versions of the files that its curve is made from) of each
        run."""
        runs = [self._curves(name) for name, *_ in versions]
        keys = wanted or leading_measures(runs, PLOTS)
        offered, changes = all_measures(runs), {}
        if mark_seen(seen, "runs measures", offered):
            changes[self.measures] = gr.update(choices=[(measure(key).title, key) for key in offered])
        for index, plot in enumerate(self.plots):
            used = index < len(keys)
            if used:
                # A plot that was not visible at first has lost its properties in the browser: send its height again.
                changes[plot] = gr.update(value=_figure(self, keys[index], versions, drawing), visible=True,
                                          height=HEIGHT)
            if mark_seen(seen, f"runs plot {index}", used) and not used:
                changes[plot] = gr.update(visible=False)
        marked = any(find_marks(run.journal) for run in runs)
        if mark_seen(seen, "runs marked", marked):
            changes[self.key] = gr.update(visible=marked)
        return changes

    def _learners(self, names: list[str], drawing: Drawing, seen: dict) -> dict:
        """Updates of the picture of all learners, with what was measured beside the runs."""
        runs = [self._curves(name) for name in names]
        reports = {name: self.workspace.run(name).report() or {} for name in names}
        found = evaluation_reports(self.workspace.runs)
        measured = [Measurement(name, report) for name, report in found.items()]
        picture = find_picture(runs, reports, measured, Names(self.workspace.name_of, self._labeler), drawing)
        shown, changes = picture.yardstick is not None, {}
        if mark_seen(seen, "runs learners shown", shown) or shown:
            changes[self.learners] = gr.update(value=learner_figure(picture, names), visible=shown,
                                               height=LEARNERS_HEIGHT)
        note = picture_note(picture, lambda value: views.short_path(value, self.workspace.name_of))
        if mark_seen(seen, "runs learners note", note):
            changes[self.learners_note] = gr.update(value=views.learners_note(note), visible=shown)
        return changes

    def _labeler(self, name: str) -> str:
        """The labeler of a run; empty for what is no run, or has none."""
        try:
            return self.workspace.config(name).get("labeler", "")
        except (UserError, OSError):
            return ""

    def _curves(self, name: str) -> Curves:
        """What the curves of a run are made from."""
        run = self.workspace.run(name)
        config = self.workspace.config(name)
        return Curves(name, config, read_metrics(run), without_rewound(read_journal(run)), find_kl_limit(run, config))

    def _answers(self, values: dict, shown: list[RunSummary], files: dict, seen: dict) -> dict:
        """Updates of the answers: those of one run at the step on the slider. A slider at the end stays at the end."""
        talking = [entry.name for entry in shown if files[entry.name][SAMPLES][-1]]
        name = values[self.reader] if values[self.reader] in talking else next(iter(talking), None)
        rows = read_samples(self.workspace.run(name)) if name else []
        steps = views.answered_steps(rows)
        if not steps:
            if not mark_seen(seen, "runs answers", None):
                return {}
            return {self.answers: empty(text.NOTHING_SAID), self.reader: gr.update(visible=False),
                    self.step: gr.update(visible=False)}
        changes, last = {}, seen.get("runs steps")
        slider = number_or(values[self.step], steps[-1])
        inside = last and last[0] == name and slider < last[2]
        step = views.nearest(steps, slider if inside else steps[-1])
        if mark_seen(seen, "runs reader", [talking, name]):
            changes[self.reader] = gr.update(choices=talking, value=name, visible=len(talking) > 1)
        if mark_seen(seen, "runs steps", [name, steps[0], steps[-1]]):
            changes[self.step] = gr.update(minimum=steps[0], maximum=steps[-1], value=step, visible=len(steps) > 1)
        if mark_seen(seen, "runs answers", [name, step, len(steps), len(rows) if step == steps[-1] else 0]):
            changes[self.answers] = views.through_time(rows, step)
        return changes


def shown_runs(entries: list[RunSummary], picked: list[str]) -> list[RunSummary]:
    """The runs that are picked; while none is, the newest that has taken a step and the one of the same stage before
    it."""
    by_name = {entry.name: entry for entry in entries}
    if picked:
        return [by_name[name] for name in dict.fromkeys(picked)][:MOST_RUNS]
    begun = [entry for entry in entries if entry.step]
    return [entry for entry in begun if entry.stage == begun[0].stage][:2]


def warnings_of(workspace: Workspace, name: str) -> views.RunWarnings:
    """The warnings of a run. Of a failed run, why it failed comes first.

    Raises UserError for anything that is not a run of the workspace.
    """
    run = workspace.run(name)
    journal, status = read_journal(run), run.status()
    kind = status.get("advice_kind") or "failed"
    failure = [Advice(kind, status["error"], status.get("advice", ""))] if status.get("error") else []
    config, metrics = workspace.config(name), read_metrics(run)
    advice = advise(config, metrics, journal, read_samples(run)) + past_peak(find_kl_limit(run, config), metrics)
    return views.RunWarnings(name, [*failure, *advice], sum(row.get("event") == "warning" for row in journal))


def number_or(value, default: float) -> float:
    """The number in a field, or the default for anything else: a field that is being typed in may hold none."""
    return value if isinstance(value, (int, float)) and value == value else default


@lru_cache(maxsize=64)
def _figure(page: RunsPage, key: str, versions: tuple, drawing: Drawing) -> dict:
    """The plot of a measure, drawn once for all browsers. `versions` makes the cache draw it again when a file has
    changed."""
    return figure(key, [page._curves(name) for name, *_ in versions], drawing)
