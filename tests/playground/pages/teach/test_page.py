"""Votes: what is asked, what is stored, and that a vote counts once. Runs are made by hand, and no worker is there."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from playwright.sync_api import expect

from playground.app import build
from playground.voting import VotingService, choice_of, voter_of
from playground.workspace import Workspace
from rlhf_engine.config import SFTConfig, TeachConfig
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import Run
from tests.playground.browser import browsing, go, needs_browser, serving
from tests.playground.conftest import EVIL, FakeWorker, write_run
from tests.playground.helpers import ask


def write_teach(home: Path, name: str = "teach", *, queries: int = 5, count: int = 4, state: str = "running", text: str = "", **config) -> Run:
    run = write_run(home, name, TeachConfig(labeler="person", **config), state=state, checkpoint=False)
    for number in range(queries):
        ask(run, number, count, text)
    return run


def newest_first(store: Store) -> list:
    return store.events()[::-1]


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def run(home) -> Run:
    return write_teach(home)


@pytest.fixture
def ballot(home, run) -> VotingService:
    return VotingService(Workspace(home))


# -- the ballot ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("count, choice, kind, value, said", [
    (4, "3", "ranking", (2, 2, 1, 2), "answer 3"), (4, "tie", "comparison", "tie", "all equally good"),
    (4, "both_bad", "comparison", "both_bad", "all bad"), (2, "1", "comparison", "left", "answer 1"),
    (2, "2", "comparison", "right", "answer 2"), (2, "both_bad", "comparison", "both_bad", "both bad"),
    (9, "9", "ranking", (2,) * 8 + (1,), "answer 9")])
def test_a_choice_becomes_an_event_and_words(home, count, choice, kind, value, said):
    run = write_teach(home, count=count, choices=count, candidates=max(count, 8))
    ballot = VotingService(Workspace(home))
    assert ballot.vote(run, "q1", choice, "e", "me", 1.5)
    event, = ballot.store.events()
    assert (event.kind, event.value, event.run, event.voter, event.seconds, event.step) == (kind, value, run.id, "me", 1.5, 2)
    assert event.sampling == {"max_new_tokens": 8, "query": "q1"} and event.shown == tuple(range(count))
    assert choice_of(event) == said


def test_an_event_id_counts_once_whatever_comes_with_it(ballot, run):
    assert ballot.vote(run, "q1", "1", "e", "me")
    for query, choice, voter in (("q1", "1", "me"), ("q1", "2", "me"), ("q1", "1", "other"), ("q2", "1", "me")):
        assert not ballot.vote(run, query, choice, "e", voter)
    assert ballot.votes(run) == 1 and ballot.store.events()[0].value == (1, 2, 2, 2)


@pytest.mark.parametrize("remark, kind, value, said", [
    ("up:2", "thumb", "up", "thumb up"), ("down:2", "thumb", "down", "thumb down"), ("score:2:7", "score", 7, "a 7 of 7"),
    ("edit:2:mine: better", "edit", "mine: better", "your own answer")])
def test_a_remark_is_about_one_response_and_leaves_the_question_open(ballot, run, remark, kind, value, said):
    query = ballot.next(run, "me")
    assert ballot.vote(run, query.id, remark, "e", "me", 1.5)
    event, = ballot.store.events()
    assert (event.kind, event.value, event.responses, event.scores) == (kind, value, query.responses[1:2], query.scores[1:2])
    assert (event.run, event.step, event.voter, event.seconds, event.prompt) == (run.id, 2, "me", 1.5, query.prompt)
    assert event.sampling == {"max_new_tokens": 8, "about": query.id, "place": 2} and choice_of(event) == said
    assert ballot.next(run, "me").id == query.id and ballot.asked(run, event).id == query.id
    assert ballot.remarks(run, query, "me") == {2: {kind: event}} and ballot.remarks(run, query, "you") == {}


def test_a_remark_made_again_is_taken_back_and_another_takes_its_place(ballot, run):
    assert ballot.vote(run, "q1", "up:1", "a", "me") and not ballot.vote(run, "q1", "up:1", "a", "me")
    assert ballot.vote(run, "q1", "down:1", "b", "me") and not ballot.vote(run, "q1", "down:1", "b", "me")
    assert [(event.id, event.value) for event in ballot.store.events()] == [("b", "down")]
    assert ballot.vote(run, "q1", "score:1:3", "c", "me") and ballot.vote(run, "q1", "down:1", "d", "me")
    assert [event.id for event in ballot.store.events()] == ["c"]
    assert not ballot.vote(run, "q1", "down:1", "d", "me"), "the second half of a double click"
    assert ballot.vote(run, "q1", "up:1", "e", "me") and ballot.vote(run, "q1", "up:2", "f", "me") and ballot.vote(run, "q1", "up:1", "g", "you")
    assert {event.id for event in ballot.store.events()} == {"c", "e", "f", "g"}
    assert ballot.undo(run, "h", "me").id == "f" and {event.id for event in ballot.store.events()} == {"c", "e", "g"}


@pytest.mark.parametrize("remark", ["up:5", "up:0", "up:", "up:1:1", "score:1:8", "score:1:", "score:1:x", "edit:1:", "edit:1:answer 1.1 ", "love:1"])
def test_what_is_no_remark_is_refused_and_nothing_is_stored(ballot, run, remark):
    with pytest.raises(UserError):
        ballot.vote(run, "q1", remark, "e", "me")
    assert ballot.store.head() == 0


def test_everybody_is_asked_what_they_have_not_answered(ballot, run):
    seen = []
    while query := ballot.next(run, "me"):
        ballot.vote(run, query.id, "tie", f"e {query.id}", "me")
        seen.append(query.id)
    assert sorted(seen) == ["q0", "q1", "q2", "q3", "q4"]
    assert ballot.next(run, "other") is not None
    ask(run, 5)
    assert ballot.next(run, "me").id == "q5"


def test_a_skipped_question_is_not_asked_again_of_the_same_voter(ballot, run):
    first = ballot.next(run, "me")
    assert not ballot.vote(run, first.id, "skip", "e", "me") and ballot.votes(run) == 0
    assert ballot.next(run, "me").id != first.id and ballot.next(run, "other").id == first.id


def test_skips_belong_to_a_run(ballot, run, home):
    other = write_teach(home, "other")
    ballot.vote(run, ballot.next(run, "me").id, "skip", "e", "me")
    assert ballot.next(other, "me").id == "q4" and ballot.next(run, "me").id == "q3"


def test_undo_takes_back_the_own_newest_vote_of_the_run(ballot, run, home):
    other = write_teach(home, "other")
    ballot.vote(run, "q1", "1", "a", "me")
    ballot.vote(run, "q2", "2", "b", "me")
    ballot.vote(run, "q3", "3", "c", "somebody")
    ballot.vote(other, "q1", "1", "d", "me")
    undone = ballot.undo(run, "u", "me")
    assert undone.id == "b" and ballot.asked(run, undone).id == "q2"
    assert ballot.undo(run, "u", "me") is None, "sent twice"
    assert [event.id for event in ballot.store.events(run=run.id)] == ["a", "c"]
    retract = ballot.store.events(run=run.id, retracted=True)[-1]
    assert (retract.kind, retract.value, retract.run, retract.voter) == ("retract", "b", run.id, "me")
    assert ballot.undo(run, "v", "me").id == "a"
    with pytest.raises(UserError, match="no vote of yours in run teach"):
        ballot.undo(run, "w", "me")
    assert ballot.vote(run, "q2", "4", "again", "me") and not ballot.vote(run, "q2", "2", "b", "me")


def test_a_vote_taken_back_may_be_on_a_query_that_is_gone(ballot, run):
    ballot.vote(run, "q1", "1", "a", "me")
    (run.path / "queries.jsonl").unlink()
    assert ballot.asked(run, ballot.undo(run, "u", "me")) is None


def test_the_time_from_showing_to_voting_is_kept(ballot, run):
    query = ballot.next(run, "me")
    time.sleep(0.05)
    ballot.next(run, "me")
    ballot.vote(run, query.id, "1", "a", "me")
    ballot.vote(run, "q0", "1", "b", "me")
    assert 0.05 <= ballot.store.events()[0].seconds < 30 and ballot.store.events()[1].seconds < 0.05


def test_what_is_no_vote_is_refused_and_nothing_is_stored(ballot, run):
    for query, choice, event, seconds in (("q9", "1", "e", None), ("q1", "5", "e", None), ("q1", "0", "e", None), ("q1", "best", "e", None),
                                          ("q1", "1", "e" * 300, None), ("q1", "1", "e", -1.0), ("q1", "1", "e", "soon")):
        with pytest.raises(UserError):
            ballot.vote(run, query, choice, event, "me", seconds)
    assert ballot.votes(run) == 0


def test_why_there_is_no_question(home):
    workspace = Workspace(home)
    ballot = VotingService(workspace)
    assert "labeler “person”" in ballot.why_silent(ballot.chosen(""))
    write_run(home, "sft", SFTConfig())
    assert ballot.chosen("") == "sft" and "sft asks nobody" in ballot.why_silent("sft")
    run = write_teach(home, queries=1, votes=1)
    write_run(home, "newer", SFTConfig())
    assert ballot.chosen("") == "teach" and ballot.why_silent("teach") == "The next question is being drawn."
    ballot.vote(run, "q0", "1", "e", "me")
    assert "All 1 votes are in" in ballot.why_silent("teach")
    run.set_status(state="done")
    assert "teach is done" in ballot.why_silent("teach")


def test_a_run_that_asks_is_found_live_first_then_newest(home):
    write_teach(home, "old", state="running")
    write_teach(home, "new", state="done")
    write_run(home, "simulated", TeachConfig(labeler="short"), state="running")
    workspace = Workspace(home)
    assert [entry.name for entry in VotingService(workspace).asking(workspace.entries())] == ["old", "new"]


def test_a_later_run_of_the_same_name_begins_without_votes(ballot, run, home):
    ballot.vote(run, "q1", "1", "e", "me")
    run.discard()
    assert ballot.votes(write_teach(home)) == 0


def test_a_voter_is_nobody_in_particular():
    assert voter_of("abc") == voter_of("abc") != voter_of("abd") and "abc" not in voter_of("abc")
    assert voter_of(None) != voter_of(None)


# -- the page without a browser --------------------------------------------------------------------------------------

class Page:
    """What a browser does with the page: holds the values, sends them along, takes the updates in."""

    def __init__(self, home: Path):
        demo = build(home, worker=FakeWorker())
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
    write_teach(home, "other", queries=1, state="done")
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


# -- the endpoints ---------------------------------------------------------------------------------------------------

@pytest.fixture
def address(home, run) -> str:
    demo = build(home, worker=FakeWorker())
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, server_name="127.0.0.1")
    yield url
    demo.close(verbose=False)


def connect(address: str) -> Client:
    return Client(address, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 60})  # other tests take the processors, too


def test_the_endpoints_of_a_voter(address, run, home):
    client, store = connect(address), Store(home / "feedback.sqlite")
    query = client.predict(run="", api_name="/next_query")
    assert {"query_id": "q4", "run": "teach", "step": 2, "votes": 0, "votes_wanted": 40, "message": ""}.items() <= query.items()
    assert query["prompt"].startswith("prompt 4") and len(query["responses"]) == 4

    def vote(query_id: str, choice, event_id, name: str = "teach") -> dict:
        return client.predict(run=name, query_id=query_id, choice=choice, event_id=event_id, api_name="/vote")

    assert vote("q4", "2", "a") == {"stored": True, "votes": 1}
    assert vote("q4", "2", "a") == vote("q4", "1", "a") == {"stored": False, "votes": 1}
    event, = store.events()
    assert event.value == (2, 1, 2, 2) and event.seconds > 0 and len(event.voter) == 16
    assert client.predict(run="teach", api_name="/next_query")["query_id"] == "q3"
    assert vote("q3", "skip", "b") == {"stored": False, "votes": 1}
    assert client.predict(run="teach", api_name="/next_query")["query_id"] == "q2"
    assert vote("q2", "both_bad", "c", name="") == {"stored": True, "votes": 2}
    assert vote("", "undo", "d") == {"stored": True, "votes": 1} and vote("", "undo", "d") == {"stored": False, "votes": 1}
    assert connect(address).predict(run="", api_name="/next_query")["query_id"] == "q3", "another voter has not skipped it"
    for query_id, choice, event_id, name, said in (
            ("q1", "1", "", "teach", "event_id is empty"), ("q1", "1", " ", "teach", "event_id is empty"), ("q1", "7", "e", "teach", "must be 1 to 4"),
            ("q99", "1", "e", "teach", "asked no query"), ("q1", "1", "e", "../teach", "no run"), ("q1", "1", "e", "/etc", "no run")):
        with pytest.raises(Exception, match=said):
            vote(query_id, choice, event_id, name)
    with pytest.raises(Exception, match="no run"):
        client.predict(run="..", api_name="/next_query")
    assert store.count() == 1
    for left in ("q2", "q1", "q0"):
        vote(left, "1", f"e {left}")
    run.set_status(state="stopped")
    ended = client.predict(run="teach", api_name="/next_query")
    assert ended["query_id"] == "" and ended["responses"] == [] and "teach is stopped" in ended["message"] and ended["votes"] == 4


def test_fifty_clients_at_once(address, run, home):
    """Each gets a question and gives a vote, twice, as an impatient client does."""
    def call(name: str, *data) -> dict:
        event = http.post(f"{address}gradio_api/call/{name}", json={"data": data}).raise_for_status().json()["event_id"]
        said = http.get(f"{address}gradio_api/call/{name}/{event}").raise_for_status().text
        return json.loads(said.split("event: complete\ndata: ")[1].splitlines()[0])[0]

    def client(number: int) -> bool:
        query = call("next_query", "teach")["query_id"] or "q0"
        return [call("vote", "teach", query, "1", f"e{number}")["stored"] for _ in range(2)] == [True, False]

    with httpx.Client(timeout=60) as http, ThreadPoolExecutor(50) as pool:
        assert all(pool.map(client, range(50)))
    assert Store(home / "feedback.sqlite").count(run.id) == 50


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
    assert all(0 < event.seconds < 60 for event in store.events()) and len({event.voter for event in store.events()}) == 1
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
        return {(event.kind, event.sampling["place"]): event.value for event in store.events()}

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
        wait_for(page, lambda: len(worker.log) == 1)
        page.click("#begin-person")
        wait_for(page, lambda: len(worker.log) == 2)
        write_teach(tmp_path / "home")
        expect(page.locator("#vote-1")).to_be_visible()
        expect(page.locator("#begin-person")).to_be_hidden()
        expect(page.locator("#path")).to_be_hidden()
    assert [(call[1], call[2]["labeler"]) for call in worker.log] == [("teach", "sentiment"), ("teach", "person")]


def wait_for(page, truth) -> None:
    deadline = time.monotonic() + 60
    while not truth():
        assert time.monotonic() < deadline, "waited in vain"
        page.wait_for_timeout(50)
