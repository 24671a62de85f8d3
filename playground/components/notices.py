"""What every page does: tell the user what came of a click, and find out what has changed."""

import re

import gradio as gr

from playground.components.html import conversion, escape, notice
from playground.components.inputs import label
from playground.workspace import Workspace
from rlhf_engine.config import field_types
from rlhf_engine.errors import UserError, one_line
from rlhf_engine.stages import STAGES

FLAG = re.compile(r"--([a-z][a-z0-9-]+)")


def warn(error: UserError) -> str:
    """Show an error as a toast; returns the notice for the top of the page.

    A flag of the command line becomes the name of the field on the page.
    """
    message = FLAG.sub(field_name, one_line(error))
    gr.Warning(escape(message), title="")
    return notice(message)


def field_name(flag: re.Match) -> str:
    """The label of the field for a flag, in quotation marks; the flag itself where no stage has such a setting."""
    name = flag[1].replace("-", "_")
    known = any(name in field_types(stage.config) for stage in STAGES.values())
    return f"“{label(name)}”" if known else flag[0]


def inform(message: str) -> str:
    """Show good news as a toast; returns the empty notice for the top of the page."""
    gr.Info(escape(message), title="", duration=4)
    return ""


def mark_seen(seen: dict, key: str, mark) -> bool:
    """Whether `mark` differs from what was seen under `key` before; it is what was seen from now on."""
    if key in seen and seen[key] == mark:
        return False
    seen[key] = mark
    return True


def refresh_loading(workspace: Workspace, bar: gr.HTML, seen: dict) -> dict:
    """The update of a page's bar that shows how far a GGUF file is converted; empty if nothing has changed."""
    _, loading = conversion(workspace)
    return {bar: gr.update(value=loading, visible=bool(loading))} if mark_seen(seen, "loading", loading) else {}
