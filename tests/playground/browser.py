"""A real browser for the page's tests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.helpers.browser import CHROMIUM, browser_of, go
from playground.app import build, options

__all__ = ["PATIENCE", "browsing", "expect_no_sideways_scroll", "go", "needs_browser", "serving", "wait_until"]
PATIENCE = 300_000
"""Milliseconds after which a wait gives up. They only end a wait that would have no end: a test machine may be busy."""
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH (Debian: apt install chromium)")


@contextmanager
def browsing(url: str, expected: str = "") -> Iterator[Callable[..., Page]]:
    """Yields `open_page(width=1280, query="", dark=False)`, which opens the app at `url` in a new page.

    At the end it fails if a script has failed on any page, or if anything was fetched from another address. Messages of
    the browser that hold `expected` are allowed.
    """
    trouble: list[str] = []
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = browser_of(playwright)

        def open_page(width: int = 1280, query: str = "", dark: bool = False) -> Page:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
            page.set_default_timeout(PATIENCE)
            page.on("pageerror", lambda error: trouble.append(str(error)))
            page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
            page.on("request", lambda request: trouble.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None)
            page.goto(url + query + (("&" if query else "?") + "__theme=dark" if dark else ""))
            page.wait_for_selector("#header .live")
            return page

        yield open_page
        browser.close()
    trouble = [message for message in trouble if not (expected and expected in message)]
    assert trouble == []


def wait_until(page: Page, truth: Callable[[], bool]) -> None:
    """Let the page live until `truth()`."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not truth():
        assert time.monotonic() < deadline, "waited in vain"
        page.wait_for_timeout(50)


def expect_no_sideways_scroll(page: Page, width: int = 390) -> None:
    """What has been drawn for `width` fits into it, plots included: they are drawn anew a moment after the window has changed."""
    page.wait_for_timeout(500)
    page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")


@contextmanager
def serving(home, worker, port: int | None = None) -> Iterator[str]:
    """Serves the page over the workspace `home` from this process; yields its address."""
    demo = build(home, worker=worker)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", server_port=port, **options(demo))
    try:
        yield url
    finally:
        demo.close(verbose=False)
