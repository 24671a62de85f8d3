"""The Chat page: one prompt, two checkpoints, answered at the same time."""

import html
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import gradio as gr

from playground import strings as s
from playground import views
from playground.form import Choice
from playground.train import changed, complain
from playground.workspace import Entry, Workspace
from rlhf_engine.config import UserError

FRAME = 0.06
"""Seconds between two updates of the page while text streams in."""


class ChatPage:
    def __init__(self, workspace: Workspace, worker, notice: gr.HTML):
        self.workspace, self.worker, self.notice = workspace, worker, notice
        choices = workspace.chat_choices("bundled")
        gr.Markdown(s.CHAT_ABOUT, container=False)
        self.model = Choice(["bundled"], value="bundled", label=s.CHAT_MODEL, elem_id="chat-model", visible=False)
        with gr.Row():
            self.sides = []
            for side, title, value in (("left", s.LEFT, "none"), ("right", s.RIGHT, "bundled")):
                with gr.Column(min_width=300):
                    pick = Choice(choices, value=value, label=title, elem_id=f"chat-{side}-adapter")
                    talk = gr.Chatbot(label=title, show_label=False, height=380, render_markdown=False, latex_delimiters=[], buttons=[],
                                      feedback_options=None, placeholder=s.EMPTY_CHAT, elem_id=f"chat-{side}", layout="bubble")
                self.sides.append((pick, talk))
        self.status = gr.HTML("", elem_id="chat-status")
        with gr.Row(equal_height=True):
            self.input = gr.Textbox(label=s.CHAT_INPUT, placeholder=s.CHAT_PLACEHOLDER, lines=1, max_lines=6, scale=8, min_width=240,
                                    elem_id="chat-input")
            with gr.Column(scale=2, min_width=200):
                self.send = gr.Button(s.SEND, variant="primary", elem_id="chat-send")
                with gr.Row():
                    self.stop = gr.Button(s.CHAT_STOP, size="sm", elem_id="chat-stop", min_width=80)
                    self.clear = gr.Button(s.CLEAR, size="sm", elem_id="chat-clear", min_width=80)
        with gr.Row(elem_classes="controls"):
            self.examples = [gr.Button(example, size="sm", elem_id=f"chat-example-{i + 1}") for i, example in enumerate(s.EXAMPLES)]
        with gr.Accordion(s.SAMPLING, open=False), gr.Row():
            self.temperature = gr.Slider(0, 2, 1, step=0.05, label=s.TEMPERATURE, info=s.TEMPERATURE_INFO, min_width=200)
            self.top_p = gr.Slider(0.05, 1, 1, step=0.05, label=s.TOP_P, info=s.TOP_P_INFO, min_width=200)
            self.longest = gr.Slider(8, 512, 128, step=8, label=s.MAX_TOKENS, info=s.MAX_TOKENS_INFO, min_width=200,
                                     elem_id="chat-longest")
        self._wire()

    def _wire(self) -> None:
        (left, left_talk), (right, right_talk) = self.sides
        inputs = {self.model, left, right, left_talk, right_talk, self.input, self.temperature, self.top_p, self.longest}
        outputs = [self.notice, self.status, self.input, left_talk, right_talk]
        asked = gr.on([self.send.click, self.input.submit], self._answer, inputs, outputs, concurrency_id="chat",
                      concurrency_limit=4, show_progress="hidden", trigger_mode="once", api_visibility="private")
        private = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self.stop.click(lambda: "", None, self.status, cancels=[asked], **private)
        self.clear.click(lambda: ([], [], ""), None, [left_talk, right_talk, self.status], cancels=[asked], **private)
        self.model.change(self._other_model, self.model, [left, right, left_talk, right_talk], **private)
        for button in self.examples:
            button.click(lambda text: text, button, self.input, **private)

    def _answer(self, values: dict) -> Iterator[dict]:
        prompt = (values[self.input] or "").strip()
        if not prompt:
            yield {self.notice: views.notice(s.NOTHING_TO_SAY)}
            return
        picks, talks = zip(*self.sides)
        histories = [plain(values[talk]) + [{"role": "user", "content": prompt}] for talk in talks]

        def show(texts: list[str], status: str) -> dict:
            return {self.notice: "", self.status: f'<p class="empty" role="status">{status}</p>',
                    **{talk: inert(history + ([{"role": "assistant", "content": text}] if text else []))
                       for talk, history, text in zip(talks, histories, texts)}}

        yield show(["", ""], s.WAITING) | {self.input: ""}
        try:
            texts = ["", ""]
            for texts in paced(self._stream(values, [values[pick] for pick in picks], histories)):
                yield show(texts, "")
            yield show([text or "…" for text in texts], s.ENDED)
        except UserError as error:
            yield {self.notice: complain(error), self.status: "", self.input: prompt,
                   **{talk: inert(history[:-1]) for talk, history in zip(talks, histories)}}

    def _stream(self, values: dict, adapters: list[str], histories: list[list[dict]]) -> Iterator[list[str]]:
        """Both answers, advancing together; two conversations that have parted are two questions to the worker."""
        adapters = [self.workspace.chat_adapter(name) for name in adapters]
        sampling = {"model": self.workspace.model(values[self.model]), "max_new_tokens": int(values[self.longest]),
                    "temperature": float(values[self.temperature]), "top_p": float(values[self.top_p])}
        if histories[0] == histories[1]:
            return self.worker.chat(adapters, histories[0], **sampling)
        return together([self.worker.chat([adapter], history, **sampling) for adapter, history in zip(adapters, histories)])

    def _other_model(self, model: str) -> list:
        choices = self.workspace.chat_choices(model)
        return [*(gr.update(choices=choices, value=value) for value in first_picks(choices)), [], []]

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        return {self.model, *(pick for pick, _ in self.sides)}

    @property
    def outputs(self) -> list:
        return [self.model, *(pick for pick, _ in self.sides)]

    def refresh(self, values: dict, entries: list[Entry], seen: dict) -> dict:
        changes, model = {}, values[self.model]
        models = self.workspace.model_choices()
        if changed(seen, "chat models", models):
            changes[self.model] = gr.update(choices=models, visible=len(models) > 1)
        live = next((self.workspace.name_of(e.model) for e in entries if e.alive), "")
        if changed(seen, "chat live", live) and live and live != model:  # while a run is live, only its model can answer
            changes[self.model] = gr.update(choices=models, visible=len(models) > 1, value=live)
        choices = self.workspace.chat_choices(model)
        if changed(seen, "chat adapters", choices):
            offered = {value for _, value in choices}
            # A tick may see the new model beside the picks of the old one: it must choose what `_other_model` chooses.
            for (pick, _), first in zip(self.sides, first_picks(choices)):
                gone = values[pick] not in offered
                changes[pick] = gr.update(choices=choices, **({"value": first} if gone else {}))
        return changes


def first_picks(choices: list[tuple[str, str]]) -> tuple[str, str]:
    """Who answers on the left and on the right before anybody chooses: the bare model, and the newest that is trained."""
    return "none", next((value for _, value in choices if value != "none"), "none")


def inert(messages: list[dict]) -> list[dict]:
    """Messages as the Chatbot may have them: it renders HTML even with markdown switched off, so that text comes as entities."""
    return [message | {"content": html.escape(message["content"], quote=False)} for message in messages]


def plain(messages: list[dict]) -> list[dict]:
    """What the Chatbot hands back, as role and text again: the inverse of `inert`."""
    return [{"role": m["role"], "content": html.unescape(content if isinstance(content := m["content"], str)
             else "".join(part.get("text", "") for part in content))} for m in messages or []]


def together(streams: list[Iterator[list[str]]]) -> Iterator[list[str]]:
    """Streams of one text each as one stream of them all; whichever comes first is shown first."""
    arrived: queue.Queue = queue.Queue()
    left = threading.Event()

    def read(place: int, stream: Iterator[list[str]]) -> None:
        end = None
        try:
            with closing(stream):
                for [text] in stream:
                    arrived.put((place, text))
                    if left.is_set():
                        break
        except Exception as error:  # raised again below, in the thread that waits
            end = error
        arrived.put((place, end))

    for place, stream in enumerate(streams):
        threading.Thread(target=read, args=(place, stream), daemon=True).start()
    texts, going = [""] * len(streams), len(streams)
    try:
        while going:
            place, news = arrived.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                going -= 1
                continue
            texts[place] = news
            yield list(texts)
    finally:
        left.set()


def paced(texts: Iterator[list[str]]) -> Iterator[list[str]]:
    """The same stream with at most one item per frame, the last one always among them."""
    shown, latest, last = 0.0, None, None
    for latest in texts:
        if time.monotonic() - shown >= FRAME:
            shown, last = time.monotonic(), latest
            yield latest
    if latest is not None and latest != last:
        yield latest
