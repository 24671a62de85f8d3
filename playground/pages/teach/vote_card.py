"""The vote card: what the browser does with a question."""

import gradio as gr

from playground.scripts import read_script


class Card(gr.HTML):
    """A question with its buttons. Its value is what the browser shows: run, query, the id of the event that an answer becomes, and HTML.

    All of it changes in one motion and comes back with the answer, so that no answer is taken for one to another question.
    """

    def __init__(self, value: dict | None = None, **options):
        super().__init__(value=value or {"run": "", "query": "", "event": "", "html": ""}, html_template="${value.html}",
                         js_on_load=read_script("vote_card"), apply_default_css=False, **options)

    def api_info(self):
        return {"type": "object"}
