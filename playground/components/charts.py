"""From the metrics of a run to plain Plotly JSON, for the page and for notebooks.

One colour a role, wherever a role is drawn (Okabe-Ito, safe for colour-blind readers).
"""

import math
from dataclasses import dataclass

from playground import strings as s
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
    return (Panel(s.GRADIENT, "", (Line("grad_norm", s.GRADIENT, colour),)),
            Panel(s.LEARNING_RATE, "", (Line("lr", s.LEARNING_RATE, colour),)))


_SCORE = Panel(s.SCORE, s.SCORE_UNIT, (Line("objective/scores", s.SCORE_LINE, REWARD),))
_KL = Panel(s.KL, s.NATS_SEQUENCE, (Line("objective/kl", s.KL_LINE, KL),))
_TEXT = Panel(s.ENTROPY_LENGTH, s.NATS_TOKEN, (Line("objective/entropy", s.ENTROPY, POLICY),
                                               Line("objective/length", s.LENGTH, REFERENCE, second=True)), s.TOKENS)
_LOSSES = Panel(s.LOSSES, "", (Line("loss/policy", s.POLICY, POLICY), Line("loss/value", s.VALUE, VALUE)))
_LOSSES_PTX = Panel(s.LOSSES, "", (*_LOSSES.lines, Line("loss/ptx", s.PTX, REFERENCE, second=True)), s.NATS_TOKEN)
STAGE_PANELS: dict[str, tuple[Panel, ...]] = {
    "sft": (Panel(s.LOSS, s.NATS_TOKEN, (Line("loss/train", s.TRAINING, POLICY, faint=True),
                                         Line("loss/held_out", s.HELD_OUT, POLICY))),
            *_optimiser(POLICY), Panel(s.SECONDS, "s", (Line("time/update", s.SECONDS, REFERENCE),))),
    "reward": (Panel(s.LOSS, s.NATS_PAIR, (Line("loss/train", s.TRAINING, REWARD, faint=True),
                                           Line("loss/held_out", s.HELD_OUT, REWARD))),
               Panel(s.ACCURACY, s.SHARE, (Line("accuracy/train", s.TRAINING, REWARD, faint=True),
                                           Line("accuracy/held_out", s.HELD_OUT, REWARD))),
               Panel(s.MARGIN, s.SCORE_UNIT, (Line("margin", s.MARGIN, REWARD),)), _optimiser(REWARD)[0]),
    "ppo": (_SCORE, _KL, _TEXT, _LOSSES),
    "teach": (_SCORE, _KL, _TEXT, Panel(s.GUESSED, s.VOTE_SHARE, (Line("reward/guessed", s.GUESSED_LINE, REWARD),
                                                             Line("reward/votes", s.VOTES, REFERENCE, second=True)), s.VOTES)),
}
_WINS = Panel(s.WINS, s.WINS_UNIT, (Line("gold/wins", s.WINS_LINE, GOLD),))


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
    reward["data"].append({"type": "scatter", "mode": "markers", "x": [row["step"] for row in marks], "name": s.LEARNED_LINE,
                           "hoverinfo": "skip", "y": [finite(row["objective/scores"]) for row in marks],
                           "marker": {"symbol": "circle-open", "size": 9, "color": REWARD, "line": {"width": 1.75}}})
    reward["layout"]["showlegend"] = bool(marks)
    scored = any("gold/wins" in row for row in metrics)
    return [reward, kl, figure(_WINS, metrics, key=f"{name}/{_WINS.title}", level=(s.CHANCE, 0.5)) if scored else None]


def empty() -> dict:
    """A plot before there is a run."""
    return figure(Panel("", "", ()), [], key="")


def level_of(panel: Panel, config: dict) -> tuple[str, float] | None:
    """The dashed line of a panel: what the KL controller really aims at, or the accuracy of a coin."""
    if panel.title == s.KL and config.get("kl_target"):
        return s.TARGET, min(config["kl_target"], KL_PER_TOKEN * config["max_new_tokens"])
    return (s.CHANCE, 0.5) if panel.title == s.ACCURACY else None


NOTHING = {"text": s.PLOT_EMPTY, "showarrow": False, "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}


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
        "xaxis": {"title": {"text": s.STEP_AXIS, "standoff": 4}, "zeroline": False, "rangemode": "tozero"},
        "yaxis": {"title": {"text": panel.unit, "standoff": 4}, "zeroline": False, "automargin": True},
        "annotations": [] if drawn else [NOTHING],
    }
    if not drawn:
        layout |= {"xaxis": {"visible": False}, "yaxis": {"visible": False}}
    elif panel.title in (s.ACCURACY, s.WINS):
        layout["yaxis"] |= {"range": [0, 1.02], "tickformat": ".0%"}
    if panel.unit_right:
        layout["legend"]["entrywidth"] = 38  # one line on a phone, too
        layout["yaxis2"] = {"title": {"text": panel.unit_right, "standoff": 4}, "overlaying": "y", "side": "right", "nticks": 5,
                            "tickmode": "auto", "showgrid": False, "zeroline": False, "rangemode": "tozero"}
    latest = ", ".join(f"{t['name']} {t['y'][-1]:.3g}" for t in drawn if t["y"][-1] is not None)
    alt = s.PLOT_ALT.format(title=panel.title, count=len(metrics), latest=latest or s.PLOT_EMPTY)
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
