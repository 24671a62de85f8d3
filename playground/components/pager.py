"""Which of many pages is shown: previous, next, or the number typed in."""

import math
from collections.abc import Callable

import gradio as gr

from playground.components import text

AT_ONCE = 20
"""Rows on a page."""


class Pager:
    """Built where rows end; `show(page, count)` are its updates, and `slice_of` which rows they are."""

    def __init__(self, name: str):
        with gr.Row(elem_classes="pager"):
            self.back = gr.Button(text.PREVIOUS, size="sm", min_width=90, elem_id=f"{name}-previous", visible=False)
            self.number = gr.Number(1, label=text.PAGE_LABEL, minimum=1, precision=0, min_width=90, container=False,
                                    visible=False,
                                    elem_id=f"{name}-page")
            self.on = gr.Button(text.NEXT, size="sm", min_width=90, elem_id=f"{name}-next", visible=False)
        self.place = gr.HTML("", elem_id=f"{name}-place", apply_default_css=False)

    @property
    def parts(self) -> list:
        return [self.back, self.number, self.on, self.place]

    def wire(self, show: Callable[[dict, int], dict], inputs: set, outputs: list, **options) -> None:
        """`show(values, page)` gives the updates of `outputs`; `inputs` need not name the pager."""
        def turned(by: int):
            return lambda values: show(values, page_of(values[self.number]) + by)
        for button, by in ((self.back, -1), (self.on, 1)):
            button.click(turned(by), {self.number, *inputs}, outputs, **options)
        gr.on([self.number.submit, self.number.blur], turned(0), {self.number, *inputs}, outputs, **options)

    def show(self, page: int, count: int) -> dict:
        page, pages = within(page, count), pages_of(count)
        where = slice_of(page, count)
        line = text.PAGE_OF.format(first=where.start + 1, last=where.stop, count=count, page=page,
                                   pages=pages) if count else ""
        many = pages > 1
        return {self.number: gr.update(value=page, visible=many), self.back: gr.update(visible=many,
                                                                                       interactive=page > 1),
                self.on: gr.update(visible=many, interactive=page < pages),
                self.place: f'<p class="facts" role="status">{line}</p>' if line else ""}


def page_of(value) -> int:
    """The number of a page from a field that may be empty."""
    return int(value) if isinstance(value, (int, float)) and math.isfinite(value) else 1


def pages_of(count: int) -> int:
    return max(1, math.ceil(count / AT_ONCE))


def within(page: int, count: int) -> int:
    return max(1, min(page, pages_of(count)))


def slice_of(page: int, count: int) -> slice:
    """The rows of a page, or of the nearest that there is."""
    start = (within(page, count) - 1) * AT_ONCE
    return slice(start, min(start + AT_ONCE, count))
