"""The Train page: start a stage, watch its run, hold it, stop it, go on with it."""

from contextlib import suppress

import gradio as gr
from gradio.context import Context

from playground import text as app_text
from playground.components import charts as figures
from playground.components import html as views
from playground.components import text as shared_text
from playground.components.data_preview import DataPreview
from playground.components.extend_run import ExtendRunPanel, suggested
from playground.components.inputs import Choice
from playground.components.machine_memory import budget, measured
from playground.components.notices import inform, mark_seen, size_of, warn
from playground.components.plots import LivePlot
from playground.pages.train import text
from playground.pages.train.code_snippets import Codes, codes
from playground.pages.train.form import Form, command_line
from playground.pages.train.live_settings import LiveControls
from playground.pages.train.presets import Presets
from playground.run_commands import ask
from playground.voting import PERSON
from playground.workspace import RunSummary, Workspace
from rlhf_engine.config import LENGTH_FIELDS, flag
from rlhf_engine.errors import UserError
from rlhf_engine.stages import STAGES

MATH = [{"left": "$$", "right": "$$", "display": True}, {"left": "$", "right": "$", "display": False}]


class TrainPage:
    """Builds its components inside the current `gr.Blocks`; `refresh` says what has changed since a browser looked last."""

    def __init__(self, workspace: Workspace, worker, notice: gr.HTML):
        self.workspace, self.worker, self.notice = workspace, worker, notice
        with gr.Row():
            with gr.Column(scale=5, min_width=320, elem_classes="starts"):
                self._build_form()
            with gr.Column(scale=7, min_width=320):
                self._build_run()
        self._wire_form()
        self._wire_run()

    # -- what to train -----------------------------------------------------------------------------------------------

    def _build_form(self) -> None:
        choices = [(title, stage) for stage, title in text.STAGE_CHOICES.items()]
        self.stage = gr.Radio(choices, value="sft", label=text.STAGE_LABEL, elem_id="stage")
        self.groups, self.presets, self.forms = {}, {}, {}
        for stage in STAGES:
            with gr.Column(visible=stage == "sft") as self.groups[stage]:
                gr.Markdown(text.ABOUT[stage], latex_delimiters=MATH, elem_classes="about", container=False)
                self.presets[stage] = Presets(stage)
                self.forms[stage] = Form(stage, self.workspace)
        self.preview = DataPreview(self.workspace, self.stage, self.forms)
        self.memory = gr.HTML("", elem_id="memory", container=True, padding=True)
        self.start = gr.Button(text.START, variant="primary", size="lg", elem_id="start", elem_classes="once")
        self.upload = gr.UploadButton(shared_text.UPLOAD, size="sm", elem_id="upload", elem_classes="owners")
        with gr.Accordion(text.AS_COMMAND, open=False):
            self.codes = Codes("", *codes("sft", {"output": self._example_output("sft")}))

    def _wire_form(self) -> None:
        fields = [field for form in self.forms.values() for field in form.components]
        self.inputs = {self.stage, *fields}
        private = {"api_visibility": "private", "show_progress": "hidden"}
        self.stage.change(self._show_stage, self.stage, list(self.groups.values()), queue=False, **private)
        gr.on([Context.root_block.load, *(c.change for c in (self.stage, *fields))], self._show_meaning, self.inputs,
              [*self.codes.parts, self.memory], queue=False, trigger_mode="always_last", **private)
        for stage, presets in self.presets.items():
            presets.fill(self.forms[stage])
        self.upload.upload(self._upload, {self.upload, self.stage}, [self.notice, *(f.fields["data"] for f in self.forms.values())],
                           concurrency_id="control", **private)

    def _show_stage(self, stage: str) -> dict:
        return {group: gr.update(visible=name == stage) for name, group in self.groups.items()}

    def _show_meaning(self, values: dict) -> dict:
        """The form as a command, YAML and notebook cell, and the memory that it takes."""
        stage = values[self.stage]
        given = self.forms[stage].read(values)
        settings = given
        with suppress(UserError):  # half-typed: shown as it stands
            settings = self.workspace.settings(stage, given)
        shown = codes(stage, {"output": self._example_output(stage)} | settings)
        return dict(zip(self.codes.parts, shown)) | {self.memory: budget(self.workspace, stage, given)}

    def _example_output(self, stage: str) -> str:
        number = 1
        while (self.workspace.runs / f"{stage}-{number}").exists():
            number += 1
        return str(self.workspace.runs / f"{stage}-{number}")

    def _upload(self, values: dict) -> dict:
        form = self.forms[values[self.stage]]
        try:
            name = self.workspace.upload(values[self.upload])
        except UserError as error:
            return {self.notice: warn(error)}
        return {self.notice: inform(text.UPLOADED.format(name=name)),
                form.fields["data"]: gr.update(choices=self.workspace.data_choices(), value=name)}

    # -- the run -----------------------------------------------------------------------------------------------------

    def _build_run(self) -> None:
        self.picker = Choice([(shared_text.FOLLOW, "")], value="", label=shared_text.RUN_LABEL, elem_id="run", allow_custom_value=False)
        self.card = gr.HTML(f'<p class="empty">{shared_text.NO_RUNS}</p>', elem_id="run-card", container=True, padding=True)
        with gr.Row(elem_classes="controls starts"):
            self.buttons = {
                "pause": gr.Button(text.PAUSE, size="sm", elem_id="pause", interactive=False),
                "resume": gr.Button(text.RESUME, size="sm", elem_id="resume", interactive=False),
                "step": gr.Button(text.STEP, size="sm", elem_id="step", interactive=False),
                "stop": gr.Button(text.STOP, size="sm", elem_id="stop", interactive=False),
                "discard": gr.Button(text.DISCARD, size="sm", variant="stop", elem_id="discard", interactive=False, elem_classes="owners"),
            }
        self.longer = ExtendRunPanel(self.workspace, self.worker, self.notice, "", self.picker, self.workspace.chosen)
        with gr.Group(visible=False) as self.sure:
            self.question = gr.HTML("", padding=True)
            with gr.Row(elem_classes="controls"):
                self.yes = gr.Button(text.DISCARD_YES, variant="stop", elem_id="discard-yes")
                self.no = gr.Button(text.DISCARD_NO, elem_id="discard-no")
        self.live = LiveControls(self.workspace, self.worker, self.notice, self.picker)
        self.peak = gr.HTML("", elem_id="run-memory", apply_default_css=False)
        with gr.Row(elem_classes="plot-grid"):
            self.plots = [LivePlot(figures.empty(), elem_id=f"plot-{i + 1}") for i in range(figures.PANELS)]
        with gr.Accordion(shared_text.SAMPLES, open=True):
            self.samples = gr.HTML(views.samples([]), elem_id="samples", apply_default_css=False)
        with gr.Accordion(shared_text.EVENTS, open=True):
            self.events = gr.HTML(views.events([]), elem_id="events", apply_default_css=False)
        with gr.Accordion(text.RUN_COMMAND, open=False):
            self.run_codes = Codes("run-")

    def _wire_run(self) -> None:
        control = {"concurrency_id": "control", "concurrency_limit": 4, "api_visibility": "private", "show_progress": "minimal"}
        self.start.click(self._start, self.inputs, [self.notice, self.picker], show_progress_on=self.start, **control)
        for name in ("pause", "resume", "step", "stop"):
            self.buttons[name].click(self._asker(name), self.picker, self.notice, show_progress_on=self.buttons[name], **control)
        self.buttons["discard"].click(self._ask_sure, self.picker, [self.sure, self.question], queue=False,
                                      api_visibility="private")
        self.yes.click(self._discard, self.picker, [self.notice, self.sure, self.picker], **control)
        self.no.click(lambda: gr.update(visible=False), None, self.sure, queue=False, api_visibility="private")

    def _start(self, values: dict) -> dict:
        stage = values[self.stage]
        try:
            settings = self.workspace.settings(stage, self.forms[stage].read(values))
            run = self.worker.start(stage, settings)
        except UserError as error:
            return {self.notice: warn(error)}
        started = text.STARTED_ASKING if settings.get("labeler") == PERSON else shared_text.STARTED
        return {self.notice: inform(started.format(name=self.workspace.name_of(run))), self.picker: ""}

    def _asker(self, command: str):
        def tell(picked: str) -> str:
            try:
                name = self.workspace.chosen(picked)
                ask(self.worker, self.workspace.run(name), command)
            except UserError as error:
                return warn(error)
            return inform(text.ASKED[command].format(name=name))
        return tell

    def _ask_sure(self, picked: str) -> dict:
        question = text.DISCARD_SURE.format(name=self.workspace.chosen(picked))
        return {self.sure: gr.update(visible=True), self.question: views.escape(question)}

    def _discard(self, picked: str) -> dict:
        return {self.notice: self._asker("discard")(picked), self.sure: gr.update(visible=False), self.picker: ""}

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        """What a look at the page has to know: the run that is picked, and the reward that is."""
        return {self.picker, self.forms["ppo"].fields["reward"]}

    @property
    def outputs(self) -> list:
        moving = [field for form in self.forms.values() for field in form.moving()]
        return [self.picker, self.card, *self.buttons.values(), *self.plots, self.samples, self.events, self.peak,
                *self.run_codes.parts, *self.longer.outputs, *self.live.outputs, *moving]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """Updates for everything whose mark differs from the one in `seen`, which is brought up to date."""
        changes, picked = {}, values[self.picker]
        if mark_seen(seen, "runs", [(e.name, e.state) for e in entries]):
            names = [(shared_text.RUN_CHOICE.format(name=e.name, stage=shared_text.STAGES[e.stage], state=app_text.STATES[e.state]), e.name) for e in entries]
            gone = picked and picked not in {e.name for e in entries}
            changes[self.picker] = gr.update(choices=[(shared_text.FOLLOW, ""), *names], **({"value": ""} if gone else {}))
            picked = "" if gone else picked
        offers = [(e.name, e.state == "done", bool(e.checkpoints)) for e in entries]
        if mark_seen(seen, "offers", [offers, self.workspace.data_choices(), self.workspace.model_choices()]):
            for form in self.forms.values():
                changes |= form.choices(values)
        entry = next((e for e in entries if e.name == picked or not picked), None)
        if mark_seen(seen, "run", self._mark(entry)):
            changes |= self._show(entry)
            changes |= self.live.refresh(self.workspace.run(entry.name) if entry and entry.alive else None, seen)
            changes |= self.longer.refresh(entry, seen)
            if mark_seen(seen, "run code", [entry.name, entry.alive or entry.state, self.workspace.effective_settings(entry.name)] if entry else None):
                changes |= self._show_code(entry)
        return changes

    def _mark(self, entry: RunSummary | None) -> list | None:
        if entry is None:
            return None
        sizes = [size_of(self.workspace.runs / entry.name / file) for file in ("metrics.jsonl", "samples.jsonl", "journal.jsonl")]
        return [entry.name, entry.state, entry.step, entry.total, *sizes]

    def _show(self, entry: RunSummary | None) -> dict:
        if entry is None:
            return {self.card: f'<p class="empty">{shared_text.NO_RUNS}</p>', self.samples: views.samples([]), self.events: views.events([]),
                    self.peak: "", **{button: gr.update(interactive=False) for button in self.buttons.values()},
                    **{plot: figures.empty() for plot in self.plots}}
        run, config = self.workspace.run(entry.name), self.workspace.config(entry.name)
        metrics, status, journal = run.metrics(), run.status(), run.journal()
        halted, paused = status["state"] in ("stopped", "failed"), status["state"] == "paused"
        enabled = {"pause": status["state"] == "running", "resume": halted or paused, "step": paused, "stop": entry.alive,
                   "discard": entry.alive}
        buttons = {button: gr.update(interactive=enabled[name]) for name, button in self.buttons.items()}
        buttons[self.buttons["resume"]] = gr.update(interactive=enabled["resume"], value=text.RESUME_RUN if halted else text.RESUME)
        return {
            self.card: views.card(entry.name, config, status, metrics),
            self.samples: views.samples(run.samples()), self.events: views.events(journal),
            self.peak: measured(self.workspace, config, status),
            **buttons, **dict(zip(self.plots, figures.figures(entry.name, self.workspace.effective_settings(entry.name), metrics))),
        }

    def _show_code(self, entry: RunSummary | None) -> dict:
        """The very run, as long as it is by now, as command, YAML and notebook cell; one that has halted is gone on with, and of one that
        is done the command says how."""
        if entry is None:
            return dict.fromkeys(self.run_codes.parts, "")
        config, now = self.workspace.config(entry.name), self.workspace.effective_settings(entry.name)
        settings = config | {name: now[name] for name in LENGTH_FIELDS if name in now} | {"output": str(self.workspace.runs / entry.name)}
        command, *others = codes(config["stage"], settings, resume=entry.state in ("stopped", "failed"))
        if entry.state == "done" and entry.checkpoints:
            line = command_line(config["stage"], settings, resume=True).replace(" \\\n ", "")
            more = [f"{flag(name)} {value}" for name, value in suggested(config, now, entry.step).items()]
            command += f"\n\n# {shared_text.TO_GO_ON} {' '.join([line, *more])}"
        return dict(zip(self.run_codes.parts, (command, *others)))
