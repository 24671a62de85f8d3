"""The component that shows a question in the browser and sends the answer."""

import gradio as gr

from playground.scripts import read_script


class Card(gr.HTML):
    """A question with its buttons. Its event `vote` brings the choice and the seconds that the voter took.

    Its value is a dict: `run`, `query`, `event` (the id of the event that an answer becomes), `html`, and `time` where
    an answer was refused. The browser gets all of it at once and sends all of it back with the answer, so that an
    answer always belongs to the question that was on the screen.
    """

    def __init__(self, value: dict | None = None, **options):
        super().__init__(value=value or {"run": "", "query": "", "event": "", "html": ""},
                         html_template="${value.html}",
                         js_on_load=read_script("vote_card"), apply_default_css=False, **options)

    def api_info(self):
        """The type of the value in the API."""
        return {"type": "object"}
