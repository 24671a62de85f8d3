"""The checkpoints that can answer in a chat, and pairs of them that are worth comparing."""

from dataclasses import dataclass
from pathlib import Path

from playground.pages.chat import text
from playground.workspace import RunSummary, Workspace, gallery
from rlhf_engine.runs.folder import ALIVE
from rlhf_engine.stages import find_stage

SHIPPED = ("none", "bundled")
"""The choices that belong to no run, beside the gallery: the bare model, and the bundled SFT adapter."""


@dataclass(frozen=True)
class ChatCheckpoint:
    """A checkpoint that has answered. A live run is another checkpoint at each step."""

    pick: str
    """The value of a picker."""
    adapter: str
    """The adapter as the worker takes it."""
    checkpoint: str
    """The name under which the store keeps it."""
    run: str = ""
    """The id of its run (`Run.id`)."""
    step: int = 0
    """The step of its run."""


def speaker(workspace: Workspace, pick: str) -> ChatCheckpoint:
    """The checkpoint that a picker's value means now. Raises UserError for one that may not be asked or is gone."""
    adapter = workspace.chat_adapter(pick)
    if pick in SHIPPED or pick in gallery_names():
        return ChatCheckpoint(pick, adapter, pick)
    name, at, checkpoint = pick.partition("@")
    run = workspace.run(name)
    status, checkpoints = run.status(), run.checkpoints()
    if not at and status["state"] in ALIVE:
        step = status["step"]
    else:
        step = step_of(checkpoint or (checkpoints[-1].name if checkpoints else ""))
    return ChatCheckpoint(pick, adapter, f"{name} at step {step}", run.id, step)


def gallery_names() -> list[str]:
    """The adapters of the gallery, by name."""
    return [name for _, name in gallery()]


def step_of(checkpoint: str) -> int:
    """The step in the name of a checkpoint's folder; 0 for no name."""
    return int(checkpoint.removeprefix("step-") or 0)


def first_picks(choices: list[tuple[str, str]], count: int = 2) -> tuple[str, ...]:
    """The checkpoints that answer before anybody chooses: the bare model, then the newest trained ones.

    `choices` are (label, value) with the newest first.
    """
    trained = [value for _, value in choices if value != "none"]
    return ("none", *trained, *["none"] * count)[:count]


def presets(workspace: Workspace, entries: list[RunSummary], model: str) -> list[tuple[str, str]]:
    """Pairs of checkpoints before and after a training: (label, "BEFORE|AFTER"). The newest runs come first."""
    pairs = []
    for entry in entries:
        start = start_of_run(workspace, entry, model)
        if start is not None:
            pairs.append((text.PRESET_RUN.format(name=entry.name), f"{start}|{entry.name}"))
    if model == "bundled":
        pairs.append((text.PRESET_SFT, "none|bundled"))
        pairs += [(text.PRESET_GALLERY.format(name=label), f"bundled|{name}") for label, name in gallery()]
    return pairs


def start_of_run(workspace: Workspace, entry: RunSummary, model: str) -> str | None:
    """What a run on `model` started from; None for a run that cannot answer in a chat, or whose start is not known."""
    if not entry.checkpoints or workspace.name_of(entry.model) != model or find_stage(entry.stage).makes == "reward":
        return None
    return start_of(workspace, workspace.config(entry.name))


def start_of(workspace: Workspace, config: dict) -> str | None:
    """What a run started from, as the value of a picker; None where that lies outside of the workspace or is gone."""
    adapter = config["adapter"]
    if adapter == "auto":  # the rule of `rlhf_engine.stages.default_adapter`, for settings in a dict
        return "bundled" if config["model"] == "bundled" and find_stage(config["stage"]).starts_from_sft else "none"
    path = Path(adapter)
    if path.name in gallery_names():
        return path.name
    if path.parent.name == "checkpoints":
        run = path.parent.parent
        adapter = f"{run.name}@{path.name}" if run.parent == workspace.runs else ""
    elif path.parent == workspace.runs:
        adapter = path.name
    offered = {value for _, value in workspace.chat_choices(workspace.name_of(config["model"]))}
    return adapter if adapter in offered else None
