"""The data preview of the Train page: the first rows of the data that is chosen there, and what they are recognised as.
"""

import gradio as gr

from playground.components import html as views
from playground.components import text
from playground.components.dataset_view import Source, find_source, preview, read_dataset, remark
from playground.components.inputs import HUB_EVENT, QUICK_EVENT
from playground.pages.train.form import Form
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.stages import find_stage

FIELDS = ("data", "subset", "split", "limit", "model")
"""The fields of a form that say what data is read, and by which model."""


class DataPreview:
    """An accordion. The data is read only while it is open, and from the Hub only when somebody presses the button."""

    def __init__(self, workspace: Workspace, stage: gr.Radio, forms: dict[str, Form]):
        self.workspace, self.stage, self.forms = workspace, stage, forms
        with gr.Accordion(text.IN_THE_DATA, open=False, elem_id="preview") as accordion:
            self.html = gr.HTML("", elem_id="data-preview", apply_default_css=False)
            self.fetch = gr.Button(text.READ_HUB, visible=False, size="sm", elem_id="preview-read-hub")
        self.opened, self.fetched = gr.State(False), gr.State("")
        fields = []
        for form in forms.values():
            fields += [form.fields[name] for name in FIELDS]
        inputs = {stage, self.opened, self.fetched, *fields}
        outputs = [self.opened, self.fetched, self.html, self.fetch]
        accordion.expand(lambda values: {self.opened: True, **self._show(values)}, inputs, outputs, **QUICK_EVENT)
        accordion.collapse(lambda: False, None, self.opened, **QUICK_EVENT)
        gr.on([part.change for part in (stage, *fields)], self._show_if_open, inputs, outputs, **QUICK_EVENT)
        self.fetch.click(self._fetch, inputs, outputs, show_progress_on=self.html, **HUB_EVENT)

    def _show_if_open(self, values: dict) -> dict:
        return self._show(values) if values[self.opened] else gr.skip()

    def _show(self, values: dict) -> dict:
        """The preview, or in its place what is wrong, or that a button has to be pressed first."""
        try:
            source, kind, limit = self._chosen(values)
            unread = source.hub and values[self.fetched] != source.key
            if unread:
                html = remark(text.ASK_HUB.format(name=source.name))
            else:
                html = preview(read_dataset(source, kind, limit))
        except UserError as error:
            unread, html = False, views.notice(str(error))
        return {self.html: html, self.fetch: gr.update(visible=unread)}

    def _fetch(self, values: dict) -> dict:
        try:
            source, _, _ = self._chosen(values)
        except UserError as error:
            return {self.html: views.notice(str(error))}
        return {self.fetched: source.key, **self._show({**values, self.fetched: source.key})}

    def _chosen(self, values: dict) -> tuple[Source, str, int]:
        """(source, kind of data that the stage reads, most rows) of the form in sight. Raises UserError."""
        form = self.forms[values[self.stage]]
        name, subset, split, limit, model = (values[form.fields[field]] for field in FIELDS)
        kind = find_stage(form.stage).reads(form.config())
        return find_source(self.workspace, name, kind, subset, split, str(model or "bundled")), kind, int(limit or 0)
