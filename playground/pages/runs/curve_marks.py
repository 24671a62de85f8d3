"""Marks on the curves of a run: the steps at which votes were learned, a setting was changed, the run was rewound, or
it was warned."""

import textwrap
from bisect import bisect_right
from dataclasses import dataclass

from playground.components.formatting import sentence
from playground.pages.runs import text

SYMBOLS = {"reward": ("triangle-up", "▲"), "changed": ("diamond", "◆"), "rewound": ("x", "✖"),
           "warning": ("circle", "●")}
"""The journal events that are marked: the symbol in Plotly, and the same symbol as text."""
MOST_MARKS = 200
"""At most this many marks of a run are drawn, the latest ones."""
MOST_CHARACTERS, LINE_LENGTH = 240, 46
"""Characters of the text of a mark, and of one of its lines."""


@dataclass(frozen=True)
class Mark:
    """All events of one kind at one step."""

    step: int
    event: str
    """A key of `SYMBOLS`."""
    text: str
    """What Plotly shows of them."""


def find_marks(journal: list[dict]) -> list[Mark]:
    """The latest marks of a run, oldest first."""
    sentences: dict[tuple[int, str], list[str]] = {}
    for row in journal:
        if row.get("event") in SYMBOLS and isinstance(row.get("step"), int):
            sentences.setdefault((row["step"], row["event"]), []).append(sentence(row))
    latest = list(sentences.items())[-MOST_MARKS:]
    return [Mark(step, event, wrap(lines[-1], len(lines) - 1)) for (step, event), lines in latest]


def marks_trace(marks: list[Mark], steps: list[int], heights: list[float | None]) -> dict | None:
    """The marks on a line as a Plotly trace; None if there is none within the steps of the line."""
    placed = [(mark, height_at(mark.step, steps, heights)) for mark in marks]
    placed = [(mark, height) for mark, height in placed if height is not None]
    if not placed:
        return None
    return {"mode": "markers", "showlegend": False, "x": [mark.step for mark, _ in placed],
            "y": [height for _, height in placed],
            "text": [mark.text for mark, _ in placed],
            "marker": {"size": 8, "symbol": [SYMBOLS[mark.event][0] for mark, _ in placed],
                       "line": {"width": 1, "color": "#ffffff"}}}


def height_at(step: int, steps: list[int], heights: list[float | None]) -> float | None:
    """The height of a line at a step, or at the last step before it that is drawn.

    A mark one step before the first point stands on that point. None for any other step before it.
    """
    index = bisect_right(steps, step) - 1
    if not steps or (index < 0 and step != steps[0] - 1):
        return None
    return heights[max(index, 0)]


def wrap(line: str, more: int) -> str:
    """A sentence in short lines, as text for Plotly; `more` is the number of events of the same kind at the same step.
    """
    line = textwrap.shorten(line, MOST_CHARACTERS, placeholder=" …")
    if more:
        line = f"{line} {text.MORE_OF_IT.format(count=more)}"
    return "<br>".join(plotly_text(part) for part in textwrap.wrap(line, LINE_LENGTH))


def plotly_text(string: str) -> str:
    """Inert text for Plotly, which understands some tags and entities, and %{…} in templates."""
    return string.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("{", "&#123;")
