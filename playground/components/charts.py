"""From the metrics of a run to plain Plotly JSON, for the page and for notebooks.

Each role has one colour, wherever it is drawn (Okabe-Ito, safe for colour-blind readers).
"""

import math
from collections.abc import Sequence
from itertools import accumulate

from playground.components import text
from playground.components.panels import Line, Panel
from playground.components.stage_views import panels_of
from rlhf_engine import measures
from rlhf_engine.config import KL_PER_TOKEN
from rlhf_engine.measures import measure
from rlhf_engine.runs.journal import changes_by_setting
from rlhf_engine.stages import STAGES
from rlhf_engine.studies.kl_limits import KLLimit

POLICY, REFERENCE, REWARD, KL, VALUE, GOLD = "#0072B2", "#8A8A8A", "#E69F00", "#D55E00", "#009E73", "#CC79A7"
ROLE_COLOURS = {measures.POLICY: POLICY, measures.REFERENCE: REFERENCE, measures.REWARD: REWARD, measures.KL_ROLE: KL,
                measures.VALUE: VALUE, measures.GOLD: GOLD}
MOST_POINTS = 1000
"""At most this many points are drawn in a plot."""
NEAR_PEAK = 4.0
"""The peak of the like of a run is drawn from this part of its KL on: before, it would press the curve flat."""
CHANCE = 0.5
"""What a coin would reach in a comparison of two."""
LETTER_WIDTH = 5.5
"""Pixels of a letter in a legend. Plotly itself leaves so much room in a plot with two axes that the entries do not fit
into one line on a phone."""
FIRST_VOTES = {measures.DRIFT: "drift", measures.REWARD_SPREAD: "spread"}
"""Measures of an update of the reward, and their names in the journal."""
FIRST_VOTES_NAMES = {measures.GUESSED: text.GUESSED_LINE, measures.DRIFT: text.MOVED_LINE,
                     measures.REWARD_SPREAD: text.DIFFER_LINE}
WINS_PANEL = Panel(measure(measures.GOLD_WINS).title, (Line(measures.GOLD_WINS, text.WINS_LINE),))


# -- figures of a run ------------------------------------------------------------------------------------------------

def run_figures(name: str, config: dict, metrics: list[dict], journal: Sequence[dict] = (),
                limit: KLLimit | None = None) -> list[dict]:
    """The panels of a run's stage as Plotly JSON, `stage_views.PANELS` of them.

    name: of the run. config: the settings with which it began, with its `stage`. metrics, journal: rows of
    metrics.jsonl and journal.jsonl, oldest first; the journal tells which settings were changed, and when. limit: the
    KL at which the like of the run peaked, a line in the plot of the KL.
    """
    figures = [panel_figure(panel, metrics, config, journal, key=f"{name}/{panel.title}")
               for panel in panels_of(config, metrics)]
    for panel, figure in zip(panels_of(config, metrics), figures):
        if panel.lines and panel.lines[0].key == measures.KL and limit is not None:
            add_peak(figure, limit, metrics)
    return figures


def add_peak(figure: dict, limit: KLLimit, metrics: list[dict]) -> None:
    """Add the peak of the like of a run to the plot of its KL, in its description, too."""
    rows = [row for row in metrics if finite(row.get(measures.KL)) is not None]
    if not rows:
        return
    drawn = peak_trace(limit, max(row[measures.KL] for row in rows), [row["step"] for row in rows])
    if drawn:
        figure["data"].append(drawn)
        figure["layout"]["showlegend"] = True
        figure["alt"] = f"{figure['alt']} {limit.sentence(rows[-1][measures.KL])}"


def peak_trace(limit: KLLimit, highest: float, steps: list[int]) -> dict | None:
    """A dotted line at the KL at which the like of a run peaked, over all steps; None while the run is far below it.

    `highest` is the largest KL that is shown. The line's name says when that is beyond the peak.
    """
    if highest < limit.kl / NEAR_PEAK:
        return None
    name = text.PAST_PEAK_LINE if highest > limit.kl else text.PEAK_LINE
    line = level_trace(name, [(min(steps), limit.kl)], steps)
    return {**line, "line": {**line["line"], "color": GOLD, "dash": "dot", "width": 2.25}}


def teach_figures(name: str, config: dict, metrics: list[dict], journal: list[dict],
                  limit: KLLimit | None = None) -> list[dict | None]:
    """Three plots of a `teach` run: the reward with a mark at each step in which it has learned from votes, the KL, and
    the wins over the start. The last one is None for a labeler that does not score responses.

    Before the first step, the first two show what the votes have taught the reward so far.
    """
    learned = [row for row in journal if row.get("event") == "reward"]
    if learned and not metrics:
        return [*first_votes_figures(name, config, learned), None]
    reward, kl = run_figures(name, config, metrics, journal, limit)[:2]
    reward["data"].append(learned_marks(metrics, journal))
    reward["layout"]["showlegend"] = bool(reward["data"][-1]["x"])
    scored = any(measures.GOLD_WINS in row for row in metrics)
    wins = panel_figure(WINS_PANEL, metrics, config, key=f"{name}/{WINS_PANEL.title}") if scored else None
    return [reward, kl, wins]


def first_votes_figures(name: str, config: dict, learned: list[dict]) -> list[dict]:
    """Two plots by the number of votes, from the journal's lines about the reward: how many of them it had guessed, and
    how far each update moved its scores, beside how far its members differ."""
    votes = [row["votes"] for row in learned]
    guesses = list(accumulate(row["guesses"] for row in learned))
    guessed = list(accumulate(row["guessed"] for row in learned))
    shares = [right / count if count else None for right, count in zip(guessed, guesses)]
    chance = level_trace(text.CHANCE, [(votes[0], 1 / config.get("choices", 2))], votes)
    moves = [vote_trace(key, votes, [row[entry] for row in learned]) for key, entry in FIRST_VOTES.items()]
    return [votes_figure(name, measures.GUESSED, [vote_trace(measures.GUESSED, votes, shares), chance]),
            votes_figure(name, measures.DRIFT, moves, text.DRIFT_AND_SPREAD)]


def vote_trace(key: str, votes: list[int], values: list) -> dict:
    """A measure by the number of votes as a Plotly trace."""
    faint = key == measures.REWARD_SPREAD
    return {"type": "scatter", "mode": "lines+markers", "x": votes, "y": [finite(value) for value in values],
            "name": FIRST_VOTES_NAMES[key], "opacity": 0.5 if faint else 1.0,
            "line": {"color": REWARD, "width": 1.5 if faint else 2.25}, "marker": {"color": REWARD, "size": 6}}


def votes_figure(name: str, key: str, traces: list[dict], title: str = "") -> dict:
    """A plot by the number of votes, with the unit and the range of a measure; also its title, unless one is given."""
    row = measure(key)
    title = title or row.title
    layout = base_layout(title, "" if row.percent else row.unit, f"{name}/votes/{title}")
    layout["xaxis"].update(title={"text": text.VOTES, "standoff": 4}, rangemode="tozero")
    layout["yaxis"].update(axis_format(key))
    latest = ", ".join(f"{line['name']} {line['y'][-1]:.3g}" for line in traces if line["y"][-1] is not None)
    alt = text.PLOT_ALT_VOTES.format(title=title, count=traces[0]["x"][-1], latest=latest or text.PLOT_EMPTY)
    return {"data": traces, "layout": layout, "alt": alt}


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


def panel_figure(panel: Panel, metrics: list[dict], config: dict, journal: Sequence[dict] = (), *, key: str) -> dict:
    """One panel as {"data", "layout", "alt"}. The zoom of a reader lasts while `key` stays the same."""
    traces = [trace(line, metrics, config.get("stage", "")) for line in panel.lines]
    steps = [row["step"] for row in metrics]
    level = level_through(panel.lines[0].key, config, journal) if panel.lines else None
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
        layout["legend"]["entrywidth"] = LETTER_WIDTH * max(len(line.name) for line in panel.lines)
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


def level_through(key: str, config: dict, journal: Sequence[dict]) -> tuple[str, list[tuple[int, float | None]]] | None:
    """What a measure was compared with in the course of a run: (name, (first step, height) of each level), or None.

    config: the settings with which the run began; the journal has what was changed since. A height of None means that
    there was none for a while.
    """
    changes = changes_by_setting(list(journal))
    settings, name = dict(config), ""
    heights: list[tuple[int, float | None]] = []
    for step in sorted({0, *(step for steps in changes.values() for step, _ in steps)}):
        for setting, values in changes.items():
            for first, value in values:
                if first == step:
                    settings[setting] = value
        level = level_of(key, settings)
        name = level[0] if level else name
        height = level[1] if level else None
        if not heights or heights[-1][1] != height:
            heights.append((step, height))
    return (name, heights) if name else None


def level_trace(name: str, heights: list[tuple[int, float | None]], steps: list[int]) -> dict:
    """A dashed line over all steps, which jumps at the first step of each of the `heights` but the first."""
    first, last = min(steps), max(steps)
    end = max(last, first + 1)
    begun = [height for step, height in heights if step <= first][-1:] or [None]
    x, y = [first], [begun[0]]
    for step, height in [change for change in heights if first < change[0] <= last]:
        if height is None:  # Plotly draws nothing between a point and a gap, so the line ends with a point of its own
            x.append(step)
            y.append(y[-1])
        x.append(step)
        y.append(height)
    x.append(end)
    y.append(y[-1])
    return {"type": "scatter", "mode": "lines", "x": x, "y": y,
            "name": name, "line": {"color": REFERENCE, "width": 1.5, "dash": "dash", "shape": "hv"},
            "hoverinfo": "name+y"}


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
