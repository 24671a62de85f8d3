"""The page in a real browser, the app in a real process, the worker with a tiny model."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from benchmarks.helpers.browser import free_port
from rlhf_engine.config import PPOConfig
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import Run
from rlhf_engine.worker.client import Worker
from tests.conftest import sentences
from tests.playground.browser import PATIENCE, browsing, expect_no_sideways_scroll, go, needs_browser, wait_until
from tests.playground.conftest import EVIL, write_run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = needs_browser


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_llama) -> Path:
    """A workspace with a tiny model, demonstrations, and a failed run whose every text is an attack."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_llama, home / "models" / "tiny")
    (home / "uploads").mkdir()
    rows = [{"prompt": t[:20], "completion": t[20:]} for t in sentences(24, seed=7)]
    (home / "uploads" / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "uploads" / "prompts.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows))
    evil = write_run(home, "evil", PPOConfig(), state="failed", error=EVIL, advice=EVIL)
    evil.add_samples([{"step": 3, "prompt": EVIL, "response": EVIL, "score": 1.0, "kl": 2.0, "ended": True}])
    evil.note("warning", step=3, text=EVIL)
    return home


@pytest.fixture(scope="module")
def app(home) -> str:
    """`python app.py` as a user starts it; its address, and at the end the proof that it ends cleanly."""
    port = free_port()
    environment = os.environ | {"PLAYGROUND_HOME": str(home), "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))  # as a shell does for `app.py &`
    assert f"http://127.0.0.1:{port}" in process.stdout.readline()
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    try:
        said, _ = process.communicate(timeout=PATIENCE / 1000)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler says where every thread stands
        said, _ = process.communicate(timeout=PATIENCE / 1000)
    left = Worker(home).alive()
    Worker(home).shutdown()
    assert process.returncode == 0 and "Traceback" not in said, said
    assert not left, "the idle worker outlived the page"


@pytest.fixture(scope="module")
def open_page(app) -> Iterator[Callable[..., Page]]:
    with browsing(app) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def page(open_page) -> Page:
    page = go(open_page(), "Train")
    expect(page.locator("#start")).to_be_enabled()
    return page


def fill(page: Page, field: str, value) -> None:
    box = page.locator(f"#{field} :is(input, textarea)").first
    box.fill(str(value))
    box.press("Enter")
    box.blur()


def drawn(page: Page) -> int:
    """Points of the first plot's first line."""
    return page.evaluate("document.querySelector('#plot-1 .live-plot').data?.[0]?.x.length || 0")


def state(home: Path) -> str:
    return live_run(home).status()["state"]


def live_run(home: Path) -> Run:
    return Run(home / "runs" / "live")


@pytest.fixture(scope="module")
def training(page, home) -> Page:
    """The page with an SFT run of very many steps that was started from its form."""
    fill(page, "sft-data", "uploads/demos.jsonl")
    page.get_by_role("button", name="All settings").locator("visible=true").click()
    for field, value in {"model": "models/tiny", "output": "live", "steps": 100_000, "checkpoint-every": 100_000, "max-tokens": 64}.items():
        fill(page, f"sft-{field}", value)
    page.get_by_role("button", name="All settings").locator("visible=true").click()
    page.click("#start")
    expect(page.locator("#header .live")).to_contain_text("live is running")
    return page


def test_text_from_runs_is_inert(open_page):
    page = go(open_page(), "Train")
    expect(page.locator("#run-card")).to_contain_text("<img src=x")
    for place in ("#run-card", "#samples", "#events"):
        assert EVIL in page.locator(place).inner_text()
        assert page.locator(f"{place} img, {place} b, {place} script").count() == 0
    assert page.evaluate("window.hacked") is None
    page.close()


def test_a_mistake_is_one_clear_line(page):
    fill(page, "sft-batch-size", 0)
    page.click("#start")
    expect(page.locator("#notice [role=alert]")).to_have_text("“Batch size” is 0, but must be at least 1 and at most 65536")
    fill(page, "sft-batch-size", 4)


def test_the_form_as_a_command(page):
    page.get_by_role("button", name="Show me this as a command").click()
    expect(page.locator("#command")).to_contain_text("--batch-size 4")
    page.get_by_role("button", name="Show me this as a command").click()


def test_plots_grow_and_keep_their_zoom(training, home):
    wait_until(training, lambda: drawn(training) > 2)
    training.evaluate("Plotly.relayout(document.querySelector('#plot-1 .live-plot'), {'xaxis.range': [1, 2]})")
    before = len(live_run(home).metrics())
    points = drawn(training)
    wait_until(training, lambda: drawn(training) > points or len(live_run(home).metrics()) > max(before, 1000) + 100)
    training.wait_for_timeout(1500)
    assert training.evaluate("document.querySelector('#plot-1 .live-plot').layout.xaxis.range") == [1, 2]


def test_a_reload_and_a_second_browser_show_the_run(training, open_page):
    training.reload()
    other = open_page()
    for page in (go(training, "Train"), go(other, "Train")):
        expect(page.locator("#run-card")).to_contain_text("running")
        expect(page.locator("#run-card")).to_contain_text("live")
        wait_until(page, lambda page=page: drawn(page) > 2)
    other.close()


def test_a_second_run_has_to_wait(training):
    training.click("#start")
    expect(training.locator("#notice [role=alert]")).to_contain_text("live already")


def test_chat_streams_two_adapters_while_training(training):
    go(training, "Chat")
    expect(training.locator("#chat-model input")).to_have_value("models/tiny")
    training.get_by_role("button", name="Sampling").click()
    fill(training, "chat-longest", 48)
    expect(training.locator("#chat-right-adapter input")).to_have_value("live, live")
    training.fill("#chat-input textarea", EVIL)
    training.click("#chat-send")
    sides = [training.locator(f"#chat-{side}") for side in ("left", "right")]
    for side in sides:
        expect(side.locator(".bot")).to_have_count(1)
    expect(training.locator("#chat-status")).to_contain_text("Both answers are done")
    for side in sides:
        assert EVIL in side.inner_text()
        assert side.locator("img[src=x], b, script, .katex").count() == 0
    assert training.evaluate("window.hacked") is None
    training.click("#chat-example-1")
    expect(training.locator("#chat-input textarea")).not_to_have_value("")
    training.click("#chat-send")  # a second turn: two conversations that have parted
    for side in sides:
        expect(side.locator(".bot")).to_have_count(2)
    expect(training.locator("#chat-status")).to_contain_text("Both answers are done")
    training.click("#chat-clear")
    for side in sides:
        expect(side.locator(".bot")).to_have_count(0)
    go(training, "Train")


def test_pause_step_resume_stop_and_resume_again(training, home):
    training.click("#pause")
    wait_until(training, lambda: state(home) == "paused")
    expect(training.locator("#step")).to_be_enabled()
    step = live_run(home).status()["step"]
    training.click("#step")
    wait_until(training, lambda: live_run(home).status()["step"] == step + 1)
    training.click("#resume")
    wait_until(training, lambda: state(home) == "running")
    expect(training.locator("#stop")).to_be_enabled()
    training.click("#stop")
    wait_until(training, lambda: state(home) == "stopped")
    expect(training.locator("#resume")).to_have_text("Resume this run")
    step = live_run(home).status()["step"]
    training.click("#resume")
    wait_until(training, lambda: state(home) == "running" and live_run(home).status()["step"] > step)


@pytest.fixture(scope="module")
def phone(training, open_page) -> Iterator[Page]:
    """One page for all tabs: a browser takes three processor seconds to load it."""
    page = open_page(width=390)
    yield page
    page.close()


@pytest.mark.parametrize("tab", ["Teach", "Train", "Chat", "Runs", "Data"])
def test_a_phone_needs_no_sideways_scroll(phone, tab):
    go(phone, tab)
    expect_no_sideways_scroll(phone)


def test_dark_theme_reaches_the_plots(training, open_page):
    page = go(open_page(query="?__theme=dark"), "Train")
    wait_until(page, lambda: drawn(page) > 2)
    ink = page.evaluate("getComputedStyle(document.querySelector('#plot-1 .xtick text')).fill")
    assert sum(int(part) for part in ink.removeprefix("rgb(").removesuffix(")").split(",")) > 500
    page.close()


def test_every_control_has_a_name(training):
    nameless = training.evaluate("""[...document.querySelectorAll('button, input, textarea')].filter(e => e.checkVisibility() &&
        !(e.innerText || '').trim() && !e.ariaLabel && !e.title && !e.labels?.length && !e.closest('label') && e.type != 'file').length""")
    assert nameless == 0


def test_discard_asks_first_and_removes_the_run(training, home):
    training.click("#discard")
    training.click("#discard-no")
    expect(training.locator("#discard-yes")).to_be_hidden()
    assert live_run(home).exists()
    training.click("#discard")
    training.click("#discard-yes")
    wait_until(training, lambda: not live_run(home).exists())
    expect(training.locator("#run-card")).to_contain_text("evil")


def test_the_whole_story(training, open_page, home):
    """From the first load to votes that change the reward, a policy that follows, and a chat with what came of it."""
    page = open_page()
    go(page, "Train")
    page.locator("#stage").get_by_text("4 · Teach").click()
    expect(page.locator("#teach-labeler")).to_be_visible()
    expect(page.locator("#sft-data")).to_be_hidden()
    page.get_by_role("button", name="All settings").locator("visible=true").click()
    settings = {"model": "models/tiny", "data": "uploads/prompts.jsonl", "labeler": "person", "output": "taught", "votes": 6, "votes-first": 4,
                "patience": 2, "steps": 12, "batch-size": 8, "max-tokens": 64, "max-new-tokens": 12, "reference-samples": 16, "candidates": 4,
                "choices": 2}
    for field, value in settings.items():
        fill(page, f"teach-{field}", value)
    page.click("#start")
    run = Run(home / "runs" / "taught")
    go(page, "Teach")
    expect(page.locator("#vote-1")).to_be_visible()
    expect(page.locator("#vote-effect")).to_contain_text("What the votes do")
    votes = Store(home / "feedback.sqlite")

    def press(key: str) -> bool:
        """A key that comes too early for the next question is the same vote once more."""
        page.keyboard.press(key)
        return len(votes.events(run=run.id)) == 6
    wait_until(page, lambda: press("1") or press("2"))
    wait_until(page, lambda: run.status()["state"] == "done")
    voted = {event.id for event in votes.events(run=run.id)}
    learned = [row for row in run.journal() if row["event"] == "reward"]
    assert {name for row in learned for name in row["consumed"]} == voted and learned[0]["drift"] > 0
    expect(page.locator("#vote-effect")).not_to_contain_text("What the votes do")
    expect(page.locator("#fixed")).to_contain_text("step 12")
    assert [row["step"] for row in run.metrics()] == list(range(1, 13)) and run.metrics()[-1]["objective/kl"] != 0
    wait_until(page, lambda: page.evaluate("document.querySelector('#vote-plot-1 .live-plot').data?.[0]?.x.length") == 12)
    page.close()
