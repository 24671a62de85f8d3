"""The curves of several runs in one plot, as plain Plotly JSON: one figure for each measure."""

from dataclasses import dataclass

from playground.components import stage_views
from playground.components import text as shared_text
from playground.components.charts import (
    MOST_POINTS,
    axis_format,
    base_layout,
    finite,
    level_through,
    level_trace,
    line_mode,
    peak_trace,
    role_colour,
    show_nothing,
    thin,
)
from playground.components.panels import measured_keys
from playground.pages.runs import text
from playground.pages.runs.curve_marks import find_marks, marks_trace, plotly_text
from rlhf_engine.measures import KL, MEASURES, STEP, measure
from rlhf_engine.studies.kl_limits import KLLimit

MOST_RUNS = 6
"""Runs in one plot; more lines could not be told apart."""
RUN_COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE")
"""Tol's bright scheme, safe for colour-blind readers. None of them is the colour of a role."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True)
class Curves:
    """What the curves of a run are made from."""

    name: str
    config: dict
    """The settings with which it began, with the `stage`."""
    metrics: list[dict]
    journal: list[dict]
    """Without what rewinds have undone."""
    kl_limit: KLLimit | None = None
    """The KL at which the like of the run peaked."""

    @property
    def stage(self) -> str:
        """The name of its stage."""
        return self.config["stage"]


@dataclass(frozen=True)
class Drawing:
    """How curves are drawn."""

    smoothing: float = 0.0
    """Weight of the moving average, from 0 (no smoothing) to below 1."""
    log: bool = False
    window: int = 0
    """The last steps of each run that are drawn; 0 draws all."""


@dataclass(frozen=True)
class Curve:
    """One run in the plot of one measure."""

    run: Curves
    rows: list[dict]
    """The rows of metrics.jsonl that have the measure."""
    colour: str
    dash: str


# -- which measures --------------------------------------------------------------------------------------------------

def all_measures(runs: list[Curves]) -> list[str]:
    """The measures that some run has: the key measures of each stage first, then the table of measures, then the
    others."""
    measured = {key for run in runs for key in measured_keys(run.metrics)}
    first: list[str] = []
    for run in runs:
        first += key_measures(run)
    keys = dict.fromkeys([*first, *MEASURES, *sorted(measured)])
    return [key for key in keys if key in measured and key != STEP]


def key_measures(run: Curves) -> tuple[str, ...]:
    """The measures that tell most about a run, the most telling first."""
    return stage_views.key_measures(run.stage, run.metrics)


def leading_measures(runs: list[Curves], most: int) -> list[str]:
    """The measures to show while none is chosen: from each stage what tells most about it; what more runs share comes
    first."""
    ranks: dict[str, list[int]] = {}
    for run in runs:
        for rank, key in enumerate(key_measures(run)):
            ranks.setdefault(key, []).append(rank)
    keys = [key for key in all_measures(runs) if key in ranks]
    return sorted(keys, key=lambda key: (min(ranks[key]), -len(ranks[key])))[:most]


def last_values(run: Curves) -> dict[str, float]:
    """The last value of each key measure."""
    newest: dict = {}
    for row in run.metrics:
        newest.update(row)
    return {key: newest[key] for key in key_measures(run) if finite(newest.get(key)) is not None}


# -- the figure of a measure -----------------------------------------------------------------------------------------

def figure(key: str, runs: list[Curves], drawing: Drawing) -> dict:
    """One measure of all runs that have it, with the marks of their journals, as {"data", "layout", "alt"}."""
    curves = find_curves(key, runs, drawing.window)
    heights = finite_values(key, curves)
    log = drawing.log and mostly_positive(heights)
    points = MOST_POINTS // max(1, len(curves) * (2 if drawing.smoothing else 1))
    traces = []
    for curve in curves:
        traces += curve_traces(key, curve, drawing, points, log)
    level = shared_level(key, curves)
    if level:
        ends = [row[STEP] for curve in curves for row in (curve.rows[0], curve.rows[-1])]
        traces.append({**level_trace(*level, ends), "uid": f"level {level[0]}"})
    peak = shared_peak(curves) if key == KL else None
    if peak:
        traces.append(peak)
    layout = figure_layout(key, [run.name for run in runs], drawing, log, empty=not curves)
    if log and far_apart(heights):
        layout["yaxis"]["dtick"] = "D2"
    return {"data": traces, "layout": layout, "alt": description(key, curves)}


def find_curves(key: str, runs: list[Curves], window: int) -> list[Curve]:
    """The runs that have a measure. A single run is drawn in the colour of the measure's role, several in their own
    colours."""
    curves = []
    for index, run in enumerate(runs):
        rows = last_rows(run.metrics, window, key)
        if rows:
            colour = role_colour(key, run.stage) if len(runs) == 1 else RUN_COLOURS[index]
            curves.append(Curve(run, rows, colour, DASHES[index]))
    return curves


def last_rows(metrics: list[dict], window: int, key: str) -> list[dict]:
    """The rows of the last `window` steps (0: of all) that have a measure."""
    first = metrics[-1][STEP] - window if window and metrics else -1
    return [row for row in metrics if key in row and row[STEP] > first]


def finite_values(key: str, curves: list[Curve]) -> list[float]:
    """All values of a measure but NaN and infinities."""
    values = [finite(row[key]) for curve in curves for row in curve.rows]
    return [value for value in values if value is not None]


def curve_traces(key: str, curve: Curve, drawing: Drawing, points: int, log: bool) -> list[dict]:
    """The line of a run, what was measured behind it if it is smoothed, and its marks. A reader hides them together."""
    steps = [row[STEP] for row in curve.rows]
    values = [finite(row[key]) for row in curve.rows]
    if log:
        values = [value if value is not None and value > 0 else None for value in values]
    heights = moving_average(values, drawing.smoothing) if drawing.smoothing else values
    name = plotly_text(curve.run.name)
    shared = {"type": "scatter", "legendgroup": curve.run.name, "name": name}
    indices = thin(list(range(len(steps))), points)
    x = [steps[index] for index in indices]
    traces = []
    if drawing.smoothing:
        traces.append({**shared, "uid": f"{curve.run.name} raw", "mode": "lines", "x": x,
                       "y": [values[index] for index in indices],
                       "line": {"color": curve.colour, "width": 1}, "opacity": 0.35, "showlegend": False,
                       "hoverinfo": "skip"})
    traces.append({**shared, "uid": curve.run.name, "mode": line_mode(key, len(steps)), "x": x,
                   "y": [heights[index] for index in indices],
                   "line": {"color": curve.colour, "dash": curve.dash, "width": 2.25},
                   "marker": {"color": curve.colour, "size": 5}, "hovertemplate": f"%{{y:.4g}}<extra>{name}</extra>"})
    marks = marks_trace(find_marks(curve.run.journal), steps, heights)
    if marks:
        marks["marker"]["color"] = curve.colour
        traces.append({**shared, "uid": f"{curve.run.name} marks", "hovertemplate": f"%{{text}}<extra>{name}</extra>",
                       **marks})
    return traces


def figure_layout(key: str, names: list[str], drawing: Drawing, log: bool, *, empty: bool) -> dict:
    """The axes and the title. The zoom of a reader lasts while the same runs are drawn in the same way, a hidden line
    while it exists."""
    row = measure(key)
    title = text.LINEAR.format(title=row.title) if drawing.log and not log and not empty else row.title
    layout = base_layout(plotly_text(title), "" if row.percent else row.unit, key)
    layout["showlegend"] = len(names) > 1
    layout["xaxis"].update(uirevision=f"{names} {drawing.window}",
                           unifiedhovertitle={"text": f"{shared_text.STEP_AXIS} %{{x}}"})
    layout["yaxis"].update(type="log" if log else "linear", uirevision=f"{names} {log}")
    if empty:
        show_nothing(layout, text.NO_MEASURE)
    elif log:
        layout["yaxis"]["tickformat"] = "~g"
    else:
        layout["yaxis"].update(axis_format(key))
    return layout


def description(key: str, curves: list[Curve]) -> str:
    """The plot in words, for those who cannot see it."""
    latest = [f"{curve.run.name} {curve.rows[-1][key]:.3g}" for curve in curves
              if finite(curve.rows[-1][key]) is not None]
    count = max((curve.rows[-1][STEP] for curve in curves), default=0)
    values = ", ".join(latest) or text.NO_MEASURE
    return shared_text.PLOT_ALT.format(title=measure(key).title, count=count, latest=values)


def shared_level(key: str, curves: list[Curve]) -> tuple[str, list[tuple[int, float | None]]] | None:
    """What a measure is compared with (`charts.level_through`), if that was the same for all runs all the time."""
    levels = [level_through(key, curve.run.config, curve.run.journal) for curve in curves]
    return levels[0] if levels and all(level == levels[0] for level in levels) else None


def shared_peak(curves: list[Curve]) -> dict | None:
    """The line at the KL at which the like of all these runs peaked; None where they have not one peak in common."""
    limits = {curve.run.kl_limit for curve in curves}
    limit = limits.pop() if len(limits) == 1 else None
    if limit is None:
        return None
    ends = [row[STEP] for curve in curves for row in (curve.rows[0], curve.rows[-1])]
    line = peak_trace(limit, max(finite_values(KL, curves), default=0.0), ends)
    return {**line, "uid": "peak"} if line else None


def moving_average(values: list[float | None], weight: float) -> list[float | None]:
    """Exponential moving average, not biased towards zero at its start. A gap stays a gap."""
    averages: list[float | None] = []
    mean, total = 0.0, 0.0
    for value in values:
        if value is None:
            averages.append(None)
            continue
        mean = weight * mean + (1 - weight) * value
        total = weight * total + (1 - weight)
        averages.append(mean / total)
    return averages


def mostly_positive(values: list[float]) -> bool:
    """Whether a logarithmic axis shows more than half of the values: a KL that begins at 0 qualifies, a loss around 0
    does not."""
    return 2 * sum(value > 0 for value in values) > len(values)


def far_apart(values: list[float]) -> bool:
    """Whether values differ so much that ticks at 1, 2 and 5 are enough on a logarithmic axis."""
    positive = [value for value in values if value > 0]
    return max(positive) > 5 * min(positive)
