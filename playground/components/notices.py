"""What every page does: tell the user what came of a click, and find out what has changed."""

import gradio as gr

from playground.components.html import escape, notice
from rlhf_engine.errors import UserError, one_line


def warn(error: UserError) -> str:
    """Show an error as a toast; returns the notice for the top of the page."""
    gr.Warning(escape(one_line(error)), title="")
    return notice(one_line(error))


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
