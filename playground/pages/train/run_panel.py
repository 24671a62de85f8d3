"""The right half of the Train page: watch a run, pause it, stop it, change it, and go on with it."""

from collections.abc import Callable

import gradio as gr

from playground.components import html as views
from playground.components import text as shared_text
from playground.components.charts import empty_figure, run_figures
from playground.components.extend_run import ExtendRunPanel, suggested
from playground.components.formatting import plain
from playground.components.inputs import CONTROL_EVENT, Choice, run_choices
from playground.components.notices import inform, mark_seen, warn
from playground.components.plots import LivePlot
from playground.components.stage_views import PANELS
from playground.pages.train import text
from playground.pages.train.code_snippets import Snippets, snippets
from playground.pages.train.live_settings import LiveSettings
from playground.pages.train.machine_memory import measured
from playground.run_commands import ask
from playground.run_files import (
    JOURNAL,
    METRICS,
    SAMPLES,
    find_kl_limit,
    read_journal,
    read_metrics,
    read_samples,
    version_of,
)
from playground.workspace import RunSummary, Workspace
from rlhf_engine.arguments import command_line
from rlhf_engine.config import LENGTH_FIELDS, flag
from rlhf_engine.errors import UserError
from rlhf_engine.runs.journal import changes_by_setting

HALTED = ("stopped", "failed")
"""States of a run that goes on from its last checkpoint."""


class RunPanel:
    """Builds its components inside the current column."""

    def __init__(self, workspace: Workspace, worker, notice: gr.HTML):
        self.workspace, self.worker, self.notice = workspace, worker, notice
        self.picker = Choice([(shared_text.FOLLOW, "")], value="", label=shared_text.RUN_LABEL, elem_id="run",
                             allow_custom_value=False)
        self.card = gr.HTML(views.empty(shared_text.NO_RUNS), elem_id="run-card",
                            container=True, padding=True)
        with gr.Row(elem_classes="controls starts"):
            self.buttons = {name: self._button(name, title) for name, title in text.BUTTONS.items()}
        self.longer = ExtendRunPanel(workspace, worker, notice, "", self.picker, workspace.chosen)
        self.asked = gr.State("")
        """Name of the run that somebody is asked about."""
        with gr.Group(visible=False) as self.sure:
            self.question = gr.HTML("", padding=True)
            with gr.Row(elem_classes="controls"):
                self.yes = gr.Button(text.DISCARD_YES, variant="stop", elem_id="discard-yes")
                self.no = gr.Button(text.DISCARD_NO, elem_id="discard-no")
        self.live = LiveSettings(workspace, worker, notice, self.picker)
        self.peak = gr.HTML("", elem_id="run-memory", apply_default_css=False)
        with gr.Row(elem_classes="plot-grid"):
            self.plots = [LivePlot(empty_figure(), elem_id=f"plot-{number}") for number in range(1, PANELS + 1)]
        with gr.Accordion(shared_text.SAMPLES, open=True):
            self.samples = gr.HTML(views.samples([]), elem_id="samples", apply_default_css=False)
        with gr.Accordion(shared_text.EVENTS, open=True):
            self.events = gr.HTML(views.events([]), elem_id="events", apply_default_css=False)
        with gr.Accordion(text.RUN_COMMAND, open=False):
            self.snippets = Snippets("run-")

    def _button(self, name: str, title: str) -> gr.Button:
        """The button of a command. Only an owner may discard a run."""
        if name == "discard":
            return gr.Button(title, size="sm", variant="stop", elem_id=name, interactive=False, elem_classes="owners")
        return gr.Button(title, size="sm", elem_id=name, interactive=False)

    def wire(self) -> None:
        """Connect the events of the buttons."""
        for name, button in self.buttons.items():
            if name != "discard":
                button.click(self._sender(name), self.picker, self.notice, show_progress_on=button, **CONTROL_EVENT)
        self.buttons["discard"].click(self._ask_sure, self.picker, [self.sure, self.question, self.asked], queue=False,
                                      api_visibility="private")
        self.yes.click(self._discard, self.asked, [self.notice, self.sure, self.picker], **CONTROL_EVENT)
        self.no.click(lambda: gr.update(visible=False), None, self.sure, queue=False, api_visibility="private")

    def _sender(self, command: str) -> Callable[[str], str]:
        """The function of a button: it sends a command to the run that is picked, and returns the notice."""
        def send(picked: str) -> str:
            try:
                name = self.workspace.chosen(picked)
                ask(self.worker, self.workspace.run(name), command)
            except UserError as error:
                return warn(error)
            return inform(text.ASKED[command].format(name=name))
        return send

    def _ask_sure(self, picked: str) -> dict:
        name = self.workspace.chosen(picked)
        question = text.DISCARD_SURE.format(name=name)
        return {self.sure: gr.update(visible=True), self.question: views.escape(question), self.asked: name}

    def _discard(self, name: str) -> dict:
        """Discard the run that the question was about: the picker may show another by now."""
        return {self.notice: self._sender("discard")(name), self.sure: gr.update(visible=False), self.picker: ""}

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        """The components whose values `refresh` reads."""
        return {self.picker, self.live.checkpoint}

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [self.picker, self.card, *self.buttons.values(), *self.plots, self.samples, self.events, self.peak,
                *self.snippets.parts, *self.longer.outputs, *self.live.outputs]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """Updates for everything whose mark differs from the one in `seen`, which is brought up to date."""
        changes, picked = {}, values[self.picker]
        if mark_seen(seen, "runs", [(entry.name, entry.state) for entry in entries]):
            choices = [(shared_text.FOLLOW, ""), *run_choices(entries)]
            changes[self.picker] = gr.update(choices=choices)
            if picked and picked not in {entry.name for entry in entries}:
                picked = ""
                changes[self.picker] = gr.update(choices=choices, value=picked)
        entry = next((entry for entry in entries if entry.name == picked or not picked), None)
        if mark_seen(seen, "run", self._mark(entry)):
            changes.update(self._show(entry) if entry else self._show_nothing())
            changes.update(self.live.refresh(self.workspace.run(entry.name) if entry and entry.alive else None, seen,
                                             values[self.live.checkpoint]))
            changes.update(self.longer.refresh(entry, seen))
            if mark_seen(seen, "run code", self._code_mark(entry)):
                changes.update(self._show_code(entry))
        return changes

    def _mark(self, entry: RunSummary | None) -> list | None:
        """A value that differs whenever a run has changed."""
        if entry is None:
            return None
        versions = [version_of(self.workspace.runs / entry.name / file) for file in (METRICS, SAMPLES, JOURNAL)]
        return [entry.name, entry.state, entry.step, entry.total, entry.checkpoints, *versions]

    def _code_mark(self, entry: RunSummary | None) -> list | None:
        """A value that differs whenever the code of a run would."""
        if entry is None:
            return None
        return [entry.name, entry.alive or entry.state, self.workspace.effective_settings(entry.name)]

    def _show_nothing(self) -> dict:
        """Updates where there is no run."""
        changes: dict = {self.card: views.empty(shared_text.NO_RUNS), self.samples: views.samples([]),
                         self.events: views.events([]), self.peak: ""}
        for button in self.buttons.values():
            changes[button] = gr.update(interactive=False)
        for plot in self.plots:
            changes[plot] = empty_figure()
        return changes

    def _show(self, entry: RunSummary) -> dict:
        """Updates for a run: its card, buttons, plots, samples, events and memory."""
        run, config = self.workspace.run(entry.name), self.workspace.config(entry.name)
        metrics, status = read_metrics(run), run.status()
        changes: dict = {self.card: views.card(entry.name, config, status, metrics),
                         self.samples: views.samples(read_samples(run)), self.events: views.events(read_journal(run)),
                         self.peak: measured(self.workspace, config, status)}
        changes.update(self._show_buttons(status["state"], entry.alive))
        changes.update(zip(self.plots, run_figures(entry.name, config, metrics, read_journal(run),
                                                     find_kl_limit(run, config))))
        return changes

    def _show_buttons(self, state: str, alive: bool) -> dict:
        """Which commands a run in a state can be given."""
        halted, paused = state in HALTED, state == "paused"
        enabled = {"pause": state == "running", "resume": halted or paused, "step": paused, "stop": alive,
                   "discard": alive}
        changes = {button: gr.update(interactive=enabled[name]) for name, button in self.buttons.items()}
        resume = text.RESUME_RUN if halted else text.BUTTONS["resume"]
        changes[self.buttons["resume"]] = gr.update(interactive=enabled["resume"], value=resume)
        return changes

    def _changes_in_words(self, name: str) -> str:
        """Comments on the settings that were changed while a run went on, which no command repeats; "" without any."""
        changes = changes_by_setting(read_journal(self.workspace.run(name)))
        lines = []
        for setting, values in changes.items():
            if setting not in LENGTH_FIELDS:  # the code has the length of now
                said = ", ".join(text.CODE_CHANGE.format(value=plain(value), step=step) for step, value in values)
                lines.append(f"# {flag(setting)}: {said}\n")
        return "".join([f"# {text.CODE_CHANGED}\n", *lines, "\n"]) if lines else ""

    def _show_code(self, entry: RunSummary | None) -> dict:
        """The run as command, YAML and notebook cell, with its present length.

        The code of a run that was stopped or has failed resumes it; below that of a run that is done stands the command
        that goes on.
        """
        if entry is None:
            return dict.fromkeys(self.snippets.parts, "")
        config, now = self.workspace.config(entry.name), self.workspace.effective_settings(entry.name)
        lengths = {name: now[name] for name in LENGTH_FIELDS if name in now}
        settings = {**config, **lengths, "output": str(self.workspace.runs / entry.name)}
        remark = self._changes_in_words(entry.name)
        command, *others = [remark + code
                            for code in snippets(config["stage"], settings, resume=entry.state in HALTED)]
        if entry.state == "done" and entry.checkpoints:
            line = command_line(config["stage"], settings, resume=True).replace(" \\\n ", "")
            more = [f"{flag(name)} {value}" for name, value in suggested(config, now, entry.step).items()]
            command += f"\n\n# {shared_text.TO_GO_ON} {' '.join([line, *more])}"
        return dict(zip(self.snippets.parts, (command, *others)))
