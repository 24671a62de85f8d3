"""A Plotly figure that is updated in place, so that the zoom and the hidden lines of a reader stay."""

from importlib.util import find_spec
from pathlib import Path

import gradio as gr

from playground.components.html import render
from playground.scripts import read_script


def plotly_script() -> Path:
    """The Plotly for browsers that is part of the installed Python package."""
    package = find_spec("plotly")
    assert package is not None and package.origin is not None, "plotly is one of the requirements"
    return Path(package.origin).parent / "package_data" / "plotly.min.js"


PLOTLY_JS = plotly_script()


class LivePlot(gr.HTML):
    """A Plotly figure. Its value is the figure as JSON.

    `assets/js/live_plot.js` draws it with the Plotly of the installed Python package; nothing is loaded from the net.
    """

    def __init__(self, value: dict | None = None, *, height: int = 260, **options):
        gr.set_static_paths([str(PLOTLY_JS)])
        super().__init__(value=value or {"data": [], "layout": {}}, height=height,
                         html_template=render("components/live_plot.html"), js_on_load=read_script("live_plot"),
                         head=f'<script src="gradio_api/file={PLOTLY_JS}"></script>', **options)

    def api_info(self):
        """The type of the value in the API."""
        return {"type": "object"}
