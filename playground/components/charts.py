"""From the metrics of a run to plain Plotly JSON, for the page and for notebooks.

One colour a role, wherever a role is drawn (Okabe-Ito, safe for colour-blind readers).
"""

import math
from dataclasses import dataclass

from playground.components import text
from rlhf_engine.config import KL_PER_TOKEN

POLICY, REFERENCE, REWARD, KL, VALUE, GOLD = "#0072B2", "#8A8A8A", "#E69F00", "#D55E00", "#009E73", "#CC79A7"
POINTS = 1000
PANELS = 4


@dataclass(frozen=True)
class Line:
    key: str
    name: str
    colour: str
    faint: bool = False
    second: bool = False
    """On an axis of its own, at the right."""


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    lines: tuple[Line, ...]
    unit_right: str = ""


def _optimiser(colour: str) -> tuple[Panel, ...]:
    return (Panel(text.GRADIENT, "", (Line("grad_norm", text.GRADIENT, colour),)),
            Panel(text.LEARNING_RATE, "", (Line("lr", text.LEARNING_RATE, colour),)))


_SCORE = Panel(text.SCORE, text.SCORE_UNIT, (Line("objective/scores", text.SCORE_LINE, REWARD),))
_KL = Panel(text.KL, text.NATS_SEQUENCE, (Line("objective/kl", text.KL_LINE, KL),))
_TEXT = Panel(text.ENTROPY_LENGTH, text.NATS_TOKEN, (Line("objective/entropy", text.ENTROPY, POLICY),
                                               Line("objective/length", text.LENGTH, REFERENCE, second=True)), text.TOKENS)
_LOSSES = Panel(text.LOSSES, "", (Line("loss/policy", text.POLICY, POLICY), Line("loss/value", text.VALUE, VALUE)))
_LOSSES_PTX = Panel(text.LOSSES, "", (*_LOSSES.lines, Line("loss/ptx", text.PTX, REFERENCE, second=True)), text.NATS_TOKEN)
STAGE_PANELS: dict[str, tuple[Panel, ...]] = {
    "sft": (Panel(text.LOSS, text.NATS_TOKEN, (Line("loss/train", text.TRAINING, POLICY, faint=True),
                                         Line("loss/held_out", text.HELD_OUT, POLICY))),
            *_optimiser(POLICY), Panel(text.SECONDS, "s", (Line("time/update", text.SECONDS, REFERENCE),))),
    "reward": (Panel(text.LOSS, text.NATS_PAIR, (Line("loss/train", text.TRAINING, REWARD, faint=True),
                                           Line("loss/held_out", text.HELD_OUT, REWARD))),
               Panel(text.ACCURACY, text.SHARE, (Line("accuracy/train", text.TRAINING, REWARD, faint=True),
                                           Line("accuracy/held_out", text.HELD_OUT, REWARD))),
               Panel(text.MARGIN, text.SCORE_UNIT, (Line("margin", text.MARGIN, REWARD),)), _optimiser(REWARD)[0]),
    "ppo": (_SCORE, _KL, _TEXT, _LOSSES),
    "teach": (_SCORE, _KL, _TEXT, Panel(text.GUESSED, text.VOTE_SHARE, (Line("reward/guessed", text.GUESSED_LINE, REWARD),
                                                             Line("reward/votes", text.VOTES, REFERENCE, second=True)), text.VOTES)),
}
_WINS = Panel(text.WINS, text.WINS_UNIT, (Line("gold/wins", text.WINS_LINE, GOLD),))


def figures(name: str, config: dict, metrics: list[dict]) -> list[dict]:
    """The panels of a run's stage as Plotly JSON, four of them."""
    panels = STAGE_PANELS[config["stage"]]
    if config.get("ptx_coef"):
        panels = [_LOSSES_PTX if panel is _LOSSES else panel for panel in panels]
    return [figure(panel, metrics, key=f"{name}/{panel.title}", level=level_of(panel, config)) for panel in panels]


def live(name: str, config: dict, metrics: list[dict], journal: list[dict]) -> list[dict]:
    """Of a run that is taught: the reward with a mark wherever it has learned, the KL, and the wins over the start (None for a labeler
    that does not score)."""
    reward, kl = figures(name, config, metrics)[:2]
    learned = {row["step"] for row in journal if row.get("event") == "reward"}
    marks = thin([row for row in metrics if row["step"] in learned and "objective/scores" in row])
    reward["data"].append({"type": "scatter", "mode": "markers", "x": [row["step"] for row in marks], "name": text.LEARNED_LINE,
                           "hoverinfo": "skip", "y": [finite(row["objective/scores"]) for row in marks],
                           "marker": {"symbol": "circle-open", "size": 9, "color": REWARD, "line": {"width": 1.75}}})
    reward["layout"]["showlegend"] = bool(marks)
    scored = any("gold/wins" in row for row in metrics)
    return [reward, kl, figure(_WINS, metrics, key=f"{name}/{_WINS.title}", level=(text.CHANCE, 0.5)) if scored else None]


def empty() -> dict:
    """A plot before there is a run."""
    return figure(Panel("", "", ()), [], key="")


def level_of(panel: Panel, config: dict) -> tuple[str, float] | None:
    """The dashed line of a panel: what the KL controller really aims at, or the accuracy of a coin."""
    if panel.title == text.KL and config.get("kl_target"):
        return text.TARGET, min(config["kl_target"], KL_PER_TOKEN * config["max_new_tokens"])
    return (text.CHANCE, 0.5) if panel.title == text.ACCURACY else None


NOTHING = {"text": text.PLOT_EMPTY, "showarrow": False, "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}


def figure(panel: Panel, metrics: list[dict], *, key: str, level: tuple[str, float] | None = None) -> dict:
    traces = [trace(line, metrics) for line in panel.lines]
    steps = [row["step"] for row in metrics]
    if level and steps:
        traces.append({"type": "scatter", "mode": "lines", "x": [steps[0], max(steps[-1], steps[0] + 1)], "y": [level[1]] * 2,
                       "name": level[0], "line": {"color": REFERENCE, "width": 1.5, "dash": "dash"}, "hoverinfo": "name+y"})
    drawn = [t for t in traces if t["x"]]
    layout = {
        "title": {"text": panel.title, "x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top",
                  "pad": {"t": 7}, "font": {"size": 14, "weight": 600}},
        "uirevision": key, "margin": {"l": 52, "r": 52 if panel.unit_right else 12, "t": 50, "b": 34}, "hovermode": "x unified",
        "showlegend": len(drawn) > 1,
        "legend": {"orientation": "h", "font": {"size": 11}, "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"},
        "xaxis": {"title": {"text": text.STEP_AXIS, "standoff": 4}, "zeroline": False, "rangemode": "tozero"},
        "yaxis": {"title": {"text": panel.unit, "standoff": 4}, "zeroline": False, "automargin": True},
        "annotations": [] if drawn else [NOTHING],
    }
    if not drawn:
        layout |= {"xaxis": {"visible": False}, "yaxis": {"visible": False}}
    elif panel.title in (text.ACCURACY, text.WINS):
        layout["yaxis"] |= {"range": [0, 1.02], "tickformat": ".0%"}
    if panel.unit_right:
        layout["legend"]["entrywidth"] = 38  # one line on a phone, too
        layout["yaxis2"] = {"title": {"text": panel.unit_right, "standoff": 4}, "overlaying": "y", "side": "right", "nticks": 5,
                            "tickmode": "auto", "showgrid": False, "zeroline": False, "rangemode": "tozero"}
    latest = ", ".join(f"{t['name']} {t['y'][-1]:.3g}" for t in drawn if t["y"][-1] is not None)
    alt = text.PLOT_ALT.format(title=panel.title, count=len(metrics), latest=latest or text.PLOT_EMPTY)
    return {"data": traces, "layout": layout, "alt": alt}


def trace(line: Line, metrics: list[dict]) -> dict:
    rows = thin([row for row in metrics if line.key in row])
    dots = line.key.endswith("held_out") or len(rows) < 3
    return {"type": "scatter", "mode": "lines+markers" if dots else "lines", "x": [row["step"] for row in rows],
            "y": [finite(row[line.key]) for row in rows], "name": line.name, "opacity": 0.5 if line.faint else 1.0,
            "line": {"color": line.colour, "width": 1.5 if line.faint else 2.25}, "marker": {"color": line.colour, "size": 6},
            **({"yaxis": "y2"} if line.second else {})}


def thin(rows: list, points: int = POINTS) -> list:
    """At most `points` rows, evenly spaced, the last one always among them."""
    stride = -(-len(rows) // points)
    return rows[(len(rows) - 1) % stride::stride] if stride > 1 else rows


def finite(value) -> float | None:
    """JSON knows no NaN; a gap in the line says the same."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None
