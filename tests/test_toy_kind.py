"""What a new kind of feedback costs: a class in kinds.py and its likelihood. Everything else finds it by itself.

The kind of this test gives one response up to three stars. No file of the project knows of it. (A button on the Teach
page and words of its own on the Data page are more; the page shows it without.)
"""

import pytest
import torch
import torch.nn.functional as F

from playground.pages.data.feedback_view import event_row
from playground.pages.data.feedback_view import verdict as verdict_in_words
from playground.voting import VotingService, choice_of
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.choices import Choice, parse_choice
from rlhf_engine.feedback.datasets import agreement, groups, pairs, ratings, thumbs
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.exchange import export, import_events, read_events
from rlhf_engine.feedback.kinds import KINDS, FeedbackKind
from rlhf_engine.feedback.store import Store
from rlhf_engine.teach.learners.tamer import verdicts
from rlhf_engine.teach.likelihood import LIKELIHOODS, KindLikelihood, ResponseModel, log_likelihood, was_predicted
from rlhf_engine.teach.preference_drift import DriftDetector
from tests.playground.conftest import write_teach


class Stars(FeedbackKind):
    """No star to three."""

    name = "stars"
    words = ("stars",)
    syntax = "stars:POSITION:0 to 3"

    def parse(self, word, text):
        return int(text) if text.isdecimal() else text

    def value_errors(self, event):
        if event.value not in range(4):
            yield f"0 to 3 stars, not {event.value!r}"

    def thumbs(self, event):
        return [(text, event.value > 1) for text in event.responses]

    def verdicts(self, event):
        return [event.value / 1.5 - 1]


class StarsLikelihood(KindLikelihood):
    """Binomial: each star is a coin of its own."""

    def loglik(self, value, scores, model):
        return value * F.logsigmoid(scores[0]) + (3 - value) * F.logsigmoid(-scores[0])


@pytest.fixture(autouse=True)
def stars(monkeypatch):
    monkeypatch.setitem(KINDS, "stars", Stars())
    monkeypatch.setitem(LIKELIHOODS, "stars", StarsLikelihood())


EVENT = Event("e", "stars", "Once", ("a story",), 3, voter="me")


def test_it_is_checked_stored_exported_and_counted(tmp_path):
    store = Store(tmp_path / "feedback.sqlite")
    assert store.add(EVENT) and not store.add(EVENT)
    with pytest.raises(UserError, match="0 to 3 stars, not 4"):
        store.add(Event("f", "stars", "Once", ("a",), 4))
    with pytest.raises(UserError, match="a stars has 1 responses, not 2"):
        store.add(Event("f", "stars", "Once", ("a", "b"), 1))
    for suffix in (".jsonl", ".parquet"):
        path = tmp_path / f"events{suffix}"
        export(store.events(), path)
        assert read_events(path) == store.events() and import_events(store, path) == 0
    assert thumbs(store.events()) == [{"prompt": "Once", "completion": "a story", "label": True}]
    assert pairs(store.events()) == groups(store.events()) == ratings(store.events()) == []
    assert agreement(store.events())["pairs"] == 0


def test_it_is_a_choice_of_buttons_and_of_the_api(tmp_path):
    assert parse_choice("stars:2:3", 4) == Choice("stars", 3, position=2)
    run = write_teach(tmp_path, queries=1)
    service = VotingService(Workspace(tmp_path))
    assert service.vote(run, "q0", "stars:2:1", "a", "me") and service.vote(run, "q0", "stars:2:3", "b", "me")
    event, = service.live_votes(run)
    assert (event.kind, event.value, event.position) == ("stars", 3, 2) and choice_of(event) == "stars 3"
    assert service.annotations(run, service.next(run, "me"), "me") == {2: {"stars": event}}
    with pytest.raises(UserError, match="stars:POSITION:0 to 3"):
        service.vote(run, "q0", "moons:1:1", "c", "me")


def test_it_teaches_the_reward():
    scores, model = torch.tensor([[0.0, 2.0]]), ResponseModel()
    expected = 3 * torch.sigmoid(scores[0]).log()
    torch.testing.assert_close(log_likelihood("stars", 3, scores, model), expected)
    assert was_predicted("stars", 3, scores[:, 0], model) is None and verdicts(EVENT) == [1.0]
    detector = DriftDetector()
    assert detector.update(EVENT, torch.ones(1, 2), torch.tensor([1.0, 0.0]), model) is False


def test_the_data_page_shows_it():
    row = event_row(EVENT, False, {}, "retract")
    assert row["kind"] == "stars" and verdict_in_words(EVENT) == "Stars: 3"
