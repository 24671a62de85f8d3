"""Feedback on the Chat page: thumbs, better answers, and votes on blind rounds."""

import threading
from dataclasses import replace

import gradio as gr

from playground.components.notices import inform, warn
from playground.pages.chat import chat_feedback, text
from playground.pages.chat.controls import ChatParts
from playground.pages.chat.conversation import Turn, prompt_of
from playground.voting import voter_of
from rlhf_engine.errors import UserError


class ChatJudging:
    """The handlers that store feedback. Each returns updates of the page."""

    def __init__(self, parts: ChatParts):
        self.parts, self.panes, self.notice = parts, parts.panes, parts.notice
        self.lock = threading.Lock()
        """Held while feedback is stored: of two clicks at once, the second sees the first."""

    def wire(self) -> None:
        """Connect the handlers."""
        inputs = {self.parts.chat, self.parts.voter}
        private = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        chatbots = self.panes.chatbots
        gr.on([chatbot.like for chatbot in chatbots], self._thumb, inputs, [self.notice, *chatbots],
              trigger_mode="multiple", **private)
        gr.on([button.click for button in self.panes.buttons], self._vote, inputs,
              [self.notice, self.parts.status, *chatbots, *self.panes.vote_outputs], **private)

    def _thumb(self, values: dict, event: gr.LikeData) -> dict:
        """Store a thumb on an answer, or take it back."""
        chat, message = values[self.parts.chat], ""
        position, index, turn = self.panes.turn_of(chat, event)
        try:
            if turn is None or turn.role != "assistant" or not turn.ended:
                raise UserError(text.STILL_WRITING)
            if turn.text != turn.said:
                raise UserError(text.OWN_WORDS)
            self._store(values, chat.sides[position], index, "thumb", thumb_of(event))
        except UserError as error:
            message = warn(error)
        thumbs = self.panes.thumbs(chat, position)
        return {self.notice: message, self.panes.chatbots[position]: gr.update(feedback_value=thumbs)}

    def edit_answer(self, values: dict, position: int, index: int, written: str) -> dict:
        """Store a person's own words for an answer, and go on from them: the turns after the answer are dropped."""
        chat = values[self.parts.chat]
        side = chat.sides[position]
        try:
            if chat.hidden:
                raise UserError(text.NO_EDIT_BLIND)
            if not written:
                raise UserError(text.EMPTY_EDIT)
            original = side[index].said
            edit = "" if written == original.strip() else written
            self._store(values, side, index, "edit", edit)
            chat.replace_turn(position, index, replace(side[index], text=edit or original))
            message = inform(text.EDIT_KEPT)
        except UserError as error:
            message = warn(error)
        return {self.notice: message, **self.panes.show_sides(chat, [position])}

    def _store(self, values: dict, side: list[Turn], index: int, kind: str, value: str) -> None:
        """Store feedback of a `kind` on the answer at `index` of a side. Raises UserError."""
        self.parts.workspace.access.limit("vote", value)
        self.parts.cache.keep(values[self.parts.voter], values[self.parts.chat])
        with self.lock:
            chat_feedback.set_feedback(self.parts.workspace.store, side[index], kind, value, prompt_of(side[:index]),
                                       voter_of(values[self.parts.voter]))

    def _vote(self, values: dict, event: gr.EventData) -> dict:
        """Store a vote on a blind round, and show who was who."""
        chat, choice, message = values[self.parts.chat], self.panes.choice_of(event), ""
        positions = list(range(chat.count))
        with self.lock:
            try:
                if chat.votable:
                    self.parts.workspace.access.limit("vote")
                    answers = [side[-1] for side in chat.sides[:chat.count]]
                    prompt, voter = prompt_of(chat.sides[0][:-1]), voter_of(values[self.parts.voter])
                    vote = chat_feedback.blind_vote(f"{chat.round_id}-vote", answers, chat.order, choice, prompt, voter)
                    self.parts.workspace.store.add(vote)
                    chat.record_vote(choice, self.panes.labels(chat))
            except UserError as error:
                message = warn(error)
        return {self.notice: message, self.parts.status: "", **self.panes.show_sides(chat, positions),
                **self.panes.show_vote(chat)}


def thumb_of(event: gr.LikeData) -> str:
    """The thumb that an event gives: "up" or "down"; "" takes it back."""
    if event.liked is True:
        return "up"
    return "down" if event.liked is False else ""
