"""Feedback on the answers of a chat, as events in the store."""

import pytest

from playground.pages.chat import chat_feedback
from playground.pages.chat.checkpoints import ChatCheckpoint
from playground.pages.chat.conversation import Turn
from playground.voting import VotingService
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.labelers import HumanLabeler
from rlhf_engine.feedback.queries import next_query
from rlhf_engine.feedback.store import Store
from tests.playground.conftest import ask


def answer(store: Store, run=None, text: str = "Once upon a time.") -> Turn:
    voice = ChatCheckpoint("taste", "x", "taste at step 3", run.id, 3) if run else ChatCheckpoint("none", "none", "none")
    return Turn("assistant", text, said=text, speaker=voice, sampling={"max_new_tokens": 8}, head=store.head())


def test_a_thumb_is_stored_once_changed_and_taken_back(store, run):
    turn = answer(store, run)

    def give(value: str) -> list[str]:
        chat_feedback.set_feedback(store, turn, "thumb", value, "Tell me", "me")
        assert chat_feedback.thumbs(store, [turn]) == [value]
        return [event.value for event in store.events(retracted=True)]

    assert give("up") == give("up") == ["up"]
    event, = store.events()
    assert (event.prompt, event.responses, event.checkpoint, event.run, event.step, event.voter, event.sampling) == (
        "Tell me", ("Once upon a time.",), "taste at step 3", run.id, 3, "me", {"max_new_tokens": 8})
    first = event.id
    assert give("down") == ["up", first, "down"]
    assert len(give("")) == 4 and store.count() == 0
    assert len(give("")) == 4
    assert give("up")[-1] == "up" and store.count() == 1


def test_an_opinion_taken_back_elsewhere_can_be_given_again(store):
    turn = answer(store)
    chat_feedback.set_feedback(store, turn, "thumb", "up", "Tell me", "me")
    given, = store.events()
    store.add(type(given)("from the data page", "retract", value=given.id))
    assert chat_feedback.thumbs(store, [turn]) == [""]
    chat_feedback.set_feedback(store, turn, "thumb", "up", "Tell me", "me")
    assert chat_feedback.thumbs(store, [turn]) == ["up"] and store.count() == 1


def test_a_blind_vote_has_the_order_of_the_pickers(store, run):
    said = {pick: answer(store, run if pick == "c" else None, f"said by {pick}") for pick in "abcd"}

    def vote(order: tuple[int, ...], choice: str):
        event = chat_feedback.blind_vote("e", [said["abcd"[i]] for i in order], order, choice, "Tell me", "me").validate()
        assert event.responses == tuple(f"said by {pick}" for pick in "abcd"[:len(order)]) and event.shown == order
        return event

    assert [vote(order, choice).value for order in ((0, 1), (1, 0)) for choice in ("1", "2")] == ["left", "right", "right", "left"]
    three = vote((2, 0, 1), "1")
    assert (three.kind, three.value, three.run) == ("ranking", (2, 2, 1), run.id) and three.checkpoints == ("none", "none", "taste at step 3")
    assert vote((3, 1, 0, 2), "2").value == (2, 1, 2, 2)
    assert (vote((1, 0), "tie").value, vote((1, 2, 0), "both_bad").value, vote((1, 0), "1").run) == ("tie", "both_bad", "")


def test_what_is_said_in_a_chat_answers_no_query_and_is_not_undone_by_a_voter(home, run, store):
    for number in range(2):
        ask(run, number)
    ballot = VotingService(Workspace(home))
    before = ballot.next(run, "me").id
    chat_feedback.set_feedback(store, answer(store, run), "thumb", "up", "Tell me", "me")
    assert next_query(run, store.events(run=run.id), "me").id == before and HumanLabeler(run, store).pending_votes() == 1
    with pytest.raises(UserError, match="no vote of yours"):
        ballot.undo(run, "u", "me")
    ballot.vote(run, before, "1", "v", "me")
    chat_feedback.set_feedback(store, answer(store, run), "thumb", "down", "Tell me", "me")
    assert ballot.undo(run, "w", "me").id == "v" and ballot.votes(run) == 2
