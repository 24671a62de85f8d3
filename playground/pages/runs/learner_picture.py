"""The picture of all learners: wins over the start, or the reward, against the KL to the start."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from playground.components.charts import (
    CHANCE,
    GOLD,
    MOST_POINTS,
    REFERENCE,
    REWARD,
    axis_format,
    base_layout,
    level_trace,
    show_nothing,
    thin,
)
from playground.components.text import CHANCE as CHANCE_LINE
from playground.pages.runs import text
from playground.pages.runs.comparison_charts import DASHES, RUN_COLOURS, Curves, Drawing
from playground.pages.runs.curve_marks import plotly_text
from playground.pages.runs.learner_courses import (
    WINS,
    Course,
    Measurement,
    Names,
    Point,
    Yardstick,
    best_of_courses,
    choose_yardstick,
    courses_of,
    evaluated,
    why_left_out,
)
from rlhf_engine.measures import GOLD_WINS, SCORES, measure

MOST_BEST_OF = 2
"""Curves of best-of-n in one picture, at most."""
BEST_OF_SYMBOLS = ("diamond", "square")


@dataclass(frozen=True)
class Picture:
    """The courses that stand in one picture."""

    yardstick: Yardstick | None
    """What they have in common; None if there is nothing to draw."""
    courses: dict[str, list[Course]]
    """By the name of the run: its own course, and what was measured on its checkpoints afterwards."""
    best_of: list[Course]
    left_out: dict[str, str]
    """The chosen runs that are not in it, and why."""


def find_picture(runs: Sequence[Curves], reports: dict[str, dict], found: Sequence[Measurement], names: Names,
                 drawing: Drawing = Drawing()) -> Picture:
    """What of some runs can stand in one picture: those with the same base model, start and reward or labeler.

    Args:
        runs: the chosen runs.
        reports: report.json of each, by name; {} where there is none.
        found: reports of `evaluate` and `best-of` in the workspace.
        names: how settings are written.
        drawing: smoothing, and the last steps of each run that are drawn.
    """
    courses = [course for run in runs
               for course in courses_of(run, reports.get(run.name) or {}, names, window=drawing.window,
                                        smoothing=drawing.smoothing)]
    courses += evaluated([run.name for run in runs], found, names)
    yardstick = choose_yardstick(courses)
    if yardstick is None:
        return Picture(None, {}, [], {})
    drawn = {run.name: [course for course in courses if (course.name, course.yardstick) == (run.name, yardstick)]
             for run in runs}
    bests = [course for one in found for course in best_of_courses(one, names) if course.yardstick == yardstick]
    left_out = {run.name: why_left_out(run, courses, yardstick) for run in runs if not drawn[run.name]}
    return Picture(yardstick, {name: own for name, own in drawn.items() if own}, bests[:MOST_BEST_OF], left_out)


def learner_figure(picture: Picture, runs: Sequence[str]) -> dict:
    """The picture as {"data", "layout", "alt"}. runs: the names of all chosen runs, whose places decide on colours."""
    traces = []
    for index, name in enumerate(runs):
        colour = RUN_COLOURS[index] if len(runs) > 1 else single_colour(picture.yardstick)
        for number, course in enumerate(picture.courses.get(name, [])):
            traces.append(course_trace(course, colour, DASHES[index], first=number == 0))
    for course, symbol in zip(picture.best_of, BEST_OF_SYMBOLS):
        traces.append({**course_trace(course, REFERENCE, "dot", first=True),
                       "marker": {"color": REFERENCE, "size": 8, "symbol": symbol}})
    kls = [kl for line in traces for kl in line["x"]]
    if kls and picture.yardstick and picture.yardstick.kind == WINS:
        traces.append({**level_trace(CHANCE_LINE, [(0, CHANCE)], [0, max(kls)]), "hoverinfo": "skip"})
    return {"data": traces, "layout": picture_layout(picture, list(runs)), "alt": describe(picture)}


def single_colour(yardstick: Yardstick | None) -> str:
    """The colour of a run that is drawn alone: that of the role of what is measured, as in all plots."""
    return GOLD if yardstick and yardstick.kind == WINS else REWARD


def course_trace(course: Course, colour: str, dash: str, *, first: bool) -> dict:
    """A course as a Plotly trace; the newest point is larger. `first` shows it in the legend."""
    points = thin(course.points, MOST_POINTS // 8)
    name = plotly_text(course.name)
    trace = {"type": "scatter", "uid": f"{course.name} {'' if first else 'evaluated'}".strip(), "name": name,
             "legendgroup": course.name, "showlegend": first, "mode": "lines+markers",
             "x": [point.kl for point in points], "y": [point.height for point in points],
             "text": [plotly_text(point.label) for point in points],
             "line": {"color": colour, "dash": dash, "width": 2},
             "marker": {"color": colour, "size": [5] * (len(points) - 1) + [10]},
             "hovertemplate": f"%{{text}}: KL %{{x:.2f}}, %{{y:{height_format(course.yardstick)}}}"
                              f"<extra>{name}</extra>"}
    if any(point.low is not None for point in points):
        trace["error_y"] = {"type": "data", "symmetric": False, "color": colour, "thickness": 1.25, "width": 4,
                            "array": [above(point) for point in points],
                            "arrayminus": [below(point) for point in points]}
    return trace


def above(point: Point) -> float:
    """How far the upper end of the interval of a point is above it; 0 without an interval."""
    return max(point.high - point.height, 0.0) if point.high is not None else 0.0


def below(point: Point) -> float:
    """How far the lower end is below it."""
    return max(point.height - point.low, 0.0) if point.low is not None else 0.0


def height_format(yardstick: Yardstick) -> str:
    """How d3 writes a height."""
    return ".1%" if yardstick.kind == WINS else ".4g"


def picture_layout(picture: Picture, names: list[str]) -> dict:
    """The axes and the title."""
    wins = picture.yardstick is None or picture.yardstick.kind == WINS
    key = GOLD_WINS if wins else SCORES
    layout = base_layout(text.LEARNERS_TITLE.format(measure=measure(key).title), "" if wins else measure(key).unit,
                         f"learners {names} {picture.yardstick}")
    layout["hovermode"] = "closest"
    layout["showlegend"] = len(names) > 1 or bool(picture.best_of)
    layout["xaxis"].update(title={"text": text.LEARNERS_AXIS, "standoff": 4}, rangemode="tozero")
    layout["margin"]["b"] = 42
    if picture.yardstick is None:
        show_nothing(layout, text.LEARNERS_EMPTY)
    else:
        layout["yaxis"].update(axis_format(key))
    return layout


def describe(picture: Picture) -> str:
    """The picture in words, for those who cannot see it."""
    if picture.yardstick is None:
        return text.LEARNERS_EMPTY
    share = picture.yardstick.kind == WINS
    ends = []
    for courses in [*picture.courses.values(), *([course] for course in picture.best_of)]:
        last = courses[-1].points[-1]
        height = f"{last.height:.0%}" if share else f"{last.height:.3g}"
        ends.append(text.LEARNERS_END.format(name=courses[0].name, kl=f"{last.kl:.2g}", height=height))
    title = text.LEARNERS_TITLE.format(measure=measure(GOLD_WINS if share else SCORES).title)
    return text.LEARNERS_ALT.format(title=title, ends="; ".join(ends))


def picture_note(picture: Picture, short: Callable[[str], str]) -> str:
    """One line: what the picture compares, and which of the chosen runs are not in it, and why.

    short: makes a path into what the page may show of it.
    """
    if picture.yardstick is None:
        return ""
    one = picture.yardstick
    about = text.LEARNERS_ABOUT_WINS if one.kind == WINS else text.LEARNERS_ABOUT_REWARD
    sentences = [about.format(judge=short(one.judge), start=text.STARTS.get(one.start, short(one.start)))]
    if picture.left_out:
        reasons = "; ".join(f"{name} ({why})" for name, why in picture.left_out.items())
        sentences.append(text.LEFT_OUT.format(reasons=reasons))
    return " ".join(sentences)
