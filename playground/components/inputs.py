"""Inputs that several pages use, and the options of their events."""

from typing import Any

import gradio as gr

from playground import text as app_text
from playground.components import text
from playground.workspace import RunSummary
from rlhf_engine.stages import STAGES

QUICK_EVENT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private",
                               "trigger_mode": "always_last"}
"""Options of an event that is answered at once, from what is on this machine."""
HUB_EVENT: dict[str, Any] = {"concurrency_id": "hub", "concurrency_limit": 1, "api_visibility": "private"}
"""Options of an event that reads a data set of the Hub, which takes a while: one at a time."""
CONTROL_EVENT: dict[str, Any] = {"concurrency_id": "control", "concurrency_limit": 4, "api_visibility": "private",
                 "show_progress": "minimal"}
"""Options of an event that sends a command to the worker."""


class Choice(gr.Dropdown):
    """A dropdown whose choices change with the workspace.

    A browser may still hold a choice that is gone, so the value is not checked here: the code that reads it looks it
    up.
    """

    def get_block_name(self) -> str:
        return "dropdown"

    def preprocess(self, payload):
        return payload


class Slider(gr.Slider):
    """A slider whose ends may have moved since the browser last saw it: the code that reads the value takes the nearest
    that exists."""

    def get_block_name(self) -> str:
        return "slider"

    def preprocess(self, payload):
        return payload


def label(name: str) -> str:
    """The label of a setting: from the table of labels, or else made from its name."""
    return text.LABELS.get(name, name.replace("_", " ").capitalize())


def run_choices(entries: list[RunSummary]) -> list[tuple[str, str]]:
    """(name, stage and state; value) of each run, for a `Choice`."""
    return [(run_title(entry), entry.name) for entry in entries]


def run_title(entry: RunSummary) -> str:
    """A run as a list of runs names it."""
    stage = STAGES[entry.stage].label if entry.stage in STAGES else entry.stage
    return text.RUN_CHOICE.format(name=entry.name, stage=stage, state=app_text.STATES[entry.state])
