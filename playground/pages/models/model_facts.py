"""What the files of a base model say about it, and which stages fit into the memory of a machine."""

from dataclasses import dataclass, replace
from pathlib import Path

from playground.machine import Machine
from playground.model_files import OFFERED_MODELS, gguf_file, model_folder
from playground.pages.models import text
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json_or_none
from rlhf_engine.runs import smollm2
from rlhf_engine.runs.gguf_files import read_gguf_config
from rlhf_engine.runs.memory.passes import choose_pass_size
from rlhf_engine.runs.memory_estimate import Shape, estimate, read_model, read_shape
from rlhf_engine.stages import find_stage, make_config

SMALL = {"gradient_checkpointing": True, "micro_batch": 1}
"""The settings with which the backward pass of a run takes the least memory."""


@dataclass(frozen=True)
class Facts:
    """What is known about a base model. None means that it cannot be known before the model is downloaded."""

    name: str
    architecture: str = ""
    shape: Shape | None = None
    template: bool | None = None
    """Whether the tokenizer has a chat template."""
    weights: bool | None = None
    """Whether there are weights that can be loaded."""
    trouble: str = ""
    """Why there is no shape."""
    kind: str = text.SAFETENSORS
    """What the weights are, in words."""
    place: str = ""
    """Where they come from, or how to get them, where there is more than one place."""


def read_facts(workspace: Workspace, name: str) -> Facts:
    """The facts about a model, with its place where it has several. Raises UserError as `facts_of_files`."""
    facts = facts_of_files(workspace, name)
    return replace(facts, place=smollm2_place()) if name == smollm2.NAME else facts


def smollm2_place() -> str:
    """Where `smollm2` is on this machine, or how to get it."""
    if smollm2.hub_folder():
        return text.SMOLLM2_HUB.format(id=smollm2.HUB_ID)
    if smollm2.package_file():
        return text.SMOLLM2_PACKAGE.format(package=smollm2.PACKAGE)
    return text.SMOLLM2_NOWHERE.format(id=smollm2.HUB_ID, install=smollm2.INSTALL)


def facts_of_files(workspace: Workspace, name: str) -> Facts:
    """The facts about a model. Raises UserError for a name that is neither a Hub id nor a model of the workspace."""
    if file := gguf_file(workspace, name):
        return read_gguf_facts(file, name)
    folder = model_folder(workspace, name)
    if folder is None:
        if name not in OFFERED_MODELS:
            return Facts(name, trouble=text.NOT_DOWNLOADED_YET.format(model=name))
        config = OFFERED_MODELS[name]
        return Facts(name, str(config["model_type"]).capitalize(), read_shape(config, name))
    try:
        config = read_model(folder, name)
    except UserError as error:
        return Facts(name, trouble=str(error))
    architecture = str((config.get("architectures") or [config.get("model_type", "")])[0]).removesuffix("ForCausalLM")
    weights = any(folder.glob("*.safetensors"))
    try:
        shape, trouble = read_shape(config, name), ""
    except UserError as error:
        shape, trouble = None, str(error)
    return Facts(name, architecture, shape, has_template(folder), weights, trouble)


def read_gguf_facts(file: Path, name: str) -> Facts:
    """The facts that stand in a GGUF file."""
    try:
        config, template = read_gguf_config(file, name)
    except UserError as error:
        return Facts(name, trouble=str(error))
    try:
        shape, trouble = read_shape(config, name), ""
    except UserError as error:
        shape, trouble = None, str(error)
    architecture = config["architectures"][0].removesuffix("ForCausalLM")
    return Facts(name, architecture, shape, template, True, trouble, text.GGUF)


def has_template(folder: Path) -> bool | None:
    """Whether the tokenizer in a folder has a chat template; None if the tokenizer's files are not there."""
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    tokenizer = read_json_or_none(folder / "tokenizer_config.json")
    return bool(tokenizer.get("chat_template")) if isinstance(tokenizer, dict) else None


def fit(shape: Shape, stage: str, dtype: str, here: Machine) -> tuple[str, int]:
    """Whether a stage with its default settings fits into the free memory of a machine: (verdict, bytes).

    The verdict is "fits", "small" (it fits with the settings in SMALL) or "no".
    """
    adapter = "-" if find_stage(stage).starts_from_sft else "none"
    settings = {"dtype": dtype, "model": "-", "adapter": adapter}
    config = make_config(stage, settings)
    if here.device == "cpu":  # no error tells there that memory has run out, so passes are small from the start
        need = choose_pass_size(config, shape, device=here.device, free=here.free).need
    else:
        need = estimate(config, shape, device=here.device).total
    if need <= here.free:
        return "fits", need
    need = estimate(make_config(stage, {**settings, **SMALL}), shape, device=here.device).total
    return ("small" if need <= here.free else "no"), need
