"""Which page of many rows is shown: the previous, the next, or the number that somebody types."""

import math
from collections.abc import Callable

import gradio as gr

from playground.components import text
from playground.components.html import render

ROWS = 20
"""Rows on a page."""


class Pager:
    """The buttons and the number below the rows, built inside the current `gr.Blocks`.

    `show(page, count)` returns the updates of the pager; `slice_of(page, count)` says which rows are on a page.
    """

    def __init__(self, name: str):
        with gr.Row(elem_classes="pager"):
            self.back = gr.Button(text.PREVIOUS, size="sm", min_width=90, elem_id=f"{name}-previous", visible=False)
            self.number = gr.Number(1, label=text.PAGE_LABEL, minimum=1, precision=0, min_width=90, container=False,
                                    visible=False, elem_id=f"{name}-page")
            self.forward = gr.Button(text.NEXT, size="sm", min_width=90, elem_id=f"{name}-next", visible=False)
        self.line = gr.HTML("", elem_id=f"{name}-place", apply_default_css=False)

    @property
    def parts(self) -> list:
        """The components that `show` updates."""
        return [self.back, self.number, self.forward, self.line]

    def wire(self, show_page: Callable[[dict, int], dict], inputs: set, outputs: list, **options) -> None:
        """Connect the pager: `show_page(values, page)` returns the updates of `outputs`.

        The pager's number is added to `inputs`. `options` are those of the events.
        """
        def turn(pages: int) -> Callable[[dict], dict]:
            """A handler that shows the page that lies `pages` after the one of the number."""
            return lambda values: show_page(values, page_of(values[self.number]) + pages)

        all_inputs = {self.number, *inputs}
        self.back.click(turn(-1), all_inputs, outputs, **options)
        self.forward.click(turn(1), all_inputs, outputs, **options)
        gr.on([self.number.submit, self.number.blur], turn(0), all_inputs, outputs, **options)

    def show(self, page: int, count: int) -> dict:
        """The updates of the pager for a page of `count` rows."""
        page, pages, rows = within(page, count), pages_of(count), slice_of(page, count)
        many = pages > 1
        line = text.PAGE_OF.format(first=rows.start + 1, last=rows.stop, count=count, page=page, pages=pages)
        return {self.number: gr.update(value=page, visible=many),
                self.back: gr.update(visible=many, interactive=page > 1),
                self.forward: gr.update(visible=many, interactive=page < pages),
                self.line: render("components/page_line.html", line=line) if count else ""}


def page_of(value) -> int:
    """The number of a page from a field that may be empty."""
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 1


def pages_of(count: int) -> int:
    """The number of pages for `count` rows, at least 1."""
    return max(1, math.ceil(count / ROWS))


def within(page: int, count: int) -> int:
    """The nearest page that exists."""
    return max(1, min(page, pages_of(count)))


def slice_of(page: int, count: int) -> slice:
    """The rows on a page, or on the nearest page that exists."""
    start = (within(page, count) - 1) * ROWS
    return slice(start, min(start + ROWS, count))
