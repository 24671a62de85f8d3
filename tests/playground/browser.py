"""A real browser for the page's tests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.browser import CHROMIUM, browser_of, go
from playground.app import build, options

__all__ = ["PATIENCE", "browsing", "go", "needs_browser", "serving"]
PATIENCE = 60_000
"""Milliseconds to wait for something on the page, at most: a test machine may have two busy cores."""
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


@contextmanager
def serving(home, worker, port: int | None = None) -> Iterator[str]:
    """Serves the page over the workspace `home` from this process; yields its address."""
    demo = build(home, worker=worker)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", server_port=port, **options(demo))
    try:
        yield url
    finally:
        demo.close(verbose=False)
