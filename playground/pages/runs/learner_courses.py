"""How far learners have gone, and what that brought: their courses, as points of KL and of wins or a reward.

Pure functions: no run folder, no page, no torch.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from playground.components.charts import finite
from playground.pages.runs import text
from playground.pages.runs.comparison_charts import Curves, last_rows, moving_average
from rlhf_engine.feedback.labelers import REPLAY
from rlhf_engine.measures import GOLD_SCORE, GOLD_WINS, KL, SCORES, STEP
from rlhf_engine.stages import starting_adapter

WINS, REWARD = "wins", "reward"
"""What the height of a point can be: the share of wins over the start, or a mean score."""
CHECKPOINTS = "checkpoints"


class Point(NamedTuple):
    """A policy: how far it is from the start, and how good."""

    label: str
    """Which policy it is, such as "step 12"."""
    kl: float
    """Nats per sequence."""
    height: float
    low: float | None = None
    """The ends of a 95 % interval of the height, where there is one."""
    high: float | None = None


class Yardstick(NamedTuple):
    """What two courses must have in common to stand in one picture."""

    kind: str
    """`WINS` or `REWARD`."""
    judge: str
    """What decided on wins, or gave the score."""
    model: str
    start: str
    """The adapter from which the KL is measured."""


@dataclass(frozen=True)
class Course:
    """The points of one learner by one yardstick, in the order of its steps."""

    name: str
    yardstick: Yardstick
    points: list[Point]


@dataclass(frozen=True)
class Names:
    """How settings of a run are written, so that the same thing has the same name in all runs."""

    name_of: Callable[[str], str] = str
    """A path inside the workspace as its short name; anything else as it is."""
    labeler_of: Callable[[str], str] = lambda run: ""
    """The labeler in the settings of a run of the workspace; empty for what is none."""

    def adapter(self, value: str) -> str:
        """An adapter: `none`, `bundled`, a path, RUN for its newest checkpoint, or RUN@step-000050."""
        folder = Path(value)
        if folder.parent.name == CHECKPOINTS and folder.name != "last":
            return f"{self.name_of(str(folder.parent.parent))}@{folder.name}"
        run = folder.parent.parent if folder.parent.name == CHECKPOINTS else folder
        return self.name_of(str(run)) if value else "none"

    def judge(self, value: str) -> str:
        """A reward or a labeler; of a labeler that gives a run's votes once more, that of the run."""
        for _ in range(9):  # a replay of a replay
            if not value.startswith(REPLAY):
                break
            recorded = self.labeler_of(self.name_of(value.removeprefix(REPLAY)))
            if not recorded:
                break
            value = recorded
        return self.name_of(value)


@dataclass(frozen=True)
class Measurement:
    """The report of `evaluate` or `best-of` in a folder of its own."""

    name: str
    report: dict = field(default_factory=dict)


# -- of a run --------------------------------------------------------------------------------------------------------

def courses_of(run: Curves, report: dict, names: Names, *, window: int = 0, smoothing: float = 0.0) -> list[Course]:
    """The courses of a run: by the wins that it has measured, and by its reward. None where it measures no KL.

    report: its report.json, or {}. window: take the last steps only; 0 takes all. smoothing: weight of a moving average
    over the points, from 0 to below 1.
    """
    start = starting_adapter(run.config)
    if start is None:
        return []
    model, start = names.name_of(run.config["model"]), names.adapter(start)
    judge = names.judge(run.config.get("reward") or run.config.get("labeler", ""))
    courses = []
    wins = points_of(run, GOLD_WINS, window, smoothing)
    final = point_of_report(report, text.LEARNER_FINAL)
    if final and "labeler" in run.config:
        wins.append(final)
    if wins:
        courses.append(Course(run.name, Yardstick(WINS, judge, model, start), wins))
    key = GOLD_SCORE if any(GOLD_SCORE in row for row in run.metrics) else SCORES
    rewards = points_of(run, key, window, smoothing)
    if rewards:
        # A reward that learns while the run goes on is nobody else's.
        own = key == SCORES and not run.config.get("reward")
        whose = text.LEARNER_OWN_REWARD.format(name=run.name) if own else judge
        courses.append(Course(run.name, Yardstick(REWARD, whose, model, start), rewards))
    return courses


def points_of(run: Curves, key: str, window: int, smoothing: float) -> list[Point]:
    """The steps in which a run has measured both its KL and a measure."""
    rows = [row for row in last_rows(run.metrics, window, key)
            if finite(row.get(KL)) is not None and finite(row[key]) is not None]
    kls, heights = (moving_average([row[column] for row in rows], smoothing) for column in (KL, key))
    return [Point(text.LEARNER_STEP.format(step=row[STEP]), kl, height)
            for row, kl, height in zip(rows, kls, heights) if kl is not None and height is not None]


def point_of_report(report: dict, label: str) -> Point | None:
    """The policy that a report compares with the start; None where it has no wins or no KL."""
    kl, wins, low, high = (finite(report.get(name)) for name in ("kl", "win_rate", "win_rate_low", "win_rate_high"))
    return None if kl is None or wins is None else Point(label, kl, wins, low, high)


# -- of evaluations and of best-of -----------------------------------------------------------------------------------

def evaluated(runs: Sequence[str], found: Sequence[Measurement], names: Names) -> list[Course]:
    """The checkpoints of some runs that `evaluate` has compared with what they started from, by judge."""
    courses: dict[tuple[str, Yardstick], list[Point]] = {}
    for measurement in found:
        report = measurement.report
        point = point_of_report(report, measurement.name)
        if point is None or not isinstance(report.get("adapter"), str):
            continue
        name = names.adapter(report["adapter"]).partition("@")[0]
        if name in runs:
            yardstick = Yardstick(WINS, names.judge(str(report.get("judge", ""))), names.name_of(str(report["model"])),
                                  names.adapter(str(report.get("against", ""))))
            courses.setdefault((name, yardstick), []).append(point)
    return [Course(name, yardstick, sorted(points, key=lambda point: point.kl))
            for (name, yardstick), points in courses.items()]


def best_of_courses(measurement: Measurement, names: Names) -> list[Course]:
    """The curves of a report of `best-of`: wins by its judge, and the mean score of its reward and its judge."""
    report = measurement.report
    rows = report.get("curve")
    if not isinstance(rows, list) or not isinstance(report.get("reward"), str):
        return []
    reward = names.judge(report["reward"])
    judge = names.judge(str(report.get("judge") or report["reward"]))
    model, start = names.name_of(str(report.get("model", ""))), names.adapter(str(report.get("adapter", "")))
    kinds = dict.fromkeys([(WINS, judge, "win_rate"), (REWARD, judge, "gold"), (REWARD, reward, "proxy")])
    courses: dict[Yardstick, Course] = {}
    for kind, by, column in kinds:
        points = [Point(text.LEARNER_BEST_OF.format(n=row["n"]), row["kl"], row[column],
                        finite(row.get(f"{column}_low")), finite(row.get(f"{column}_high")))
                  for row in rows if isinstance(row, dict) and "n" in row
                  and finite(row.get("kl")) is not None and finite(row.get(column)) is not None]
        yardstick = Yardstick(kind, by, model, start)
        if points:
            courses.setdefault(yardstick, Course(measurement.name, yardstick, points))
    return list(courses.values())


# -- which of them stand in one picture ------------------------------------------------------------------------------

def choose_yardstick(courses: Sequence[Course]) -> Yardstick | None:
    """The yardstick by which most runs are measured: of several wins come first, then what the first run has."""
    counts = Counter(yardstick for yardstick, _ in {(course.yardstick, course.name): None for course in courses})
    return max(counts, key=lambda yardstick: (counts[yardstick], yardstick.kind == WINS), default=None)


def why_left_out(run: Curves, courses: Sequence[Course], yardstick: Yardstick) -> str:
    """Why a run has no course by a yardstick, in a few words."""
    own = [course.yardstick for course in courses if course.name == run.name]
    if not any(KL in row for row in run.metrics) and not own:
        return text.LEFT_OUT_NO_KL
    if not own:
        return text.LEFT_OUT_UNJUDGED
    if all(one.model != yardstick.model for one in own):
        return text.LEFT_OUT_MODEL
    if all(one.start != yardstick.start for one in own):
        return text.LEFT_OUT_START
    if all(one.kind != yardstick.kind for one in own):
        return text.LEFT_OUT_NO_WINS if yardstick.kind == WINS else text.LEFT_OUT_NO_REWARD
    return text.LEFT_OUT_JUDGE if yardstick.kind == WINS else text.LEFT_OUT_REWARD
