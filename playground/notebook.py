"""For notebooks: `for step in live(trainer)` draws the metrics while the trainer works, and `You` asks you to vote."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import plotly.graph_objects as go
from IPython.display import DisplayHandle, display
from plotly.subplots import make_subplots

from playground.components.charts import KL, POLICY, REFERENCE, REWARD, VALUE, panel_level, panel_unit, trace
from playground.components.stage_views import panels_of
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.labelers import ImmediateLabeler
from rlhf_engine.feedback.queries import Query
from rlhf_engine.feedback.scoring_functions import prompt_text

if TYPE_CHECKING:
    from rlhf_engine.trainers.interface import AnyTrainer

__all__ = ["KL", "POLICY", "REFERENCE", "REWARD", "VALUE", "You", "live"]

HISTORIES: "WeakKeyDictionary[AnyTrainer, list[dict]]" = WeakKeyDictionary()
"""The metrics so far of each trainer that a cell has followed."""


def live(trainer: "AnyTrainer", *, every: float = 1.0) -> Iterator[dict]:
    """Iterate over `trainer` and draw its metrics below the cell, at most once in `every` seconds.

    Yields what the trainer yields. Interrupting the cell loses nothing: the next `live(trainer)` goes on where this one
    was.
    """
    history = HISTORIES.setdefault(trainer, [])
    display_handle, drawn_at = None, 0.0
    try:
        for metrics in trainer:
            history.append(metrics)
            if time.monotonic() - drawn_at >= every:
                display_handle = show(figure(trainer, history), display_handle)
                drawn_at = time.monotonic()
            yield metrics
    finally:
        if history:
            show(figure(trainer, history), display_handle)


def show(drawing: go.Figure, display_handle: DisplayHandle | None) -> DisplayHandle | None:
    """Display a figure; with the handle of an earlier one, in its place. Returns the handle for the next time.

    What Plotly's renderer makes of the figure is displayed, not the figure: that would display itself, each time anew.
    """
    bundle = drawing._repr_mimebundle_()
    if display_handle is None:
        return display(bundle, raw=True, display_id=True)
    display_handle.update(bundle, raw=True)
    return display_handle


def figure(trainer: "AnyTrainer", history: list[dict]) -> go.Figure:
    """The first two panels of the trainer's stage, side by side, as on the page."""
    stage, config = trainer.config.stage, vars(trainer.config)
    panels = panels_of({**config, "stage": stage}, history)[:2]
    drawing = make_subplots(1, len(panels), subplot_titles=[panel.title for panel in panels])
    for column, panel in enumerate(panels, 1):
        for line in panel.lines:
            drawing.add_trace(go.Scatter(trace(line, history, stage)), row=1, col=column)
        drawing.update_yaxes(title_text=panel_unit(panel), row=1, col=column)
        if level := panel_level(panel, config):
            # The type in plotly's signature says str, but it takes a number.
            drawing.add_hline(level[1], line_dash="dash", line_color=REFERENCE, annotation_text=level[0],
                              row=1, col=column)  # pyright: ignore[reportArgumentType]
    drawing.update_xaxes(title_text="step")
    progress = f"step {trainer.step} of {trainer.total_steps}"
    title = {"text": progress, "x": 1.0, "xanchor": "right", "font": {"size": 12}}
    margin = {"l": 50, "r": 20, "t": 40, "b": 40}
    drawing.update_layout(height=320, template="plotly_white", margin=margin, title=title)
    return drawing


class You(ImmediateLabeler):
    """A labeler that asks the person at the notebook: the number of the best answer, t for a tie, b if all are bad."""

    score = None
    CHOICES = {"t": "tie", "b": "both_bad"}

    def new_events(self, only: list[str] | None = None) -> list[Event]:
        """Ask all the queries that wait, and return the votes."""
        queries, self.waiting = self.waiting, []
        return [query.event(self.choose(query), f"{query.id} you", voter="you") for query in queries]

    def choose(self, query: Query) -> str:
        """Ask one query until the answer is a valid choice."""
        print(f"\n> {prompt_text(query.prompt)}")
        for number, text in enumerate(query.responses, 1):
            print(f"{number}  {text}")
        numbers = [str(number) for number in range(1, len(query.responses) + 1)]
        while True:
            answer = input(f"Which is best? {', '.join(numbers)}, t (tie) or b (all bad): ").strip().lower()
            if answer in numbers or answer in self.CHOICES:
                return self.CHOICES.get(answer, answer)
