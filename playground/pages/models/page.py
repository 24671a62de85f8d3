"""The Models page: what each base model is, what of it fits this machine, and loading one into the worker."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from playground.components import html as views
from playground.components import text as shared_text
from playground.components.html import escape
from playground.components.inputs import Choice
from playground.components.machine_memory import SHAPES, Machine, folder_of, machine, size
from playground.components.notices import mark_seen, warn
from playground.pages.models import text
from playground.workspace import RunSummary, Workspace
from rlhf_engine import config as configs
from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json_or_none
from rlhf_engine.runs.memory_estimate import Shape, estimate, read_model, read_shape
from rlhf_engine.stages import STAGES, make_config

DTYPES = {"auto": "auto", "fp32": "fp32", "bf16": "bf16", "nf4": "nf4 (4-bit)"}
SMALL = {"gradient_checkpointing": True, "micro_batch": 1}
"""The settings with which a run takes least of what its backward pass needs."""


@dataclass(frozen=True)
class Facts:
    """What the files of a model say about it. What is None cannot be known before it is downloaded."""

    name: str
    architecture: str = ""
    shape: Shape | None = None
    template: bool | None = None
    weights: bool | None = None
    """Whether there are safetensors weights."""
    trouble: str = ""
    """Why there is no shape."""


def facts(workspace: Workspace, name: str) -> Facts:
    """Raises UserError for a name that means nothing here."""
    folder = folder_of(workspace, name)
    if folder is None:
        if name not in SHAPES:
            return Facts(name, trouble=text.NOT_DOWNLOADED_YET.format(model=name))
        return Facts(name, SHAPES[name]["model_type"].capitalize(), read_shape(SHAPES[name], name))
    try:
        config = read_model(folder, name)
    except UserError as error:
        return Facts(name, trouble=str(error))
    architecture = str((config.get("architectures") or [config.get("model_type", "")])[0]).removesuffix("ForCausalLM")
    kept = any(folder.glob("*.safetensors"))
    found = {"architecture": architecture, "template": has_template(folder), "weights": kept}
    try:
        return Facts(name, shape=read_shape(config, name), **found)
    except UserError as error:
        return Facts(name, trouble=str(error), **found)


def has_template(folder: Path) -> bool | None:
    """None where the tokenizer's files are not there."""
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    tokenizer = read_json_or_none(folder / "tokenizer_config.json")
    return bool(tokenizer.get("chat_template")) if isinstance(tokenizer, dict) else None


def fit(shape: Shape, stage: str, dtype: str, here: Machine) -> tuple[str, int]:
    """("fits", "small" or "no", bytes) of a stage with its defaults; small is with the least for the backward pass."""
    values = {"dtype": dtype, "model": "-", **({"adapter": "-"} if stage != "sft" else {})}
    for verdict, more in (("fits", {}), ("small", SMALL)):
        need = estimate(make_config(stage, values | more), shape, device=here.device).total
        if need <= here.free:
            return verdict, need
    return "no", need


# -- as HTML -----------------------------------------------------------------------------------------------------------

def card(found: Facts, here: Machine) -> str:
    """One model: what it is, and what of it fits."""
    shape = found.shape
    told = {"architecture": found.architecture or text.UNKNOWN, "parameters": parameters(shape),
            "vocabulary": f"{shape.vocabulary:,}" if shape else text.UNKNOWN, "template": yes_or_no(found.template),
            "longest": text.POSITIONS.format(count=shape.longest) if shape and shape.longest < 1 << 30 else text.UNKNOWN,
            "weights": text.ON_HUB if found.weights is None else text.SAFETENSORS if found.weights else text.NO_SAFETENSORS}
    rows = "".join(f"<div><dt>{text.MODEL_FACTS[name]}</dt><dd>{escape(value)}</dd></div>" for name, value in told.items())
    below = fits(shape, here) if shape else f'<p class="empty">{escape(found.trouble)}</p>'
    return f'<section class="model-card"><h3>{escape(found.name)}</h3><dl class="facts-list">{rows}</dl>{below}</section>'


def fits(shape: Shape, here: Machine) -> str:
    """A table: for each stage, as the weights are and in four bits."""
    heads = "".join(f'<th scope="col">{title}</th>' for title in ("", *text.FITS_HEADS[here.device].values()))
    body = ""
    for stage in STAGES:
        cells = ""
        for dtype in text.FITS_HEADS[here.device]:
            verdict, need = fit(shape, stage, dtype, here)
            cells += f'<td class="{verdict}"><b>{text.VERDICTS[verdict]}</b>, {size(need)}</td>'
        body += f'<tr><th scope="row">{shared_text.STAGES[stage]}</th>{cells}</tr>'
    title = text.FITS_TITLE.format(device=here.name, free=size(here.free))
    return (f'<div class="models" tabindex="0" role="region" aria-label="{escape(title)}"><table><caption>{escape(title)}</caption>'
            f'<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div><p class="empty">{escape(text.FITS_NOTE)}</p>')


def listed(workspace: Workspace, names: list[str]) -> str:
    """All models that the workspace knows of, a line each."""
    heads = "".join(f'<th scope="col">{title}</th>' for title in text.MODEL_HEADS)
    body = ""
    for name in names:
        try:
            found = facts(workspace, name)
        except UserError as error:
            body += f'<tr><th scope="row">{escape(name)}</th><td colspan="4">{escape(error)}</td></tr>'
            continue
        told = (found.architecture or text.UNKNOWN, parameters(found.shape), f"{found.shape.vocabulary:,}" if found.shape else text.UNKNOWN,
                yes_or_no(found.template))
        cells = "".join(f'<td data-title="{title}">{escape(value)}</td>' for title, value in zip(text.MODEL_HEADS[1:], told))
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return (f'<div class="models list" tabindex="0" role="region" aria-label="{shared_text.MODELS}"><table><thead><tr>{heads}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>')


def parameters(shape: Shape | None) -> str:
    if shape is None:
        return text.UNKNOWN
    count = shape.parameters / 1e6
    return f"{count / 1000:.1f} billion" if count >= 1000 else f"{count:.0f} million" if count >= 10 else f"{count:.1f} million"


def yes_or_no(value: bool | None) -> str:
    return text.UNKNOWN if value is None else shared_text.YES if value else shared_text.NO


def progress(model: str, told: dict) -> str:
    """What the worker says while it loads."""
    if told["state"] == "loaded":
        said = text.LOADED.format(model=model, dtype=told["dtype"], device=told["device"])
        return f'<p class="loaded" role="status">{escape(said)}</p>'
    done, total = told.get("done", 0), told.get("total", 0)
    said = (text.LOAD_LOADING if told["state"] == "loading" else text.LOAD_FETCHING if total else text.LOAD_LOOKING).format(
        model=model, done=size(done), total=size(total))
    share = 100 * done / total if total else 0
    moving = "" if total else " unknown"
    return (f'<p class="empty" role="status">{escape(said)}</p><div class="bar{moving}" role="progressbar" aria-label="{escape(said)}" '
            f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%"></i></div>')


# -- the page ----------------------------------------------------------------------------------------------------------

class ModelsPage:
    def __init__(self, workspace: Workspace, worker, notice: gr.HTML):
        self.workspace, self.worker, self.notice = workspace, worker, notice
        gr.Markdown(text.MODELS_ABOUT, container=False)
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                self.model = Choice(self._names(), value="bundled", label=text.MODEL_FIELD, info=text.MODEL_FIELD_INFO, allow_custom_value=True,
                                    elem_id="models-model")
                self.dtype = gr.Dropdown([(title, name) for name, title in DTYPES.items()], value="auto", label=text.MODEL_DTYPE,
                                         info=configs.docs(configs.RunConfig)["dtype"], elem_id="models-dtype")
                self.load = gr.Button(text.MODEL_LOAD, variant="primary", elem_id="models-load", elem_classes="owners")
                self.status = gr.HTML("", elem_id="models-status", apply_default_css=False)
            with gr.Column(scale=8, min_width=320):
                self.card = gr.HTML("", elem_id="models-card", container=True, padding=True, apply_default_css=False)
        self.list = gr.HTML("", elem_id="models-list", container=True, padding=True, apply_default_css=False)
        self.model.change(self._card, self.model, self.card, queue=False, show_progress="hidden", trigger_mode="always_last",
                          api_visibility="private")
        self.load.click(self._load, {self.model, self.dtype}, [self.notice, self.status, self.load, self.card], concurrency_id="load",
                        concurrency_limit=4, show_progress="hidden", trigger_mode="once", api_visibility="private")

    def _names(self) -> list[str]:
        return list(dict.fromkeys([*self.workspace.model_choices(), *SHAPES]))

    def _card(self, name) -> str:
        name = str(name or "").strip()
        if not name:
            return f'<p class="empty">{text.CHOOSE_A_MODEL}</p>'
        try:
            return card(facts(self.workspace, name), machine(self.workspace.home))
        except UserError as error:
            return f'<p class="empty">{escape(error)}</p>'

    def _load(self, values: dict) -> Iterator[dict]:
        """What the worker says while it fetches and loads; a failure is the line at the top, with the way out."""
        name = str(values[self.model] or "").strip()
        if not name:
            yield {self.notice: views.notice(text.CHOOSE_A_MODEL)}
            return
        yield {self.notice: "", self.status: f'<p class="empty" role="status">{escape(text.LOAD_WAITING.format(model=name))}</p>',
               self.load: gr.update(interactive=False)}
        shown = ""
        try:
            for told in self.worker.load(self.workspace.model(name), dtype=values[self.dtype]):
                if (said := progress(name, told)) != shown:
                    shown = said
                    yield {self.status: said}
            yield {self.load: gr.update(interactive=True), self.card: self._card(name)}
        except UserError as error:
            yield {self.notice: warn(error), self.status: "", self.load: gr.update(interactive=True), self.card: self._card(name)}

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        return {self.model}

    @property
    def outputs(self) -> list:
        return [self.model, self.card, self.list]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """The list, and once the card, where there are other models than a browser has seen."""
        names = self._names()
        if not mark_seen(seen, "models page", names):
            return {}
        return {self.model: gr.update(choices=names), self.list: listed(self.workspace, names), self.card: self._card(values[self.model])}
