"""Settings of a run that may change while it trains, between two of its steps; and the way back to a checkpoint."""

from typing import Any

import gradio as gr

from playground.components import html as views
from playground.components.formatting import plain
from playground.components.inputs import CONTROL_EVENT, Choice, label
from playground.components.notices import inform, mark_seen, warn
from playground.pages.train import text
from playground.run_files import read_journal
from playground.workspace import Workspace
from rlhf_engine import config as configs
from rlhf_engine.errors import UserError
from rlhf_engine.runs.folder import Run, step_of
from rlhf_engine.runs.journal import effective_settings, without_rewound
from rlhf_engine.stages import STAGES, live_settings

INCREMENTS = {"steps": 1, "epochs": 1, "votes": 1, "kl_target": 1.0, "temperature": 0.1, "max_new_tokens": 1,
              "pessimism": 0.1}
"""By how much an arrow key changes a value."""


def controls_of(stage: str) -> list[str]:
    """The settings of a stage that may change while it trains, in the order in which the page shows them."""
    return in_order(configs.live_settings(STAGES[stage].config)) if stage in STAGES else []


def in_order(names: tuple[str, ...]) -> list[str]:
    """Settings in the order of their labels; those without a label of their own come last."""
    return [*(name for name in text.LIVE_LABELS if name in names),
            *(name for name in names if name not in text.LIVE_LABELS)]


def live_values(config: dict, journal: list[dict]) -> dict[str, float]:
    """The live settings of a run as they are now: those it began with, and the changes that no rewind has undone.

    The epochs are left out where the steps decide.
    """
    now = effective_settings(config, without_rewound(journal))
    return {name: now[name] for name in controls_of(config["stage"]) if name != "epochs" or not now["steps"]}


class LiveSettings:
    """The panel below the buttons of a run, in sight while the run is alive."""

    def __init__(self, workspace: Workspace, worker, notice: gr.HTML, picker):
        self.workspace, self.worker, self.notice, self.picker = workspace, worker, notice, picker
        with gr.Accordion(text.LIVE_CONTROLS, open=False, visible=False, elem_id="live-controls",
                          elem_classes="owners") as self.group:
            self.summary = gr.HTML("", elem_id="live-in-force", padding=True)
            with gr.Row(elem_classes="fields"):
                self.fields = {name: self._field(name) for name in in_order(live_settings())}
            self.apply = gr.Button(text.LIVE_APPLY, size="sm", elem_id="live-apply")
            with gr.Row(elem_classes="rewind"):
                self.checkpoint = Choice([], value=None, label=text.REWIND_TO, elem_id="rewind-to", min_width=160)
                self.rewind = gr.Button(text.REWIND, size="sm", variant="stop", elem_id="rewind", interactive=False)
            self.asked = gr.State(None)
            """Name of a run and the step that somebody is asked about."""
            with gr.Group(visible=False) as self.sure:
                self.question = gr.HTML("", padding=True)
                with gr.Row(elem_classes="controls"):
                    self.yes = gr.Button(text.REWIND_YES, variant="stop", elem_id="rewind-yes")
                    self.no = gr.Button(text.REWIND_NO, elem_id="rewind-no")
        self._wire()

    def _field(self, name: str) -> gr.Number:
        """The field of a setting. `refresh` fills in what its help leaves open."""
        step: Any = INCREMENTS.get(name)  # None: an arrow key changes it by what the browser finds right
        return gr.Number(label=live_label(name), info=live_info(name), min_width=140, step=step,
                         elem_id=f"live-{name}".replace("_", "-"))

    def _wire(self) -> None:
        inputs = {self.picker, *self.fields.values()}
        gr.on([self.apply.click, *(field.submit for field in self.fields.values())], self._change, inputs, self.notice,
              show_progress_on=self.apply, **CONTROL_EVENT)
        self.rewind.click(self._ask_sure, {self.picker, self.checkpoint},
                          [self.notice, self.sure, self.question, self.asked], queue=False, api_visibility="private")
        self.yes.click(self._rewind, self.asked, [self.notice, self.sure], show_progress_on=self.yes, **CONTROL_EVENT)
        self.no.click(lambda: gr.update(visible=False), None, self.sure, queue=False, api_visibility="private")

    # -- what the buttons do -----------------------------------------------------------------------------------------

    def _run(self, values: dict) -> Run:
        return self.workspace.run(self.workspace.chosen(values[self.picker]))

    def _change(self, values: dict) -> str:
        """Send the values that differ from those in force. If one is refused, those before it are changed all the same.
        """
        changes = []
        try:
            run = self._run(values)
            for name, old in live_values(run.config(), run.journal()).items():
                new = values[self.fields[name]]
                if new != old:
                    self.worker.control(str(run.path), name, new)
                    changes.append(text.LIVE_VALUE.format(name=live_label(name), value=short(new), was=short(old)))
        except UserError as error:
            return warn(error)
        if not changes:
            return inform(text.LIVE_NOTHING)
        return inform(text.LIVE_ASKED.format(name=run.path.name, changes=", ".join(changes)))

    def _ask_sure(self, values: dict) -> dict:
        """Show the question whether the run is to be rewound."""
        try:
            run = self._run(values)
            if values[self.checkpoint] is None:
                raise UserError(text.REWIND_CHOOSE.format(name=run.path.name))
            run.checkpoint_at(values[self.checkpoint])
        except UserError as error:
            return {self.notice: warn(error)}
        question = text.REWIND_SURE.format(name=run.path.name, step=values[self.checkpoint])
        return {self.sure: gr.update(visible=True), self.question: views.escape(question), self.notice: "",
                self.asked: (run.path.name, values[self.checkpoint])}

    def _rewind(self, asked: tuple[str, int]) -> dict:
        """Rewind what the question was about: the pickers may show another run or step by now."""
        try:
            run, step = self.workspace.run(asked[0]), asked[1]
            self.worker.control(str(run.path), "rewind", step)
            message = inform(text.REWIND_ASKED.format(name=run.path.name, step=step))
        except UserError as error:
            message = warn(error)
        return {self.notice: message, self.sure: gr.update(visible=False)}

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [self.group, self.summary, *self.fields.values(), self.checkpoint, self.rewind, self.sure]

    def refresh(self, run: Run | None, seen: dict, chosen: int | None = None) -> dict:
        """Updates if another run is shown or a value in force has changed; otherwise the fields keep what somebody is
        typing.

        run: the run that is shown, if it is alive; None otherwise. chosen: the step of the checkpoint that is chosen.
        """
        name = run.path.name if run else ""
        changes: dict = {self.sure: gr.update(visible=False)} if mark_seen(seen, "live run", name) else {}
        if run is None:
            seen.pop("live checkpoints", None)
            if mark_seen(seen, "live settings", None):
                changes[self.group] = gr.update(visible=False)
            return changes
        journal = read_journal(run)
        now = live_values(self.workspace.config(run.path.name), journal)
        if mark_seen(seen, "live settings", [run.path.name, now]):
            changes.update(self._show(now, fitted_rate(journal)))
        steps = [step_of(folder) for folder in run.checkpoints()]
        name_before, steps_before = seen.get("live checkpoints", ("", []))
        if mark_seen(seen, "live checkpoints", [name, steps]):
            # Whoever has chosen an older checkpoint keeps it when a new one comes.
            keeps = name == name_before and chosen in steps and [chosen] != steps_before[-1:]
            changes.update(self._show_checkpoints(run, steps, chosen if keeps else None))
        return changes

    def _show_checkpoints(self, run: Run, steps: list[int], chosen: int | None) -> dict:
        """The steps that a run can go back to; while there is none, when the first one comes.

        chosen: the step that stays chosen; None chooses the newest.
        """
        choices = [(text.REWIND_STEP.format(step=step), step) for step in reversed(steps)]
        settings = self.workspace.effective_settings(run.path.name)
        first = configs.checkpoint_period(settings.get("checkpoint_every", 0), run.status()["total_steps"])
        if chosen is None and steps:
            chosen = steps[-1]
        return {self.checkpoint: gr.update(choices=choices, value=chosen,
                                           info="" if steps else text.REWIND_NONE.format(step=first)),
                self.rewind: gr.update(interactive=bool(steps))}

    def _show(self, now: dict[str, float], fitted: str) -> dict:
        """The values in force, in words and in the fields. fitted: the learning rate that a 0 stands for."""
        words = []
        for name, value in now.items():
            shown = fitted if name == "learning_rate" and not value else short(value)
            words.append(text.LIVE_SAME.format(name=live_label(name), value=shown))
        changes = {self.group: gr.update(visible=True),
                   self.summary: views.escape(text.LIVE_IN_FORCE.format(values=", ".join(words)))}
        for name, field in self.fields.items():
            changes[field] = gr.update(visible=name in now, value=now.get(name), info=live_info(name, fitted))
        return changes


def fitted_rate(journal: list[dict]) -> str:
    """The learning rate that was fitted to the model; an empty string if none was."""
    return next((short(row["learning_rate"]) for row in journal if row.get("event") == "fitted"), "")


def live_label(name: str) -> str:
    """The label of a live setting."""
    return text.LIVE_LABELS.get(name, label(name))


def live_info(name: str, fitted: str = "") -> str:
    """The help of a live setting."""
    return text.LIVE_INFO.get(name, "").format(fitted=fitted)


def short(value) -> str:
    """A number as a person writes it; an empty string for an empty field."""
    return "" if value is None else plain(value)
