"""The Data page: files to train on, and the feedback store."""

import gradio as gr

from playground.components import html as views
from playground.components import text as shared_text
from playground.components.dataset_view import find_source, matching_rows, read_dataset, remark, rows, summary
from playground.components.inputs import HUB_EVENT, QUICK_EVENT, Choice
from playground.components.notices import inform, mark_seen, warn
from playground.components.pager import Pager, slice_of
from playground.pages.data import text
from playground.pages.data.feedback_tab import Feedback
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError


class Files:
    """The rows of a file, of a bundled data set or of one on the Hub, and what they were recognised as."""

    def __init__(self, workspace: Workspace, notice: gr.HTML):
        self.workspace, self.notice = workspace, notice
        gr.Markdown(text.FILES_ABOUT, container=False)
        with gr.Row(elem_classes="fields fit"):
            self.source = Choice(self._choices(), value="bundled-prompts", label=text.DATA_LABEL, info=text.DATA_INFO,
                                 allow_custom_value=True, min_width=200, elem_id="data-source")
            kinds = [(text.KIND_AUTO, ""), *((title, kind) for kind, title in text.KIND_CHOICES.items())]
            self.kind = Choice(kinds, value="", label=text.KIND_LABEL, info=text.KIND_INFO, min_width=200,
                               elem_id="data-kind")
            self.search = gr.Textbox(label=text.FILTER_LABEL, placeholder=text.FILTER_PLACEHOLDER,
                                     info=text.FILTER_INFO, min_width=200,
                                     elem_id="data-filter")
        with gr.Row(elem_classes="hub"):
            self.subset = gr.Textbox(label=text.SUBSET_LABEL, min_width=140, visible=False, elem_id="data-subset")
            self.split = gr.Textbox(label=text.SPLIT_LABEL, min_width=140, visible=False, elem_id="data-split")
            self.fetch = gr.Button(shared_text.READ_HUB, variant="primary", min_width=160, visible=False,
                                   elem_id="data-read-hub",
                                   elem_classes="owners")
        self.upload = gr.UploadButton(shared_text.UPLOAD, size="sm", elem_id="data-upload", elem_classes="owners")
        self.summary = gr.HTML("", elem_id="data-summary", container=True, padding=True, apply_default_css=False)
        self.rows = gr.HTML("", elem_id="data-rows", apply_default_css=False)
        self.pager = Pager("data")
        self.fetched = gr.State("")
        self._wire()

    def _wire(self) -> None:
        inputs, outputs = self.inputs, self.outputs
        gr.on([self.source.input, self.kind.input], self._show, inputs, outputs, **QUICK_EVENT)
        self.search.change(self._show, inputs, outputs, **QUICK_EVENT)
        self.pager.wire(self._show, inputs, outputs, **QUICK_EVENT)
        self.fetch.click(self._fetch, inputs, [self.fetched, *outputs], show_progress_on=self.summary, **HUB_EVENT)
        self.upload.upload(self._upload, inputs | {self.upload}, [self.notice, *outputs], concurrency_id="control",
                           show_progress="hidden", api_visibility="private")

    @property
    def inputs(self) -> set:
        """The components whose values the events read."""
        return {self.source, self.kind, self.subset, self.split, self.search, self.fetched}

    @property
    def outputs(self) -> list:
        """The components that the events update."""
        return [self.source, self.subset, self.split, self.fetch, self.summary, self.rows, *self.pager.parts]

    def _choices(self) -> list[tuple[str, str]]:
        """The bundled data sets, then the uploaded files."""
        bundled = [(title.capitalize(), value) for value, title in shared_text.BUNDLED_DATA.items()]
        files = [(name, name) for name in self.workspace.data_choices() if name != "bundled"]
        return [*bundled, *files]

    def _show(self, values: dict, page: int = 1) -> dict:
        """The rows of a page, or in their place what is wrong."""
        changes = {self.summary: "", self.rows: "", **self.pager.show(1, 0), **self._show_hub_fields(False)}
        try:
            source = find_source(self.workspace, values[self.source], "", values[self.subset], values[self.split])
            changes.update(self._show_hub_fields(source.hub))
            if source.hub and values[self.fetched] != source.key:
                changes[self.summary] = remark(shared_text.ASK_HUB.format(name=source.name))
                return changes
            data = read_dataset(source, values[self.kind] if values[self.kind] in text.KIND_CHOICES else "")
        except UserError as error:
            changes[self.summary] = views.notice(str(error))
            return changes
        indices = matching_rows(data, values[self.search])
        shown = indices[slice_of(page, len(indices))]
        changes.update({self.summary: summary(data), self.rows: rows(data, shown),
                        **self.pager.show(page, len(indices))})
        return changes

    def _show_hub_fields(self, visible: bool) -> dict:
        return {part: gr.update(visible=visible) for part in (self.subset, self.split, self.fetch)}

    def _fetch(self, values: dict) -> dict:
        try:
            source = find_source(self.workspace, values[self.source], "", values[self.subset], values[self.split])
        except UserError as error:
            return {self.summary: views.notice(str(error))}
        return {self.fetched: source.key, **self._show({**values, self.fetched: source.key})}

    def _upload(self, values: dict) -> dict:
        try:
            name = self.workspace.upload(values[self.upload])
        except UserError as error:
            return {self.notice: warn(error)}
        return {self.notice: inform(text.UPLOADED_DATA.format(name=name)), **self._show({**values, self.source: name}),
                self.source: gr.update(choices=self._choices(), value=name)}

    def refresh(self, seen: dict) -> dict:
        """The first rows for a browser that opens the page, and later the list of files if it has changed."""
        first, choices = "data files" not in seen, self._choices()
        changes = {self.source: gr.update(choices=choices)} if mark_seen(seen, "data files", choices) else {}
        if first:
            changes.update(self._show({part: part.value for part in self.inputs}))
        return changes


class DataPage:
    """Builds its components inside the current `gr.Blocks`."""

    def __init__(self, workspace: Workspace, voter: gr.BrowserState, notice: gr.HTML):
        with gr.Tabs():
            with gr.Tab(shared_text.FILES, id="data-files", elem_id="data-files"):
                self.files = Files(workspace, notice)
            with gr.Tab(shared_text.FEEDBACK, id="data-feedback", elem_id="data-feedback") as tab:
                self.feedback = Feedback(workspace, voter, notice, tab)

    @property
    def watched(self) -> set:
        """The components whose values `refresh` reads."""
        return self.feedback.inputs

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [*self.files.outputs, *self.feedback.outputs]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """Updates for what has changed since the browser last asked; `seen` is brought up to date."""
        changes = self.feedback.refresh(values, entries)
        if changes:
            seen["feedback"] = changes[self.feedback.shown]
        return {**self.files.refresh(seen), **changes}
