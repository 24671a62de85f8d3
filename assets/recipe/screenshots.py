"""Pictures of every page for assets/screenshots, of real runs: light and dark, wide and on a phone.

    python assets/recipe/screenshots.py [--output assets/screenshots]

Takes about ten minutes on two cores. The app is started over a workspace of its own. A short SFT run and a run that a
built-in labeler teaches are trained, and a run that asks a person gets its first votes by key. Needs a Chromium on the
PATH and Python's playwright.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.helpers.browser import app, browser_of, go

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PROMPTS = ("Once upon a time, a girl named Mia went to the park.", "Tom had a little red boat.")


def chat(page) -> None:
    go(page, "Chat")
    page.locator("#chat-preset input").click()
    page.get_by_role("option").first.click()  # the newest run, before and after
    page.locator("#chat-input textarea").fill(PROMPTS[0])
    page.click("#chat-send")
    page.wait_for_function("document.querySelector('#chat-status')?.innerText.includes('done')", timeout=120_000)


def tab(name: str, then: Callable = lambda page: None) -> Callable:
    def show(page) -> None:
        go(page, name)
        page.wait_for_timeout(2500)
        then(page)
        page.wait_for_timeout(1000)
    return show


FEEDBACK = tab("Data", lambda page: (page.get_by_role("tab", name="Feedback").click(), page.wait_for_timeout(2000)))


class Camera:
    """Takes each page in both themes and widths; all browsers are fresh, so nothing depends on the order."""

    def __init__(self, playwright, url: str, folder: Path):
        self.browser, self.url, self.folder = browser_of(playwright), url, folder

    def take(self, name: str, show: Callable) -> None:
        for width, viewport in (("wide", WIDE), ("phone", PHONE)):
            for theme in ("light", "dark"):
                page = self.browser.new_page(viewport=viewport, color_scheme=theme)
                page.goto(f"{self.url}?__theme={theme}")
                page.wait_for_selector("#header .live")
                page.wait_for_timeout(1500)
                show(page)
                page.screenshot(path=self.folder / f"{name}-{width}-{theme}.jpg", type="jpeg", quality=72)
                page.close()
        print(name, flush=True)


def wait_for_run(api, name: str, truth: Callable[[dict], bool], seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not truth(status := api.predict(run=name, api_name="/status")):
        if status["state"] == "failed" or time.monotonic() > deadline:
            sys.exit(f"{name} is {status['state']} at step {status['step']}: {status['error']}")
        time.sleep(1)


def shoot(camera: Camera, api) -> None:
    """The story in order: an empty page, training, a taught run, a person's votes, and then the other pages."""
    camera.take("teach-before", tab("Teach"))
    api.predict(stage="sft", config={"output": "stories", "steps": 60, "limit": 600}, api_name="/start")
    wait_for_run(api, "stories", lambda status: status["state"] == "done")
    api.predict(stage="teach", config={"output": "happy", "labeler": "sentiment"}, api_name="/start")
    wait_for_run(api, "happy", lambda status: status["step"] >= 12)
    camera.take("train", tab("Train"))
    wait_for_run(api, "happy", lambda status: status["state"] == "done")
    camera.take("teach-watched", tab("Teach"))
    camera.take("runs", tab("Runs"))
    camera.take("chat", chat)
    api.predict(stage="teach", config={"output": "mine", "labeler": "person"}, api_name="/start")
    page = camera.browser.new_page(viewport=WIDE)
    page.goto(camera.url)
    for number in range(400):
        page.keyboard.press(str(1 + number % 4))  # too early for the next question, it is the same vote once more
        page.wait_for_timeout(400)
        if api.predict(run="mine", api_name="/status")["step"] >= 4:
            break
    page.close()
    camera.take("teach", tab("Teach"))
    api.predict(run="mine", command="stop", value=None, api_name="/control")
    wait_for_run(api, "mine", lambda status: status["state"] == "stopped")
    camera.take("data", tab("Data"))
    camera.take("feedback", FEEDBACK)
    camera.take("models", tab("Models"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "screenshots")
    args = parser.parse_args()
    from gradio_client import Client
    from playwright.sync_api import sync_playwright

    args.output.mkdir(parents=True, exist_ok=True)
    with app() as (url, _), sync_playwright() as playwright:
        shoot(Camera(playwright, url, args.output), Client(url, verbose=False))


if __name__ == "__main__":
    main()
