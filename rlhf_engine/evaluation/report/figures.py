"""The figures of a report, as SVG that stands inside of the page: its text and its axes have the colour of the page.

matplotlib is imported late: no other part of the engine needs it.
"""

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlhf_engine import measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POLICY, START, REWARD, KL, GOLD = "#0072B2", "#8A8A8A", "#E69F00", "#D55E00", "#CC79A7"
INK = "#010203"
"""Stands for the colour of the page's text; in the SVG it becomes `currentColor`."""
WIDTH = 4.6
"""Inches. On a phone a figure keeps about its size, so that its text stays readable."""
MOST_POINTS = 400
"""Points of a curve, at most: a report stays small."""


def new_figure(height: float = 2.6, rows: int = 1) -> "tuple[Figure, list[Axes]]":
    """An empty figure with `rows` axes, one above the other."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = [figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
    for each in axes:
        each.patch.set_alpha(0)
        for side, spine in each.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
            spine.set_alpha(0.4)
        each.tick_params(colors=INK, labelsize=8, length=3)
        each.locator_params(axis="x", nbins=6)
        for axis in (each.xaxis, each.yaxis):
            axis.label.set_color(INK)
            axis.label.set_fontsize(8.5)
    figure.patch.set_alpha(0)
    return figure, axes


def to_svg(figure: "Figure", title: str) -> str:
    """A figure as an SVG element with a title for those who cannot see it."""
    import matplotlib
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg"):].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*;?|(?<=px )[^;\"]*?sans-serif[^;\"]*", lambda match: "" if ":" in match[0]
                 else "sans-serif", svg)
    safe = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1)


def thin(rows: Sequence[Any]) -> list[Any]:
    """Every so many of the rows, so that at most `MOST_POINTS` are left; the last one is always there."""
    stride = max(1, math.ceil(len(rows) / MOST_POINTS))
    kept = list(rows[::stride])
    return kept if not rows or kept[-1] is rows[-1] else [*kept, rows[-1]]


# -- the figures -------------------------------------------------------------------------------------------------------

def wins_figure(judges: Sequence[dict[str, Any]]) -> str:
    """Wins over the start by each judge, plain and at equal length, with their intervals."""
    rows = [row for row in judges if "win_rate" in row]
    figure, [axes] = new_figure(0.9 + 0.55 * len(rows))
    for place, row in enumerate(reversed(rows)):
        colour = GOLD if row["is_gold"] else REWARD
        point_with_interval(axes, place + 0.12, row["win_rate"], row["win_rate_low"], row["win_rate_high"], colour)
        equal = row.get("length_controlled") or {}
        if equal.get("win_rate") is not None:
            point_with_interval(axes, place - 0.18, equal["win_rate"], equal["win_rate_low"], equal["win_rate_high"],
                                colour, hollow=True)
    axes.axvline(0.5, color=INK, alpha=0.5, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [short(row["name"]) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlabel("wins over the start (hollow: at equal length)")
    return to_svg(figure, "Wins over the start by each judge, with 95 % intervals")


def point_with_interval(axes: "Axes", place: float, value: float, low: float | None, high: float | None, colour: str,
                        *, hollow: bool = False) -> None:
    """A point on a horizontal line from `low` to `high`."""
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6, alpha=0.6, solid_capstyle="round")
    axes.plot([value], [place], "o", color=colour, markersize=5.5, markerfacecolor="none" if hollow else colour)


def curves_figure(metrics: Sequence[dict[str, Any]]) -> str:
    """Reward and KL over the steps of a run; "" where it has neither. Of a reward run, its accuracy."""
    wanted = ((measures.SCORES, "reward", REWARD), (measures.GOLD_SCORE, "the voter's score", GOLD),
              (measures.ACCURACY_HELD_OUT, "held-out accuracy", REWARD),
              (measures.LOSS_HELD_OUT, "held-out loss", POLICY), (measures.KL, "KL, nats a response", KL))
    curves = []
    for key, label, colour in wanted:
        points = [(row[measures.STEP], row[key]) for row in metrics
                  if is_finite(row.get(key)) and is_finite(row.get(measures.STEP))]
        if len(points) > 1:
            curves.append((thin(points), label, colour))
    if not curves:
        return ""
    figure, all_axes = new_figure(0.5 + 1.1 * len(curves), rows=len(curves))
    for axes, (points, label, colour) in zip(all_axes, curves):
        axes.plot([step for step, _ in points], [value for _, value in points], color=colour, linewidth=1.4)
        axes.set_ylabel(label)
        axes.label_outer()
    all_axes[-1].set_xlabel("step")
    return to_svg(figure, "Curves of the run over its steps: " + ", ".join(label for _, label, _ in curves))


def scores_figure(row: dict[str, Any], *, reward_alone: bool = False) -> str:
    """The distribution of a judge's scores, of the start and of the policy."""
    bars = row["histograms"]
    edges = bars["edges"]
    figure, [axes] = new_figure()
    sides = [("start", START)] if reward_alone else [("start", START), ("policy", POLICY)]
    for name, colour in sides:
        axes.stairs(bars[name], edges, color=colour, fill=True, alpha=0.35)
        axes.stairs(bars[name], edges, color=colour, linewidth=1.3, label=name)
    axes.set_xlabel(f"score by {short(row['name'], 40)}")
    axes.set_ylabel("share of responses")
    if not reward_alone:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return to_svg(figure, f"Distribution of the scores by {row['name']}")


def shift_figure(judge: dict[str, Any], kls: Sequence[float]) -> str:
    """The distribution of a judge's scores at the start and at each checkpoint, one above the other, with the KL."""
    rows, edges = judge["checkpoints"], judge["bins"]
    tallest = max((max(row["density"]) for row in rows), default=0.0) or 1.0
    figure, [axes] = new_figure(0.9 + 0.42 * len(rows))
    for place, row in enumerate(rows):
        colour = START if place == 0 else POLICY
        heights = [place + 0.9 * density / tallest for density in row["density"]]
        axes.stairs(heights, edges, baseline=place, fill=True, color=colour, alpha=0.4)
        axes.stairs(heights, edges, baseline=place, color=colour, linewidth=1.1)
        axes.plot([row["mean"]], [place + 0.06], "o", color=GOLD, markersize=4)
    axes.set_yticks([place + 0.25 for place in range(len(rows))],
                    [row["name"] if not place else f"{row['name']} · {kl:.1f} nats"
                     for place, (row, kl) in enumerate(zip(rows, kls))])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"score by {short(judge['judge'], 40)} (dot: mean)")
    return to_svg(figure, f"Scores by {judge['judge']} at the start and at each checkpoint")


def is_finite(value: Any) -> bool:
    """Whether a value of a row of metrics is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def short(name: str, longest: int = 18) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= longest else f"{name[:longest - 1]}…"
