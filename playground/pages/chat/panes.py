"""The sides of the Chat page: a checkpoint and its conversation each, and below them, blind, the vote and what it showed."""

import gradio as gr

from playground.components import text as shared_text
from playground.components.html import escape
from playground.components.inputs import Choice
from playground.pages.chat import chat_feedback as opinions
from playground.pages.chat import text
from playground.pages.chat.checkpoints import first_picks
from playground.pages.chat.conversation import SIDES, Chat, shown
from playground.scripts import read_script
from playground.voting import VotingService
from playground.workspace import Workspace
from rlhf_engine.errors import UserError

IDS = ("left", "right", "third", "fourth")


class ChatPanes:
    """Builds its components inside the current `gr.Blocks`. The methods say what they should show of a chat."""

    def __init__(self, workspace: Workspace, ballot: VotingService):
        self.workspace, self.ballot = workspace, ballot
        self.resets = 0
        choices = workspace.chat_choices("bundled")
        self.columns, self.names, self.picks, self.talks = [], [], [], []
        with gr.Row(elem_id="chat-sides"):
            for place, (name, title, value) in enumerate(zip(IDS, text.SIDE_LABELS, first_picks(choices, SIDES))):
                with gr.Column(min_width=240, visible=place < 2) as column:
                    self.names.append(gr.HTML("", elem_id=f"chat-{name}-name", visible=False, apply_default_css=False))
                    self.picks.append(Choice(choices, value=value, label=title, elem_id=f"chat-{name}-adapter"))
                    self.talks.append(gr.Chatbot(label=title, show_label=False, height=380, render_markdown=False, latex_delimiters=[],
                                                 buttons=[], placeholder=text.EMPTY_CHAT, elem_id=f"chat-{name}", layout="bubble",
                                                 editable="all"))
                self.columns.append(column)
        with gr.Row(visible=False, elem_id="chat-votes") as self.votes:
            self.best = [gr.Button("", elem_id=f"chat-best-{place + 1}", min_width=110) for place in range(SIDES)]
            self.tie = gr.Button(shared_text.TIE[0], elem_id="chat-tie", min_width=110)
            self.both_bad = gr.Button(shared_text.BOTH_BAD[0], elem_id="chat-both-bad", min_width=110)
        self.result = gr.HTML("", elem_id="chat-result", apply_default_css=False, js_on_load=read_script("edit_as_text"))
        self.buttons = [*self.best, self.tie, self.both_bad]

    @property
    def verdicts(self) -> list:
        """What a vote changes."""
        return [*self.names, self.result, self.votes, *self.buttons]

    @property
    def outputs(self) -> list:
        return [*self.columns, *self.picks, *self.talks, *self.verdicts]

    def place(self, event: gr.EventData) -> int | None:
        """Of which conversation an event is. By its id: a session has copies of its own of what was updated."""
        name = getattr(event.target, "elem_id", "").removeprefix("chat-")
        return IDS.index(name) if name in IDS else None

    def choice(self, event: gr.EventData) -> str:
        """What a button votes for: "1" to "4", "tie" or "both_bad"."""
        return event.target.elem_id.removeprefix("chat-").removeprefix("best-").replace("-", "_")

    def texts(self, chat: Chat, places: list[int]) -> dict:
        """The words alone, while they come."""
        return {self.talks[place]: shown(chat.sides[place], shared_text.EMPTY_RESPONSE) for place in places}

    def settle(self, chat: Chat, places: list[int]) -> dict:
        """Words, and thumbs as they stand in the store. Blind, no answer can be edited: the vote is on what was said."""
        editable = "user" if chat.hidden else "all"
        return {talk: gr.update(value=value, feedback_value=self.thumbs(chat, place), editable=editable)
                for place, (talk, value) in zip(places, self.texts(chat, places).items())}

    def thumbs(self, chat: Chat, place: int) -> list[str]:
        """One for each answer. A browser clears its own thumb only when told something new, so "none" is always another word."""
        turns = [turn for turn in chat.sides[place] if turn.role == "assistant"]
        try:
            found = opinions.thumbs(self.ballot.store, turns)
        except UserError:  # said where a thumb is given
            found = [""] * len(turns)
        self.resets += 1
        return [opinions.THUMBS.get(thumb, f"none {self.resets}") for thumb in found]

    def verdict(self, chat: Chat) -> dict:
        """The vote's buttons while there is one to give, the names when it is given."""
        many, count = chat.count > 2, chat.count
        best = {button: gr.update(value=text.VOTE_BEST.format(side=side, best=shared_text.BEST[many]), visible=place < count)
                for place, (side, button) in enumerate(zip(text.SIDE_NAMES, self.best))}
        labels = self.labels(chat) if chat.verdict else []
        names = {name: gr.update(value=side_name(side, labels[place] if place < len(labels) else ""), visible=chat.blind)
                 for place, (side, name) in enumerate(zip(text.SIDE_NAMES, self.names))}
        return {self.votes: gr.update(visible=chat.votable), **best, self.tie: gr.update(value=shared_text.TIE[many]),
                self.both_bad: gr.update(value=shared_text.BOTH_BAD[many]), **names, self.result: result(chat, labels) if labels else ""}

    def labels(self, chat: Chat) -> list[str]:
        """Who speaks at each place, by name."""
        names = {value: label for label, value in self.workspace.chat_choices(chat.model)}
        picks = [chat.picks[chat.order[place]] if chat.picks else "" for place in range(chat.count)]
        return [names.get(pick, pick) for pick in picks]

    def face(self, chat: Chat) -> dict:
        """Everything."""
        choices, places = self.workspace.chat_choices(chat.model), list(range(SIDES))
        gone = not chat.picks or not {value for _, value in choices}.issuperset(chat.picks)
        picks = first_picks(choices, SIDES) if gone else chat.picks
        return {**{column: gr.update(visible=place < chat.count) for place, column in zip(places, self.columns)},
                **{pick: gr.update(choices=choices, value=value, visible=not chat.blind) for pick, value in zip(self.picks, picks)},
                **self.settle(chat, places), **self.verdict(chat)}


def status_line(status: str) -> str:
    return f'<p class="empty" role="status">{escape(status)}</p>' if status else ""


def side_name(side: str, label: str) -> str:
    return f'<p class="side-name"><strong>{side}</strong>{f"<span>{escape(label)}</span>" if label else ""}</p>'


def result(chat: Chat, labels: list[str]) -> str:
    """Who was who, what was voted, and how often each has won."""
    who = " · ".join(text.REVEAL.format(side=side, name=name) for side, name in zip(text.SIDE_NAMES, labels[:chat.count]))
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text.SCORE_WINS.format(wins=wins, rounds=rounds))}</td></tr>'
                   for name, (wins, rounds) in sorted(chat.score.items(), key=lambda item: -item[1][0] / item[1][1]))
    heads = "".join(f'<th scope="col">{head}</th>' for head in text.SCORE_HEADS)
    return (f'<section class="reveal"><p role="status">{escape(text.REVEALED.format(choice=choice_words(chat)))} {escape(who)}</p>'
            f'<table><caption>{text.SCORE_TITLE}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></section>')


def choice_words(chat: Chat) -> str:
    many = chat.count > 2
    if chat.verdict in ("tie", "both_bad"):
        return (shared_text.TIE if chat.verdict == "tie" else shared_text.BOTH_BAD)[many].lower()
    return text.VOTE_BEST.format(side=text.SIDE_NAMES[int(chat.verdict) - 1], best=shared_text.BEST[many])
