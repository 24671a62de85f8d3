"""Inputs that several pages use."""

import gradio as gr

from playground.components import text


class Choice(gr.Dropdown):
    """A dropdown whose choices follow the workspace. A browser may still hold what is gone: whoever reads the value looks it up."""

    def get_block_name(self) -> str:
        return "dropdown"

    def preprocess(self, payload):
        return payload


def label(name: str) -> str:
    return text.LABELS.get(name, name.replace("_", " ").capitalize())
