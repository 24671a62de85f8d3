"""The Data page: what a file is taken for, what the store holds, what goes in and out."""

import json
from pathlib import Path

import gradio as gr
import pytest
from playwright.sync_api import expect

from playground.app import build
from playground.components import dataset_view as data_view
from playground.components import text as shared_text
from playground.components.pager import page_of, slice_of
from playground.pages.data import feedback_files as exchange
from playground.pages.data import feedback_view
from playground.pages.data.feedback_index import GONE, NO_RUN, FeedbackFilter, FeedbackIndex, summarise
from playground.workspace import Workspace
from rlhf_engine.config import TeachConfig
from rlhf_engine.data.formats import COLUMNS
from rlhf_engine.data.readers import read_demonstrations, read_preferences
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.exchange import export, read_events
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import Run
from rlhf_engine.stages import STAGES
from tests.playground.browser import browsing, go, needs_browser, serving
from tests.playground.conftest import EVIL, FakeWorker, write_run


@pytest.fixture
def home(tmp_path) -> Path:
    (tmp_path / "home" / "uploads").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def store(home) -> Store:
    return Store(home / "feedback.sqlite")


@pytest.fixture
def index(home) -> FeedbackIndex:
    return FeedbackIndex(Workspace(home))


def write(home: Path, rows: list, name: str = "mine.jsonl") -> str:
    (home / "uploads" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"uploads/{name}"


def vote(name: str, value="left", **changes) -> Event:
    given = {"kind": "comparison", "prompt": "Once", "responses": ("a", "b"), "voter": "ann", "seconds": 2.0, "run": "r"}
    return Event(name, value=value, **given | changes)


def look(home: Path, value: str, kind: str = "") -> data_view.Dataset:
    return data_view.read_dataset(data_view.find_source(Workspace(home), value, kind), kind)


# -- files -----------------------------------------------------------------------------------------------------------

def test_what_a_file_is_taken_for_is_said(home):
    row = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "you"}], "label": True, "source": "x"}
    html = data_view.summary(look(home, write(home, [row, row | {"label": False}, row])))
    for said in ("demonstrations", "rows: 2", "of 3 in the file", "column messages, its last assistant turn", "1 row skipped: the label is false",
                 "Rows whose label is false are left out.", "Columns that are not used: source.", '<th scope="row">completion</th>'):
        assert said in html
    assert data_view.matching_rows(look(home, "uploads/mine.jsonl"), "HELLO") == [0, 1] and data_view.matching_rows(look(home, "uploads/mine.jsonl"), "no") == []
    assert "row 3" in data_view.rows(look(home, "uploads/mine.jsonl"), [1]), "the number of a row is that in the file"


def test_what_a_public_set_is_taken_for_is_said(home):
    row = {"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "domain": "x"}
    html = data_view.summary(look(home, write(home, [row])))
    for said in ("Read as Stanford&#x27;s SHP.", "column history", "column human_ref_A or human_ref_B, as labels says", "Columns that are not used: domain."):
        assert said in html
    row = {"instruction": "q", "input": "nan", "output": "a", "system": "s", "kto_tag": True}
    html = data_view.summary(look(home, write(home, [row, row | {"kto_tag": None}], "alpaca.jsonl")))
    for said in ("The column input stands below", "The column system is a system turn", "Rows whose kto_tag is false", "1 row skipped: the kto_tag is missing",
                 "1 row where the text &#x27;nan&#x27; in &#x27;input&#x27; stands for nothing"):
        assert said in html


def test_every_set_of_columns_that_the_readers_know_is_described():
    """A part of an example comes from a column of its own name, or its format says where it comes from."""
    for kind, forms in COLUMNS.items():
        parts = set(shared_text.PARTS_OF_DATA[kind])
        for form, each in forms.items():
            columns = set(form.split(" + "))
            assert set(each.parts) <= parts, form
            assert set(each.optional) <= {*shared_text.ALSO_USED, "rank", "deleted"}, form
            if not each.refusal:
                described = columns & parts | set(each.parts)
                assert described >= parts - {"response"} or described >= {"prompt", "response"}, form


def test_lengths_are_of_characters(home):
    name = write(home, [{"prompt": "q" * n, "chosen": "a" * 2 * n, "rejected": "b"} for n in (1, 3, 8)])
    assert look(home, name).lengths == {"prompt": (3, 8), "chosen": (6, 16), "rejected": (1, 1)}
    ranked = look(home, write(home, [{"prompt": "q", "responses": ["aa", "b"], "ranking": [2, 1]}], "ranked.jsonl"))
    assert ranked.lengths == {"prompt": (1, 1), "response": (1.5, 2)} and data_view.rows(ranked, [0]).index("rank 1") < data_view.rows(ranked, [0]).index("rank 2")


def test_bundled_data_are_what_they_are_called(home):
    for value in data_view.BUNDLED:
        assert len(look(home, value).rows) > 100
    kinds = {name: stage.reads(stage.config()) for name, stage in STAGES.items()}
    assert {stage: look(home, "bundled", kind).rows.kind for stage, kind in kinds.items()} == kinds


@pytest.mark.parametrize("value", ["", "../secret.jsonl", "/etc/passwd", "uploads/none.jsonl", "x" * 5000, "bundled-secret"])
def test_what_lies_outside_is_not_shown(home, value):
    (home.parent / "secret.jsonl").write_text('{"prompt": "secret"}\n')
    with pytest.raises(UserError):
        look(home, value)


def test_a_bad_file_is_the_readers_one_line_without_a_path(home):
    name = write(home, [{"prompt": "a"}, {"prompt": 3}])
    with pytest.raises(UserError) as error:
        look(home, name)
    assert str(error.value) == "uploads/mine.jsonl, row 2: 'prompt' is a number; write a text"


def test_a_changed_file_is_read_anew_and_an_unchanged_one_is_not(home):
    name = write(home, [{"prompt": "a"}])
    first = look(home, name)
    assert look(home, name) is first
    write(home, [{"prompt": "a"}, {"prompt": "b"}])
    assert len(look(home, name).rows) == 2


def test_pages():
    assert [slice_of(page, 41) for page in (-5, 1, 2, 3, 99)] == [slice(0, 20), slice(0, 20), slice(20, 40), slice(40, 41), slice(40, 41)]
    assert slice_of(3, 0) == slice(0, 0) and page_of(None) == page_of(float("nan")) == 1 and page_of(7.0) == 7


# -- the store -------------------------------------------------------------------------------------------------------

def test_the_store_is_read_once_and_then_only_what_is_new(index, store, monkeypatch):
    asked = []
    read = Store.events
    monkeypatch.setattr(Store, "events", lambda self, **options: asked.append(options["after"]) or read(self, **options))
    store.add_all([vote("1"), vote("2")])
    first = index.snapshot()
    assert index.snapshot() is first and asked == [0]
    store.add(vote("3"))
    store.add(Event("u", "retract", value="1", run="r"))
    second = index.snapshot()
    assert [event.id for event in second.events] == ["1", "2", "3"] and second.gone == {"1"} and asked == [0, 2]
    assert [event.id for event in first.events] == ["1", "2"] and not first.gone, "who holds the older book is not disturbed"


def test_another_store_in_the_same_place_is_read_from_its_beginning(index, store, home):
    store.add_all([vote("1"), vote("2")])
    assert len(index.snapshot().events) == 2
    for file in home.glob("feedback.sqlite*"):
        file.unlink()
    assert index.snapshot().events == () and not (home / "feedback.sqlite").exists(), "looking makes no store"
    other = Store(home.parent / "other.sqlite")
    other.add_all([vote(f"o{i}") for i in range(3)])
    other.path.replace(home / "feedback.sqlite")
    assert [event.id for event in index.snapshot().events] == ["o0", "o1", "o2"]


def test_filters(index, store):
    store.add_all([vote("1"), vote("2", run="", voter="bob", prompt=[{"role": "user", "content": "A Dragon"}]),
                   vote("3", kind="edit", responses=("plain",), value="the DRAGON flew"), vote("4"), Event("u", "retract", value="4", run="r")])
    book = index.snapshot()

    def ids(**wanted) -> list[str]:
        return [event.id for event in index.select(book, FeedbackFilter(**wanted))]
    assert ids() == ["4", "3", "2", "1"] and ids(kind="comparison") == ["2", "1"] and ids(kind=GONE) == ["4"] and ids(kind="edit") == ["3"]
    assert ids(run="r") == ["4", "3", "1"] and ids(run=NO_RUN) == ["2"] and ids(voter="bob") == ["2"] and ids(text="dragon") == ["3", "2"]
    assert ids(text="dragon", voter="bob", kind="edit") == []
    assert [event.id for event in index.to_export(FeedbackFilter(run="r"))] == ["1", "3", "4", "u"]


def test_sums_by_hand():
    events = [vote("1", scores=(1.0, 0.0)), vote("2", voter="bob", value="right", scores=(1.0, 0.0), seconds=8.0), vote("3", voter="cy", seconds=0.0),
              vote("4", kind="thumb", responses=("a",), value="up", seconds=4.0), vote("5", scores=(0.0, 1.0), prompt="gone")]
    found = summarise(events, frozenset({"5"}))
    assert (found.all.votes, found.all.seconds, found.all.guessed, found.all.guesses, found.gone) == (4, 4.0, 1, 2, 1)
    assert [(voter.name, voter.votes, voter.seconds) for voter in found.voters] == [("ann", 2, 3.0), ("bob", 1, 8.0), ("cy", 1, None)]
    assert found.kinds == {"comparison": 3, "thumb": 1}
    # One pair, three voters: one of three pairs of them agrees; a coin would in half of the cases: (1/3 - 1/2) / (1/2).
    assert found.agreement == {"pairs": 1, "agree": pytest.approx(1 / 3), "kappa": pytest.approx(-1 / 3)}
    html = feedback_view.summary(found)
    for said in ("votes: 4<", "voters: 3<", "comparisons: 3<", "taken back: 1<", "median time: 4.0 s", "33%", "kappa of -0.33", "guessed 1 of 2 votes (50%)"):
        assert said in html
    assert feedback_view.summary(summarise([])) == ""


def test_a_large_store_is_summed_up_again_only_when_that_is_worth_it(index, store, monkeypatch):
    now = [100.0]
    for clock in ("monotonic", "thread_time"):
        monkeypatch.setattr(f"playground.pages.data.feedback_index.time.{clock}", lambda: now[0])
    counted = []

    def slowly(events, gone=frozenset()):
        counted.append(len(events))
        now[0] += 2.0
        return summarise(events, gone)
    monkeypatch.setattr("playground.pages.data.feedback_index.summarise", slowly)
    store.add(vote("1"))
    assert index.summary(index.snapshot(), FeedbackFilter())[1].all.votes == 1
    store.add(vote("2"))
    assert index.summary(index.snapshot(), FeedbackFilter())[1].all.votes == 1, "took two seconds, so it is not made again for twenty"
    now[0] += 21
    assert index.summary(index.snapshot(), FeedbackFilter())[1].all.votes == 2 and counted == [1, 2]
    index.summary(index.snapshot(), FeedbackFilter())
    assert counted == [1, 2]


def test_a_retract_counts_once(index, store):
    store.add_all([vote("1"), vote("2")])
    assert index.retract("1", "fresh", "me").id == "1"
    index.retract("1", "fresh", "me")
    index.retract("1", "from another browser", "you")
    taken, = index.snapshot().retracts
    assert (taken.id, taken.value, taken.run, taken.voter) == ("fresh", "1", "r", "me") and store.count() == 1
    with pytest.raises(UserError, match="no such vote"):
        index.retract("nothing", "x", "me")


@pytest.mark.parametrize(("event", "said"), [
    (vote("1"), "Answer 1 is better"), (vote("1", shown=(1, 0)), "Answer 2 is better"), (vote("1", "tie"), "Equally good"),
    (vote("1", "both_bad"), "Both bad"), (vote("1", (2, 2, 1, 2), kind="ranking", responses=tuple("abcd")), "Answer 3 is best"),
    (vote("1", (3, 1, 2), kind="ranking", responses=tuple("abc")), "From best to worst: 2, 3, 1"),
    (vote("1", (1, 1, 1), kind="ranking", responses=tuple("abc")), "All equally good"),
    (vote("1", (1, 1, 2), kind="ranking", responses=tuple("abc"), shown=(2, 1, 0)), "Answer 2 and 3 is best"),
    (vote("1", "down", kind="thumb", responses=("a",)), "Thumb down"), (vote("1", 6, kind="score", responses=("a",)), "6 of 7"),
    (vote("1", "c", kind="edit", responses=("a",)), "Wrote a better answer")])
def test_what_was_said_in_words(event, said):
    assert feedback_view.verdict(event.validate()) == said


def test_an_event_is_shown_with_what_was_chosen_and_what_the_reward_had_guessed():
    html = feedback_view.votes([vote("1", scores=(0.25, 1.5), shown=(1, 0), step=7)], frozenset(), {"r": "teach-1"})["html"]
    for said in ("teach-1 · step 7 · by ann · 2.0 s", "answer 1 · reward 1.50", "answer 2 · ✓ chosen · reward 0.25", "had guessed otherwise", 'data-event="1"'):
        assert said in html
    gone = feedback_view.votes([vote("1")], frozenset({"1"}), {})["html"]
    assert "taken back" in gone and "data-event" not in gone and "r (its folder is gone)" in gone


def test_what_others_wrote_is_shown_as_text(home):
    events = [
        Event(EVIL, "edit", EVIL, (EVIL,), EVIL + "2", run=EVIL, voter=EVIL), vote("2", prompt=[{"role": "user", "content": EVIL}])]
    file = look(home, write(home, [{"prompt": EVIL, "completion": EVIL, EVIL: 1, "label": True}, {"prompt": EVIL, "completion": EVIL, "label": False}]))
    for html in (feedback_view.votes(events, frozenset(), {})["html"], feedback_view.votes(events, frozenset(), {EVIL: EVIL})["html"],
                 feedback_view.summary(summarise(events)), data_view.preview(file), data_view.rows(file, [0])):
        assert "<img" not in html and "<script" not in html and "<b>bold" not in html and "${" not in html and "{{" not in html and "&lt;img" in html
    assert data_view.clip_text("x" * 10_000).startswith("x" * data_view.MOST_CHARACTERS + "…") and "8,500 more characters" in data_view.clip_text("x" * 10_000)


# -- files in and out ------------------------------------------------------------------------------------------------

EVENTS = [vote("1"), vote("2", "tie"), vote("3", "c", kind="edit", responses=("a",)), vote("4", "up", kind="thumb", responses=("a",)),
          vote("5", 5, kind="score", responses=("a",)), vote("6", (2, 1, 2), kind="ranking", responses=("a", "b", "c")), vote("7"),
          Event("u", "retract", value="7", run="r")]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize(("what", "count"), [("pairs", 4), ("groups", 3), ("thumbs", 1), ("demonstrations", 1), ("ratings", 1), ("events", 8)])
def test_every_export_can_be_read(tmp_path, what, count, ending):
    path, told = exchange.export_file(EVENTS, what, ending, tmp_path)
    assert path.name == f"{what}.{ending}" and path.parent.parent == tmp_path and len(path.parent.name) > 32 and told.startswith(f"Rows: {count}, from votes: ")
    if what == "events":
        assert read_events(path) == EVENTS and "no such row" not in told
    elif what in ("pairs", "groups"):
        assert len(read_preferences(str(path))) == count
    else:
        assert [row.completion if what == "demonstrations" else row for row in (read_demonstrations(str(path)) if what != "ratings" else [0])]


def test_an_export_says_what_it_leaves_out_and_refuses_to_be_empty(tmp_path):
    assert exchange.export_file(EVENTS, "pairs", "jsonl", tmp_path)[1] == "Rows: 4, from votes: 3. Votes that make no such row: 3."
    for what, ending, events in (("demonstrations", "jsonl", EVENTS[:1]), ("pairs", "jsonl", []), ("__import__", "jsonl", EVENTS), ("pairs", "../x", EVENTS)):
        with pytest.raises(UserError):
            exchange.export_file(events, what, ending, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_import_says_what_it_took_and_what_it_left(store, home):
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    path = home / write(home, [pair, pair, pair | {"rejected": "a"}, pair | {"prompt": "r"}])
    told = exchange.import_file(path, store.path)
    assert "2 of 3 preferences are new" in told and "1 were there already" in told and "1 row skipped: chosen equals rejected" in told
    assert [(event.kind, event.value, event.voter) for event in store.events()] == [("comparison", "left", "import")] * 2
    assert "0 of 3 preferences are new" in exchange.import_file(path, store.path) and store.count() == 2
    file, _ = exchange.export_file(EVENTS, "events", "parquet", home)
    assert "8 of 8 events are new" in exchange.import_file(file, store.path) and store.count() == 2 + 6
    bad = home / write(home, [pair, {"prompt": 3, "chosen": "x", "rejected": "y"}], "bad.jsonl")
    with pytest.raises(UserError, match="^bad.jsonl, row 2: 'prompt' is a number"):
        exchange.import_file(bad, store.path)
    assert store.count() == 8


# -- the page without a browser --------------------------------------------------------------------------------------

class Page:
    """What a browser does with the page: holds the values, sends them along, takes the updates in."""

    def __init__(self, home: Path):
        self.demo = build(home, worker=FakeWorker()).blocks
        self.parts = {c.elem_id: c for c in self.demo.blocks.values() if getattr(c, "elem_id", None)}
        self.values = {c: getattr(c, "value", None) for c in self.demo.blocks.values()} | {self.parts["front"]: "data"}

    def handler(self, name: str, part: str = ""):
        return next(f for f in self.demo.fns.values() if getattr(f.fn, "__name__", "") == name
                    and (not part or self.parts[part] in f.outputs))

    def __getitem__(self, name: str):
        return self.values[self.parts[name]]

    def put(self, name: str, value) -> None:
        self.values[self.parts[name]] = value

    def call(self, handler, *more) -> set[str]:
        updates = handler.fn({part: self.values[part] for part in handler.inputs}, *more)
        if updates == gr.skip():
            return set()
        for part, update in updates.items():
            if not (isinstance(update, dict) and update.get("__type__") == "update"):
                self.values[part] = update
            elif "value" in update:
                self.values[part] = update["value"]
        return {part.elem_id for part in updates if getattr(part, "elem_id", None)}

    def tick(self) -> set[str]:
        return self.call(self.handler("look"))

    def open(self) -> set[str]:
        target = next(f for f in self.demo.fns.values() if any(event == "select" and block == self.parts["data-feedback"]._id for block, event in f.targets))
        return self.call(target)

    def filter(self, **values) -> set[str]:
        for name, value in values.items():
            self.put(f"feedback-{name}", value)
        return self.call(self.handler("_look", "feedback-votes"))


@pytest.fixture
def run(home) -> Run:
    return write_run(home, "teach", TeachConfig(labeler="person"), checkpoint=False)


@pytest.fixture
def page(home, store, run) -> Page:
    store.add_all([vote(f"e{i}", prompt=f"prompt {i}", run=run.id) for i in range(45)])
    page = Page(home)
    page.tick()
    return page


def test_a_look_sends_the_store_only_where_the_tab_is_open_and_only_when_it_has_moved(page, store):
    assert page["feedback-votes"] == {"html": ""} and page.tick() == set()
    assert {"feedback-votes", "feedback-sums"} <= page.open()
    assert "prompt 44" in page["feedback-votes"]["html"] and "prompt 24" not in page["feedback-votes"]["html"]
    assert page["feedback-votes"]["html"].count("<li") == 20 and "1 to 20 of 45, page 1 of 3" in page["feedback-place"] and "teach · by ann" in page["feedback-votes"]["html"]
    assert page.tick() == set()
    store.add(vote("new", prompt="the newest"))
    assert "feedback-votes" in page.tick() and "the newest" in page["feedback-votes"]["html"] and "votes: 46<" in page["feedback-sums"]
    assert page.tick() == set()


def test_pages_and_filters(page, store):
    page.open()
    following = next(f for f in page.demo.fns.values() if any(block == page.parts["feedback-next"]._id for block, _ in f.targets))
    page.call(following)
    assert "prompt 24" in page["feedback-votes"]["html"] and page["feedback-page"] == 2 and page.tick() == set()
    store.add(vote("new"))
    page.tick()
    assert page["feedback-page"] == 2 and "prompt 25" in page["feedback-votes"]["html"], "a vote that comes in leaves the page where it is"
    page.filter(text="PROMPT 7")
    assert page["feedback-page"] == 1 and page["feedback-votes"]["html"].count("<li") == 1 and page.filter() == set()
    page.filter(text="nowhere")
    assert "No vote passes these filters" in page["feedback-votes"]["html"]


def test_a_vote_is_taken_back_once_and_shown_so(page, store):
    page.open()
    button = gr.EventData(None, {"event": "e44", "retract": "fresh"})
    for _ in range(2):
        page.call(page.handler("_retract"), button)
    assert store.count() == 44 and store.head() == 46 and "taken back" in page["feedback-votes"]["html"] and 'data-event="e44"' not in page["feedback-votes"]["html"]
    assert "taken back: 1<" in page["feedback-sums"] and not {part for part in page.tick() if part.startswith("feedback")}
    page.call(page.handler("_retract"), gr.EventData(None, {"event": EVIL, "retract": "x"}))
    assert "no such vote" in page["notice"] and store.head() == 46


def test_a_store_out_of_order_is_said_on_the_page_and_heals(page, home, store):
    page.open()
    (home / "feedback.sqlite").rename(home / "kept.sqlite")
    for left in home.glob("feedback.sqlite-*"):
        left.unlink()
    (home / "feedback.sqlite").write_text("this is no database, however long it may be" * 40)
    page.tick()
    assert "no store of feedback" in page["feedback-sums"] and page["feedback-votes"] == {"html": ""} and page.tick() == set()
    (home / "kept.sqlite").replace(home / "feedback.sqlite")
    page.tick()
    assert "votes: 45<" in page["feedback-sums"] and "prompt 44" in page["feedback-votes"]["html"]


def test_the_hub_is_asked_only_when_the_button_is_pressed(page, monkeypatch):
    asked = []

    def read(source, *args, **options):
        asked.append(source)
        raise UserError(f"{source}: the Hub cannot be reached and no copy is here; check the network, or give a file")
    monkeypatch.setattr(data_view, "read_training_rows", read)
    for place, show in (("data-source", page.handler("_show", "data-rows")), ("sft-data", page.handler("_show_if_open", "data-preview"))):
        page.put(place, "somebody/nothing")
        summary = "data-summary" if place == "data-source" else "data-preview"
        if summary == "data-preview":
            page.values[next(p for p in show.inputs if isinstance(p, gr.State) and p.value is False)] = True
        page.call(show)
        assert not asked and "press “Read from the Hub”" in page[summary]
        page.call(page.handler("_fetch", summary))
        assert asked.pop() == "somebody/nothing" and "the Hub cannot be reached" in page[summary]


# -- in a browser ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home = tmp_path_factory.mktemp("data") / "home"
    (home / "uploads").mkdir(parents=True)
    write(home, [{"prompt": EVIL, "completion": EVIL, EVIL: 1}], "evil.jsonl")
    Store(home / "feedback.sqlite").add_all([vote(f"e{i}", prompt=EVIL, responses=(f"{EVIL} {i}", "b"), scores=(1.0, 0.0), run="") for i in range(25)])
    with serving(home, FakeWorker()) as url, browsing(url) as open_page:
        yield home, open_page


def open_tab(page, *names: str):
    for name in names:
        go(page, name)
    return page


@needs_browser
def test_a_file_is_looked_at_and_its_text_is_inert(served):
    _, open_page = served
    page = open_tab(open_page(390), "Data")
    expect(page.locator("#data-rows li")).to_have_count(20)
    page.click("#data-source input")
    page.get_by_role("option", name="uploads/evil.jsonl").click()
    expect(page.locator("#data-rows li")).to_have_count(1)
    expect(page.locator("#data-rows .prompt")).to_contain_text("<img src=x")
    expect(page.locator("#data-summary")).to_contain_text("Columns that are not used: <img")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "sideways scroll"


@needs_browser
def test_the_train_page_shows_what_is_in_the_data(served):
    page = served[1]()
    go(page, "Train")
    page.get_by_role("button", name="What is in this data").click()
    expect(page.locator("#data-preview")).to_contain_text("bundled demonstrations")
    page.get_by_label("2 · Reward model").click()
    expect(page.locator("#data-preview")).to_contain_text("bundled preferences")
    expect(page.locator("#data-preview li.number, #data-preview .data-rows > li")).to_have_count(3)


@needs_browser
def test_votes_are_read_taken_back_and_exported(served):
    home, open_page = served
    page = open_tab(open_page(), "Data", "Feedback")
    expect(page.locator("#feedback-votes li")).to_have_count(20)
    expect(page.locator("#feedback-votes")).to_contain_text("the reward had guessed it")
    assert page.evaluate("window.hacked") is None
    button = page.locator("#feedback-votes button").first
    button.dblclick()
    expect(button).to_have_text("Really take back?")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#feedback-votes li.gone")).to_have_count(1)
    store = Store(home / "feedback.sqlite")
    assert store.count() == 24 and store.head() == 26 and store.events(retracted=True)[-1].value == "e24"
    page.click("#feedback-next")
    expect(page.locator("#feedback-place")).to_contain_text("21 to 25 of 25, page 2 of 2")
    page.get_by_role("button", name="Import and export").click()
    page.click("#export-make")
    expect(page.locator("#exchange-outcome")).to_contain_text("Rows: 24, from votes: 24.")
    with page.expect_download() as download:
        page.click("#export-download")
    rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert download.value.suggested_filename == "pairs.jsonl" and len(rows) == 24 and set(rows[0]) == {"prompt", "chosen", "rejected"}
    with page.expect_file_chooser() as chooser:
        page.click("#feedback-import")
    chooser.value.set_files({"name": "new.jsonl", "mimeType": "text/plain", "buffer": json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}).encode()})
    expect(page.locator("#exchange-outcome")).to_contain_text("new.jsonl: 1 of 1 preferences are new in the store.")
    expect(page.locator("#feedback-votes li")).to_have_count(6)
    expect(page.locator("#feedback-place")).to_contain_text("21 to 26 of 26")


def test_a_single_event_is_imported_as_one(home, store, tmp_path):
    """One object that is the whole file is a row of it, whatever lists it has."""
    export([vote("1", prompt=[{"role": "user", "content": "q"}])], tmp_path / "one.jsonl")
    exchange.import_file(tmp_path / "one.jsonl", store.path)
    assert [each.id for each in store.events()] == ["1"]
