"""An undo takes back the last change and nothing more, however often an annotation was changed."""

import pytest

from playground.voting import VotingService
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event
from rlhf_engine.runs.folder import Run
from tests.playground.conftest import write_teach


@pytest.fixture
def run(home) -> Run:
    return write_teach(home)


@pytest.fixture
def service(home, run) -> VotingService:
    return VotingService(Workspace(home))


def in_force(service: VotingService) -> list:
    return [event.value for event in service.store.events()]


def test_changes_of_a_score_are_undone_one_after_the_other(service, run):
    for number, choice in enumerate(("score:1:4", "score:1:6", "2", "score:1:3", "score:1:3")):  # the same again takes it off
        service.vote(run, "q1", choice, f"e{number}", "me")
    ranking = (2, 1, 2, 2)
    assert in_force(service) == [ranking]
    for number, left in enumerate(([ranking, 3], [ranking, 6], [6], [4], [])):
        assert service.undo(run, f"u{number}", "me") is not None
        assert in_force(service) == left
        assert service.undo(run, f"u{number}", "me") is None, "sent twice"
        assert in_force(service) == left
    with pytest.raises(UserError, match="no vote of yours"):
        service.undo(run, "u9", "me")


def test_a_service_that_was_started_anew_undoes_the_same(service, run, home):
    for number, choice in enumerate(("up:1", "down:1", "up:1")):
        service.vote(run, "q1", choice, f"e{number}", "me")
    service.undo(run, "u0", "me")
    again = VotingService(Workspace(home))
    again.vote(run, "q1", "up:1", "e9", "me")
    for number, left in enumerate((["down"], ["up"], [])):
        again.undo(run, f"u{number + 1}", "me")
        assert in_force(again) == left


def test_what_others_say_and_what_is_taken_back_elsewhere_is_left_alone(service, run):
    service.vote(run, "q1", "score:1:4", "mine", "me")
    service.vote(run, "q1", "score:1:5", "yours", "you")
    service.vote(run, "q2", "1", "vote", "me")
    service.store.add(Event("list", "retract", value="vote", run=run.id))  # on the Data page
    assert service.undo(run, "u", "me").id == "mine" and in_force(service) == [5]


def test_an_id_that_the_page_itself_uses_is_refused_and_an_imported_one_does_no_harm(service, run):
    for event_id in ("mine takes back", "mine restores"):
        with pytest.raises(UserError, match="choose another one"):
            service.vote(run, "q1", "1", event_id, "me")
        with pytest.raises(UserError, match="choose another one"):
            service.undo(run, event_id, "me")
    service.vote(run, "q1", "1", "e", "me")
    vote = service.store.events()[0]
    service.store.add(Event("x restores", "comparison", vote.prompt, vote.responses, "tie", run=run.id, voter="me", query="q2"))
    assert service.undo(run, "u", "me").id == "x restores" and service.undo(run, "v", "me").id == "e"


def test_a_run_that_is_done_asks_nothing_and_keeps_a_late_vote(service, run):
    query = service.next(run, "me")
    run.set_status(state="done")
    assert service.next(run, "me") is None and "teach is done" in service.why_silent("teach")
    assert service.vote(run, query.id, "1", "late", "me") and service.votes(run) == 1
    assert "Your vote is kept" in service.learns_no_more(run)
    run.set_status(state="stopped")
    assert service.next(run, "me") is not None and service.learns_no_more(run) == ""
