"""Live controls: settings of a run that goes on, changed between two of its steps, and the way back to a checkpoint."""

import gradio as gr

from playground.components import html as views
from playground.components.formatting import plain
from playground.components.inputs import Choice
from playground.components.notices import inform, mark_seen, warn
from playground.pages.train import text
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.runs.folder import Run, step_of
from rlhf_engine.runs.journal import effective_settings, without_rewound

CONTROLS = {"sft": ("steps", "epochs", "learning_rate"), "reward": ("steps", "epochs", "learning_rate"),
            "ppo": ("steps", "kl_target", "learning_rate", "temperature", "max_new_tokens"),
            "teach": ("steps", "votes", "kl_target", "learning_rate", "temperature", "max_new_tokens", "pessimism")}
"""What each stage's trainer lets be changed (`Trainer.live`)."""
STEPS = {"steps": 1, "epochs": 1, "votes": 1, "kl_target": 1.0, "temperature": 0.1, "max_new_tokens": 1, "pessimism": 0.1}
"""By how much an arrow key moves a value."""


def in_force(config: dict, journal: list[dict]) -> dict[str, float]:
    """The live settings as they are now: what the run began with, and what was changed since and not undone by a rewind. Epochs say
    nothing where there are steps."""
    now = effective_settings(config, without_rewound(journal))
    return {name: now[name] for name in CONTROLS[config["stage"]] if name != "epochs" or not now["steps"]}


class LiveControls:
    """Below the buttons of a run, in sight while it is alive."""

    def __init__(self, workspace: Workspace, worker, notice: gr.HTML, picker):
        self.workspace, self.worker, self.notice, self.picker = workspace, worker, notice, picker
        with gr.Accordion(text.LIVE_CONTROLS, open=False, visible=False, elem_id="live-controls", elem_classes="owners") as self.group:
            self.said = gr.HTML("", elem_id="live-in-force", padding=True)
            with gr.Row(elem_classes="fields"):
                self.fields = {name: gr.Number(label=text.LIVE_LABELS[name], info=text.LIVE_INFO[name].format(fitted=""), min_width=140,
                                               step=STEPS.get(name), elem_id=f"live-{name}".replace("_", "-"))
                               for name in dict.fromkeys(name for names in CONTROLS.values() for name in names)}
            self.apply = gr.Button(text.LIVE_APPLY, size="sm", elem_id="live-apply")
            with gr.Row(elem_classes="rewind"):
                self.checkpoint = Choice([], value=None, label=text.REWIND_TO, elem_id="rewind-to", min_width=160)
                self.rewind = gr.Button(text.REWIND, size="sm", variant="stop", elem_id="rewind")
            with gr.Group(visible=False) as self.sure:
                self.question = gr.HTML("", padding=True)
                with gr.Row(elem_classes="controls"):
                    self.yes = gr.Button(text.REWIND_YES, variant="stop", elem_id="rewind-yes")
                    self.no = gr.Button(text.REWIND_NO, elem_id="rewind-no")
        control = {"concurrency_id": "control", "concurrency_limit": 4, "api_visibility": "private", "show_progress": "minimal"}
        inputs = {self.picker, *self.fields.values()}
        gr.on([self.apply.click, *(field.submit for field in self.fields.values())], self._change, inputs, self.notice,
              show_progress_on=self.apply, **control)
        self.rewind.click(self._ask_sure, {self.picker, self.checkpoint}, [self.notice, self.sure, self.question], queue=False,
                          api_visibility="private")
        self.yes.click(self._rewind, {self.picker, self.checkpoint}, [self.notice, self.sure], show_progress_on=self.yes, **control)
        self.no.click(lambda: gr.update(visible=False), None, self.sure, queue=False, api_visibility="private")

    # -- what is asked -----------------------------------------------------------------------------------------------

    def _run(self, values: dict) -> Run:
        return self.workspace.run(self.workspace.chosen(values[self.picker]))

    def _change(self, values: dict) -> str:
        """Send what differs from what is in force. Of several, those before the first that is refused are made."""
        asked = []
        try:
            run = self._run(values)
            now = in_force(run.config(), run.journal())
            for name, was in now.items():
                value = values[self.fields[name]]
                if value != was:
                    self.worker.control(str(run.path), name, value)
                    asked.append(text.LIVE_VALUE.format(name=text.LIVE_LABELS[name], value=short(value), was=short(was)))
        except UserError as error:
            return warn(error)
        if not asked:
            return inform(text.LIVE_NOTHING)
        return inform(text.LIVE_ASKED.format(name=run.path.name, changes=", ".join(asked)))

    def _ask_sure(self, values: dict) -> dict:
        try:
            run = self._run(values)
            run.checkpoint_at(values[self.checkpoint])
        except UserError as error:
            return {self.notice: warn(error)}
        question = text.REWIND_SURE.format(name=run.path.name, step=values[self.checkpoint])
        return {self.sure: gr.update(visible=True), self.question: views.escape(question), self.notice: ""}

    def _rewind(self, values: dict) -> dict:
        try:
            run, step = self._run(values), values[self.checkpoint]
            self.worker.control(str(run.path), "rewind", step)
            said = inform(text.REWIND_ASKED.format(name=run.path.name, step=step))
        except UserError as error:
            said = warn(error)
        return {self.notice: said, self.sure: gr.update(visible=False)}

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> list:
        return [self.group, self.said, *self.fields.values(), self.checkpoint]

    def refresh(self, run: Run | None, seen: dict) -> dict:
        """Updates where another run is shown, or what is in force has changed; what somebody is typing stays otherwise. No run: none that
        is alive is shown."""
        if run is None:
            seen.pop("live checkpoints", None)
            return {self.group: gr.update(visible=False)} if mark_seen(seen, "live settings", None) else {}
        config, journal = run.config(), run.journal()
        now, steps = in_force(config, journal), [step_of(folder) for folder in run.checkpoints()]
        changes: dict = {}
        if mark_seen(seen, "live settings", [run.path.name, now]):
            fitted = next((short(row["learning_rate"]) for row in journal if row.get("event") == "fitted"), "")
            changes = {self.group: gr.update(visible=True), self.said: views.escape(text.LIVE_IN_FORCE.format(values=", ".join(
                text.LIVE_SAME.format(name=text.LIVE_LABELS[name], value=fitted if name == "learning_rate" and not value else short(value))
                for name, value in now.items())))}
            for name, field in self.fields.items():
                changes[field] = gr.update(visible=name in now, value=now.get(name), info=text.LIVE_INFO[name].format(fitted=fitted))
        if mark_seen(seen, "live checkpoints", [run.path.name, steps]):
            choices = [(text.REWIND_STEP.format(step=step), step) for step in reversed(steps)]
            changes[self.checkpoint] = gr.update(choices=choices, value=steps[-1] if steps else None)
        return changes


def short(value) -> str:
    """A number as a person writes it."""
    return "" if value is None else plain(value)
