"""The Chat page: which checkpoints are asked, what is stored about their answers, and that a blind page tells no names."""

import json
from pathlib import Path
from urllib.request import urlopen

import gradio as gr
import pytest
from playwright.sync_api import expect

from playground.pages.chat.checkpoints import gallery_names
from playground.pages.chat.conversation import Chat
from playground.pages.chat.page import ChatPage
from playground.voting import voter_of
from playground.workspace import Workspace
from rlhf_engine.config import RewardConfig, SFTConfig
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.store import Store
from tests.playground.browser import PATIENCE, browsing, needs_browser, serving, wait_until
from tests.playground.conftest import EVIL, FakeWorker, from_chatbot, write_run

BASE, SFT = "Base model, no adapter", "SFT (bundled)"


# -- the page without a browser --------------------------------------------------------------------------------------

class Writer(FakeWorker):
    """Answers with the adapter, the last message, and how often it has been asked."""

    fails = ""

    def chat(self, adapters, messages, **options):
        self.log.append(("chat", adapters, messages, options))
        if self.fails:
            raise UserError(self.fails)
        for end in (5, 1000):
            yield [f"{Path(name).name}: {messages[-1]['content']} #{len(self.log)}"[:end] for name in adapters]


class Page:
    """What a browser does with the Chat page: holds the values, sends them along, takes the updates in."""

    def __init__(self, home: Path, server: ChatPage | None = None):
        with gr.Blocks() as self.blocks:
            workspace = Workspace(home)
            self.server = server or ChatPage(workspace, Writer(), gr.BrowserState(""), gr.HTML("", elem_id="notice"))
        self.worker = self.server.runner.worker
        self.parts = {part.elem_id or type(part).__name__: part for part in self._components()}
        self.values, self.props = {part: part.value for part in self._components()}, {}
        self.set("ChatState", Chat())
        self.set("BrowserState", "somebody")

    def _components(self) -> set:
        chat, panes, box = self.server, self.server.panes, self.server.input
        return {chat.chat, chat.voter, chat.judging.notice, box.message, *box.sampling, box.again, *chat.shown, *panes.buttons} - {
            panes.vote_row, *panes.columns}

    def __getitem__(self, name: str):
        return self.values[self.parts[name]]

    @property
    def chat(self) -> Chat:
        return self["ChatState"]

    def set(self, name: str, value) -> None:
        self.values[self.parts[name]] = value

    def do(self, handler: str, target: str = "", **data) -> list[dict]:
        """Call a handler as an event of the component `target` would; returns what it sent, item by item."""
        kinds = {"_thumb": gr.LikeData, "_edit": gr.EditData}
        event = kinds.get(handler, gr.EventData)(self.parts.get(target), data) if target else None
        owner = next(part for part in (self.server, self.server.asking, self.server.judging) if hasattr(part, handler))
        found = getattr(owner, handler)(dict(self.values), *([event] if event else []))
        found = list(found) if not isinstance(found, dict) else [found]
        for update in found:
            self.take(update)
        return found

    def take(self, updates: dict) -> None:
        for part, update in updates.items() if updates != gr.skip() else ():
            if isinstance(update, dict) and update.get("__type__") == "update":
                self.props.setdefault(part, {}).update(update)
                if "value" in update:
                    self.values[part] = update["value"]
            else:
                self.values[part] = update

    def send(self, text: str) -> list[dict]:
        self.chat.last_sent = (self.chat.last_sent[0], 0.0)  # nobody asks the same as fast as a test does
        self.set("chat-input", text)
        return self.do("_send")

    def says(self, side: str) -> list[str]:
        return [message["content"] for message in from_chatbot(self[f"chat-{side}"])]

    def shows(self, name: str) -> bool:
        return self.props[self.parts.get(name, self.server.panes.vote_row)].get("visible", False)

    def thumbs(self, side: str) -> list[str]:
        return [thumb.split()[0] for thumb in self.props[self.parts[f"chat-{side}"]]["feedback_value"]]


@pytest.fixture
def page(home, run) -> Page:
    return Page(home)


def open_sides(page: Page, count: int) -> None:
    page.set("chat-count", count)
    page.do("_other_count")


def go_blind(page: Page, blind: bool = True) -> None:
    page.set("chat-blind", blind)
    page.do("_other_blind")


def test_sides_are_one_batch_until_their_conversations_part(page):
    third, fourth = gallery_names()[:2]
    open_sides(page, 4)
    page.send("Hello")
    assert [entry[1] for entry in page.worker.log] == [["none", "bundled", third, fourth]]
    assert page.says("third") == ["Hello", f"{third}: Hello #1"] and page["chat-input"] == "" and "All 4 answers" in page["chat-status"]
    page.send("And now?")
    assert sorted(entry[1] for entry in page.worker.log[1:]) == sorted([["none"], ["bundled"], [third], [fourth]])
    assert page.says("right")[2:] == ["And now?", page.says("right")[3]] and page.says("right")[3].startswith("bundled: And now?")
    open_sides(page, 2)
    open_sides(page, 3)
    assert page.says("third") == [] and len(page.says("right")) == 4
    page.send("Third?")
    assert any(entry[1:3] == ([third], [{"role": "user", "content": "Third?"}]) for entry in page.worker.log)


def test_two_sides_that_have_said_the_same_stay_in_one_batch(page):
    page.set("chat-right-adapter", "none")
    page.send("Hello")
    page.send("Again")
    assert [len(entry[1]) for entry in page.worker.log] == [2, 2]


def test_the_best_of_several_answers_is_asked_for_and_stored(page, store, home):
    judge = write_run(home, "judge", RewardConfig())
    write_run(home, "other", RewardConfig(model="me/other"))
    page.set("chat-best-of", 4)
    page.send("Hello")
    assert "train a reward model on this base model first" in page["notice"] and page.worker.log == []
    seen: dict = {}
    workspace = page.server.workspace
    changes = page.server.refresh(page.values, workspace.entries(), seen)
    update = changes[page.parts["chat-reward"]]
    assert (update["choices"], update["value"]) == (["judge"], "judge"), "rewards of the base model that answers"
    assert page.parts["chat-reward"] not in page.server.refresh(page.values, workspace.entries(), seen)
    page.set("chat-reward", "judge")
    page.send("Hello")
    assert page.worker.log[-1][3] == {"model": "bundled", "max_new_tokens": 128, "temperature": 1, "top_p": 1, "best_of": 4, "reward": str(judge.path)}
    page.do("_thumb", "chat-right", index=1, value=["x"], liked=True)
    assert store.events()[0].sampling | {"best_of": 4, "reward": "judge"} == store.events()[0].sampling
    page.set("chat-best-of", 1)
    page.send("Again")
    assert "best_of" not in page.worker.log[-1][3] and "reward" not in page.worker.log[-1][3]


def test_sampling_settings_and_the_live_checkpoint_are_stored_with_a_thumb(page, store, run):
    page.set("chat-right-adapter", "taste")
    page.set("chat-longest", 24)
    page.send("Hello")
    page.do("_thumb", "chat-right", index=1, value=["x"], liked=True)
    event, = store.events()
    assert (event.kind, event.value, event.run, event.checkpoint, event.prompt) == ("thumb", "up", run.id, "taste at step 3", "Hello")
    assert event.sampling == {"model": "bundled", "max_new_tokens": 24, "temperature": 1, "top_p": 1} and event.voter == voter_of("somebody")
    assert page.thumbs("right") == ["Like"]
    page.do("_thumb", "chat-right", index=1, value=["x"], liked="")
    assert store.count() == 0 and page.thumbs("right") == ["none"]
    page.do("_thumb", "chat-right", index=1, value=["x"], liked=False)
    page.do("_thumb", "chat-right", index=1, value=["x"], liked=True)
    page.do("_thumb", "chat-left", index=1, value=["x"], liked=False)
    assert sorted((event.value, event.run) for event in store.events()) == [("down", ""), ("up", run.id)]
    page.send("Go on")
    page.do("_thumb", "chat-left", index=3, value=["x"], liked=True)
    assert store.events()[-1].prompt[1] == {"role": "assistant", "content": "none: Hello #1"} and page.thumbs("left") == ["Dislike", "Like"]


def test_a_thumb_that_cannot_be_kept_is_put_out_again(page, home, store):
    page.send("Hello")
    (home / "feedback.sqlite").write_text("this is no database, however long it may be" * 40)
    for left in home.glob("feedback.sqlite-*"):
        left.unlink()
    before = page.props[page.parts["chat-left"]]["feedback_value"]
    page.do("_thumb", "chat-left", index=1, value=["x"], liked=True)
    assert "no store of feedback" in page["notice"]
    assert page.thumbs("left") == ["none"] and page.props[page.parts["chat-left"]]["feedback_value"] != before
    page.send("Still talking")
    assert len(page.says("left")) == 4


def test_an_index_from_an_older_page_is_no_thumb(page, store):
    page.do("_thumb", "chat-left", index=5, value=["x"], liked=True)
    assert store.count() == 0 and "still being written" in page["notice"]


def test_a_better_answer_is_a_demonstration_and_the_conversation_goes_on_from_it(page, store):
    page.send("Hello")
    page.send("More")
    page.do("_edit", "chat-left", index=1, value="A better &lt;answer>", previous_value=page.says("left")[1])
    event, = store.events()
    assert (event.kind, event.prompt, event.responses, event.value) == ("edit", "Hello", ("none: Hello #1",), "A better <answer>")
    assert page.says("left") == ["Hello", "A better <answer>"] and len(page.says("right")) == 4
    page.do("_thumb", "chat-left", index=1, value=["x"], liked=True)
    assert "in your words" in page["notice"] and store.count() == 1
    page.send("Go on")
    assert page.worker.log[-2][2][1]["content"] == "A better <answer>" or page.worker.log[-1][2][1]["content"] == "A better <answer>"
    page.do("_edit", "chat-left", index=1, value="Best", previous_value="A better <answer>")
    assert [event.value for event in store.events()] == ["Best"] and store.events()[0].responses == ("none: Hello #1",)
    page.do("_edit", "chat-left", index=1, value="", previous_value="Best")
    assert "nothing" in page["notice"] and page.says("left")[1] == "Best"
    page.do("_edit", "chat-left", index=1, value="none: Hello #1", previous_value="Best")
    assert store.count() == 0 and page.says("left") == ["Hello", "none: Hello #1"]


def test_a_question_in_other_words_is_asked_again_of_all_who_heard_it(page, store):
    page.send("Hello")
    open_sides(page, 3)
    page.send("More")
    page.do("_edit", "chat-right", index=2, value="Less", previous_value="More")
    assert page.says("left")[2] == page.says("right")[2] == page.says("third")[0] == "Less" and page.says("left")[3].startswith("none: Less")
    page.do("_edit", "chat-left", index=0, value="Bye", previous_value="Hello")
    assert page.says("left")[0] == page.says("right")[0] == "Bye" and len(page.says("left")) == 2 and page.says("third")[0] == "Less"
    asked = len(page.worker.log)
    page.do("_edit", "chat-left", index=0, value="Bye ", previous_value="Bye")
    page.do("_edit", "chat-left", index=0, value=" ", previous_value="Bye")
    assert len(page.worker.log) == asked and page.says("left")[0] == "Bye" and store.count() == 0


def test_one_side_or_all_are_regenerated(page):
    page.send("Hello")
    page.do("_again", "chat-right", index=0, value="Hello")
    assert page.says("left")[1].endswith("#1") and page.says("right") == ["Hello", "bundled: Hello #2"] and "The answer is done" in page["chat-status"]
    page.do("_again", "chat-again")
    assert [page.says(side)[1] for side in ("left", "right")] == ["none: Hello #3", "bundled: Hello #3"]
    page.do("_clear")
    page.do("_again", "chat-again")
    assert "no question to ask again" in page["notice"]


def test_a_question_that_fails_leaves_everything_as_it_was(page):
    page.send("Hello")
    page.worker.fails = f"the model is gone {EVIL}"
    page.send("More")
    assert page.says("left") == ["Hello", "none: Hello #1"] and page["chat-input"] == "More" and "the model is gone" in page["notice"]
    page.do("_again", "chat-again")
    assert page.says("right") == ["Hello", "bundled: Hello #1"] and "<img" not in page["notice"]
    page.worker.fails = ""
    page.set("chat-left-adapter", "/etc")
    page.send("More")
    assert "no run" in page["notice"] and page.says("left") == ["Hello", "none: Hello #1"]


def assert_ends_with_the_truth(page: Page, stream) -> None:
    """Gradio sends the last item of a stream once more at its end: what is no longer true must not be that."""
    items = list(stream)
    assert items and items[-1] == gr.skip()
    for item in items:
        page.take(item)


def test_a_chat_that_is_cleared_in_the_middle_of_an_answer_stays_empty(page):
    page.set("chat-input", "Hello")
    stream = page.server.asking._send(dict(page.values))
    page.take(next(stream))
    late = next(stream)
    page.do("_clear")
    page.take(late)  # was on its way
    assert_ends_with_the_truth(page, stream)
    assert page.says("left") == page.says("right") == []


def test_a_question_sent_twice_at_once_is_one(page):
    page.set("chat-input", "Hello")
    values = dict(page.values)
    first, second = page.server.asking._send(values), page.server.asking._send(dict(values))
    page.take(next(first))
    assert list(second) == [gr.skip()]
    for item in first:
        page.take(item)
    assert page.says("left") == ["Hello", "none: Hello #1"]
    page.send("Hello")  # later it is a question like any other
    assert page.says("left")[2:] == ["Hello", "none: Hello #2"]


def test_what_was_cleared_or_failed_can_be_asked_again_at_once(page):
    for cleared, fails in ((True, ""), (False, "no run")):
        page.worker.fails = fails
        page.send("Hello")
        page.worker.fails = ""
        if cleared:
            page.do("_clear")
        page.set("chat-input", "Hello")
        page.do("_send")
        assert len(page.says("left")) == (2 if cleared else 4) and not page["notice"]


def test_a_stopped_answer_stays_and_is_gone_on_from(page):
    page.set("chat-input", "Hello")
    stream = page.server.asking._send(dict(page.values))
    page.take(next(stream))
    page.take(next(stream))
    page.do("_stop")
    assert page.says("left") == ["Hello", "none:"]
    assert_ends_with_the_truth(page, stream)
    assert page.says("left") == ["Hello", "none:"]
    page.send("More")
    assert page.says("left")[:3] == ["Hello", "none:", "More"]
    page.set("chat-input", "Nobody answers")
    stream = page.server.asking._send(dict(page.values))
    next(stream)
    stream.close()
    page.send("Somebody")
    assert page.says("left")[4] == "Somebody"


# -- blind -----------------------------------------------------------------------------------------------------------

def sent(updates: list[dict]) -> str:
    """All that a browser is sent, by name."""
    return json.dumps([{part.elem_id or "": update for part, update in each.items() if type(part).__name__ != "ChatState"} for each in updates], default=str)


def test_a_blind_round_hides_the_names_until_the_vote_and_then_counts_it(page, store):
    open_sides(page, 3)
    go_blind(page)
    page.worker.chat = lambda adapters, messages, **_: iter([[f"text {len(adapters)}"] * len(adapters)])
    orders, third = set(), gallery_names()[0]
    for number in range(12):
        told = sent(page.send("Hello"))
        assert not any(name in told for name in (BASE, SFT, third[1:], "bundled", '"none"')), told
        assert page.shows("chat-votes") and page.shows("chat-best-3") and not page.shows("chat-best-4") and page["chat-best-1"] == "A is best"
        orders.add(order := page.chat.order)
        page.do("_vote", "chat-best-2")
        event = store.events()[-1]
        assert (event.kind, event.shown, event.value) == ("ranking", order, tuple(1 if pick == order[1] else 2 for pick in range(3)))
        assert event.checkpoints == ("none", "bundled", third) and event.prompt == "Hello"
        label = (BASE, SFT, f"{third.capitalize()} (gallery)")[order[1]]
        assert f"B was {label}" in page["chat-result"] and label in page["chat-right-name"] and not page.shows("chat-votes")
        page.do("_vote", "chat-best-1")
        assert store.count() == number + 1, "a second vote on the same round counts nothing"
    assert len(orders) > 1 and sum(wins for wins, _ in page.chat.wins.values()) == 12
    assert {rounds for _, rounds in page.chat.wins.values()} == {12}


def test_two_blind_sides_are_a_comparison_with_ties(page, store):
    go_blind(page)
    for choice, value in (("chat-tie", "tie"), ("chat-both-bad", "both_bad")):
        page.send("Hello")
        assert page["chat-best-2"] == "B is better" and page["chat-tie"] == "Equally good"
        page.do("_vote", choice)
        assert store.events()[-1].value == value
    assert page.chat.wins == {BASE: (0, 2), SFT: (0, 2)}
    page.send("Hello")
    order = page.chat.order
    page.do("_vote", "chat-best-1")
    assert store.events()[-1].value == ("left", "right")[order[0]] and store.events()[-1].kind == "comparison"


def test_nothing_gets_round_the_vote(page, store):
    """No edit, and leaving the blind page begins anew; what is asked again is a new round; one side alone may try again."""
    go_blind(page)
    page.send("Hello")
    assert not page.shows("chat-left-adapter") and not page.shows("chat-preset") and page.props[page.parts["chat-left"]]["editable"] == "user"
    page.do("_edit", "chat-left", index=1, value="mine", previous_value=page.says("left")[1])
    assert "Vote first" in page["notice"] and store.count() == 0
    first = page.chat.round_id
    page.do("_again", "chat-left", index=0, value="Hello")
    assert page.chat.round_id == first and page.chat.votable
    page.do("_again", "chat-again")
    assert page.chat.round_id != first and page.says("left")[0] == "Hello" and len(page.says("left")) == 2
    page.do("_edit", "chat-left", index=0, value="Other", previous_value="Hello")
    assert page.says("left")[0] == page.says("right")[0] == "Other" and page.chat.votable
    go_blind(page, False)
    assert page.says("left") == [] and page.shows("chat-left-adapter") and store.count() == 0


def test_a_blind_round_needs_different_checkpoints(page):
    page.set("chat-right-adapter", "none")
    go_blind(page)
    page.send("Hello")
    assert "chosen twice" in page["notice"] and page.worker.log == []


# -- reloads, presets ------------------------------------------------------------------------------------------------

def test_a_reload_brings_the_chat_back_with_its_thumbs_and_nobody_elses(page, home, store):
    open_sides(page, 3)
    page.set("chat-left-adapter", "talkative")
    page.send("Hello")
    page.do("_thumb", "chat-third", index=1, value=["x"], liked=False)
    again = Page(home, page.server)
    again.do("restore")
    assert again.says("third") == page.says("third") and again.thumbs("third") == ["Dislike"] and again["chat-count"] == 3
    assert again["chat-left-adapter"] == "talkative" and again.shows("chat-third-adapter")
    again.do("_thumb", "chat-third", index=1, value=["x"], liked="")
    assert store.count() == 0
    again.send("Only here")
    assert len(page.says("left")) == 2 and len(page.chat.sides[0]) == 2
    other = Page(home, page.server)
    other.set("BrowserState", "somebody else")
    assert other.do("restore") == [gr.skip()] and other.says("left") == []


def test_a_preset_shows_before_and_after(page):
    open_sides(page, 4)
    page.send("Hello")
    page.set("chat-preset", "bundled|taste")
    page.do("_show_pair")
    assert (page["chat-left-adapter"], page["chat-right-adapter"], page["chat-count"], page.says("left")) == ("bundled", "taste", 2, [])
    page.send("Hello")
    assert [Path(name).name for name in page.worker.log[-1][1]] == ["bundled", "taste"]


def test_clearing_keeps_who_is_picked(page):
    page.send("Hello")
    page.set("chat-left-adapter", "cheerful")
    page.do("_clear")
    assert page["chat-left-adapter"] == "cheerful" and page.says("left") == []


def test_another_model_begins_anew_and_a_restored_one_does_not(page):
    page.send("Hello")
    assert page.do("_other_model") == [gr.skip()] and len(page.says("left")) == 2
    page.set("chat-model", "models/tiny")
    page.do("_other_model")
    assert page.says("left") == [] and page["chat-right-adapter"] == "none"


# -- the page in a browser -------------------------------------------------------------------------------------------

class Attacker(FakeWorker):
    def chat(self, adapters, messages, **options):
        for end in (10, 10_000):
            yield [f"{i}: {EVIL}"[:end] for i, _ in enumerate(adapters)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("chat") / "home"


@pytest.fixture(scope="module")
def address(place):
    write_run(place, "first", SFTConfig())
    with serving(place, Attacker()) as url:
        yield url


@pytest.fixture(scope="module")
def open_page(address):
    with browsing(address) as open_page:
        yield open_page


@needs_browser
def test_thumbs_edits_and_blind_rounds_in_a_browser(open_page, address, place):
    page = open_page()
    page.get_by_role("tab", name="Chat").click()
    page.wait_for_selector("#chat-send")

    def ask_for(text: str) -> None:
        page.fill("#chat-input textarea", text)
        page.dblclick("#chat-send", delay=700)  # is one question, even of somebody slow
        expect(page.locator("#chat-left .user")).to_contain_text(text)
        expect(page.locator("#chat-status")).to_contain_text("answers are done")

    ask_for("Hello")
    assert EVIL in page.locator("#chat-right").inner_text()
    page.locator("#chat-right").get_by_label("Like", exact=True).click()
    expect(page.locator("#chat-right").get_by_label("Liked")).to_be_visible()
    page.locator("#chat-left").get_by_label("Edit").last.click()
    assert page.locator("#chat-left textarea").input_value().startswith("0: ")
    page.locator("#chat-left textarea").fill(f"Mine {EVIL}")
    page.locator("#chat-left").get_by_label("Submit").click()
    expect(page.locator("#chat-left .bot")).to_contain_text("Mine")  # Gradio shows it before the server has it
    wait_until(page, lambda: [event.kind for event in Store(place / "feedback.sqlite").events()] == ["thumb", "edit"])
    page.locator("#chat-left").get_by_label("Edit").last.click()
    expect(page.locator("#chat-left textarea")).to_have_value(f"Mine {EVIL}")  # as it was written, and no entities
    page.locator("#chat-right").get_by_label("Liked").click()  # a button that ends no edit
    page.locator("#chat-right").get_by_label("Like", exact=True).click()
    expect(page.locator("#chat-right").get_by_label("Liked")).to_be_visible()
    expect(page.locator("#chat-left textarea")).to_have_value(f"Mine {EVIL}")
    page.locator("#chat-left").get_by_label("Cancel").click()
    assert page.evaluate("window.hacked") is None and page.locator("#chat-sides :is(img[src=x], b, script)").count() == 0
    # The same browser comes back. Not by a reload: that cuts requests off, of which Gradio complains in the console.
    page = page.context.browser.new_context(storage_state=page.context.storage_state()).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.get_by_role("tab", name="Chat").click()
    expect(page.locator("#chat-left .bot")).to_contain_text("Mine")
    page.locator("#chat-right").get_by_label("Liked").click()
    expect(page.locator("#chat-right").get_by_label("Like", exact=True)).to_be_visible()
    # The browser shows a thumb before the server has it, and a blind chat begins anew: what comes after is too late.
    kept = Store(place / "feedback.sqlite")
    wait_until(page, lambda: [event.kind for event in kept.events(retracted=True)].count("retract") == 2)
    page.locator("#chat-blind input").click()
    expect(page.locator("#chat-left-name")).to_have_text("A")
    ask_for("Blind")
    seen = page.locator("#chat-sides, #chat-setup, #chat-votes, #chat-result, #chat-status").all_inner_texts()
    assert not [text for name in (BASE, SFT, "bundled", "none") for text in seen if name in text]
    assert not any(word in urlopen(f"{address}config").read().decode() for word in ("Speaker(", "Chat("))  # the state stays here
    page.click("#chat-best-1")
    expect(page.locator("#chat-result")).to_contain_text("A was")
    expect(page.locator("#chat-result")).to_contain_text("1 of 1")
    page.close()
    assert [event.kind for event in kept.events(retracted=True)] == ["thumb", "edit", "retract", "thumb", "retract", "comparison"]
    assert kept.events()[0].value == f"Mine {EVIL}"


@needs_browser
def test_four_sides_stack_on_a_phone(open_page):
    page = open_page(width=390)
    page.get_by_role("tab", name="Chat").click()
    page.locator("#chat-count label").last.click()
    expect(page.locator("#chat-fourth")).to_be_visible()
    page.fill("#chat-input textarea", "Hello")
    page.click("#chat-send")
    expect(page.locator("#chat-status")).to_contain_text("All 4 answers are done")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    lefts = [page.locator(f"#chat-{side}").bounding_box()["x"] for side in ("left", "right", "third", "fourth")]
    assert len(set(lefts)) == 1
    page.close()
