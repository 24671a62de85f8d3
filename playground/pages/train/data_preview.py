"""The data preview of the Train page."""

import gradio as gr

from playground.components import dataset_view as data_view
from playground.components import html as views
from playground.components import text
from playground.pages.train.form import Form
from playground.workspace import Workspace
from rlhf_engine.errors import UserError

LOCAL = {"queue": False, "show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
HUB = {"concurrency_id": "hub", "concurrency_limit": 1, "api_visibility": "private"}
"""Reading a data set of the Hub takes its time, and is done only when somebody presses the button for it."""


class DataPreview:
    """On the Train page: what is in the data that is chosen there. It is read while it is in sight, and never from the Hub unasked."""

    def __init__(self, workspace: Workspace, stage: gr.Radio, forms: dict[str, Form]):
        self.workspace, self.stage, self.forms = workspace, stage, forms
        with gr.Accordion(text.IN_THE_DATA, open=False, elem_id="preview") as accordion:
            self.html = gr.HTML("", elem_id="data-preview", apply_default_css=False)
            self.fetch = gr.Button(text.READ_HUB, visible=False, size="sm", elem_id="preview-read-hub")
        self.opened, self.fetched = gr.State(False), gr.State("")
        fields = [form.fields[name] for form in forms.values() for name in ("data", "subset", "split", "limit")]
        inputs, outputs = {stage, self.opened, self.fetched, *fields}, [self.opened, self.fetched, self.html, self.fetch]
        accordion.expand(lambda values: {self.opened: True, **self._show(values)}, inputs, outputs, **LOCAL)
        accordion.collapse(lambda: False, None, self.opened, **LOCAL)
        gr.on([part.change for part in (stage, *fields)], self._show_if_open, inputs, outputs, **LOCAL)
        self.fetch.click(self._fetch, inputs, outputs, show_progress_on=self.html, **HUB)

    def _show_if_open(self, values: dict) -> dict:
        return self._show(values) if values[self.opened] else gr.skip()

    def _show(self, values: dict) -> dict:
        try:
            source, kind, limit = self._chosen(values)
            if asks := source.hub and values[self.fetched] != source.key:
                html = data_view.remark(text.ASK_HUB.format(name=source.name))
            else:
                html = data_view.preview(data_view.look_at(source, kind, limit))
        except UserError as error:
            asks, html = False, views.notice(str(error))
        return {self.html: html, self.fetch: gr.update(visible=asks)}

    def _fetch(self, values: dict) -> dict:
        try:
            key = self._chosen(values)[0].key
        except UserError as error:
            return {self.html: views.notice(str(error))}
        return {self.fetched: key, **self._show(values | {self.fetched: key})}

    def _chosen(self, values: dict) -> tuple[data_view.Source, str, int]:
        fields, kind = self.forms[values[self.stage]].fields, data_view.KIND_OF_STAGE[values[self.stage]]
        name, subset, split, limit = (values[fields[name]] for name in ("data", "subset", "split", "limit"))
        return data_view.source_of(self.workspace, name, kind, subset, split), kind, int(limit or 0)
