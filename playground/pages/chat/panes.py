"""The sides of the Chat page, each with a checkpoint and its conversation; below them the vote on a blind round."""

import gradio as gr
from markupsafe import Markup

from playground.components import text as shared_text
from playground.components.html import empty, render
from playground.components.inputs import Choice
from playground.pages.chat import chat_feedback, text
from playground.pages.chat.chatbot_messages import chatbot_messages
from playground.pages.chat.checkpoints import first_picks
from playground.pages.chat.conversation import SIDES, Chat, Turn
from playground.scripts import read_script
from playground.workspace import Workspace
from rlhf_engine.errors import UserError

IDS = ("left", "right", "third", "fourth")
"""Part of the element ids of a side, by position."""


class ChatPanes:
    """Builds its components inside the current `gr.Blocks`.

    The methods `show_...` return the updates that show a chat.
    """

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.resets = 0
        self.columns, self.names, self.picks, self.chatbots = [], [], [], []
        choices = workspace.chat_choices("bundled")
        with gr.Row(elem_id="chat-sides"):
            for position, value in enumerate(first_picks(choices, SIDES)):
                with gr.Column(min_width=240, visible=position < 2) as column:
                    self._build_side(IDS[position], text.SIDE_LABELS[position], choices, value)
                self.columns.append(column)
        with gr.Row(visible=False, elem_id="chat-votes") as self.vote_row:
            self.best = [gr.Button("", elem_id=f"chat-best-{number}", min_width=110) for number in range(1, SIDES + 1)]
            self.tie = gr.Button(shared_text.TIE[0], elem_id="chat-tie", min_width=110)
            self.both_bad = gr.Button(shared_text.BOTH_BAD[0], elem_id="chat-both-bad", min_width=110)
        self.result = gr.HTML("", elem_id="chat-result", apply_default_css=False,
                              js_on_load=read_script("edit_as_text"))
        self.buttons = [*self.best, self.tie, self.both_bad]

    def _build_side(self, name: str, title: str, choices: list[tuple[str, str]], value: str) -> None:
        """The name (shown in a blind round), the picker and the conversation of one side."""
        self.names.append(gr.HTML("", elem_id=f"chat-{name}-name", visible=False, apply_default_css=False))
        self.picks.append(Choice(choices, value=value, label=title, elem_id=f"chat-{name}-adapter"))
        self.chatbots.append(gr.Chatbot(label=title, show_label=False, height=380, render_markdown=False,
                                        latex_delimiters=[], buttons=[], placeholder=text.EMPTY_CHAT,
                                        elem_id=f"chat-{name}", layout="bubble", editable="all"))

    @property
    def vote_outputs(self) -> list:
        """The components that `show_vote` updates."""
        return [*self.names, self.result, self.vote_row, *self.buttons]

    @property
    def outputs(self) -> list:
        """The components that `show` updates."""
        return [*self.columns, *self.picks, *self.chatbots, *self.vote_outputs]

    def picked(self, values: dict) -> tuple[str, ...]:
        """The values of the pickers."""
        return tuple(values[pick] for pick in self.picks)

    def position_of(self, event: gr.EventData) -> int | None:
        """The side that an event belongs to; None for an event of no side.

        It is found by the element's id, because a session has its own copies of components that were updated.
        """
        name = getattr(event.target, "elem_id", "").removeprefix("chat-")
        return IDS.index(name) if name in IDS else None

    def turn_of(self, chat: Chat, event: gr.EditData | gr.LikeData) -> tuple[int, int, Turn | None]:
        """(position, index, turn) of the message that an event of a Chatbot is about; no turn where it is gone."""
        position, index = self.position_of(event), event.index
        assert position is not None and isinstance(index, int), "only the Chatbots have these events"
        side = chat.sides[position]
        return position, index, side[index] if index < len(side) else None

    def choice_of(self, event: gr.EventData) -> str:
        """What the button of an event votes for: "1" to "4", "tie" or "both_bad"."""
        name = getattr(event.target, "elem_id", "").removeprefix("chat-").removeprefix("best-")
        return name.replace("-", "_")

    # -- updates -----------------------------------------------------------------------------------------------------

    def show_texts(self, chat: Chat, positions: list[int]) -> dict:
        """The conversations alone, while answers are being written."""
        return {self.chatbots[position]: chatbot_messages(chat.sides[position], shared_text.EMPTY_RESPONSE)
                for position in positions}

    def show_sides(self, chat: Chat, positions: list[int]) -> dict:
        """The conversations with the thumbs of the store.

        In a blind round no answer can be edited, because the vote is on the model's.
        """
        editable = "user" if chat.hidden else "all"
        changes = {}
        for position in positions:
            messages = chatbot_messages(chat.sides[position], shared_text.EMPTY_RESPONSE)
            changes[self.chatbots[position]] = gr.update(value=messages, feedback_value=self.thumbs(chat, position),
                                                         editable=editable)
        return changes

    def thumbs(self, chat: Chat, position: int) -> list[str]:
        """The thumb on each answer of a side, as the Chatbot takes it.

        A browser takes its own thumb off only when the value has changed, so "none" comes with a new number each time.
        """
        answers = [turn for turn in chat.sides[position] if turn.role == "assistant"]
        try:
            thumbs = chat_feedback.thumbs(self.workspace.store, answers)
        except UserError:  # the page says so when somebody gives a thumb
            thumbs = [""] * len(answers)
        self.resets += 1
        return [chat_feedback.THUMBS.get(thumb, f"none {self.resets}") for thumb in thumbs]

    def show_vote(self, chat: Chat) -> dict:
        """The buttons of the vote while a blind round waits for it; the names and the result after it."""
        many = chat.count > 2
        labels = self.labels(chat) if chat.vote else []
        changes = {self.vote_row: gr.update(visible=chat.votable), self.tie: gr.update(value=shared_text.TIE[many]),
                   self.both_bad: gr.update(value=shared_text.BOTH_BAD[many]),
                   self.result: result(chat, labels) if labels else ""}
        for position, side in enumerate(text.SIDE_NAMES):
            best = text.VOTE_BEST.format(side=side, best=shared_text.BEST[many])
            changes[self.best[position]] = gr.update(value=best, visible=position < chat.count)
            label = labels[position] if position < len(labels) else ""
            changes[self.names[position]] = gr.update(value=side_name(side, label), visible=chat.blind)
        return changes

    def labels(self, chat: Chat) -> list[str]:
        """The name of the checkpoint that speaks at each position."""
        names = {value: label for label, value in self.workspace.chat_choices(chat.model)}
        picks = [chat.picks[chat.order[position]] if chat.picks else "" for position in range(chat.count)]
        return [names.get(pick, pick) for pick in picks]

    def show(self, chat: Chat) -> dict:
        """Everything. Where a picked checkpoint is gone, the pickers begin anew."""
        choices = self.workspace.chat_choices(chat.model)
        offered = {value for _, value in choices}
        picks = chat.picks if chat.picks and offered.issuperset(chat.picks) else first_picks(choices, SIDES)
        changes = {column: gr.update(visible=position < chat.count) for position, column in enumerate(self.columns)}
        for pick, value in zip(self.picks, picks):
            changes[pick] = gr.update(choices=choices, value=value, visible=not chat.blind)
        changes.update(self.show_sides(chat, list(range(SIDES))))
        changes.update(self.show_vote(chat))
        return changes


def status_line(status: str) -> str:
    """The line below the conversations that says whether answers are on their way."""
    return empty(status, status=True) if status else ""


def side_name(side: str, label: str) -> Markup:
    """The heading of a side in a blind round; `label` is the name of its checkpoint, "" before the vote."""
    return render("chat/side_name.html", side=side, label=label)


def result(chat: Chat, labels: list[str]) -> Markup:
    """What was voted, who was who, and how often each checkpoint has won."""
    names = [text.REVEAL.format(side=side, name=label) for side, label in zip(text.SIDE_NAMES, labels[:chat.count])]
    best_first = sorted(chat.wins.items(), key=lambda item: -item[1][0] / item[1][1])
    rows = [{"name": name, "wins": text.SCORE_WINS.format(wins=wins, rounds=rounds)}
            for name, (wins, rounds) in best_first]
    return render("chat/result.html", text=text, vote=text.REVEALED.format(choice=vote_words(chat)),
                  names=" · ".join(names), rows=rows)


def vote_words(chat: Chat) -> str:
    """The vote on a blind round in words."""
    many = chat.count > 2
    if chat.vote in ("tie", "both_bad"):
        words = shared_text.TIE if chat.vote == "tie" else shared_text.BOTH_BAD
        return words[many].lower()
    return text.VOTE_BEST.format(side=text.SIDE_NAMES[int(chat.vote) - 1], best=shared_text.BEST[many])
