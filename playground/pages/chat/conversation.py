"""Conversations side by side: who said what, what is asked of whom next, and several streams of answers as one. No Gradio in here."""

import copy
import html
import queue
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

from playground.pages.chat.checkpoints import ChatCheckpoint
from rlhf_engine.data.tokenization import Prompt

SIDES = 4
"""Checkpoints that can be asked at the same time."""
FRAME = 0.06
"""Seconds between two updates of the page while text streams in."""
TWICE = 1.0
"""Seconds within which the same words once more are a double click."""


def fresh_id() -> str:
    return f"chat-{secrets.token_hex(8)}"


@dataclass(frozen=True)
class Turn:
    """One message. Of an answer also who gave it and how, which is what an opinion on it is stored with."""

    role: str
    text: str
    id: str = field(default_factory=fresh_id)
    """The same on all sides for what the user has said to all of them."""
    said: str = ""
    """What the model said, where a person has put better words into its mouth."""
    speaker: ChatCheckpoint = ChatCheckpoint("none", "none", "none")
    sampling: dict = field(default_factory=dict)
    ended: bool = True
    stopped: bool = False
    """Whether somebody stopped the answer before it was complete."""
    head: int = 0
    """Of the store when this was said: opinions on it come later."""


@dataclass
class Chat:
    """What one browser tab talks about. It stays on the server, so that nothing on a blind page tells who is who."""

    model: str = "bundled"
    picks: tuple[str, ...] = ()
    """Who was asked last, by picker."""
    count: int = 2
    sides: list[list[Turn]] = field(default_factory=lambda: [[] for _ in range(SIDES)])
    """One conversation for each place on the screen. The lists are replaced, never changed: a reader may hold on to one."""
    blind: bool = False
    order: tuple[int, ...] = tuple(range(SIDES))
    """The picker who speaks at each place."""
    round: str = ""
    """Id of the blind question that was asked last."""
    verdict: str = ""
    """The vote on it."""
    score: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Wins and rounds of each checkpoint, by the name it has on the page."""
    asked: int = 0
    """Counts what was asked: whoever is still answering an earlier question has to leave."""
    typed: tuple[str, float] = ("", 0.0)
    """What was sent last, and when (`time.monotonic`); nothing once that is cleared or has failed, so that it can be sent again."""

    @property
    def hidden(self) -> bool:
        """Whether nobody may know who is who."""
        return self.blind and not self.verdict

    @property
    def votable(self) -> bool:
        last = [side[-1] for side in self.sides[:self.count] if side]
        return (self.hidden and bool(self.round) and len(last) == self.count
                and all(turn.role == "assistant" and turn.ended for turn in last))

    def state(self) -> tuple:
        """For `restore`: what a question that fails leaves as it was."""
        return self.sides, self.order, self.round, self.verdict

    def restore(self, state: tuple) -> None:
        self.sides, self.order, self.round, self.verdict = state
        self.typed = ("", 0.0)

    def clear(self) -> None:
        self._empty()
        self.typed = ("", 0.0)

    def _empty(self) -> None:
        self.asked += 1
        self.sides, self.round, self.verdict, self.order = [[] for _ in range(SIDES)], "", "", tuple(range(SIDES))

    def shuffle(self) -> None:
        """A new blind round: empty sides in an order that nobody knows."""
        self._empty()
        self.round, self.order = fresh_id(), tuple(secrets.SystemRandom().sample(range(self.count), self.count))

    def begin(self, asked: dict[int, list[Turn]]) -> int:
        """Put the conversations that are to be answered in their places; returns the number of this question."""
        self.stop()
        self.sides = [asked.get(place, side) for place, side in enumerate(self.sides)]
        return self.asked

    def answer(self, place: int, turn: Turn) -> None:
        """The answer at the end of a side, in the place of what it was a moment ago."""
        side = self.sides[place]
        if not side:  # cleared this very moment
            return
        kept = side[:-1] if side[-1].id == turn.id else side
        self.sides = [[*kept, turn] if i == place else old for i, old in enumerate(self.sides)]

    def cut(self, place: int, index: int, turn: Turn) -> None:
        """`turn` in the place of what was said there, and nothing after it."""
        self.asked += 1
        self.sides = [[*side[:index], turn] if i == place else side for i, side in enumerate(self.sides)]

    def decide(self, choice: str, labels: list[str]) -> None:
        """The vote on a blind round: the place of the best, or another word. `labels` are who spoke, by place."""
        self.verdict = choice
        for place, label in enumerate(labels[:self.count]):
            wins, rounds = self.score.get(label, (0, 0))
            self.score[label] = wins + (choice == str(place + 1)), rounds + 1

    def sent_twice(self, text: str) -> bool:
        """Whether this is the other half of a double click. Notes what was sent."""
        before, self.typed = self.typed, (text, time.monotonic())
        return text == before[0] and self.typed[1] - before[1] < TWICE

    def stop(self) -> None:
        """Whoever is still answering leaves, in the middle of a word perhaps."""
        self.asked += 1
        self.sides = [[turn if turn.ended else replace(turn, ended=True, stopped=True)
                       for turn in side if turn.ended or turn.text] for side in self.sides]


class Memory:
    """Chats by browser, for a reload; the one that was heard of longest ago is forgotten first. Safe to use from any thread."""

    def __init__(self, longest: int = 500):
        self.longest, self._chats, self._lock = longest, OrderedDict(), threading.Lock()

    def keep(self, browser: str, chat: Chat) -> None:
        """`browser` is a secret of that browser; one without any is not remembered."""
        if not browser:
            return
        with self._lock:
            self._chats[browser] = chat
            self._chats.move_to_end(browser)
            if len(self._chats) > self.longest:
                self._chats.popitem(last=False)

    def find(self, browser: str) -> Chat | None:
        """A copy of the chat as it was left: two tabs of a browser go separate ways from there."""
        with self._lock:
            chat = copy.deepcopy(self._chats.get(browser))
        if chat:
            chat.stop()
        return chat


def settled(side: list[Turn]) -> list[Turn]:
    """A conversation to go on with: without a question at its end to which nobody has said anything."""
    return side[:-1] if side and side[-1].role == "user" else side


def asked_again(side: list[Turn]) -> list[Turn]:
    """A conversation up to its last question; nothing of one without any."""
    return side[:next((i for i in reversed(range(len(side))) if side[i].role == "user"), -1) + 1]


def reworded(side: list[Turn], turn: Turn, again: Turn) -> list[Turn]:
    """A conversation up to the question `turn`, and `again` in its place; nothing of one without it."""
    place = next((i for i, said in enumerate(side) if said.id == turn.id), None)
    return [] if place is None else [*side[:place], again]


def messages(side: list[Turn]) -> list[dict]:
    """As a worker takes them."""
    return [{"role": turn.role, "content": turn.text} for turn in side]


def prompt_of(side: list[Turn]) -> Prompt:
    """As the store takes what came before an answer: one question is a text, as the prompts of a run are."""
    return side[0].text if len(side) == 1 else messages(side)


def shown(side: list[Turn], empty: str) -> list[dict]:
    """As the Chatbot takes them; `empty` stands for an answer without words."""
    return inert([{"role": turn.role, "content": turn.text or empty} for turn in side if turn.text or turn.ended])


def alike(sides: list[list[Turn]]) -> list[list[int]]:
    """Places of the sides, those together whose conversations are equal: the worker answers them in one batch."""
    groups: dict[tuple, list[int]] = {}
    for place, side in enumerate(sides):
        groups.setdefault(tuple((turn.role, turn.text) for turn in side), []).append(place)
    return list(groups.values())


# -- to the Chatbot and back -----------------------------------------------------------------------------------------

AMBIGUOUS = re.compile(r"&(?=[#\w])")


def inert(messages: list[dict]) -> list[dict]:
    """Messages as the Chatbot may have them: it renders HTML even with markdown switched off, so that text comes as entities. As few as
    can be: they are what an editor shows."""
    return [message | {"content": AMBIGUOUS.sub("&amp;", message["content"]).replace("<", "&lt;")} for message in messages]


def plain(messages: list[dict]) -> list[dict]:
    """What the Chatbot hands back, as role and text again: the inverse of `inert`."""
    return [{"role": m["role"], "content": plain_text(m["content"])} for m in messages or []]


def plain_text(content) -> str:
    return html.unescape(content if isinstance(content, str) else "".join(part.get("text", "") for part in content))


# -- streams ---------------------------------------------------------------------------------------------------------

def together(streams: list[Iterator[list[str]]], counts: list[int] | None = None) -> Iterator[list[str]]:
    """Streams of `counts` texts each (of one, unless told) as one stream of them all; whichever comes first is shown first."""
    counts = counts or [1] * len(streams)
    arrived: queue.Queue = queue.Queue()
    left = threading.Event()

    def read(place: int, stream: Iterator[list[str]]) -> None:
        end = None
        try:
            with closing(stream):
                for texts in stream:
                    arrived.put((place, texts))
                    if left.is_set():
                        break
        except Exception as error:  # raised again below, in the thread that waits
            end = error
        arrived.put((place, end))

    for place, stream in enumerate(streams):
        threading.Thread(target=read, args=(place, stream), daemon=True).start()
    latest, going = [[""] * count for count in counts], len(streams)
    try:
        while going:
            place, news = arrived.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                going -= 1
                continue
            latest[place] = news
            yield [text for texts in latest for text in texts]
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
