"""The Chat page: two to four checkpoints answer one prompt at the same time, and a person judges the answers."""

import gradio as gr

from playground.components.notices import mark_seen
from playground.pages.chat import text
from playground.pages.chat.asking import ChatAsking
from playground.pages.chat.chat_cache import ChatCache
from playground.pages.chat.checkpoints import first_picks
from playground.pages.chat.controls import ChatInput, ChatParts, ChatSetup, ChatState
from playground.pages.chat.conversation import SIDES, Chat
from playground.pages.chat.judging import ChatJudging
from playground.pages.chat.panes import ChatPanes
from playground.pages.chat.streaming import ChatRunner
from playground.workspace import RunSummary, Workspace


class ChatPage:
    """The Chat tab: a `Page` (`components/page.py`).

    `asking` holds the handlers that make checkpoints answer, `judging` those that store feedback. The handlers here
    change who is asked.
    """

    def __init__(self, workspace: Workspace, worker, voter: gr.BrowserState, notice: gr.HTML):
        self.workspace, self.voter = workspace, voter
        self.cache, self.chat = ChatCache(), ChatState(Chat())
        gr.Markdown(text.CHAT_ABOUT, container=False)
        self.setup = ChatSetup(workspace)
        self.panes = ChatPanes(workspace)
        self.status = gr.HTML("", elem_id="chat-status")
        self.input = ChatInput()
        self.model = self.setup.model
        parts = ChatParts(workspace, self.cache, self.chat, voter, notice, self.setup, self.panes, self.status,
                          self.input)
        self.runner = ChatRunner(workspace, worker)
        self.judging = ChatJudging(parts)
        self.asking = ChatAsking(parts, self.runner, self.judging)
        self.asking.wire()
        self.judging.wire()
        self._wire()

    @property
    def shown(self) -> list:
        """The components that `_show` updates."""
        return [self.status, *self.setup.outputs, *self.panes.outputs]

    def _wire(self) -> None:
        """Connect the handlers of this class."""
        private = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        setup, panes, outputs = self.setup, self.panes, self.shown
        gr.on([self.input.clear.click, *(chatbot.clear for chatbot in panes.chatbots)], self._clear,
              {self.chat, *panes.picks}, outputs, **private)
        setup.model.change(self._other_model, {self.chat, setup.model}, outputs, **private)
        setup.count.input(self._other_count, {self.chat, setup.count, *panes.picks}, outputs, **private)
        setup.blind.input(self._other_blind, {self.chat, setup.blind, *panes.picks}, outputs, **private)
        setup.preset.input(self._show_pair, {self.chat, setup.preset}, outputs, **private)
        gr.on([pick.input for pick in panes.picks], lambda: None, None, setup.preset, **private)
        for button in self.input.examples:
            button.click(lambda example: example, button, self.input.message, **private)

    # -- who is asked ------------------------------------------------------------------------------------------------

    def _clear(self, values: dict) -> dict:
        """Empty the chat."""
        chat = values[self.chat]
        chat.clear()
        return self._show(chat, values)

    def _other_model(self, values: dict) -> dict:
        """Begin anew with another base model."""
        chat = values[self.chat]
        if values[self.model] == chat.model:
            return gr.skip()
        chat.clear()
        chat.model, chat.picks = values[self.model], ()
        return self._show(chat)

    def _other_count(self, values: dict) -> dict:
        """Show more or fewer sides; the conversations of those that go are dropped."""
        chat = values[self.chat]
        chat.stop()
        chat.count = int(values[self.setup.count])
        chat.sides = [side if position < chat.count else [] for position, side in enumerate(chat.sides)]
        return self._show(chat, values)

    def _other_blind(self, values: dict) -> dict:
        """Hide or show the names.

        The chat begins anew: answers whose names were known are no blind round, nor the other way round.
        """
        chat = values[self.chat]
        chat.clear()
        chat.blind = bool(values[self.setup.blind])
        return self._show(chat, values)

    def _show_pair(self, values: dict) -> dict:
        """Begin anew with two sides, for the pair of checkpoints that was chosen."""
        chat = values[self.chat]
        before, _, after = str(values[self.setup.preset] or "").partition("|")
        if not after:
            return gr.skip()
        chat.clear()
        others = first_picks(self.workspace.chat_choices(chat.model), SIDES)[2:]
        chat.count, chat.picks = 2, (before, after, *others)
        changes = self._show(chat)
        del changes[self.setup.preset]
        return changes

    def _show(self, chat: Chat, values: dict | None = None) -> dict:
        """The updates that show a chat on the whole page; with `values`, the pickers stay as they are."""
        if values:
            chat.picks = self.panes.picked(values)
        return {self.status: "", **self.setup.show(chat), **self.panes.show(chat)}

    # -- what has changed --------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        """The components whose values `refresh` reads."""
        return {self.model, self.input.reward, *self.panes.picks}

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update.

        The conversations are not among them: they would scroll with each refresh.
        """
        return [self.model, self.setup.preset, self.input.reward, *self.panes.picks]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """The updates for what has changed since `seen`, which is brought up to date."""
        model = values[self.model]
        changes = self.setup.refresh(model, entries, seen)
        changes.update(self.input.refresh(self.workspace.chat_rewards(model), values[self.input.reward], seen))
        choices = self.workspace.chat_choices(model)
        if mark_seen(seen, "chat adapters", choices):
            offered = {value for _, value in choices}
            # A refresh may find the new model and the picks of the old one: it has to choose what `_other_model`
            # chooses.
            for pick, first in zip(self.panes.picks, first_picks(choices, SIDES)):
                gone = values[pick] not in offered
                changes[pick] = gr.update(choices=choices, value=first) if gone else gr.update(choices=choices)
        return changes

    def restore(self, values: dict) -> dict:
        """The updates for a page that is loaded again: the chat as this browser left it, with its thumbs."""
        chat = self.cache.find(values[self.voter])
        if chat is None or chat.model not in self.workspace.model_choices():
            return gr.skip()
        return self._show(chat) | {self.chat: chat}
