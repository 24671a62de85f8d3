"""From the metrics of a run to plain Plotly JSON, for the page and for notebooks.

Each role has one colour, wherever it is drawn (Okabe-Ito, safe for colour-blind readers).
"""

import math

from playground.components import text
from playground.components.stage_views import Line, Panel, panels_of
from rlhf_engine import measures
from rlhf_engine.config import KL_PER_TOKEN
from rlhf_engine.measures import measure
from rlhf_engine.stages import STAGES

POLICY, REFERENCE, REWARD, KL, VALUE, GOLD = "#0072B2", "#8A8A8A", "#E69F00", "#D55E00", "#009E73", "#CC79A7"
ROLE_COLOURS = {measures.POLICY: POLICY, measures.REFERENCE: REFERENCE, measures.REWARD: REWARD, measures.KL_ROLE: KL,
                measures.VALUE: VALUE, measures.GOLD: GOLD}
MOST_POINTS = 1000
"""At most this many points are drawn in a plot."""
CHANCE = 0.5
"""What a coin would reach in a comparison of two."""
RIGHT_LEGEND_WIDTH = 38
"""Pixels of an entry in the legend of a plot with two axes: all entries fit into one line on a phone, too."""
WINS_PANEL = Panel(measure(measures.GOLD_WINS).title, (Line(measures.GOLD_WINS, text.WINS_LINE),))


# -- figures of a run ------------------------------------------------------------------------------------------------

def run_figures(name: str, config: dict, metrics: list[dict]) -> list[dict]:
    """The panels of a run's stage as Plotly JSON, `stage_views.PANELS` of them.

    name: of the run. config: its settings with its `stage`. metrics: rows of metrics.jsonl, oldest first.
    """
    return [panel_figure(panel, metrics, config, key=f"{name}/{panel.title}") for panel in panels_of(config, metrics)]


def teach_figures(name: str, config: dict, metrics: list[dict], journal: list[dict]) -> list[dict | None]:
    """Three plots of a `teach` run: the reward with a mark at each step in which it has learned from votes, the KL, and
    the wins over the start. The last one is None for a labeler that does not score responses."""
    reward, kl = run_figures(name, config, metrics)[:2]
    reward["data"].append(learned_marks(metrics, journal))
    reward["layout"]["showlegend"] = bool(reward["data"][-1]["x"])
    scored = any(measures.GOLD_WINS in row for row in metrics)
    wins = panel_figure(WINS_PANEL, metrics, config, key=f"{name}/{WINS_PANEL.title}") if scored else None
    return [reward, kl, wins]


def learned_marks(metrics: list[dict], journal: list[dict]) -> dict:
    """A circle on the curve of the reward at each step in which it has learned from votes."""
    learned = {row["step"] for row in journal if row.get("event") == "reward"}
    rows = thin([row for row in metrics if row["step"] in learned and measures.SCORES in row])
    return {"type": "scatter", "mode": "markers", "x": [row["step"] for row in rows], "name": text.LEARNED_LINE,
            "hoverinfo": "skip",
            "y": [finite(row[measures.SCORES]) for row in rows],
            "marker": {"symbol": "circle-open", "size": 9, "color": REWARD, "line": {"width": 1.75}}}


def empty_figure() -> dict:
    """A plot before there is a run."""
    return panel_figure(Panel(""), [], {}, key="")


def panel_figure(panel: Panel, metrics: list[dict], config: dict, *, key: str) -> dict:
    """One panel as {"data", "layout", "alt"}. The zoom of a reader lasts while `key` stays the same."""
    traces = [trace(line, metrics, config.get("stage", "")) for line in panel.lines]
    steps = [row["step"] for row in metrics]
    level = panel_level(panel, config)
    if level and steps:
        traces.append(level_trace(*level, steps))
    drawn = [line for line in traces if line["x"]]
    right = next((line for line in panel.lines if line.right), None)
    layout = base_layout(panel.title, panel_unit(panel), key)
    layout["showlegend"] = len(drawn) > 1
    layout["margin"]["r"] = 52 if right else 12
    layout["xaxis"]["rangemode"] = "tozero"
    if not drawn:
        show_nothing(layout, text.PLOT_EMPTY)
    elif panel.lines:
        layout["yaxis"].update(axis_format(panel.lines[0].key))
    if right:
        layout["legend"]["entrywidth"] = RIGHT_LEGEND_WIDTH
        layout["yaxis2"] = {"title": {"text": measure(right.key).unit, "standoff": 4}, "overlaying": "y",
                            "side": "right", "nticks": 5,
                            "tickmode": "auto", "showgrid": False, "zeroline": False, "rangemode": "tozero"}
    latest = ", ".join(f"{line['name']} {line['y'][-1]:.3g}" for line in drawn if line["y"][-1] is not None)
    alt = text.PLOT_ALT.format(title=panel.title, count=len(metrics), latest=latest or text.PLOT_EMPTY)
    return {"data": traces, "layout": layout, "alt": alt}


def trace(line: Line, metrics: list[dict], stage: str) -> dict:
    """One line of a panel as a Plotly trace."""
    rows = thin([row for row in metrics if line.key in row])
    colour = ROLE_COLOURS[line.role] if line.role else role_colour(line.key, stage)
    drawn = {"type": "scatter", "mode": line_mode(line.key, len(rows)), "x": [row["step"] for row in rows],
             "y": [finite(row[line.key]) for row in rows], "name": line.name, "opacity": 0.5 if line.faint else 1.0,
             "line": {"color": colour, "width": 1.5 if line.faint else 2.25}, "marker": {"color": colour, "size": 6}}
    if line.right:
        drawn["yaxis"] = "y2"
    return drawn


def panel_unit(panel: Panel) -> str:
    """The unit on the left axis: the panel's own, or else that of the first measure on it."""
    left = next((line for line in panel.lines if not line.right), None)
    return panel.unit or (measure(left.key).unit if left else "")


def panel_level(panel: Panel, config: dict) -> tuple[str, float] | None:
    """The name and the height of the dashed line of a panel, or None."""
    return level_of(panel.lines[0].key, config) if panel.lines else None


# -- what all plots share --------------------------------------------------------------------------------------------

def role_colour(key: str, stage: str) -> str:
    """The colour of a measure in a run of a stage: that of the role it belongs to."""
    role = measure(key).role
    if role != measures.TRAINED:
        return ROLE_COLOURS[role]
    if stage not in STAGES or STAGES[stage].memory.online:  # an online learner trains several roles
        return REFERENCE
    return ROLE_COLOURS.get(STAGES[stage].memory.trained, REFERENCE)


def level_of(key: str, config: dict) -> tuple[str, float] | None:
    """(name, height) of what a measure is compared with: the KL that the controller aims at, or the accuracy of a coin.
    Else None."""
    if key in (measures.ACCURACY_TRAIN, measures.ACCURACY_HELD_OUT, measures.GOLD_WINS):
        return text.CHANCE, CHANCE
    target = kl_target(config)
    return (text.TARGET, target) if key == measures.KL and target else None


def kl_target(config: dict) -> float:
    """The KL that the controller aims at, in nats per sequence; 0 if it aims at none."""
    return min(config.get("kl_target") or 0.0, KL_PER_TOKEN * config.get("max_new_tokens", math.inf))


def level_trace(name: str, height: float, steps: list[int]) -> dict:
    """A dashed line over all steps."""
    first, last = min(steps), max(steps)
    return {"type": "scatter", "mode": "lines", "x": [first, max(last, first + 1)], "y": [height] * 2, "name": name,
            "line": {"color": REFERENCE, "width": 1.5, "dash": "dash"}, "hoverinfo": "name+y"}


def base_layout(title: str, unit: str, key: str) -> dict:
    """The layout that all plots begin with. What a reader has zoomed or hidden lasts while `key` stays the same."""
    return {
        "title": {"text": title, "x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yref": "container",
                  "yanchor": "top", "pad": {"t": 7},
                  "font": {"size": 14, "weight": 600}},
        "uirevision": key, "margin": {"l": 52, "r": 12, "t": 50, "b": 34}, "hovermode": "x unified",
        "legend": {"orientation": "h", "font": {"size": 11}, "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"},
        "xaxis": {"title": {"text": text.STEP_AXIS, "standoff": 4}, "zeroline": False},
        "yaxis": {"title": {"text": unit, "standoff": 4}, "zeroline": False, "automargin": True},
        "annotations": [],
    }


def show_nothing(layout: dict, sentence: str) -> None:
    """Make a layout show a sentence in place of axes."""
    layout["annotations"] = [{"text": sentence, "showarrow": False, "x": 0.5, "y": 0.5, "xref": "paper",
                              "yref": "paper"}]
    for axis in ("xaxis", "yaxis"):
        layout[axis] = {"visible": False}


def axis_format(key: str) -> dict:
    """The ticks and the range of the axis of a measure."""
    row, axis = measure(key), {}
    if row.range:
        low, high = row.range
        axis["range"] = [low, high + 0.02 * (high - low)]  # a line at the top is not cut
    if row.percent:
        axis["tickformat"] = ".0%"
    return axis


def line_mode(key: str, count: int) -> str:
    """Whether a line of `count` points has dots: a measure that is taken now and then does, and so do very few points.
    """
    return "lines+markers" if key.endswith("held_out") or count < 3 else "lines"


def thin(rows: list, points: int = MOST_POINTS) -> list:
    """At most `points` rows, evenly spaced; the last one is always among them."""
    stride = -(-len(rows) // points)
    return rows[(len(rows) - 1) % stride::stride] if stride > 1 else rows


def finite(value) -> float | None:
    """A number, or None for a NaN and an infinity, which JSON does not know: the line has a gap there."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None
