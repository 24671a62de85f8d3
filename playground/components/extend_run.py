"""The panel that gives a run which is done more steps (and votes)."""

from collections.abc import Callable

import gradio as gr

from playground.components import text
from playground.components.inputs import CONTROL_EVENT
from playground.components.notices import inform, mark_seen, warn
from playground.run_commands import go_on
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError


class ExtendRunPanel:
    """Shown while the run on the page is done.

    `prefix` begins the element ids, so that two pages can have a panel each. `run_of` gives the name of the run that a
    value of `picker` means.
    """

    def __init__(self, workspace: Workspace, worker, notice: gr.HTML, prefix: str, picker,
                 run_of: Callable[[str], str]):
        self.workspace, self.worker, self.prefix = workspace, worker, prefix
        self.picker, self.run_of = picker, run_of
        with gr.Row(visible=False, elem_id=f"{prefix}go-on", elem_classes=["owners", "go-on"]) as self.group:
            self.fields = {name: gr.Number(label=label, step=1, min_width=120, elem_id=f"{prefix}go-on-{name}")
                           for name, label in text.GO_ON_LABELS.items()}
            self.button = gr.Button(text.GO_ON, size="md", min_width=120, elem_id=f"{prefix}go-on-start",
                                    elem_classes="once")
        fields = list(self.fields.values())
        gr.on([self.button.click, *(field.submit for field in fields)], self._go_on, {picker, *fields}, notice,
              show_progress_on=self.button, **CONTROL_EVENT)

    def _go_on(self, values: dict) -> str:
        """Let the run go on; returns the notice for the page."""
        try:
            run = self.workspace.run(self.run_of(values[self.picker]))
            config = self.workspace.config(run.path.name)
            settings = {name: values[field] for name, field in self.fields.items() if name in config}
            go_on(self.worker, run, settings)
        except UserError as error:
            return warn(error)
        return inform(text.GOES_ON.format(name=run.path.name, steps=settings["steps"]))

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [self.group, *self.fields.values()]

    def refresh(self, entry: RunSummary | None, seen: dict) -> dict:
        """The updates when another run is shown or a run is done. At other times, what somebody types stays."""
        done = entry is not None and entry.state == "done" and bool(entry.checkpoints)
        mark = [entry.name, entry.step] if entry and done else None
        if not mark_seen(seen, f"{self.prefix}go on", mark):
            return {}
        if entry is None or not done:
            return {self.group: gr.update(visible=False)}
        numbers = suggested(self.workspace.config(entry.name), self.workspace.effective_settings(entry.name),
                            entry.step)
        changes: dict = {self.group: gr.update(visible=True)}
        for name, field in self.fields.items():
            changes[field] = gr.update(visible=name in numbers, value=numbers.get(name))
        return changes


def suggested(initial: dict, settings: dict, step: int) -> dict[str, int]:
    """The numbers of steps (and votes) in all, for a run that is done at `step`: as many more as it began with.

    `initial` are the settings with which the run began, `settings` those of now.
    """
    numbers = {"steps": step + (initial["steps"] or step)}
    if "votes" in initial:
        numbers["votes"] = settings["votes"] + initial["votes"]
    return numbers
