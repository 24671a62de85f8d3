"""The left half of the Train page: choose a stage, fill in its form, see what it means, and start it."""

from contextlib import suppress
from typing import Any

import gradio as gr
from gradio.context import Context

from playground.components import text as shared_text
from playground.components.inputs import CONTROL_EVENT
from playground.components.notices import inform, mark_seen, refresh_loading, warn
from playground.components.stage_views import stage_view, stages_by_group
from playground.pages.train import text
from playground.pages.train.code_snippets import Snippets, snippets
from playground.pages.train.data_preview import DataPreview
from playground.pages.train.form import Form
from playground.pages.train.machine_memory import budget
from playground.pages.train.presets import Presets
from playground.voting import PERSON
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.stages import STAGES

MATH = [{"left": "$$", "right": "$$", "display": True}, {"left": "$", "right": "$", "display": False}]
PRIVATE_EVENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def group_titles(groups: dict[str, list[str]]) -> str:
    """A style that writes the title of each group before its first stage; assets/css has the rest."""
    rules, first = [], 1
    for title, names in groups.items():
        rules.append(f'#stage label:nth-of-type({first}) {{ --group: "{title}"; clear: left; }}')
        first += len(names)
    return f"<style>{' '.join(rules)}</style>"


class StartPanel:
    """Builds its components inside the current column; `wire` connects them once the rest of the page exists."""

    def __init__(self, workspace: Workspace, worker, notice: gr.HTML):
        self.workspace, self.worker, self.notice = workspace, worker, notice
        groups = stages_by_group()
        names = [name for group in groups.values() for name in group]
        first = names[0]
        titles = [(stage_view(stage).title, stage) for stage in names]
        gr.HTML(group_titles(groups), padding=False, elem_classes="unseen")
        self.stage = gr.Radio(titles, value=first, label=text.STAGE_LABEL, elem_id="stage")
        self.groups, self.presets, self.forms = {}, {}, {}
        for stage in STAGES:
            with gr.Column(visible=stage == first) as self.groups[stage]:
                gr.Markdown(stage_view(stage).about, latex_delimiters=MATH, elem_classes="about", container=False)
                self.presets[stage] = Presets(stage)
                self.forms[stage] = Form(stage, self.workspace)
        self.preview = DataPreview(self.workspace, self.stage, self.forms)
        self.memory = gr.HTML("", elem_id="memory", container=True, padding=True)
        self.start = gr.Button(text.START, variant="primary", size="lg", elem_id="start", elem_classes="once")
        self.loading = gr.HTML("", elem_id="train-loading", visible=False, apply_default_css=False)
        self.upload = gr.UploadButton(shared_text.UPLOAD, size="sm", elem_id="upload", elem_classes="owners")
        with gr.Accordion(text.AS_COMMAND, open=False):
            self.snippets = Snippets("", snippets(first, {"output": self._example_output(first)}))

    def wire(self, picker) -> None:
        """Connect the events. A run that starts empties `picker`, so that the page follows it."""
        self.picker = picker
        fields = [field for form in self.forms.values() for field in form.components]
        inputs = {self.stage, *fields}
        self.stage.change(self._show_stage, self.stage, list(self.groups.values()), queue=False, **PRIVATE_EVENT)
        self.stage.change(self._show_meaning, inputs, [*self.snippets.parts, self.memory], queue=False,
                          trigger_mode="always_last", **PRIVATE_EVENT)
        for stage, form in self.forms.items():
            self._bind_form(stage, form)
        for stage, presets in self.presets.items():
            presets.fill(self.forms[stage])
        data_fields = [form.fields["data"] for form in self.forms.values()]
        self.upload.upload(self._upload, {self.upload, self.stage}, [self.notice, *data_fields],
                           concurrency_id="control",
                           **PRIVATE_EVENT)
        self.start.click(self._start, inputs, [self.notice, picker], show_progress_on=self.start, **CONTROL_EVENT)

    def _bind_form(self, stage: str, form: Form) -> None:
        """Show what the fields of a stage mean when one of them changes; of the first stage also when the page loads.

        An event of its own for each form: a browser looks up every input of an event in the whole page, one by one.
        """
        blocks = Context.root_block
        loads = [blocks.load] if blocks and stage == self.stage.value else []

        def show(values: dict):
            return self._show_meaning(values) if values[self.stage] == stage else gr.skip()

        gr.on([*loads, *(field.change for field in form.components)], show, {self.stage, *form.components},
              [*self.snippets.parts, self.memory], queue=False, trigger_mode="always_last", **PRIVATE_EVENT)

    def _show_stage(self, stage: str) -> dict:
        return {group: gr.update(visible=name == stage) for name, group in self.groups.items()}

    def _show_meaning(self, values: dict) -> dict:
        """The form as a command, YAML and notebook cell, and the memory that the run would take."""
        stage = values[self.stage]
        given = self.forms[stage].read(values)
        settings = given
        with suppress(UserError):  # a field that is being typed in is shown as it is
            settings = self.workspace.settings(stage, given)
        codes = snippets(stage, {"output": self._example_output(stage), **settings})
        return {**dict(zip(self.snippets.parts, codes)), self.memory: budget(self.workspace, stage, given)}

    def _example_output(self, stage: str) -> str:
        """The folder of the next run of a stage."""
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

    def _start(self, values: dict) -> dict:
        stage = values[self.stage]
        try:
            self.workspace.access.starters_only()
            settings = self.workspace.settings(stage, self.forms[stage].read(values))
            if not settings.get("output"):  # the name that stands in the command below the form
                settings["output"] = self._example_output(stage)
            if settings.get("data"):
                settings["data"] = self.workspace.frozen_data(settings["data"])
            run = self.worker.start(stage, settings)
        except UserError as error:
            return {self.notice: warn(error)}
        started = text.STARTED_ASKING if settings.get("labeler") == PERSON else shared_text.STARTED
        return {self.notice: inform(started.format(name=self.workspace.name_of(run))), self.picker: ""}

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        """The components whose values `refresh` reads: the reward that is chosen in each form that has one."""
        return {form.fields["reward"] for form in self.forms.values() if "reward" in form.fields}

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [self.loading, *(field for form in self.forms.values() for field in form.changing_fields())]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """Updates of the dropdowns whose choices change with the workspace, and of the bar below Start."""
        runs = [(entry.name, entry.state == "done", bool(entry.checkpoints)) for entry in entries]
        changes = refresh_loading(self.workspace, self.loading, seen)
        if mark_seen(seen, "offers", [runs, self.workspace.data_choices(), self.workspace.model_choices()]):
            for form in self.forms.values():
                changes.update(form.choices(values))
        return changes
