"""The figure of a study of over-optimisation, by matplotlib, which is imported late."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_engine.errors import UserError
from rlhf_engine.studies.power_laws import PowerLaw

PROXY, GOLD = "#E69F00", "#CC79A7"
"""The house's colours of a reward and of a gold reward."""
INK = "#808080"
"""Of text and axes: readable on white and on black, as the background is left out."""
STYLES: dict[str, Any] = {"rl": "-", "ensemble": ":", "best_of": "--"}
KIND_WORDS = {"rl": "RL without a KL price", "ensemble": "RL, ensemble less its spread", "best_of": "best of n"}
MOST_COLUMNS = 2
TICKS = (0, 1, 4, 9, 16, 25, 36, 49, 64, 81, 100, 144, 196, 289, 400)


def draw_figure(report: dict[str, Any], path: Path) -> None:
    """Write the figure of a study's report to `path`, as SVG or PNG by its ending: a panel for each number of labels.

    Gold and proxy over the square root of the KL. Thin lines are the seeds, a thick one the law of gold that was
    fitted; a band is the interval of the KL at gold's peak. It stands on a light and on a dark page.

    The report must have a curve. Raises UserError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the figure needs matplotlib: pip install matplotlib") from None
    counts = sorted({curve["labels"] for curve in report["curves"]})
    columns = min(MOST_COLUMNS, max(len(counts), 1))
    rows = max(1, math.ceil(len(counts) / columns))
    figure = Figure(figsize=(5.2 * columns, 3.4 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, labels in zip(panels, counts):
        draw_panel(panel, [curve for curve in report["curves"] if curve["labels"] == labels])
        panel.set_title(f"{labels:,} labels", color=INK, fontsize=11)
    for panel in panels[len(counts):]:
        panel.set_visible(False)
    furthest = 1.05 * max(curve["kl_measured"] for curve in report["curves"])
    panels[0].set_xlim(0, max(furthest, 1.0))
    panels[0].set_xticks([kl for kl in TICKS if kl <= max(furthest, 1.0)])
    figure.supxlabel("KL to the start in nats (square-root axis)", color=INK, fontsize=10)
    figure.supylabel("reward, in standard deviations of the start", color=INK, fontsize=10)
    draw_legend(figure, {curve["kind"] for curve in report["curves"]})
    figure.savefig(path, transparent=True, dpi=150)


def draw_panel(panel: Any, curves: list[dict[str, Any]]) -> None:
    """The curves of one number of labels."""
    panel.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    for curve in curves:
        style = STYLES[curve["kind"]]
        for run in curve["runs"]:
            kl = [max(point["kl"], 0.0) for point in run["points"]]
            for name, colour in (("proxy", PROXY), ("gold", GOLD)):
                panel.plot(kl, [point[name] for point in run["points"]], linestyle=style, color=colour, linewidth=1.0,
                           alpha=0.6, marker="o", markersize=2)
        draw_law(panel, curve)
        draw_peak(panel, curve)
    panel.axhline(0, color=INK, linewidth=0.5)
    panel.tick_params(colors=INK, labelsize=8)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        panel.spines[side].set_color(INK)


def draw_law(panel: Any, curve: dict[str, Any]) -> None:
    """The law of gold."""
    law = curve["fit"]
    if law is None:
        return
    kind = "best_of" if curve["kind"] == "best_of" else "rl"
    distance = np.linspace(0, math.sqrt(max(curve["kl_measured"], 0.0)), 100)
    start = float(np.mean([run["points"][0]["gold"] for run in curve["runs"]]))
    panel.plot(distance**2, start + PowerLaw(kind, law["a"], law["b"]).gain(distance), linestyle=STYLES[curve["kind"]],
               color=GOLD, linewidth=2.4)

def draw_peak(panel: Any, curve: dict[str, Any]) -> None:
    """A band for the interval of the KL at gold's peak, of single proxies."""
    peak = curve["peak"]
    if curve["kind"] == "rl" and peak is not None and peak["kl_low"] is not None:
        high = curve["kl_measured"] if peak["kl_high"] is None else min(peak["kl_high"], curve["kl_measured"])
        panel.axvspan(peak["kl_low"], high, color=GOLD, alpha=0.15, linewidth=0)


def draw_legend(figure: Any, kinds: set[str]) -> None:
    from matplotlib.lines import Line2D
    handles = [Line2D([], [], color=PROXY), Line2D([], [], color=GOLD)]
    words = ["proxy", "gold"]
    for kind in (name for name in STYLES if name in kinds):
        handles.append(Line2D([], [], color=INK, linestyle=STYLES[kind]))
        words.append(KIND_WORDS[kind])
    figure.legend(handles, words, loc="outside upper center", ncols=len(words), frameon=False, labelcolor=INK,
                  fontsize=8)
