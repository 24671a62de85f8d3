"""Conversations, their way to the Chatbot and back, streams of answers, and the chats that are kept for a reload."""

import pytest

from playground.pages.chat.chat_cache import ChatCache
from playground.pages.chat.chatbot_messages import chatbot_messages, escaped
from playground.pages.chat.conversation import (
    Chat,
    Turn,
    group_equal,
    prompt_of,
    up_to_last_question,
    with_question_reworded,
    without_open_question,
)
from playground.pages.chat.streaming import merge_streams
from tests.playground.conftest import EVIL, from_chatbot


def turns(*texts: str) -> list[Turn]:
    return [Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


def test_equal_conversations_are_asked_together():
    assert group_equal([turns("a"), turns("a", "b", "c"), turns("a"), turns("a", "x", "c")]) == [[0, 2], [1], [3]]


def test_where_a_conversation_goes_on_is_asked_again_or_begins_anew():
    talk = turns("a", "b", "c", "d")
    assert without_open_question(talk) == talk and without_open_question(talk[:3]) == talk[:2] and without_open_question([]) == []
    assert up_to_last_question(talk) == talk[:3] and up_to_last_question(talk[:3]) == talk[:3] and up_to_last_question([]) == []
    again = Turn("user", "new")
    assert with_question_reworded(talk, talk[2], again) == [*talk[:2], again] and with_question_reworded(talk, talk[0], again) == [again]
    assert with_question_reworded(turns("a", "b"), talk[2], again) == []


def test_one_question_is_a_text_and_more_a_conversation():
    assert prompt_of(turns("a")) == "a"
    assert prompt_of(turns("a", "b", "c")) == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


@pytest.mark.parametrize("text", ["", "Tom & Ann", "a < b > c", "&amp; &copy &#65; &x", "&&lt;", EVIL])
def test_text_goes_to_the_chatbot_as_few_entities_and_comes_back(text):
    talk = [{"role": "user", "content": text}]
    assert "<" not in escaped(talk)[0]["content"] and from_chatbot(escaped(talk)) == talk
    assert escaped([{"role": "user", "content": "Tom & Ann"}])[0]["content"] == "Tom & Ann"


def test_an_answer_that_has_not_begun_is_not_shown_and_an_empty_one_is_named():
    assert len(chatbot_messages([Turn("user", "a"), Turn("assistant", "", ended=False)], "(empty)")) == 1
    assert chatbot_messages([Turn("user", "a"), Turn("assistant", "")], "(empty)")[1]["content"] == "(empty)"


def test_streams_of_several_texts_advance_as_one():
    def says(*items):
        yield from items

    found = list(merge_streams([says(["a", "b"], ["aa", "bb"]), says(["x"])], [2, 1]))
    assert found[-1] == ["aa", "bb", "x"] and len(found) == 3


def test_whoever_is_late_changes_nothing():
    chat = Chat()
    number, late = chat.begin({0: turns("a")}), Turn("assistant", "slow", ended=False)
    chat.answer(0, late)
    chat.stop()
    assert chat.question != number and chat.sides[0][-1].ended and chat.sides[0][-1].stopped
    chat.clear()
    chat.answer(0, late)
    assert chat.sides[0] == []


def test_browsers_are_remembered_apart_and_the_oldest_forgotten():
    memory, chats = ChatCache(size=2), [Chat(), Chat(), Chat()]
    chats[0].begin({0: turns("mine")})
    for browser, chat in zip(("", "b", "c"), chats):
        memory.keep(browser, chat)
    memory.keep("a", chats[0])
    assert [memory.find(browser) is None for browser in ("", "b", "x", "c")] == [True, True, True, False]
    assert memory.find("a").sides == chats[0].sides and memory.find("a") is not chats[0]
