"""The Report page: making a report, showing one, and the negative controls."""

from pathlib import Path

import gradio as gr
import pytest
from playwright.sync_api import expect

from playground.pages.report import text
from playground.pages.report.page import CONTROLS, ReportPage
from playground.pages.report.reports import GALLERY, report_folders
from rlhf_engine.feedback.events import Event
from rlhf_engine.stages import make_config
from tests.playground.browser import browsing, expect_no_sideways_scroll, needs_browser, serving
from tests.playground.conftest import EVIL

PAGE = "<!doctype html><title>x</title><h1>Nothing was learned</h1><p>{{ braces }} $dollar$ <script>document.title = 'broken'</script></p>"


@pytest.fixture
def page(workspace, worker):
    with gr.Blocks():
        return ReportPage(workspace, worker, gr.HTML())


def make_report(home: Path, name: str, html: str = PAGE) -> Path:
    folder = home / "reports" / name
    folder.mkdir(parents=True)
    (folder / "report.html").write_text(html)
    (folder / "card.png").write_bytes(b"png")
    return folder


def test_it_offers_runs_that_have_a_checkpoint_and_the_gallery(page, workspace):
    subjects = [value for _, value in page._subjects()]
    assert "animals" in subjects and "sft" not in subjects
    assert {entry.name for entry in workspace.entries() if entry.checkpoints} <= set(subjects)
    assert ("long", "long") in page._judges()


def test_a_report_is_made_and_shown(page, worker, workspace):
    steps = page._make({page.subject: "animals", page.judges: ["long"]})
    first = next(steps)
    assert first[page.make]["interactive"] is False and "waiting" in first[page.status]
    make_report(workspace.home, "animals")  # the worker does it meanwhile
    *_, last = steps
    assert worker.log == [("report", "animals", ["long"])]
    assert last[page.make]["interactive"] and last[page.shown]["value"] == "animals" and "Nothing was learned" in last[page.frame]
    assert Path(last[page.download]["value"]).read_text() == PAGE and last[page.card]["visible"]


def test_what_goes_wrong_is_a_notice(page, worker):
    first, last = page._make({page.subject: "brief", page.judges: None})
    assert "no such adapter" in last[page.notice] and EVIL not in last[page.notice] and last[page.make]["interactive"]
    [only] = page._make({page.subject: None, page.judges: None})
    assert text.NOTHING_CHOSEN in only[page.notice] and len(worker.log) == 1


def test_the_newest_report_is_shown_and_one_that_is_gone_is_not(page, workspace):
    assert list(report_folders(workspace))[:1] != ["one"]
    make_report(workspace.home, "one")
    seen: dict = {}
    changes = page.refresh({page.shown: None}, [], seen)
    assert changes[page.shown]["value"] == "one" and "srcdoc" in changes[page.frame]
    assert page.refresh({page.shown: "one"}, [], seen) == {}
    (workspace.home / "reports" / "one" / "report.html").unlink()
    changes = page.refresh({page.shown: "one"}, [], seen)
    assert changes[page.shown]["value"] != "one"
    assert text.NO_REPORT in page._shown("one")[page.frame] and not page._shown("../../runs")[page.download]["visible"]


@pytest.mark.parametrize("kind", list(CONTROLS))
def test_a_control_is_a_run_that_may_start(page, worker, kind):
    stage, settings = CONTROLS[kind]
    assert make_config(stage, settings)
    assert page._start(kind) == ""  # a toast says it
    assert worker.log[-1][1] == stage and settings.items() <= worker.log[-1][2].items()


def test_each_gallery_adapter_has_its_report():
    from playground.workspace import gallery_names
    assert sorted(folder.parent.name for folder in GALLERY.glob("*/report.html")) == gallery_names()
    for file in GALLERY.glob("*/report.html"):
        assert file.stat().st_size < 500_000


def vote(number: int, value: str, blind: bool = True) -> Event:
    return Event(f"v{number}", "comparison", f"prompt {number}", ("one", "other"), value, voter="me", checkpoints=("runs/a", f"runs/{EVIL}"), blind=blind)


def test_checkpoints_are_ranked_by_votes(page, workspace):
    board = page.board
    assert text.BOARD_NO_VOTES in board.show(True)
    workspace.store.add(vote(0, "left", blind=False))
    assert "No vote was blind" in board.show(True)
    for number in range(1, 13):
        workspace.store.add(vote(number, "left" if number % 4 else "right"))
    html = board.show(True)
    assert html.index("runs/a") < html.index("runs/&lt;img") and EVIL not in html
    assert "9 · 3 · 0" in html and "10 · 3 · 0" in board.show(False)


@needs_browser
def test_the_report_stands_in_a_frame_that_runs_nothing(workspace, worker):
    make_report(workspace.home, "one")
    with serving(workspace.home, worker) as address, browsing(address, expected="Blocked script execution") as open_page:
        browser = open_page(390, "#report")
        frame = browser.frame_locator("iframe.report")
        expect(frame.get_by_role("heading")).to_have_text("Nothing was learned", timeout=30_000)
        expect(frame.locator("p")).to_contain_text("{{ braces }} $dollar$")
        assert browser.evaluate("document.title") != "broken"
        expect_no_sideways_scroll(browser)
