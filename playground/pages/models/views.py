"""The Models page as HTML: the card of a model, the table of what fits, the list of models, and the progress of
loading."""

from markupsafe import Markup

from playground.components import text as shared_text
from playground.components.formatting import byte_size
from playground.components.html import conversion_line, empty, loading_bar, render
from playground.machine import Machine
from playground.pages.models import text
from playground.pages.models.model_facts import Facts, fit, read_facts
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.runs.memory_estimate import Shape
from rlhf_engine.stages import STAGES

UNLIMITED = 1 << 30
"""Positions from which on a model's longest row says nothing."""


def card(facts: Facts, here: Machine) -> Markup:
    """One model: what it is, and which stages fit into the memory of this machine."""
    fits = fits_table(facts.shape, here) if facts.shape else empty(facts.trouble)
    recipe, _ = shared_text.MODEL_PRESETS.get(facts.name, ("", ""))
    return render("models/card.html", name=facts.name, rows=fact_rows(facts), fits=fits,
                  place=text.PLACE.format(place=facts.place) if facts.place else "",
                  recipe=text.RECIPE.format(name=recipe) if recipe else "")


def fact_rows(facts: Facts) -> list[tuple[str, str]]:
    """(title, value) of each fact."""
    shape = facts.shape
    weights = facts.kind if facts.weights else text.NO_SAFETENSORS
    values = {
        "architecture": facts.architecture or text.UNKNOWN,
        "parameters": parameter_count(shape),
        "vocabulary": vocabulary_size(shape),
        "template": yes_or_no(facts.template),
        "longest": text.POSITIONS.format(count=shape.longest) if shape and shape.longest < UNLIMITED else text.UNKNOWN,
        "weights": text.ON_HUB if facts.weights is None else weights,
    }
    return [(text.MODEL_FACTS[name], value) for name, value in values.items()]


def fits_table(shape: Shape, here: Machine) -> Markup:
    """A row for each stage, a column for each number format of the weights."""
    dtypes = text.FITS_HEADS[here.device]
    rows = [{"stage": stage.label, "cells": [fit_cell(shape, stage.name, dtype, here) for dtype in dtypes]}
            for stage in STAGES.values()]
    title = text.FITS_TITLE.format(device=here.name, free=byte_size(here.free))
    return render("models/fits.html", title=title, heads=["", *dtypes.values()], rows=rows, note=text.FITS_NOTE)


def fit_cell(shape: Shape, stage: str, dtype: str, here: Machine) -> dict:
    """The verdict for one stage and one number format."""
    verdict, need = fit(shape, stage, dtype, here)
    return {"verdict": verdict, "words": text.VERDICTS[verdict], "need": byte_size(need)}


def model_list(workspace: Workspace, names: list[str]) -> Markup:
    """A table with a row for each model."""
    heads = text.MODEL_HEADS
    rows = [model_row(workspace, name) for name in names]
    return render("models/list.html", label=shared_text.MODELS, heads=heads, rows=rows, columns=len(heads) - 1)


def model_row(workspace: Workspace, name: str) -> dict:
    """The cells of a model as (title, value), or the reason why there are none."""
    try:
        facts = read_facts(workspace, name)
    except UserError as error:
        return {"name": name, "cells": [], "trouble": str(error)}
    values = (facts.architecture or text.UNKNOWN, parameter_count(facts.shape), vocabulary_size(facts.shape),
              yes_or_no(facts.template))
    return {"name": name, "cells": list(zip(text.MODEL_HEADS[1:], values)), "trouble": ""}


def parameter_count(shape: Shape | None) -> str:
    """The number of parameters in words, such as "1.7 billion"."""
    if shape is None:
        return text.UNKNOWN
    millions = shape.parameters / 1e6
    if millions < 0.1:
        return f"{shape.parameters:,}"
    if millions >= 1000:
        return f"{millions / 1000:.1f} billion"
    return f"{millions:.0f} million" if millions >= 10 else f"{millions:.1f} million"


def vocabulary_size(shape: Shape | None) -> str:
    """The number of tokens that the model knows."""
    return f"{shape.vocabulary:,}" if shape else text.UNKNOWN


def yes_or_no(value: bool | None) -> str:
    """A fact that may not be known."""
    if value is None:
        return text.UNKNOWN
    return shared_text.YES if value else shared_text.NO


def progress(model: str, status: dict) -> Markup:
    """How far the worker has got with loading a model. `status` is a row that `Worker.load` yields."""
    if status["state"] == "loaded":
        words = text.LOADED_BASE if status.get("base") else text.LOADED
        line = words.format(model=model, dtype=status["dtype"], device=status["device"], base=status.get("base"))
        return render("models/loaded.html", line=line)
    done, total = status.get("done", 0), status.get("total", 0)
    if status["state"] == "converting":
        return loading_bar(conversion_line(model, done, total), done, total)
    words = text.LOAD_FETCHING if total else text.LOAD_LOOKING
    if status["state"] == "loading":
        words = text.LOAD_LOADING
    return loading_bar(words.format(model=model, done=byte_size(done), total=byte_size(total)), done, total)
