"""Questions on the Chat page: sending, regenerating and rewording them, and stopping the answers."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from playground.components.html import notice
from playground.components.notices import warn
from playground.pages.chat import text
from playground.pages.chat.chatbot_messages import text_of
from playground.pages.chat.controls import ChatParts
from playground.pages.chat.conversation import (
    Chat,
    Turn,
    up_to_last_question,
    with_question_reworded,
    without_open_question,
)
from playground.pages.chat.judging import ChatJudging
from playground.pages.chat.panes import status_line
from playground.pages.chat.streaming import ChatRunner
from rlhf_engine.errors import UserError


class ChatAsking:
    """The handlers that make checkpoints answer.

    Each yields updates of the page while the answers are being written.
    """

    def __init__(self, parts: ChatParts, runner: ChatRunner, judging: ChatJudging):
        self.parts, self.runner, self.judging = parts, runner, judging
        self.panes, self.notice, self.status = parts.panes, parts.notice, parts.status
        self.message = parts.input.message

    def wire(self) -> None:
        """Connect the handlers. The conversations themselves stay on the server and are no inputs."""
        parts, chatbots = self.parts, self.panes.chatbots
        inputs = {parts.chat, parts.voter, parts.setup.model, self.message, *self.panes.picks, *parts.input.sampling}
        outputs = [self.notice, self.status, self.message, *chatbots, *self.panes.vote_outputs]
        # These events neither wait for each other nor cancel each other. An answer to an earlier question ends by
        # itself (`_answer`); if Gradio cancelled an event, that might already be the one of the next question.
        asking: dict[str, Any] = {"concurrency_id": "chat", "concurrency_limit": 4, "show_progress": "hidden",
                                  "trigger_mode": "multiple", "api_visibility": "private"}
        gr.on([parts.input.send.click, self.message.submit], self._send, inputs, outputs, **asking)
        gr.on([parts.input.again.click, *(chatbot.retry for chatbot in chatbots)], self._again, inputs, outputs,
              **asking)
        gr.on([chatbot.edit for chatbot in chatbots], self._edit, inputs, outputs, **asking)
        parts.input.stop.click(self._stop, {parts.chat}, [self.status, *chatbots, *self.panes.vote_outputs],
                               queue=False, show_progress="hidden", api_visibility="private")

    def _send(self, values: dict) -> Iterator[dict]:
        """A message from the text box, to all sides."""
        message = (values[self.message] or "").strip()
        if not message:
            yield {self.notice: notice(text.NOTHING_TO_SAY)}
        elif values[self.parts.chat].is_double_click(message):
            yield gr.skip()  # a stream without items would empty the page
        else:
            yield from self._ask(values, message, typed=message)

    def _again(self, values: dict, event: gr.EventData) -> Iterator[dict]:
        """The last question once more: on one side by the button of that side, on all sides by the button below."""
        chat, own = values[self.parts.chat], self.panes.position_of(event)
        positions = [position for position in range(chat.count) if own in (None, position)]
        questions = {position: up_to_last_question(chat.sides[position]) for position in positions}
        questions = {position: side for position, side in questions.items() if side}
        if not questions:
            yield {self.notice: notice(text.NOTHING_TO_REPEAT)}
        elif own is None and chat.blind:
            first = next(iter(questions.values()))
            yield from self._ask(values, first[-1].text)
        else:
            yield from self._answer(values, questions)

    def _edit(self, values: dict, event: gr.EditData) -> Iterator[dict]:
        """A message was edited.

        A reworded question is asked again on all sides that have heard it; an answer goes to `judging`.
        """
        chat, message = values[self.parts.chat], text_of(event.value).strip()
        position, index, turn = self.panes.turn_of(chat, event)
        if turn is None or not turn.ended or message == text_of(event.previous_value).strip():
            yield self.panes.show_sides(chat, [position])
        elif turn.role == "assistant":
            yield self.judging.edit_answer(values, position, index, message)
        elif not message:
            yield self.panes.show_sides(chat, [position]) | {self.notice: notice(text.NOTHING_TO_SAY)}
        elif chat.blind:
            yield from self._ask(values, message)
        else:
            reworded = Turn("user", message)
            sides = [with_question_reworded(side, turn, reworded) for side in chat.sides[:chat.count]]
            yield from self._answer(values, {number: side for number, side in enumerate(sides) if side})

    def _ask(self, values: dict, message: str, *, typed: str = "") -> Iterator[dict]:
        """A new question to all sides; in a blind chat it begins a new round.

        `typed` is the text to bring back if it fails.
        """
        chat = values[self.parts.chat]
        before = chat.snapshot()
        if chat.blind:
            twice = self._picked_twice(values, chat)
            if twice:
                yield {self.notice: notice(text.SAME_TWICE.format(name=twice))}
                return
            chat.shuffle()
        question = Turn("user", message)
        questions = {position: [*without_open_question(chat.sides[position]), question]
                     for position in range(chat.count)}
        yield from self._answer(values, questions, before, typed=typed)

    def _picked_twice(self, values: dict, chat: Chat) -> str:
        """The name of a checkpoint that more than one side has picked, or ""."""
        picks = self.panes.picked(values)[:chat.count]
        labels = {value: label for label, value in self.parts.workspace.chat_choices(chat.model)}
        return next((labels.get(pick, pick) for pick in picks if picks.count(pick) > 1), "")

    def _answer(self, values: dict, questions: dict[int, list[Turn]], before: tuple = (), *,
                typed: str = "") -> Iterator[dict]:
        """The answers as they grow, to conversations by position.

        If it fails, the chat goes back to `before` (by default to now), and `typed` comes back into the text box.
        """
        parts, panes, positions = self.parts, self.panes, list(questions)
        chat = values[parts.chat]
        before = before or chat.snapshot()
        chat.model, chat.picks = values[parts.setup.model], panes.picked(values)
        number = chat.begin(questions)
        parts.cache.keep(values[parts.voter], chat)
        try:
            waiting = self._shown(chat, positions, text.WAITING)
            waiting[self.notice] = ""
            if typed:
                waiting[self.message] = ""
            yield waiting
            request = parts.input.request(values, chat)
            status = {self.status: ""}  # sent with the first words only
            for _ in self.runner.answer(chat, positions, request):
                yield panes.show_texts(chat, positions) | status
                status = {}
            if chat.question == number:
                yield self._shown(chat, positions, ended_line(chat, len(positions)))
            else:  # stopped or cleared
                yield panes.show_sides(chat, positions)
                yield gr.skip()  # Gradio sends the last item once more: it must change nothing
        except UserError as error:
            if chat.question == number:
                chat.restore(before)
                failed = self._shown(chat, positions, "")
                failed[self.notice] = warn(error)
                if typed:
                    failed[self.message] = typed
                yield failed
        finally:
            if chat.question == number:  # the browser may have left in the middle of an answer
                chat.stop()

    def _shown(self, chat: Chat, positions: list[int], status: str) -> dict:
        """The updates of some sides, of the vote and of the line about the answers."""
        return {self.status: status_line(status), **self.panes.show_sides(chat, positions),
                **self.panes.show_vote(chat)}

    def _stop(self, values: dict) -> dict:
        """Stop all answers where they are."""
        chat = values[self.parts.chat]
        chat.stop()
        return self._shown(chat, list(range(chat.count)), text.STOPPED if any(chat.sides) else "")


def ended_line(chat: Chat, count: int) -> str:
    """The line that says that `count` answers are done."""
    if chat.votable:
        return text.ENDED_BLIND
    return {1: text.ENDED_ONE, 2: text.ENDED}.get(count, text.ENDED_MORE.format(count=count))
