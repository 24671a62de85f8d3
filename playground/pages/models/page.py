"""The Models page: what each base model is, what of it fits this machine, and loading one into the worker."""

from collections.abc import Iterator

import gradio as gr

from playground.components import html as views
from playground.components.inputs import Choice
from playground.components.notices import mark_seen, warn
from playground.machine import machine
from playground.model_files import OFFERED_MODELS
from playground.pages.models import text
from playground.pages.models.model_facts import read_facts
from playground.pages.models.views import card, model_list, progress
from playground.workspace import RunSummary, Workspace
from rlhf_engine import config as configs
from rlhf_engine.errors import UserError

DTYPES = {"auto": "auto", "fp32": "fp32", "bf16": "bf16", "nf4": "nf4 (4-bit)"}


class ModelsPage:
    """Builds its components inside the current `gr.Blocks`."""

    def __init__(self, workspace: Workspace, worker, notice: gr.HTML):
        self.workspace, self.worker, self.notice = workspace, worker, notice
        gr.Markdown(text.MODELS_ABOUT, container=False)
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                self.model = Choice(self._names(), value="bundled", label=text.MODEL_FIELD, info=text.MODEL_FIELD_INFO,
                                    allow_custom_value=True, elem_id="models-model")
                self.dtype = gr.Dropdown([(title, name) for name, title in DTYPES.items()], value="auto",
                                         label=text.MODEL_DTYPE,
                                         info=configs.docs(configs.RunConfig)["dtype"], elem_id="models-dtype")
                self.load = gr.Button(text.MODEL_LOAD, variant="primary", elem_id="models-load", elem_classes="owners")
                self.status = gr.HTML("", elem_id="models-status", apply_default_css=False)
            with gr.Column(scale=8, min_width=320):
                self.card = gr.HTML("", elem_id="models-card", container=True, padding=True, apply_default_css=False)
        self.list = gr.HTML("", elem_id="models-list", container=True, padding=True, apply_default_css=False)
        self.model.change(self._card, self.model, self.card, queue=False, show_progress="hidden",
                          trigger_mode="always_last",
                          api_visibility="private")
        self.load.click(self._load, {self.model, self.dtype}, [self.notice, self.status, self.load, self.card],
                        concurrency_id="load",
                        concurrency_limit=4, show_progress="hidden", trigger_mode="once", api_visibility="private")

    def _names(self) -> list[str]:
        """The models of the workspace, then the suggested ones."""
        return list(dict.fromkeys([*self.workspace.model_choices(), *OFFERED_MODELS]))

    def _card(self, name) -> str:
        """The card of a model, or the reason why there is none."""
        name = str(name or "").strip()
        if not name:
            return views.empty(text.CHOOSE_A_MODEL)
        try:
            return card(read_facts(self.workspace, name), machine(self.workspace.home))
        except UserError as error:
            return views.empty(str(error))

    def _load(self, values: dict) -> Iterator[dict]:
        """Updates while the worker fetches and loads a model. A failure is shown at the top, with what to do."""
        name = str(values[self.model] or "").strip()
        if not name:
            yield {self.notice: views.notice(text.CHOOSE_A_MODEL)}
            return
        waiting = views.empty(text.LOAD_WAITING.format(model=name), status=True)
        yield {self.notice: "", self.status: waiting, self.load: gr.update(interactive=False)}
        last = ""
        try:
            for status in self.worker.load(self.workspace.model(name), dtype=values[self.dtype]):
                html = progress(name, status)
                if html != last:
                    yield {self.status: html}
                last = html
            yield {self.load: gr.update(interactive=True), self.card: self._card(name)}
        except UserError as error:
            yield {self.notice: warn(error), self.status: "", self.load: gr.update(interactive=True),
                   self.card: self._card(name)}

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        """The components whose values `refresh` reads."""
        return {self.model}

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [self.model, self.card, self.list]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """The list of models and the card, if the models are not those that a browser has seen."""
        names = self._names()
        if not mark_seen(seen, "models page", names):
            return {}
        return {self.model: gr.update(choices=names), self.list: model_list(self.workspace, names),
                self.card: self._card(values[self.model])}
