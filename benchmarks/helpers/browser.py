"""A real browser on the real app, for programs that measure it, test it or take pictures of it.

It needs Python's playwright and a Chromium.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Page, Playwright, TimeoutError

from rlhf_engine.worker.client import Worker

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browser_of(playwright: Playwright):
    return playwright.chromium.launch(executable_path=CHROMIUM,
                                      args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def go(page: Page, tab: str) -> Page:
    """Open a tab of the page. On a narrow screen the last tabs are in a menu.

    A page that is still being laid out closes its menu again, also under a click, and moves tabs out of it and into
    it.
    """
    page.get_by_role("tab").first.wait_for()
    button = page.get_by_role("tab", name=tab, exact=True)
    in_menu = page.locator(".overflow-dropdown button", has_text=tab)
    for _ in range(20):
        with suppress(TimeoutError):  # on a busy machine each click takes its time
            if not button.count():
                if not in_menu.is_visible():
                    page.get_by_label("More tabs").click(timeout=5000)
                in_menu.click(timeout=5000)
            else:
                button.click(timeout=5000)
            return page
    raise TimeoutError(f"The tab {tab} could not be opened.")


@contextmanager
def app() -> Iterator[tuple[str, Path]]:
    """(address, workspace) of `python app.py` over a workspace of its own. At the end both and the worker are gone."""
    home, port = Path(tempfile.mkdtemp()), free_port()
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "app.py"], cwd=root, stdout=subprocess.PIPE, text=True,
                               env=os.environ | {"PLAYGROUND_HOME": str(home), "GRADIO_SERVER_PORT": str(port)})
    try:
        process.stdout.readline()
        yield f"http://127.0.0.1:{port}", home
    finally:
        process.terminate()
        process.wait(30)
        Worker(home).shutdown()
        shutil.rmtree(home, ignore_errors=True)
