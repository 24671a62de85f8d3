"""Votes: what is asked, what is stored, and that a vote counts once. Runs are made by hand."""


import pytest

from playground import voting
from playground.voting import VotingService, choice_of, voter_of
from playground.workspace import Workspace
from rlhf_engine.config import SFTConfig, TeachConfig
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import Run
from tests.playground.conftest import ask, write_run, write_teach


@pytest.fixture
def run(home) -> Run:
    return write_teach(home)


@pytest.fixture
def ballot(home, run) -> VotingService:
    return VotingService(Workspace(home))


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
    assert event.sampling == {"max_new_tokens": 8} and event.query == event.answers == "q1" and event.shown == tuple(range(count))
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
    assert event.sampling == {"max_new_tokens": 8} and (event.query, event.position, event.answers) == (query.id, 2, "") and choice_of(event) == said
    assert ballot.next(run, "me").id == query.id and ballot.asked(run, event).id == query.id
    assert ballot.annotations(run, query, "me") == {2: {kind: event}} and ballot.annotations(run, query, "you") == {}


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


def test_the_time_from_showing_to_voting_is_kept(ballot, run, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(voting.time, "monotonic", lambda: clock[0])
    query = ballot.next(run, "me")
    clock[0] += 0.05
    ballot.next(run, "me")
    ballot.vote(run, query.id, "1", "a", "me")
    ballot.vote(run, "q0", "1", "b", "me")
    assert [event.seconds for event in ballot.store.events()] == [pytest.approx(0.05), 0.0]  # nobody was shown q0


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


def test_a_click_reads_what_is_new_and_nothing_twice(home, run, monkeypatch):
    """Vote, next query, own annotations, count: the store is opened once, and gives each event once."""
    opened, read = [], []
    init, events = Store.__init__, Store.events
    monkeypatch.setattr(Store, "__init__", lambda self, path: opened.append(path) or init(self, path))

    def counted(self, **options):
        rows = events(self, **options)
        read.extend(event.id for event in rows)
        return rows

    monkeypatch.setattr(Store, "events", counted)
    ballot = VotingService(Workspace(home))
    for number in range(3):
        query = ballot.next(run, "me")
        assert ballot.vote(run, query.id, "up:1", f"thumb {number}", "me") and ballot.vote(run, query.id, "1", f"vote {number}", "me")
        assert set(ballot.annotations(run, query, "me")) == {1} and ballot.votes(run) == 2 * number + 2
    assert ballot.undo(run, "undo", "me").id == "vote 2" and ballot.votes(run) == 5
    assert sorted(read) == sorted({*read}) and len(read) == 7 and len(opened) == 1


def test_a_store_that_was_replaced_is_read_anew(home, run):
    ballot = VotingService(Workspace(home))
    assert ballot.vote(run, "q1", "1", "e", "me") and ballot.votes(run) == 1
    old = ballot.store
    other = Store(home / "other.sqlite")
    old.path.unlink()
    for ending in ("-wal", "-shm"):
        old.path.with_name(old.path.name + ending).unlink(missing_ok=True)
    other.path.rename(old.path)
    assert ballot.votes(run) == 0 and ballot.store is not old
    assert ballot.vote(run, "q1", "1", "e", "me") and ballot.votes(run) == 1
    old.path.unlink()
    assert ballot.votes(run) == 0, "the file is made anew"
