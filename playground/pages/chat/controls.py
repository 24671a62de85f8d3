"""The controls of the Chat page: who answers, above the conversations; the message and its sampling, below them."""

from dataclasses import dataclass

import gradio as gr

from playground.components.inputs import Choice
from playground.components.notices import mark_seen
from playground.pages.chat import text
from playground.pages.chat.chat_cache import ChatCache
from playground.pages.chat.checkpoints import presets
from playground.pages.chat.conversation import Chat
from playground.pages.chat.panes import ChatPanes
from playground.pages.chat.streaming import GenerationRequest
from playground.workspace import RunSummary, Workspace
from rlhf_engine.worker.requests import MAX_BEST_OF


class ChatState(gr.State):
    """The chat of a browser tab. All handlers of that tab share one `Chat`, also those that are still streaming."""

    def get_block_name(self) -> str:
        """The name of Gradio's own component, whose code the browser uses."""
        return "state"


class ChatSetup:
    """The row above the conversations: base model, pairs of checkpoints, number of sides, blind or not."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        with gr.Row(elem_id="chat-setup"):
            self.model = Choice(["bundled"], value="bundled", label=text.CHAT_MODEL, elem_id="chat-model",
                                visible=False, min_width=200)
            self.preset = Choice(presets(workspace, [], "bundled"), value=None, label=text.PAIR, info=text.PAIR_INFO,
                                 elem_id="chat-preset", scale=3, min_width=220)
            self.count = gr.Radio([2, 3, 4], value=2, label=text.SIDE_COUNT, elem_id="chat-count", scale=2,
                                  min_width=190)
            self.blind = gr.Checkbox(False, label=text.BLIND, info=text.BLIND_INFO, elem_id="chat-blind", scale=3,
                                     min_width=240)

    @property
    def outputs(self) -> list:
        """The components that `show` updates."""
        return [self.model, self.preset, self.count, self.blind]

    def show(self, chat: Chat) -> dict:
        """The updates that show a chat. A blind chat has no pairs and keeps its number of sides."""
        return {self.preset: gr.update(value=None, visible=not chat.blind),
                self.count: gr.update(value=chat.count, visible=not chat.blind),
                self.model: gr.update(value=chat.model), self.blind: chat.blind}

    def refresh(self, model: str, entries: list[RunSummary], seen: dict) -> dict:
        """The updates of the models and pairs where they have changed.

        While a run is live, only its model can answer.
        """
        changes = {}
        models = self.workspace.model_choices()
        choices = {"choices": models, "visible": len(models) > 1}
        if mark_seen(seen, "chat models", models):
            changes[self.model] = gr.update(**choices)
        live = next((self.workspace.name_of(entry.model) for entry in entries if entry.alive), "")
        if mark_seen(seen, "chat live", live) and live and live != model:
            changes[self.model] = gr.update(value=live, **choices)
        pairs = presets(self.workspace, entries, model)
        if mark_seen(seen, "chat presets", pairs):
            changes[self.preset] = gr.update(choices=pairs)
        return changes


class ChatInput:
    """The rows below the conversations: the message, its buttons, examples, and the settings of sampling."""

    def __init__(self):
        with gr.Row(equal_height=True):
            self.message = gr.Textbox(label=text.CHAT_INPUT, placeholder=text.CHAT_PLACEHOLDER, lines=1, max_lines=6,
                                      scale=8, min_width=240, elem_id="chat-input")
            with gr.Column(scale=3, min_width=240):
                self.send = gr.Button(text.SEND, variant="primary", elem_id="chat-send", elem_classes="once")
                with gr.Row():
                    self.again = gr.Button(text.AGAIN, size="sm", elem_id="chat-again", elem_classes="once",
                                           min_width=90)
                    self.stop = gr.Button(text.CHAT_STOP, size="sm", elem_id="chat-stop", min_width=60)
                    self.clear = gr.Button(text.CLEAR, size="sm", elem_id="chat-clear", min_width=60)
        with gr.Row(elem_classes="controls"):
            self.examples = [gr.Button(example, size="sm", elem_id=f"chat-example-{number}")
                             for number, example in enumerate(text.EXAMPLES, 1)]
        with gr.Accordion(text.SAMPLING, open=False):
            with gr.Row():
                self.temperature = gr.Slider(0, 2, 1, step=0.05, label=text.TEMPERATURE, info=text.TEMPERATURE_INFO,
                                             min_width=200, elem_id="chat-temperature")
                self.top_p = gr.Slider(0.05, 1, 1, step=0.05, label=text.TOP_P, info=text.TOP_P_INFO, min_width=200,
                                       elem_id="chat-top-p")
                self.longest = gr.Slider(8, 512, 128, step=8, label=text.MAX_TOKENS, info=text.MAX_TOKENS_INFO,
                                         min_width=200, elem_id="chat-longest")
            with gr.Row():
                self.best_of = gr.Slider(1, MAX_BEST_OF, 1, step=1, label=text.BEST_OF, info=text.BEST_OF_INFO,
                                         min_width=260, elem_id="chat-best-of")
                self.reward = Choice([], value=None, label=text.BEST_REWARD, info=text.BEST_REWARD_INFO, min_width=260,
                                     elem_id="chat-reward")

    @property
    def sampling(self) -> list:
        """The components with the settings of sampling."""
        return [self.temperature, self.top_p, self.longest, self.best_of, self.reward]

    def request(self, values: dict, chat: Chat) -> GenerationRequest:
        """What a worker is asked for: the checkpoints of a chat, and the settings of sampling."""
        return GenerationRequest(chat.model, chat.picks, int(values[self.longest]), float(values[self.temperature]),
                                 float(values[self.top_p]), int(values[self.best_of]), values[self.reward] or "")

    def refresh(self, rewards: list[str], chosen: str | None, seen: dict) -> dict:
        """The update of the reward runs where they have changed; one that is gone gives way to the newest."""
        if not mark_seen(seen, "chat rewards", rewards):
            return {}
        value = chosen if chosen in rewards else next(iter(rewards), None)
        return {self.reward: gr.update(choices=rewards, value=value)}


@dataclass
class ChatParts:
    """What the handlers of the Chat page share."""

    workspace: Workspace
    cache: ChatCache
    chat: ChatState
    voter: gr.BrowserState
    """The secret of a browser."""
    notice: gr.HTML
    setup: ChatSetup
    panes: ChatPanes
    status: gr.HTML
    input: ChatInput
