"""Who can answer in a chat: what a choice on the page stands for, and which two are worth a look side by side."""

from dataclasses import dataclass
from pathlib import Path

from playground.pages.chat import text
from playground.workspace import RunSummary, Workspace, gallery
from rlhf_engine.runs.folder import ALIVE

SHIPPED = ("none", "bundled")


@dataclass(frozen=True)
class ChatCheckpoint:
    """A checkpoint at a moment: a live run is another one at each step."""

    pick: str
    """As a picker has it."""
    adapter: str
    """As the worker takes it."""
    checkpoint: str
    """As the store names it."""
    run: str = ""
    """Id of the run it belongs to."""
    step: int = 0


def speaker(workspace: Workspace, pick: str) -> ChatCheckpoint:
    """Raises UserError for what may not be asked, or is not there any more."""
    adapter = workspace.chat_adapter(pick)
    if pick in SHIPPED or pick in (name for _, name in gallery()):
        return ChatCheckpoint(pick, adapter, pick)
    name, at, step = pick.partition("@")
    run = workspace.run(name)
    status, checkpoints = run.status(), run.checkpoints()
    if not at and status["state"] in ALIVE:
        number = status["step"]
    else:
        number = step_of(step or (checkpoints[-1].name if checkpoints else ""))
    return ChatCheckpoint(pick, adapter, f"{name} at step {number}", run.id, number)


def step_of(checkpoint: str) -> int:
    return int(checkpoint.removeprefix("step-") or 0)


def first_picks(choices: list[tuple[str, str]], count: int = 2) -> tuple[str, ...]:
    """Who answers before anybody chooses: the bare model, then the newest that are trained."""
    trained = [value for _, value in choices if value != "none"]
    return ("none", *trained, *["none"] * count)[:count]


def presets(workspace: Workspace, entries: list[RunSummary], model: str) -> list[tuple[str, str]]:
    """Pairs before and after some training: readable name, and "BEFORE|AFTER". The newest runs come first."""
    pairs = []
    for entry in entries:
        if entry.stage == "reward" or not entry.checkpoints or workspace.name_of(entry.model) != model:
            continue
        start = start_of(workspace, workspace.config(entry.name))
        if start is not None:
            pairs.append((text.PRESET_RUN.format(name=entry.name), f"{start}|{entry.name}"))
    if model == "bundled":
        pairs.append((text.PRESET_SFT, "none|bundled"))
        pairs += [(text.PRESET_GALLERY.format(name=label), f"bundled|{name}") for label, name in gallery()]
    return pairs


def start_of(workspace: Workspace, config: dict) -> str | None:
    """What a run started from, as a picker has it; None where that is outside of the workspace, or gone."""
    adapter = config["adapter"]
    if adapter == "auto":  # as rlhf_engine.stages.default_adapter
        return "bundled" if config["model"] == "bundled" and config["stage"] != "sft" else "none"
    path = Path(adapter)
    if path.name in (name for _, name in gallery()):
        return path.name
    if path.parent.name == "checkpoints":
        adapter = f"{path.parent.parent.name}@{path.name}" if path.parent.parent.parent == workspace.runs else ""
    elif path.parent == workspace.runs:
        adapter = path.name
    known = {value for _, value in workspace.chat_choices(workspace.name_of(config["model"]))}
    return adapter if adapter in known else None
