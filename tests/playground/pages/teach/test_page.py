"""The Teach page without and in a browser. Runs are made by hand, and no worker is there."""

import time
from pathlib import Path

import gradio as gr
import pytest
from playwright.sync_api import expect

from playground.app import build
from playground.components.stage_views import model_presets
from playground.pages.teach import text as teach_text
from rlhf_engine.config import TeachConfig
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import Run
from tests.playground.browser import browsing, go, needs_browser, serving, wait_until
from tests.playground.conftest import EVIL, FakeWorker, ask, write_run, write_teach


def newest_first(store: Store) -> list:
    return store.events()[::-1]


@pytest.fixture
def run(home) -> Run:
    return write_teach(home)


# -- the page without a browser --------------------------------------------------------------------------------------

class Page:
    """What a browser does with the page: holds the values, sends them along, takes the updates in."""

    def __init__(self, home: Path):
        demo = build(home, worker=FakeWorker()).blocks
        self.look, self.answer = (next(f for f in demo.fns.values() if getattr(f.fn, "__name__", "") == name) for name in ("look", "_vote"))
        self.parts = {c.elem_id or type(c).__name__: c for f in (self.look, self.answer) for c in (*f.inputs, *f.outputs)}
        self.values = {part: getattr(part, "value", None) for part in self.parts.values()}

    def __getitem__(self, name: str):
        return self.values[self.parts[name]]

    def take(self, updates) -> set[str]:
        for part, update in updates.items() if updates != gr.skip() else ():
            if not (isinstance(update, dict) and update.get("__type__") == "update"):
                self.values[part] = update
            elif "value" in update:
                self.values[part] = update["value"]
        return {part.elem_id for part in updates if part.elem_id} if updates != gr.skip() else set()

    def tick(self) -> set[str]:
        return self.take(self.look.fn({part: self.values[part] for part in self.look.inputs}))

    def vote(self, choice: str, card: dict | None = None) -> set[str]:
        values = {part: self.values[part] for part in self.answer.inputs} | ({self.parts["vote-card"]: card} if card else {})
        return self.take(self.answer.fn(values, gr.EventData(None, {"choice": choice, "seconds": 2.5})))


@pytest.fixture
def page(home, run) -> Page:
    page = Page(home)
    assert "vote-card" in page.tick()
    return page


def test_a_vote_brings_the_next_question_and_a_tick_leaves_it_alone(page, run, home):
    store = Store(home / "feedback.sqlite")
    first = page["vote-card"]
    assert first["query"] == "q4" and "answer 4.2" in first["html"] and "0 of 40 votes" in page["vote-status"]
    assert {"vote-card", "vote-status"} <= page.vote("2")
    second = page["vote-card"]
    assert second["query"] == "q3" and second["event"] != first["event"] and "1 of 40 votes" in page["vote-status"]
    event, = store.events()
    assert (event.value, event.seconds, event.run) == ((2, 1, 2, 2), 2.5, run.id)
    ask(run, 5)
    run.log({"step": 4, "objective/kl": 1.0})
    assert "vote-card" not in page.tick() and page["vote-card"] == second
    assert page.tick() == set()


def test_the_same_card_sent_twice_is_one_vote(page, home):
    card = page["vote-card"]
    page.vote("2", card)
    after = page["vote-card"]
    page.vote("2", card)
    page.vote("tie", card)
    assert Store(home / "feedback.sqlite").count() == 1
    assert page["vote-card"]["query"] == after["query"] and page["notice"] == ""


def test_undo_says_what_it_took_back_and_asks_it_again(page, home):
    page.vote("3")
    card = page["vote-card"]
    page.vote("undo")
    assert page["vote-card"]["query"] == "q4" and "answer 3" in page["vote-card"]["html"] and "prompt 4" in page["vote-card"]["html"]
    page.vote("undo", card)
    assert page["notice"] == ""
    store = Store(home / "feedback.sqlite")
    assert store.count() == 0 and store.head() == 2
    page.vote("tie")
    assert [event.value for event in store.events()] == ["tie"]


def test_an_undo_of_nothing_keeps_the_card_and_says_so(page):
    before = page["vote-card"]
    page.vote("undo")
    assert "no vote of yours" in page["notice"]
    assert page["vote-card"]["event"] == before["event"] and page["vote-card"] != before


def test_an_empty_card_says_why_and_is_filled_when_a_question_comes(page, run):
    for _ in range(5):
        page.vote("skip")
    card = page["vote-card"]
    assert card["query"] == "" and "The next question is being drawn." in card["html"] and 'id="undo"' in card["html"]
    page.tick()
    assert page["vote-card"] == card
    ask(run, 5)
    assert "vote-card" in page.tick() and page["vote-card"]["query"] == "q5"
    page.vote("1")
    run.set_status(state="done")
    assert "vote-card" in page.tick() and "teach is done" in page["vote-card"]["html"]


def test_a_question_that_came_while_the_last_answer_was_under_way_is_shown(page, run):
    for _ in range(4):
        page.vote("skip")
    reading = page["vote-card"]
    page.vote("skip")
    empty = page["vote-card"]
    page.values[page.parts["vote-card"]] = reading
    ask(run, 5)
    page.tick()  # the browser still had the old card when this look began
    page.values[page.parts["vote-card"]] = empty
    assert "vote-card" in page.tick() and page["vote-card"]["query"] == "q5"


def test_a_run_that_is_gone_takes_its_question_along(page, run, home):
    run.discard()
    page.tick()
    assert "No run asks for votes" in page["vote-card"]["html"] and 'id="undo"' not in page["vote-card"]["html"]
    write_teach(home, "other", queries=1)
    page.tick()
    assert (page["vote-card"]["run"], page["vote-card"]["query"]) == ("other", "q0")


def test_a_run_with_a_simulated_labeler_can_be_watched(home):
    run = write_run(home, "shown", TeachConfig(labeler="short", votes=10), state="running", checkpoint=False)
    page = Page(home)
    page.tick()
    assert "shown is taught by a simulated labeler (short answers)" in page["vote-card"]["html"] and "0 of 10 votes" in page["vote-status"]
    run.note("reward", step=1, consumed=[], votes=3, new=3, guessed=0.0, guesses=0, loss=1.0, drift=0.1, spread=0.1)
    page.tick()
    assert "3 of 10 votes" in page["vote-status"], "votes are counted before the first step is over"
    run.add_samples([{"step": 3, "prompt": "p", "response": "a", "responses": ["one", "two", EVIL], "vote": [2, 1, 2]}])
    run.log({"step": 4, "objective/scores": 1.0, "objective/kl": 2.0, "reward/votes": 4, "gold/wins": 0.75})
    page.tick()
    assert "its last vote, in step 3" in page["vote-card"]["html"] and "<button" not in page["vote-card"]["html"]
    assert "4 of 10 votes" in page["vote-status"] and page["vote-plot-3"]["data"][0]["y"] == [0.75]
    assert not page.tick()
    run.set_status(state="done")
    write_teach(home, state="running")
    page.tick()
    assert page["vote-card"]["run"] == "teach"


def test_another_run_that_is_picked_asks(page, home):
    write_teach(home, "other", queries=1, state="stopped")
    page.tick()
    assert page["vote-card"]["run"] == "teach"
    page.values[page.parts["vote-run"]] = "other"
    page.tick()
    assert (page["vote-card"]["run"], page["vote-card"]["query"]) == ("other", "q0")


def test_a_browser_keeps_its_voter_over_a_reload(page, home):
    page.vote("1")
    again = Page(home)
    again.values[again.parts["BrowserState"]] = page["BrowserState"]
    again.tick()
    assert again["BrowserState"] == page["BrowserState"] != "" and again["vote-card"]["query"] == "q3"
    again.vote("undo")
    assert again["vote-card"]["query"] == "q4"


def test_a_store_out_of_order_is_said_on_the_page_and_heals(page, home):
    (home / "feedback.sqlite").rename(home / "kept.sqlite")
    for left in home.glob("feedback.sqlite-*"):
        left.unlink()
    (home / "feedback.sqlite").write_text("this is no database, however long it may be" * 40)
    page.tick()
    assert "no store of feedback" in page["vote-status"]
    page.vote("1")
    assert "no store of feedback" in page["notice"] and page["vote-card"]["query"] == "q4"
    assert "vote-status" not in page.tick()
    (home / "kept.sqlite").replace(home / "feedback.sqlite")
    page.tick()
    assert "0 of 40 votes" in page["vote-status"]
    page.vote("1")
    assert "1 of 40 votes" in page["vote-status"] and page["notice"] == ""


# -- the page in a browser -------------------------------------------------------------------------------------------

@pytest.fixture
def open_page(home):
    """open_page(width=1280) -> the Teach tab of a page over a run whose every text is an attack; no script may fail on it."""
    run = write_teach(home, text=EVIL)
    run.add_samples([{"step": step, "prompt": EVIL, "response": EVIL, "fixed": True} for step in (0, 2)])
    with serving(home, FakeWorker()) as url, browsing(url) as open_tab:
        def open_page(width: int = 1280):
            page = open_tab(width)
            go(page, "Teach")
            return page

        yield open_page


PRESSED = """(time) => document.body.dispatchEvent(Object.defineProperty(
  new KeyboardEvent('keydown', {key: '2', code: 'Digit2', bubbles: true}), 'timeStamp', {value: time}))"""
"""The key 2, at a time of the test's own: between two real presses a busy machine takes long enough for two answers."""


@needs_browser
def test_buttons_and_keys_vote_once_each(open_page, home):
    opened = time.monotonic()
    page, store, card = open_page(), Store(home / "feedback.sqlite"), "#vote-card"

    def shows(number: int) -> None:
        expect(page.locator(f"{card} .prompt")).to_contain_text(f"prompt {number} ")

    shows(4)
    assert EVIL in page.locator(card).inner_text() and EVIL in page.locator("#fixed").inner_text()
    assert page.locator(":is(#vote-card, #fixed) :is(img, b, script)").count() == 0 and page.evaluate("window.hacked") is None
    page.dblclick("#vote-1")
    shows(3)
    page.evaluate(PRESSED, 5000.0)
    shows(2)
    page.evaluate(PRESSED, 5150.0)  # the second half of the same, heard only now
    page.keyboard.press("t")
    shows(1)
    page.keyboard.press("s")
    shows(0)
    assert [event.value for event in store.events()] == [(1, 2, 2, 2), (2, 1, 2, 2), "tie"]
    assert all(0 < event.seconds < time.monotonic() - opened for event in store.events())
    assert len({event.voter for event in store.events()}) == 1
    page.keyboard.press("u")
    expect(page.locator(f"{card} .done")).to_contain_text("all equally good")
    shows(2)
    assert store.count() == 2
    page.keyboard.press("b")
    shows(0)
    assert newest_first(store)[0].value == "both_bad"
    go(page, "Chat")
    page.keyboard.press("1")
    page.fill("#chat-input textarea", "")
    page.locator("#chat-input textarea").press("1")
    page.reload()
    go(page, "Teach")
    expect(page.locator(f"{card} .prompt")).to_contain_text("prompt")
    assert store.count() == 3
    expect(page.locator("#vote-status")).to_contain_text("3 of 40 votes")
    page.click("#undo")
    expect(page.locator(f"{card} .done")).to_contain_text("all bad")
    assert store.count() == 2
    page.close()


@needs_browser
def test_thumbs_scores_and_edits_are_remarks_on_the_card(open_page, home):
    page, store = open_page(), Store(home / "feedback.sqlite")

    def values():
        return {(event.kind, event.position): event.value for event in store.events()}

    page.click("#thumb-up-2")
    expect(page.locator("#thumb-up-2")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#thumb-up-2")).to_be_focused()
    page.select_option("#score-1", "6")
    expect(page.locator("#score-1.made")).to_have_value("6")
    page.click("#edit-3")
    expect(page.locator("#edit-form-3 textarea")).to_be_focused()
    page.fill("#edit-form-3 textarea", f"1 of mine {EVIL}")
    page.keyboard.press("b")  # is typed, and no vote
    page.click("#thumb-up-4")  # the card is drawn anew, and what is being written stays
    expect(page.locator("#thumb-up-4")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#edit-form-3 textarea")).to_have_value(f"1 of mine {EVIL}b")
    page.click("#thumb-up-4")
    expect(page.locator("#thumb-up-4")).to_have_attribute("aria-pressed", "false")
    page.click("#edit-form-3 [type=submit]")
    expect(page.locator("#edit-3")).to_have_attribute("aria-pressed", "true")
    assert values() == {("thumb", 2): "up", ("score", 1): 6, ("edit", 3): f"1 of mine {EVIL}b"}
    expect(page.locator("#edit-form-3 textarea")).to_have_value(f"1 of mine {EVIL}b")
    page.click("#thumb-down-2")
    expect(page.locator("#thumb-down-2")).to_have_attribute("aria-pressed", "true")
    page.select_option("#score-1", "")
    page.click("#thumb-down-2")  # at once: it follows when the score has been noted
    expect(page.locator("#score-1.made")).to_have_count(0)
    expect(page.locator("#thumb-down-2")).to_have_attribute("aria-pressed", "false")
    assert values() == {("edit", 3): f"1 of mine {EVIL}b"} and page.evaluate("window.hacked") is None
    expect(page.locator("#vote-card .prompt")).to_contain_text("prompt 4 ")
    page.keyboard.press("1")
    expect(page.locator("#vote-card .prompt")).to_contain_text("prompt 3 ")
    assert store.count() == 2
    page.close()


@needs_browser
def test_on_a_phone_each_answer_has_its_button_below_it(open_page):
    page = open_page(width=390)
    page.wait_for_selector("#vote-4")
    boxes = [page.locator(f"#vote-{place}").bounding_box() for place in range(1, 5)]
    assert all(box["height"] >= 44 and box["width"] > 300 and box["x"] >= 0 for box in boxes)
    assert [box["y"] for box in boxes] == sorted(box["y"] for box in boxes) and len({box["x"] for box in boxes}) == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#vote-4").click()
    page.wait_for_function("document.querySelector('#vote-card .prompt').innerText.includes('prompt 3')")
    page.wait_for_function("Math.abs(document.querySelector('#vote-card').getBoundingClientRect().top) < 100")
    page.close()


@needs_browser
def test_a_run_is_started_with_one_press(tmp_path):
    worker = FakeWorker()
    with serving(tmp_path / "home", worker) as url, browsing(url) as open_tab:
        page = open_tab()
        expect(page.locator("#path li")).to_have_count(3)
        expect(page.locator("#path")).to_be_visible()
        expect(page.locator("#vote-card")).to_be_hidden()
        page.click("#begin-watch")
        wait_until(page, lambda: len(worker.log) == 1)
        page.click("#begin-person")
        wait_until(page, lambda: len(worker.log) == 2)
        write_teach(tmp_path / "home")
        expect(page.locator("#vote-1")).to_be_visible()
        expect(page.locator("#begin-person")).to_be_hidden()
        expect(page.locator("#path")).to_be_hidden()
    assert [(call[1], call[2]["labeler"]) for call in worker.log] == [("teach", "sentiment"), ("teach", "person")]


# -- starting ------------------------------------------------------------------------------------------------------------

@pytest.fixture
def teach_page(home, monkeypatch):
    """The Teach page over an empty workspace, and its worker."""
    monkeypatch.setattr("gradio.Info", lambda *_, **__: None)
    monkeypatch.setattr("gradio.Warning", lambda *_, **__: None)
    worker = FakeWorker()
    return build(home, worker=worker).teach, worker


def test_each_recipe_of_the_train_page_can_be_started_here(teach_page):
    page, worker = teach_page
    recipes = {preset.name: preset for preset in model_presets("teach")}
    assert {value for _, value in page.model.choices} == {"", *recipes}
    for labeler in ("person", "short"):
        for name, preset in recipes.items():
            page._begin(labeler, name)
            kind, stage, settings, resumed = worker.log[-1]
            assert (kind, stage, resumed) == ("start", "teach", False) and settings == {**preset.settings, "labeler": labeler}
    assert recipes["SmolLM2 on two cores"].settings["model"] == "smollm2"
    page._begin("person")
    assert worker.log[-1] == ("start", "teach", {"labeler": "person"}, False)


def test_what_is_said_before_a_start_follows_the_model_and_other_names_are_refused(teach_page):
    page, worker = teach_page
    assert page._about_model("") == teach_text.BEGIN_ABOUT
    for preset in model_presets("teach"):
        assert preset.about in page._about_model(preset.name)
    [message] = [update for part, update in page._begin("short", "no recipe").items() if part is page.notice]
    assert "there is no recipe &#x27;no recipe&#x27;" in message or "there is no recipe &#39;no recipe&#39;" in message
    assert worker.log == []
