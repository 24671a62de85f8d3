"""The Chat page: one prompt, two to four checkpoints, answered at the same time, judged, and if one likes without knowing who is who."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import gradio as gr

from playground.components.html import notice
from playground.components.inputs import Choice
from playground.components.notices import inform, mark_seen, warn
from playground.pages.chat import chat_feedback as opinions
from playground.pages.chat import checkpoints as speakers
from playground.pages.chat import text
from playground.pages.chat.checkpoints import first_picks
from playground.pages.chat.conversation import SIDES, Chat, Memory, Turn, asked_again, plain_text, prompt_of, reworded, settled
from playground.pages.chat.panes import ChatPanes, status_line
from playground.pages.chat.streaming import ChatRunner, GenerationRequest
from playground.voting import voter_of
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError


class ChatState(gr.State):
    """The chat of a browser tab, by reference: whoever streams into it and whoever judges it hold the same one."""

    def get_block_name(self) -> str:
        return "state"


class ChatPage:
    def __init__(self, workspace: Workspace, worker, voter: gr.BrowserState, notice: gr.HTML):
        self.workspace, self.voter, self.notice = workspace, voter, notice
        self.answerer = ChatRunner(workspace, worker)
        self.memory, self.lock = Memory(), threading.Lock()
        self.chat = ChatState(Chat())
        gr.Markdown(text.CHAT_ABOUT, container=False)
        with gr.Row(elem_id="chat-setup"):
            self.model = Choice(["bundled"], value="bundled", label=text.CHAT_MODEL, elem_id="chat-model", visible=False, min_width=200)
            self.preset = Choice(speakers.presets(workspace, [], "bundled"), value=None, label=text.PAIR, info=text.PAIR_INFO,
                                 elem_id="chat-preset", scale=3, min_width=220)
            self.count = gr.Radio([2, 3, 4], value=2, label=text.SIDE_COUNT, elem_id="chat-count", scale=2, min_width=190)
            self.blind = gr.Checkbox(False, label=text.BLIND, info=text.BLIND_INFO, elem_id="chat-blind", scale=3, min_width=240)
        self.sides = ChatPanes(workspace)
        self.status = gr.HTML("", elem_id="chat-status")
        self._build_input()
        self._wire_asking()
        self._wire_rest()

    def _build_input(self) -> None:
        with gr.Row(equal_height=True):
            self.input = gr.Textbox(label=text.CHAT_INPUT, placeholder=text.CHAT_PLACEHOLDER, lines=1, max_lines=6, scale=8, min_width=240,
                                    elem_id="chat-input")
            with gr.Column(scale=3, min_width=240):
                self.send = gr.Button(text.SEND, variant="primary", elem_id="chat-send", elem_classes="once")
                with gr.Row():
                    self.again = gr.Button(text.AGAIN, size="sm", elem_id="chat-again", elem_classes="once", min_width=90)
                    self.stop = gr.Button(text.CHAT_STOP, size="sm", elem_id="chat-stop", min_width=60)
                    self.clear = gr.Button(text.CLEAR, size="sm", elem_id="chat-clear", min_width=60)
        with gr.Row(elem_classes="controls"):
            self.examples = [gr.Button(example, size="sm", elem_id=f"chat-example-{i + 1}") for i, example in enumerate(text.EXAMPLES)]
        with gr.Accordion(text.SAMPLING, open=False), gr.Row():
            self.temperature = gr.Slider(0, 2, 1, step=0.05, label=text.TEMPERATURE, info=text.TEMPERATURE_INFO, min_width=200,
                                         elem_id="chat-temperature")
            self.top_p = gr.Slider(0.05, 1, 1, step=0.05, label=text.TOP_P, info=text.TOP_P_INFO, min_width=200, elem_id="chat-top-p")
            self.longest = gr.Slider(8, 512, 128, step=8, label=text.MAX_TOKENS, info=text.MAX_TOKENS_INFO, min_width=200,
                                     elem_id="chat-longest")

    def _wire_asking(self) -> None:
        """What makes checkpoints speak. The conversations themselves do not come back from the browser."""
        talks = self.sides.talks
        inputs = {self.chat, self.voter, self.model, *self.sides.picks, self.input, self.temperature, self.top_p, self.longest}
        outputs = [self.notice, self.status, self.input, *talks, *self.sides.verdicts]
        # No event of these waits for another, nor is cancelled by one: what is no longer asked for ends by itself (`_answer`), while what
        # Gradio cancels may be the next question already.
        asking = {"concurrency_id": "chat", "concurrency_limit": 4, "show_progress": "hidden", "trigger_mode": "multiple",
                  "api_visibility": "private"}
        gr.on([self.send.click, self.input.submit], self._send, inputs, outputs, **asking)
        gr.on([self.again.click, *(talk.retry for talk in talks)], self._again, inputs, outputs, **asking)
        gr.on([talk.edit for talk in talks], self._edit, inputs, outputs, **asking)

    def _wire_rest(self) -> None:
        private, sides = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}, self.sides
        self.face = face = [self.status, self.model, self.preset, self.count, self.blind, *sides.outputs]
        self.stop.click(self._stop, {self.chat}, [self.status, *sides.talks, *sides.verdicts], **private)
        gr.on([self.clear.click, *(talk.clear for talk in sides.talks)], self._clear, {self.chat, *sides.picks}, face, **private)
        self.model.change(self._other_model, {self.chat, self.model}, face, **private)
        self.count.input(self._other_count, {self.chat, self.count, *sides.picks}, face, **private)
        self.blind.input(self._other_blind, {self.chat, self.blind, *sides.picks}, face, **private)
        self.preset.input(self._show_pair, {self.chat, self.preset}, face, **private)
        gr.on([pick.input for pick in sides.picks], lambda: None, None, self.preset, **private)
        judged = {self.chat, self.voter}
        gr.on([talk.like for talk in sides.talks], self._thumb, judged, [self.notice, *sides.talks], trigger_mode="multiple", **private)
        gr.on([button.click for button in sides.buttons], self._vote, judged, [self.notice, self.status, *sides.talks, *sides.verdicts],
              **private)
        for button in self.examples:
            button.click(lambda example: example, button, self.input, **private)

    # -- asking ------------------------------------------------------------------------------------------------------

    def _send(self, values: dict) -> Iterator[dict]:
        message = (values[self.input] or "").strip()
        if not message:
            yield {self.notice: notice(text.NOTHING_TO_SAY)}
        elif values[self.chat].sent_twice(message):
            yield gr.skip()  # a stream without items would empty the page
        else:
            yield from self._ask(values, message, typed=message)

    def _again(self, values: dict, event: gr.EventData) -> Iterator[dict]:
        """The last question once more: of one side by its own button, of all by the one below."""
        chat, one = values[self.chat], self.sides.place(event)
        asked = {place: side for place in range(chat.count) if (side := asked_again(chat.sides[place])) and one in (None, place)}
        if asked and one is None and chat.blind:
            yield from self._ask(values, next(iter(asked.values()))[-1].text)
            return
        if asked:
            yield from self._answer(values, asked)
        else:
            yield {self.notice: notice(text.NOTHING_TO_REPEAT)}

    def _edit(self, values: dict, event: gr.EditData) -> Iterator[dict]:
        """A question in other words is asked again, of all that have heard it. An answer in better words is kept, and gone on from."""
        chat, place, message = values[self.chat], self.sides.place(event), plain_text(event.value).strip()
        side = chat.sides[place]
        turn = side[event.index] if event.index < len(side) else None
        if turn is None or not turn.ended or message == plain_text(event.previous_value).strip():
            yield self.sides.settle(chat, [place])
        elif turn.role == "assistant":
            yield self._better(values, place, event.index, message)
        elif not message:
            yield self.sides.settle(chat, [place]) | {self.notice: notice(text.NOTHING_TO_SAY)}
        elif chat.blind:
            yield from self._ask(values, message)
        else:
            again = Turn("user", message)
            yield from self._answer(values, {i: new for i in range(chat.count) if (new := reworded(chat.sides[i], turn, again))})

    def _ask(self, values: dict, message: str, *, typed: str = "") -> Iterator[dict]:
        """A new question, of all sides; blind, a new round."""
        chat, before = values[self.chat], values[self.chat].state()
        if chat.blind:
            picks = self._picked(values)[:chat.count]
            if twice := next((pick for pick in picks if picks.count(pick) > 1), ""):
                labels = {value: label for label, value in self.workspace.chat_choices(chat.model)}
                yield {self.notice: notice(text.SAME_TWICE.format(name=labels.get(twice, twice)))}
                return
            chat.shuffle()
        question = Turn("user", message)
        asked = {place: [*settled(chat.sides[place]), question] for place in range(chat.count)}
        yield from self._answer(values, asked, before, typed=typed)

    def _answer(self, values: dict, asked: dict[int, list[Turn]], before: tuple = (), *, typed: str = "") -> Iterator[dict]:
        """The answers as they grow. What goes wrong leaves the page as it was `before`, with what was `typed` to be sent again."""
        chat, sides, places = values[self.chat], self.sides, list(asked)
        before = before or chat.state()
        chat.model, chat.picks = values[self.model], self._picked(values)
        number = chat.begin(asked)
        self.memory.keep(values[self.voter], chat)
        try:
            yield {self.notice: "", self.status: status_line(text.WAITING), **sides.settle(chat, places), **sides.verdict(chat),
                   **({self.input: ""} if typed else {})}
            wish = GenerationRequest(chat.model, chat.picks, int(values[self.longest]), float(values[self.temperature]), float(values[self.top_p]))
            status = {self.status: ""}
            for _ in self.answerer.answer(chat, places, wish):
                yield sides.texts(chat, places) | status
                status = {}
            if chat.asked == number:
                yield {self.status: status_line(done(chat, places)), **sides.settle(chat, places), **sides.verdict(chat)}
            else:  # stopped or cleared: an item that is still on its way is true no more, nor is the last one, which Gradio sends again
                yield sides.settle(chat, places)
                yield gr.skip()
        except UserError as error:
            if chat.asked == number:
                chat.restore(before)
                yield {self.notice: warn(error), self.status: "", **sides.settle(chat, places), **sides.verdict(chat),
                       **({self.input: typed} if typed else {})}
        finally:
            if chat.asked == number:  # the browser may have left in the middle of it
                chat.stop()

    def _stop(self, values: dict) -> dict:
        chat = values[self.chat]
        chat.stop()
        return {self.status: status_line(text.STOPPED) if any(chat.sides) else "", **self.sides.settle(chat, list(range(chat.count))),
                **self.sides.verdict(chat)}

    # -- judging -----------------------------------------------------------------------------------------------------

    def _thumb(self, values: dict, event: gr.LikeData) -> dict:
        """A thumb goes into the store; taking it off takes it back."""
        chat, place, trouble = values[self.chat], self.sides.place(event), ""
        side = chat.sides[place]
        try:
            turn = side[event.index] if event.index < len(side) else None
            if turn is None or turn.role != "assistant" or not turn.ended:
                raise UserError(text.STILL_WRITING)
            if turn.text != turn.said:
                raise UserError(text.OWN_WORDS)
            value = "up" if event.liked is True else "down" if event.liked is False else ""
            self._say(values, side, event.index, "thumb", value)
        except UserError as error:
            trouble = warn(error)
        return {self.notice: trouble, self.sides.talks[place]: gr.update(feedback_value=self.sides.thumbs(chat, place))}

    def _better(self, values: dict, place: int, index: int, written: str) -> dict:
        """The person's own words in the place of an answer. What came after it was said to other words, and goes."""
        chat, side = values[self.chat], values[self.chat].sides[place]
        try:
            if chat.hidden:
                raise UserError(text.NO_EDIT_BLIND)
            if not written:
                raise UserError(text.EMPTY_EDIT)
            own = "" if written == side[index].said.strip() else written
            self._say(values, side, index, "edit", own)
            chat.cut(place, index, replace(side[index], text=own or side[index].said))
            trouble = inform(text.EDIT_KEPT)
        except UserError as error:
            trouble = warn(error)
        return {self.notice: trouble, **self.sides.settle(chat, [place])}

    def _say(self, values: dict, side: list[Turn], index: int, kind: str, value: str) -> None:
        self.workspace.access.limit("vote", value)
        self.memory.keep(values[self.voter], values[self.chat])
        with self.lock:  # two clicks at once are one after the other
            opinions.say(self.workspace.store, side[index], kind, value, prompt_of(side[:index]), voter_of(values[self.voter]))

    def _vote(self, values: dict, event: gr.EventData) -> dict:
        """A vote on a blind round, and then who was who."""
        chat, choice, trouble = values[self.chat], self.sides.choice(event), ""
        places = list(range(chat.count))
        with self.lock:
            try:
                if chat.votable:
                    self.workspace.access.limit("vote")
                    answers, prompt = [chat.sides[place][-1] for place in places], prompt_of(chat.sides[0][:-1])
                    vote = opinions.verdict(f"{chat.round}-vote", answers, chat.order, choice, prompt, voter_of(values[self.voter]))
                    self.workspace.store.add(vote)
                    chat.decide(choice, self.sides.labels(chat))
            except UserError as error:
                trouble = warn(error)
        return {self.notice: trouble, self.status: "", **self.sides.settle(chat, places), **self.sides.verdict(chat)}

    # -- who is asked ------------------------------------------------------------------------------------------------

    def _clear(self, values: dict) -> dict:
        values[self.chat].clear()
        return self._face(values[self.chat], values)

    def _other_model(self, values: dict) -> dict:
        chat = values[self.chat]
        if values[self.model] == chat.model:
            return gr.skip()
        chat.clear()
        chat.model, chat.picks = values[self.model], ()
        return self._face(chat)

    def _other_count(self, values: dict) -> dict:
        """Sides that go take their conversations along."""
        chat = values[self.chat]
        chat.stop()
        chat.count = int(values[self.count])
        chat.sides = [side if place < chat.count else [] for place, side in enumerate(chat.sides)]
        return self._face(chat, values)

    def _other_blind(self, values: dict) -> dict:
        """Begins anew: what was said by name is no blind round, and a blind round without a vote stays one."""
        chat = values[self.chat]
        chat.clear()
        chat.blind = bool(values[self.blind])
        return self._face(chat, values)

    def _show_pair(self, values: dict) -> dict:
        chat, (before, _, after) = values[self.chat], str(values[self.preset] or "").partition("|")
        if not after:
            return gr.skip()
        chat.clear()
        chat.count, chat.picks = 2, (before, after, *first_picks(self.workspace.chat_choices(chat.model), SIDES)[2:])
        return {part: update for part, update in self._face(chat).items() if part is not self.preset}

    def _face(self, chat: Chat, values: dict | None = None) -> dict:
        """The whole page as this chat has it; the pickers stay as they are in `values`."""
        if values:
            chat.picks = self._picked(values)
        shown = {"visible": not chat.blind}
        return {self.status: "", self.preset: gr.update(value=None, **shown), self.count: gr.update(value=chat.count, **shown),
                self.model: gr.update(value=chat.model), self.blind: chat.blind, **self.sides.face(chat)}

    def _picked(self, values: dict) -> tuple[str, ...]:
        return tuple(values[pick] for pick in self.sides.picks)

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        return {self.model, *self.sides.picks}

    @property
    def outputs(self) -> list:
        """Not the conversations: what a tick may change loses its place on the screen at each."""
        return [self.model, self.preset, *self.sides.picks]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        changes, model = {}, values[self.model]
        models = self.workspace.model_choices()
        if mark_seen(seen, "chat models", models):
            changes[self.model] = gr.update(choices=models, visible=len(models) > 1)
        live = next((self.workspace.name_of(e.model) for e in entries if e.alive), "")
        if mark_seen(seen, "chat live", live) and live and live != model:  # while a run is live, only its model can answer
            changes[self.model] = gr.update(choices=models, visible=len(models) > 1, value=live)
        if mark_seen(seen, "chat presets", pairs := speakers.presets(self.workspace, entries, model)):
            changes[self.preset] = gr.update(choices=pairs)
        choices = self.workspace.chat_choices(model)
        if mark_seen(seen, "chat adapters", choices):
            offered = {value for _, value in choices}
            # A tick may see the new model beside the picks of the old one: it must choose what `_other_model` chooses.
            for pick, first in zip(self.sides.picks, first_picks(choices, SIDES)):
                changes[pick] = gr.update(choices=choices, **({"value": first} if values[pick] not in offered else {}))
        return changes

    def restore(self, values: dict) -> dict:
        """For a page that is loaded: the chat as this browser left it, thumbs and all. Its tabs go separate ways from there."""
        chat = self.memory.find(values[self.voter])
        if chat is None or chat.model not in self.workspace.model_choices():
            return gr.skip()
        return self._face(chat) | {self.chat: chat}


def done(chat: Chat, places: list[int]) -> str:
    if chat.votable:
        return text.ENDED_BLIND
    return {1: text.ENDED_ONE, 2: text.ENDED}.get(len(places), text.ENDED_MORE.format(count=len(places)))
