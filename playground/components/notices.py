"""What all pages do: tell a visitor what came of it, and notice what has changed."""

import gradio as gr

from playground.components import html as views
from rlhf_engine.errors import UserError


def warn(error: UserError) -> str:
    """The message as a toast, and for the line at the top."""
    gr.Warning(views.escape(error), title="")
    return views.notice(str(error))


def inform(message: str) -> str:
    """Good news passes by as a toast and leaves the line at the top empty."""
    gr.Info(views.escape(message), title="", duration=4)
    return ""


def mark_seen(seen: dict, key: str, mark) -> bool:
    if key in seen and seen[key] == mark:
        return False
    seen[key] = mark
    return True


def size_of(path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
