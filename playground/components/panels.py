"""The plots of a run: their lines, and the panels that several stages have in common."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from playground.components import text
from rlhf_engine.measures import (
    ACCURACY_HELD_OUT,
    ACCURACY_TRAIN,
    CHOSEN,
    CHOSEN_HELD_OUT,
    DEAD_GROUPS,
    ENTROPY,
    GRADIENT_NORM,
    GUESSED,
    KL,
    LEARNING_RATE,
    LENGTH,
    LOSS_HELD_OUT,
    LOSS_POLICY,
    LOSS_PTX,
    LOSS_TRAIN,
    LOSS_VALUE,
    MARGIN,
    MEASURES,
    REFERENCE,
    REJECTED,
    REJECTED_HELD_OUT,
    SCORES,
    STEP,
    TIME,
    TIME_UPDATE,
    VOTES_LEARNED,
    measure,
)


@dataclass(frozen=True)
class Line:
    """One curve of a panel."""

    key: str
    """A key of the table of measures."""
    name: str
    """Its name in the legend."""
    faint: bool = False
    right: bool = False
    """On an axis of its own, at the right."""
    role: str = ""
    """The role that gives it its colour; empty takes that of the measure."""
    setting: str = ""
    """It is drawn only if this setting is not 0; empty always draws it."""


@dataclass(frozen=True)
class Panel:
    """One plot of a run. The unit of an axis is that of its first measure, unless the panel names one."""

    title: str
    lines: tuple[Line, ...] = ()
    unit: str = ""

    def for_config(self, config: dict) -> "Panel":
        """The panel without the lines that the settings of a run switch off."""
        return replace(self, lines=tuple(line for line in self.lines if not line.setting or config.get(line.setting)))


SCORE_PANEL = Panel(measure(SCORES).title, (Line(SCORES, text.SCORE_LINE),))
KL_PANEL = Panel(measure(KL).title, (Line(KL, text.KL_LINE),))
TEXT_PANEL = Panel(text.ENTROPY_LENGTH, (Line(ENTROPY, text.ENTROPY), Line(LENGTH, text.LENGTH, right=True)))
LOSSES_PANEL = Panel(text.LOSSES, (Line(LOSS_POLICY, text.POLICY), Line(LOSS_VALUE, text.VALUE),
                                   Line(LOSS_PTX, text.PTX, right=True, role=REFERENCE, setting="ptx_coef")))
VOTES_PANEL = Panel(measure(GUESSED).title, (Line(GUESSED, text.GUESSED_LINE),
                                             Line(VOTES_LEARNED, text.VOTES, right=True)))
GRADIENT_PANEL = Panel(measure(GRADIENT_NORM).title, (Line(GRADIENT_NORM, measure(GRADIENT_NORM).title),))
RATE_PANEL = Panel(measure(LEARNING_RATE).title, (Line(LEARNING_RATE, measure(LEARNING_RATE).title),))
MARGIN_PANEL = Panel(measure(MARGIN).title, (Line(MARGIN, measure(MARGIN).title),))
LOG_RATIO_PANEL = Panel(text.LOG_RATIOS, (
    Line(CHOSEN_HELD_OUT, text.CHOSEN_HELD_OUT_LINE), Line(REJECTED_HELD_OUT, text.REJECTED_HELD_OUT_LINE),
    Line(CHOSEN, text.CHOSEN_LINE, faint=True), Line(REJECTED, text.REJECTED_LINE, faint=True)))
GROUPS_PANEL = Panel(measure(DEAD_GROUPS).title, (Line(DEAD_GROUPS, measure(DEAD_GROUPS).title),))
TIME_PANEL = Panel(text.SECONDS, (Line(TIME_UPDATE, text.SECONDS),))
ACCURACY_PANEL = Panel(text.ACCURACY, (Line(ACCURACY_TRAIN, text.TRAINING, faint=True),
                                       Line(ACCURACY_HELD_OUT, text.HELD_OUT)))


def loss_panel(unit: str) -> Panel:
    """Training and held-out loss."""
    return Panel(text.LOSS, (Line(LOSS_TRAIN, text.TRAINING, faint=True), Line(LOSS_HELD_OUT, text.HELD_OUT)), unit)


# -- what a run has measured -------------------------------------------------------------------------------------------

def measured_keys(metrics: list[dict]) -> list[str]:
    """The measures of a run: those of the table of measures in its order, then the others by name."""
    keys = set().union(*metrics)
    known = [key for key in MEASURES if key in keys]
    return [*known, *sorted(keys.difference(MEASURES, [STEP]))]


def measured_panels(metrics: list[dict]) -> list[Panel]:
    """A panel for each measure of a run; training and held-out measures of the same name share one."""
    keys = [key for key in measured_keys(metrics) if not key.startswith(TIME)]
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.removesuffix("/train").removesuffix("/held_out"), []).append(key)
    return [measured_panel(group) for group in groups.values()]


def measured_panel(keys: Iterable[str]) -> Panel:
    """A panel with a line for each of some measures."""
    lines = tuple(Line(key, measure(key).title, faint=key.endswith("/train")) for key in keys)
    return Panel(lines[0].name if len(lines) == 1 else lines[0].name.split(",")[0], lines)
