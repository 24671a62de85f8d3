"""The page while it works: how soon it appears, how soon votes and chats are answered during PPO, what visitors cost.

    python benchmarks/page.py [--visitors 100] [--seconds 60] [--loads 5]

Needs a Chromium on the PATH and Python's playwright (tests/requirements.txt). The app runs as a user starts it, over a
workspace of its own. The PPO is that of a `teach` run on the bundled model, on all cores. Prints one line of JSON for
each result, with times in milliseconds.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.helpers.browser import app, browser_of, go
from benchmarks.helpers.common import machine, say

TEACH = {"labeler": "person", "output": "asked", "votes": 100_000, "votes_first": 8, "patience": 100_000,
         "steps": 100_000}


def spread(seconds: list[float]) -> dict:
    """Median and 95th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return {"median": round(1000 * statistics.median(ordered)),
            "p95": round(1000 * ordered[int(0.95 * (len(ordered) - 1))]), "count": len(ordered)}


def first_page(url: str, playwright, loads: int) -> None:
    """From the navigation to a page whose buttons work, each time in a new browser."""
    found = []
    for _ in range(loads):
        browser = browser_of(playwright)
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.wait_for_selector("#header .live")
        page.locator("#begin-person").wait_for()
        page.locator("#begin-person").click(trial=True)
        found.append(time.perf_counter() - start)
        browser.close()
    say({"first page interactive": spread(found)})


def step_seconds(home: Path, seconds: float) -> float:
    """Median seconds of the PPO steps that begin in the next so many seconds, asking and learning votes aside."""
    def rows() -> list[dict]:
        return [json.loads(line) for line in (home / "runs" / "asked" / "metrics.jsonl").read_text().splitlines()]
    before = len(rows())
    time.sleep(seconds)
    steps = rows()[before + 1:]
    return statistics.median(sum(row[f"time/{part}"] for part in ("rollout", "score", "update")) for row in steps)


def votes(page, count: int) -> None:
    """From the key to the next question, as the browser sees it."""
    found = []
    for number in range(count):
        page.locator("#vote-1").wait_for()
        seconds = page.evaluate("""key => new Promise(done => {
            const card = document.querySelector('#vote-card'), was = card.innerText, start = performance.now();
            new MutationObserver((_, watch) => {
                if (card.innerText !== was) { watch.disconnect(); done((performance.now() - start) / 1000); }
            }).observe(card, {childList: true, subtree: true, characterData: true});
            document.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
            setTimeout(() => done(60), 60000);
        })""", str(1 + number % 4))
        found.append(seconds)
        page.wait_for_timeout(1500)
    say({"a vote answered, while PPO trains": spread(found)})


def chats(page, count: int) -> None:
    """From the click to the first words of both sides."""
    found = []
    for _ in range(count):
        page.locator("#chat-input textarea").fill("Once upon a time there was a little dog. ")
        seconds = page.evaluate("""() => new Promise(done => {
            const start = performance.now();
            const said = () => [...document.querySelectorAll('.bot')].some(part => part.innerText.trim().length > 1);
            document.querySelector('#chat-send').click();
            const look = () => said() ? done((performance.now() - start) / 1000) : setTimeout(look, 5);
            look();
            setTimeout(() => done(60), 60000);
        })""")
        found.append(seconds)
        page.wait_for_timeout(4000)
        page.click("#chat-clear")
        page.wait_for_function("![...document.querySelectorAll('.bot')].some(part => part.innerText.trim().length > 1)")
        page.wait_for_timeout(1000)  # nobody types faster
    say({"first chat token, while PPO trains": spread(found)})


def person(url: str, home: Path, playwright) -> dict:
    """A person who votes and chats while PPO trains; returns what their browser sends when it looks at the page."""
    browser = browser_of(playwright)
    page, looks = browser.new_page(), []
    page.on("request", lambda request: looks.append(request.post_data_json) if request.url.endswith("run/predict")
            else None)
    page.goto(url)
    while not (metrics := home / "runs" / "asked" / "metrics.jsonl").exists() or not metrics.read_text():
        page.keyboard.press("1")  # the first votes, before PPO starts
        page.wait_for_timeout(300)
    page.wait_for_timeout(5000)
    votes(page, 40)
    chats(go(page, "Chat"), 10)
    go(page, "Teach").wait_for_timeout(3000)
    browser.close()
    return max(looks, key=lambda look: len(look["data"]))


async def visit(url: str, body: dict, visitors: int, seconds: float) -> None:
    """Visitors who do what a browser does: ask for news, look if there are any, and come back when the page says so."""
    import httpx

    async def one(number: int, client: httpx.AsyncClient) -> None:
        mine, seen = json.loads(json.dumps(body)) | {"session_hash": f"visitor{number}"}, ""
        await asyncio.sleep(number / visitors)
        while time.monotonic() < until:
            start = time.perf_counter()
            news = (await client.get(f"{url}/mark", params={"tab": f"visitor{number}"})).raise_for_status().json()
            asked.append(time.perf_counter() - start)
            if news["mark"] != seen:
                (await client.post(f"{url}/gradio_api/run/predict", json=mine)).raise_for_status()
                looked.append(time.perf_counter() - start)
                seen = news["mark"]
            waits.append(news["after"])
            await asyncio.sleep(news["after"])

    asked, looked, waits, until = [], [], [], time.monotonic() + seconds
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=visitors)) as client:
        await asyncio.gather(*(one(number, client) for number in range(visitors)))
    say({"visitors ask": spread(asked), "and look": spread(looked),
         "every so many seconds": round(statistics.median(waits), 1),
         "their own processor seconds": round(time.process_time(), 1), "in seconds": seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--visit", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.visit:
        asyncio.run(visit(**json.loads(args.visit)))
        return
    from gradio_client import Client
    from playwright.sync_api import sync_playwright

    say({"machine": machine()})
    start = time.perf_counter()
    with app() as (url, home), sync_playwright() as playwright:
        say({"app.py serves": round(1000 * (time.perf_counter() - start))})
        first_page(url, playwright, args.loads)
        api = Client(url, verbose=False, analytics_enabled=False)
        api.predict(stage="teach", config=TEACH, api_name="/start")
        body = person(url, home, playwright)
        alone, visited = [], []
        for _ in range(args.rounds):
            alone.append(step_seconds(home, args.seconds))
            told = json.dumps({"url": url, "body": body, "visitors": args.visitors, "seconds": args.seconds + 15})
            crowd = subprocess.Popen([sys.executable, __file__, "--visit", told])
            time.sleep(10)  # the first looks, of all at once
            visited.append(step_seconds(home, args.seconds))
            crowd.wait()
        say({"a PPO step alone": [round(1000 * each) for each in alone],
             f"with {args.visitors} visitors": [round(1000 * each) for each in visited],
             "slower": round(statistics.median(visited) / statistics.median(alone) - 1, 3)})
        api.predict(run="asked", command="discard", value=None, api_name="/control")


if __name__ == "__main__":
    main()
