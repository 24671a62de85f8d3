"""The curves of several runs over each other, as plain Plotly JSON: one figure a measure."""

import math
import textwrap
from bisect import bisect_right
from dataclasses import dataclass

from playground.components import html as views
from playground.components import text as shared_text
from playground.components.charts import KL, NOTHING, POINTS, POLICY, REFERENCE, REWARD, VALUE, finite, thin
from playground.pages.runs import text
from rlhf_engine.config import KL_PER_TOKEN

MOST = 6
"""Runs in one plot; more cannot be told apart."""
RUN_COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE")
"""Tol's bright scheme, safe for colour-blind readers, and none of them a role's colour (`figures`)."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = {"reward": "triangle-up", "changed": "diamond", "rewound": "x", "warning": "circle"}
"""Events of a journal that are marked on the curves."""
LATEST = 200
"""Marks of a run, at most."""
KEY_MEASURES = {
    "sft": ("loss/train", "loss/held_out", "lr", "grad_norm"),
    "reward": ("loss/train", "loss/held_out", "accuracy/train", "accuracy/held_out", "margin", "grad_norm"),
    "ppo": ("objective/scores", "objective/kl", "objective/length", "objective/entropy", "loss/policy", "loss/value",
            "loss/ptx", "value/explained_variance", "policy/clipfrac"),
    "teach": ("objective/scores", "objective/kl", "reward/guessed", "objective/length", "objective/entropy", "loss/policy", "loss/value",
              "loss/ptx", "value/explained_variance"),
}
UNITS = {"objective/scores": shared_text.SCORE_UNIT, "objective/kl": shared_text.NATS_SEQUENCE, "objective/entropy": shared_text.NATS_TOKEN, "objective/length": shared_text.TOKENS,
         "loss/ptx": shared_text.NATS_TOKEN, "margin": shared_text.SCORE_UNIT}
SHARES = ("accuracy/train", "accuracy/held_out", "objective/ended", "policy/clipfrac", "reward/guessed", "text/empty")
WHOLE = ("accuracy/train", "accuracy/held_out", "reward/guessed")
"""Shares that are shown from none to all."""
COLOURS = {"objective/scores": REWARD, "objective/kl": KL, "objective/entropy": POLICY, "loss/policy": POLICY, "policy/clipfrac": POLICY,
           "val/ratio": POLICY, "loss/value": VALUE, "loss/ptx": POLICY, "value/explained_variance": VALUE, "reward/guessed": REWARD,
           "margin": REWARD}
STAGE_COLOURS = {"sft": POLICY, "reward": REWARD}
"""Of what stages share: a loss is that of the role which is trained."""


@dataclass(frozen=True)
class Curves:
    """A run as far as it can be drawn. `config` with its stage; the lists are rows of its files, `journal` without what was undone."""

    name: str
    config: dict
    metrics: list[dict]
    journal: list[dict]


@dataclass(frozen=True)
class Look:
    """How curves are drawn: `smoothing` from 0 (as measured) to below 1, and of how many of a run's last steps (0: all)."""

    smoothing: float = 0.0
    log: bool = False
    window: int = 0


def measures(runs: list[Curves]) -> list[str]:
    """All that the runs measure: what tells most first."""
    measured = {key for run in runs for row in (*run.metrics[:1], *run.metrics[-1:]) for key in row}
    measured |= {key for run in runs for key in (*KEY_MEASURES[run.config["stage"]], *text.MEASURE) if any(key in row for row in run.metrics)}
    usual = [key for run in runs for key in KEY_MEASURES[run.config["stage"]]]
    return [key for key in dict.fromkeys([*usual, *text.MEASURE, *sorted(measured)]) if key in measured and key != "step"]


def key_measures(runs: list[Curves], most: int) -> list[str]:
    """The ones to begin with: from every stage what comes first there."""
    places: dict[str, list[int]] = {}
    for run in runs:
        for place, key in enumerate(KEY_MEASURES[run.config["stage"]]):
            places.setdefault(key, []).append(place)
    return sorted((key for key in measures(runs) if key in places), key=lambda key: (min(places[key]), -len(places[key])))[:most]


def last(run: Curves) -> dict[str, float]:
    """What was measured last, of what tells most about the stage."""
    newest = {key: value for row in run.metrics for key, value in row.items()}
    return {key: newest[key] for key in KEY_MEASURES[run.config["stage"]] if finite(newest.get(key)) is not None}


def title_of(key: str) -> str:
    return text.MEASURE.get(key, key)


def figure(key: str, runs: list[Curves], look: Look) -> dict:
    """One measure of all runs that have it, with the marks of their journals."""
    alone = len(runs) == 1
    drawn = [(place, run, rows) for place, run in enumerate(runs) if (rows := windowed(run.metrics, look.window, key))]
    heights = [y for *_, rows in drawn for row in rows if (y := finite(row[key])) is not None]
    log = look.log and mostly_positive(heights)
    share = POINTS // max(1, len(drawn) * (2 if look.smoothing else 1))
    traces = []
    for place, run, rows in drawn:
        colour = role_colour(key, run.config["stage"]) if alone else RUN_COLOURS[place]
        traces += lines(key, run, rows, look, {"color": colour, "dash": DASHES[place]}, share, log)
    if drawn and (level := shared_level(key, [run.config for _, run, _ in drawn])):
        traces.append(level_line(*level, [row["step"] for *_, rows in drawn for row in (rows[0], rows[-1])]))
    latest = ", ".join(f"{run.name} {rows[-1][key]:.3g}" for _, run, rows in drawn if finite(rows[-1][key]) is not None)
    count = max((rows[-1]["step"] for *_, rows in drawn), default=0)
    shape = layout(key, [run.name for run in runs], look, log, empty=not drawn)
    if log and far_apart(heights):
        shape["yaxis"]["dtick"] = "D2"
    return {"data": traces, "layout": shape,
            "alt": shared_text.PLOT_ALT.format(title=title_of(key), count=count, latest=latest or text.NO_MEASURE)}


def layout(key: str, names: list[str], look: Look, log: bool, *, empty: bool) -> dict:
    """Zoom lasts while the same runs are looked at alike, hidden lines as long as there are any."""
    title = label(text.LINEAR.format(title=title_of(key)) if look.log and not log and not empty else title_of(key))
    found = {
        "title": {"text": title, "x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 7},
                  "font": {"size": 14, "weight": 600}},
        "uirevision": key, "margin": {"l": 52, "r": 12, "t": 50, "b": 34}, "hovermode": "x unified", "showlegend": len(names) > 1,
        "legend": {"orientation": "h", "font": {"size": 11}, "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"},
        "xaxis": {"title": {"text": shared_text.STEP_AXIS, "standoff": 4}, "zeroline": False, "uirevision": f"{names} {look.window}",
                  "unifiedhovertitle": {"text": f"{shared_text.STEP_AXIS} %{{x}}"}},
        "yaxis": {"title": {"text": UNITS.get(key, ""), "standoff": 4}, "zeroline": False, "automargin": True,
                  "type": "log" if log else "linear", "uirevision": f"{names} {log}"},
        "annotations": [NOTHING | {"text": text.NO_MEASURE}] if empty else [],
    }
    if empty:
        return found | {"xaxis": {"visible": False}, "yaxis": {"visible": False}}
    if log:
        found["yaxis"]["tickformat"] = "~g"
    elif key in SHARES:
        found["yaxis"] |= {"tickformat": ".0%"} | ({"range": [0, 1.02]} if key in WHOLE else {})
    return found


def lines(key: str, run: Curves, rows: list[dict], look: Look, style: dict, points: int, log: bool) -> list[dict]:
    """What was measured, faint where it is smoothed as well, and the marks on the line. They are hidden together."""
    steps, raw = [row["step"] for row in rows], [finite(row[key]) for row in rows]
    raw = [y if not log or (y is not None and y > 0) else None for y in raw]
    name = label(run.name)
    shared = {"type": "scatter", "legendgroup": run.name, "name": name}
    smooth = averaged(raw, look.smoothing) if look.smoothing else raw
    kept = thin(list(range(len(rows))), points)
    traces = []
    if look.smoothing:
        traces.append(shared | {"uid": f"{run.name} raw", "mode": "lines", "x": [steps[i] for i in kept], "y": [raw[i] for i in kept],
                                "line": {"color": style["color"], "width": 1}, "opacity": 0.35, "showlegend": False, "hoverinfo": "skip"})
    dots = len(rows) < 3 or key.endswith("held_out")
    traces.append(shared | {"uid": run.name, "mode": "lines+markers" if dots else "lines", "x": [steps[i] for i in kept],
                            "y": [smooth[i] for i in kept], "line": style | {"width": 2.25}, "marker": {"color": style["color"], "size": 5},
                            "hovertemplate": f"%{{y:.4g}}<extra>{name}</extra>"})
    if placed := [(step, kind, said, y) for step, kind, said in marks(run.journal) if (y := at(step, steps, smooth)) is not None]:
        traces.append(shared | {
            "uid": f"{run.name} marks", "mode": "markers", "showlegend": False, "x": [mark[0] for mark in placed],
            "y": [mark[3] for mark in placed], "text": [mark[2] for mark in placed], "hovertemplate": f"%{{text}}<extra>{name}</extra>",
            "marker": {"color": style["color"], "size": 8, "symbol": [SYMBOLS[mark[1]] for mark in placed],
                       "line": {"width": 1, "color": "#ffffff"}}})
    return traces


def marks(journal: list[dict]) -> list[tuple[int, str, str]]:
    """(step, kind, what to say) of the latest events; those of one kind at one step are one mark."""
    found: dict[tuple[int, str], list[str]] = {}
    for row in journal:
        if row.get("event") in SYMBOLS and isinstance(row.get("step"), int):
            found.setdefault((row["step"], row["event"]), []).append(views.sentence(row))
    return [(step, kind, wrapped(said[-1], len(said) - 1)) for (step, kind), said in list(found.items())[-LATEST:]]


def wrapped(said: str, more: int) -> str:
    """A sentence as Plotly shows it: in short lines, and nothing in it is markup."""
    said = textwrap.shorten(said, 240, placeholder=" …") + (f" {text.MORE_OF_IT.format(count=more)}" if more else "")
    return "<br>".join(label(line) for line in textwrap.wrap(said, 46))


def label(string: str) -> str:
    """Text for Plotly, which reads some tags and entities, and %{…} in templates."""
    return string.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("{", "&#123;")


def at(step: int, steps: list[int], ys: list[float | None]) -> float | None:
    """Where a line is at a step, or was last; before its first point, that one. None outside of what is drawn."""
    place = bisect_right(steps, step) - 1
    return ys[max(place, 0)] if steps and (place >= 0 or step == steps[0] - 1) else None


def windowed(metrics: list[dict], window: int, key: str) -> list[dict]:
    first = metrics[-1]["step"] - window if window and metrics else -1
    return [row for row in metrics if key in row and row["step"] > first]


def averaged(ys: list[float | None], weight: float) -> list[float | None]:
    """Exponential moving average from the first point on, without the pull to zero at its start; a gap stays a gap."""
    found, mean, total = [], 0.0, 0.0
    for y in ys:
        if y is not None:
            mean, total = weight * mean + (1 - weight) * y, weight * total + (1 - weight)
        found.append(None if y is None else mean / total)
    return found


def mostly_positive(ys: list[float]) -> bool:
    """Whether a logarithmic axis shows more than it hides: a KL begins at 0 and is seen, a loss around 0 is not."""
    return 2 * sum(y > 0 for y in ys) > len(ys)


def far_apart(ys: list[float]) -> bool:
    """Whether values differ so much that ticks at 1, 2 and 5 are enough on a logarithmic axis."""
    above = [y for y in ys if y > 0]
    return max(above) > 5 * min(above)


def role_colour(key: str, stage: str) -> str:
    return COLOURS.get(key, STAGE_COLOURS.get(stage, REFERENCE) if key.startswith(("loss/", "accuracy/", "grad", "lr")) else REFERENCE)


def shared_level(key: str, configs: list[dict]) -> tuple[str, float] | None:
    """What a measure is held against, where it is the same for all: the KL target, or the accuracy of a coin."""
    if key.startswith("accuracy/"):
        return shared_text.CHANCE, 0.5
    if key != "objective/kl":
        return None
    targets = {min(config.get("kl_target", 0), KL_PER_TOKEN * config.get("max_new_tokens", math.inf)) for config in configs}
    return (shared_text.TARGET, targets.pop()) if len(targets) == 1 and all(targets) else None


def level_line(name: str, height: float, steps: list[int]) -> dict:
    return {"type": "scatter", "mode": "lines", "x": [min(steps), max(*steps, min(steps) + 1)], "y": [height] * 2, "name": name,
            "uid": f"level {name}", "line": {"color": REFERENCE, "width": 1.5, "dash": "dash"}, "hoverinfo": "name+y"}
