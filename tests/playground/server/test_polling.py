"""When a browser looks again: after every change, soon while few look, and more seldom the more there are."""

import time

import httpx
import pytest

from playground.app import build, options
from playground.server import polling as polling_module
from playground.server.polling import Polling
from rlhf_engine.config import TeachConfig
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.store import Store
from tests.playground.browser import browsing, needs_browser, serving, wait_until
from tests.playground.conftest import write_run


@pytest.fixture
def polling(workspace, monkeypatch) -> Polling:
    monkeypatch.setattr(polling_module, "MARK_AGE", 0.0)
    return Polling(workspace)


def test_whatever_changes_changes_the_mark(polling, workspace):
    live = write_run(workspace.home, "live", TeachConfig(labeler="person"), state="running", steps=1)
    store = Store(workspace.home / "feedback.sqlite")
    changes = [lambda: live.log({"step": 2}), lambda: live.note("warning", step=2, text="x"), lambda: live.add_samples([{"step": 2}]),
               lambda: live.add_queries([{"id": "q"}]), lambda: live.set_status(state="paused"),
               lambda: store.add(Event("e1", "thumb", "p", ("r",), "up", voter="me")),
               lambda: (workspace.uploads / "new.jsonl").write_text("{}"), lambda: (workspace.home / "sync.json").write_text("{}"),
               lambda: write_run(workspace.home, "another", TeachConfig(labeler="person"))]
    marks = [polling.mark()]
    for change in changes:
        assert polling.mark() == marks[-1]
        change()
        marks.append(polling.mark())
    assert len(set(marks)) == len(changes) + 1


def test_few_browsers_ask_often_and_many_share_what_looks_may_take(polling):
    polling.cost = 0.01
    assert polling.wait_of("a", 0.0) == polling.wait_of("a", 1.0) == polling.shortest_wait
    waits = [polling.wait_of(f"tab {number}", 2.0) for number in range(100)]
    assert waits == sorted(waits) and waits[-1] == pytest.approx(101 * 0.01 * polling_module.OVERHEAD / polling_module.SHARE)
    assert polling.wait_of("alone", 100.0) == polling.shortest_wait, "those who have left still count"
    for number in range(5000):
        polling.wait_of(f"invented {number}", 101.0)
    assert polling.wait_of("alone", 101.0) == polling_module.LONGEST_WAIT


def test_what_a_look_takes_is_learned(polling):
    def busy(values: dict) -> dict:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        return values
    look = polling.timed(busy)
    for _ in range(20):
        assert look({"a": 1}) == {"a": 1}
    assert 0.03 < polling.cost < 0.2


def test_the_mark_over_the_wire(workspace, worker):
    demo = build(workspace.home, worker=worker)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **options(demo))
    try:
        first = httpx.get(f"{url}mark", params={"tab": "a"}).json()
        assert set(first) == {"mark", "after", "rest"} and first["after"] == 0.7
        workspace.run("first").set_status(step=2)
        while httpx.get(f"{url}mark", params={"tab": "a"}).json()["mark"] == first["mark"]:  # for as long as a mark may be old
            time.sleep(polling_module.MARK_AGE)
    finally:
        demo.close(verbose=False)


@needs_browser
def test_a_browser_looks_after_a_change_and_else_leaves_the_server_alone(workspace, worker):
    with serving(workspace.home, worker) as url, browsing(url) as open_page:
        page = open_page()
        marks: list[str] = []
        looks: list[str] = []
        page.on("request", lambda request: marks.append(request.url) if "/mark?" in request.url else None)
        page.on("request", lambda request: looks.append(request.url) if "predict" in request.url or "queue" in request.url else None)

        def asked_twice_without_a_look() -> bool:
            if looks:  # of a page that is still being built
                marks.clear()
                looks.clear()
            return len(marks) >= 3
        wait_until(page, asked_twice_without_a_look)
        workspace.run("first").set_status(state="running", step=1)
        page.wait_for_function("document.querySelector('#header .live').innerText.includes('first')")
        assert len(looks) <= 2
