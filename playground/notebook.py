"""In a notebook: `for step in live(trainer): ...` draws the trainer's metrics in the cell while it trains, and `You` asks you."""

import time
from collections.abc import Iterator

import plotly.graph_objects as go
from IPython.display import display
from plotly.subplots import make_subplots

from playground.components.charts import KL, POLICY, REFERENCE, REWARD, VALUE, panel_level, panel_unit, trace
from playground.components.stage_views import panels_of
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.labelers import ImmediateLabeler
from rlhf_engine.feedback.queries import Query
from rlhf_engine.feedback.scoring_functions import prompt_text

__all__ = ["KL", "POLICY", "REFERENCE", "REWARD", "VALUE", "You", "live"]


def live(trainer, *, every: float = 1.0) -> Iterator[dict]:
    """Iterate over `trainer`, one figure below the cell following it, drawn anew at most once in `every` seconds.

    Yields what the trainer yields. Interrupting the cell loses nothing: the next `live(trainer)` goes on where this one was.
    """
    history = trainer.history = getattr(trainer, "history", [])
    shown, drawn = None, 0.0
    try:
        for metrics in trainer:
            history.append(metrics)
            if time.monotonic() - drawn >= every:
                shown, drawn = show(figure(trainer, history), shown), time.monotonic()
            yield metrics
    finally:
        if history:
            show(figure(trainer, history), shown)


def show(drawing: go.Figure, shown):
    """Display a figure, in the place of the one shown before; returns the handle for the next time."""
    if shown is None:
        return display(drawing, display_id=True)
    shown.update(drawing)
    return shown


def figure(trainer, history: list[dict]) -> go.Figure:
    """The first two panels of the trainer's stage, side by side, as on the page."""
    stage, config = trainer.config.stage, vars(trainer.config)
    panels = panels_of({**config, "stage": stage}, history)[:2]
    drawing = make_subplots(1, len(panels), subplot_titles=[panel.title for panel in panels])
    for column, panel in enumerate(panels, 1):
        for line in panel.lines:
            drawing.add_trace(go.Scatter(trace(line, history, stage)), row=1, col=column)
        drawing.update_yaxes(title_text=panel_unit(panel), row=1, col=column)
        if level := panel_level(panel, config):
            drawing.add_hline(level[1], line_dash="dash", line_color=REFERENCE, annotation_text=level[0], row=1, col=column)
    drawing.update_xaxes(title_text="step")
    title = {"text": f"step {trainer.step} of {trainer.total_steps}", "x": 1.0, "xanchor": "right", "font": {"size": 12}}
    drawing.update_layout(height=320, template="plotly_white", margin={"l": 50, "r": 20, "t": 40, "b": 40}, title=title)
    return drawing


class You(ImmediateLabeler):
    """A labeler that asks whoever sits before the notebook: type the number of the best answer, t for a tie, b if all are bad."""

    score = None
    CHOICES = {"t": "tie", "b": "both_bad"}

    def new_events(self, only: list[str] | None = None) -> list[Event]:
        asked, self.waiting = self.waiting, []
        return [query.event(self.choose(query), f"{query.id} you", voter="you") for query in asked]

    def choose(self, query: Query) -> str:
        print(f"\n> {prompt_text(query.prompt)}")
        for place, text in enumerate(query.responses, 1):
            print(f"{place}  {text}")
        numbers = [str(place) for place in range(1, len(query.responses) + 1)]
        while True:
            said = input(f"Which is best? {', '.join(numbers)}, t (tie) or b (all bad): ").strip().lower()
            if said in numbers or said in self.CHOICES:
                return self.CHOICES.get(said, said)
