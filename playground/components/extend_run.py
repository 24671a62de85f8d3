"""A run that is done, and goes on with more steps (and votes): a number or two, and a button."""

from collections.abc import Callable

import gradio as gr

from playground.components import text
from playground.components.notices import inform, mark_seen, warn
from playground.run_commands import go_on
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError


class ExtendRunPanel:
    """In sight while the run that is shown is done. `prefix` makes the element ids of a page its own; `chosen` says
    which run the value of its `picker` means."""

    def __init__(self, workspace: Workspace, worker, notice: gr.HTML, prefix: str, picker,
                 chosen: Callable[[str], str]):
        self.workspace, self.worker, self.prefix, self.picker, self.chosen = workspace, worker, prefix, picker, chosen
        with gr.Row(visible=False, elem_id=f"{prefix}go-on", elem_classes=["owners", "go-on"]) as self.group:
            self.fields = {name: gr.Number(label=text.GO_ON_LABELS[name], step=1, min_width=120,
                                           elem_id=f"{prefix}go-on-{name}")
                           for name in text.GO_ON_LABELS}
            self.button = gr.Button(text.GO_ON, size="md", min_width=120, elem_id=f"{prefix}go-on-start",
                                    elem_classes="once")
        gr.on([self.button.click, *(field.submit for field in self.fields.values())], self._go_on,
              {picker, *self.fields.values()}, notice,
              show_progress_on=self.button, concurrency_id="control", concurrency_limit=4, api_visibility="private",
              show_progress="minimal")

    def _go_on(self, values: dict) -> str:
        try:
            run = self.workspace.run(self.chosen(values[self.picker]))
            wanted = {name: values[field] for name,
                      field in self.fields.items() if name in self.workspace.config(run.path.name)}
            go_on(self.worker, run, wanted)
        except UserError as error:
            return warn(error)
        return inform(text.GOES_ON.format(name=run.path.name, steps=wanted["steps"]))

    @property
    def outputs(self) -> list:
        return [self.group, *self.fields.values()]

    def refresh(self, entry: RunSummary | None, seen: dict) -> dict:
        """Updates where another run is shown, or it has come to its end; what somebody is typing stays otherwise."""
        over = entry is not None and entry.state == "done" and bool(entry.checkpoints)
        if not mark_seen(seen, f"{self.prefix}go on", [entry.name, entry.step] if over else None):
            return {}
        if not over:
            return {self.group: gr.update(visible=False)}
        more = suggested(self.workspace.config(entry.name), self.workspace.effective_settings(entry.name), entry.step)
        return {self.group: gr.update(visible=True),
                **{field: gr.update(visible=name in more, value=more.get(name)) for name, field in self.fields.items()}}


def suggested(began: dict, now: dict, done: int) -> dict[str, int]:
    """As much again as a run was to be when it began: the steps (and votes, where it asks for some) that it would have
    in all."""
    return {"steps": done + (began["steps"] or done)} | ({"votes": now["votes"] + began["votes"]} if "votes" in began
                                                         else {})
