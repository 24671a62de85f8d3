"""The Train page: start a stage on the left, watch and control its run on the right."""

import gradio as gr

from playground.pages.train.run_panel import RunPanel
from playground.pages.train.start_panel import StartPanel
from playground.workspace import RunSummary, Workspace


class TrainPage:
    """Builds its components inside the current `gr.Blocks`; `refresh` returns what has changed since a browser last
    asked."""

    def __init__(self, workspace: Workspace, worker, notice: gr.HTML):
        with gr.Row():
            with gr.Column(scale=5, min_width=320, elem_classes="starts"):
                self.start_panel = StartPanel(workspace, worker, notice)
            with gr.Column(scale=7, min_width=320):
                self.run_panel = RunPanel(workspace, worker, notice)
        self.start_panel.wire(self.run_panel.picker)
        self.run_panel.wire()

    @property
    def picker(self) -> gr.Dropdown:
        """The dropdown that says which run is shown."""
        return self.run_panel.picker

    @property
    def watched(self) -> set:
        """The components whose values `refresh` reads."""
        return self.run_panel.watched | self.start_panel.watched

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [*self.run_panel.outputs, *self.start_panel.outputs]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """Updates for everything whose mark differs from the one in `seen`, which is brought up to date."""
        return {**self.start_panel.refresh(values, entries, seen), **self.run_panel.refresh(values, entries, seen)}
