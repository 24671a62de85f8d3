"""The card of a report: one picture to share, with a response before and after, the numbers, and what is to be said."""

import io
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

from rlhf_engine import measures
from rlhf_engine.evaluation.report.figures import KL, POLICY, REWARD, START, is_finite, thin
from rlhf_engine.evaluation.report.flags import Flag
from rlhf_engine.evaluation.report.html import chosen_samples, lead_judge, percent
from rlhf_engine.evaluation.report.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, PAGE, BOX, WARN, GOOD = "#222b38", "#667282", "#ffffff", "#f3f5f8", "#a84a00", "#007a58"
SIZE, DPI = (12.0, 6.3), 100
"""Inches and dots an inch: 1200 x 630 pixels, the shape that link previews have."""
LINES, COLUMNS = 16, 41
"""Of a response: lines, and characters a line."""


def report_card(subject: Subject, report: dict[str, Any], rows: list[dict[str, Any]], flags: list[Flag]) -> bytes:
    """The card as PNG. The response is the first that the report shows, so it is chosen at random."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor=PAGE)
    write(figure, 0.035, 0.925, subject.name, size=21, weight="bold", width=52, lines=1)
    write(figure, 0.035, 0.875, f"{subject.method}, on {report['model']}", colour=SOFT, size=12, width=90, lines=1)
    samples = chosen_samples(rows, report["seed"])
    if samples:
        draw_sample(figure, subject, samples[0])
    draw_numbers(figure, report)
    if not draw_curves(figure, subject):
        draw_scores(figure, report)
    text = flags[0].text if flags else "No flag was raised."
    write(figure, 0.035, 0.115, text, colour=WARN if flags else GOOD, size=12.5, width=118, lines=2, weight="bold")
    write(figure, 0.035, 0.03, "RLHF Playground · the responses were chosen at random, the numbers are of held-out "
                               "prompts", colour=SOFT, size=10, width=130, lines=1)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character that the font does not have is drawn as a box
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def write(figure: "Figure", x: float, y: float, text: str, *, size: float, width: int, lines: int,
          colour: str = INK, weight: str = "normal") -> None:
    """Text from a place (shares of the card, y of its first line's foot), in so many lines of so many characters."""
    shown = textwrap.wrap(text, width) or [""]
    if len(shown) > lines:
        shown = [*shown[:lines - 1], shown[lines - 1][:width - 1] + "…"]
    figure.text(x, y, "\n".join(shown), size=size, color=colour, weight=weight, va="top" if lines > 1 else "baseline",
                linespacing=1.35, parse_math=False)


def draw_sample(figure: "Figure", subject: Subject, sample: dict[str, Any]) -> None:
    """The prompt, and below it the responses of start and policy."""
    write(figure, 0.035, 0.80, sample["prompt"], size=12, width=86, lines=1, weight="bold")
    sides = [("start", sample["against"], START), ("policy", sample["response"], POLICY)]
    if subject.makes == "reward":
        sides = [("response", sample["response"], REWARD)]
    for place, (name, text, colour) in enumerate(sides):
        left = 0.035 + 0.325 * place
        axes = figure.add_axes((left, 0.19, 0.31, 0.585), facecolor=BOX)
        axes.set_xticks([])
        axes.set_yticks([])
        for side, spine in axes.spines.items():
            spine.set_visible(side == "top")
            spine.set_color(colour)
            spine.set_linewidth(3)
        write(figure, left + 0.012, 0.735, name, size=10, width=40, lines=1, colour=SOFT)
        write(figure, left + 0.012, 0.715, " ".join(text.split()) or "(empty)", size=11, width=COLUMNS, lines=LINES)


def draw_numbers(figure: "Figure", report: dict[str, Any]) -> None:
    """The few numbers that matter, on the right."""
    lead = lead_judge(report["judges"])
    numbers = []
    if lead:
        numbers.append((percent(lead["win_rate"]), f"wins by {lead['name']}",
                        f"{percent(lead['win_rate_low'])} to {percent(lead['win_rate_high'])}"))
    numbers += [(percent(finding["share"]), finding["what"], f"chance gives {percent(finding['chance'])}")
                for finding in report["findings"]]
    if "kl" in report:
        numbers += [(f"{report['kl']:.1f}", "nats of KL a response", ""),
                    (f"×{report['distinct_ratio']:.2f}", "variety of word pairs", "")]
    for place, (number, what, more) in enumerate(numbers[:4]):
        top = 0.80 - 0.1 * place
        write(figure, 0.70, top - 0.035, number, size=20, width=12, lines=1, weight="bold")
        write(figure, 0.79, top - 0.008, textwrap.shorten(what, 30, placeholder=" …"), size=10.5, width=36, lines=1)
        write(figure, 0.79, top - 0.043, more, size=9.5, width=30, lines=1, colour=SOFT)


def draw_curves(figure: "Figure", subject: Subject) -> int:
    """Reward and KL of the run, small, where it has them. Returns how many were drawn."""
    drawn = 0
    for key, label, colour, left in ((measures.SCORES, "reward", REWARD, 0.735), (measures.KL, "KL", KL, 0.875)):
        points = [(row[measures.STEP], row[key]) for row in subject.metrics
                  if is_finite(row.get(key)) and is_finite(row.get(measures.STEP))]
        if len(points) < 2:
            continue
        points = thin(points)
        axes = small_axes(figure, (left, 0.22, 0.105, 0.15), label)
        axes.plot([step for step, _ in points], [value for _, value in points], color=colour, linewidth=1.6)
        drawn += 1
    return drawn


def draw_scores(figure: "Figure", report: dict[str, Any]) -> None:
    """The distribution of the scores of start and policy, small."""
    row = lead_judge(report["judges"]) or next(iter(report["judges"]), None)
    if row is None or row["alike"] or not row["histograms"]:
        return
    bars, axes = row["histograms"], small_axes(figure, (0.735, 0.22, 0.235, 0.17), f"scores by {row['name']}"[:34])
    for name, colour in (("start", START), ("policy", POLICY)):
        axes.stairs(bars[name], bars["edges"], color=colour, fill=True, alpha=0.4)
        axes.stairs(bars[name], bars["edges"], color=colour, linewidth=1.2)


def small_axes(figure: "Figure", place: tuple[float, float, float, float], title: str) -> "Axes":
    """Axes for a small plot, with a title of its own."""
    axes = figure.add_axes(place, facecolor=PAGE)
    axes.set_title(title, size=9.5, color=SOFT, pad=3)
    axes.tick_params(labelsize=7.5, colors=SOFT, length=2)
    axes.locator_params(nbins=4)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#c5ccd5")
    return axes
