"""Streams of answers: a worker answers all sides of a chat at the same time, equal conversations in one batch."""

import queue
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from playground.pages.chat import text
from playground.pages.chat.checkpoints import speaker
from playground.pages.chat.conversation import Chat, Turn, group_equal, to_messages
from playground.workspace import Workspace
from rlhf_engine.errors import UserError

FRAME = 0.06
"""Seconds between two updates of the page, at least, while an answer is being written."""
Stream = Generator[list[str], None, None]
"""What a worker returns: at each item, the texts that it has written so far."""


@dataclass(frozen=True)
class GenerationRequest:
    """The checkpoints that are to answer, and the settings of sampling."""

    model: str
    picks: tuple[str, ...]
    """The value of each picker. In a blind chat, the sides on the screen have another order."""
    max_new_tokens: int
    temperature: float
    top_p: float
    best_of: int = 1
    reward: str = ""
    """The reward run that chooses the best of several answers."""

    @property
    def sampling(self) -> dict:
        """The settings as the worker takes them and the store keeps them."""
        settings: dict = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p}
        return settings if self.best_of == 1 else settings | {"best_of": self.best_of, "reward": self.reward}


class ChatRunner:
    """Has the worker answer the questions of a chat."""

    def __init__(self, workspace: Workspace, worker):
        self.workspace, self.worker = workspace, worker

    def answer(self, chat: Chat, positions: list[int], request: GenerationRequest) -> Iterator[None]:
        """Answer the questions at the end of the sides at `positions`. At each item, the answers in `chat` have grown.

        Ends early when the chat has moved on to another question. Raises UserError.
        """
        number, model = chat.question, self.workspace.model(request.model)
        options = request.sampling
        if request.best_of > 1:
            if not request.reward:
                raise UserError(text.NO_REWARD)
            options["reward"] = str(self.workspace.run(request.reward).path)
        speakers = [speaker(self.workspace, request.picks[chat.order[position]]) for position in positions]
        head, sampling = self._head(), {"model": request.model} | request.sampling
        turns = [Turn("assistant", "", speaker=who, sampling=sampling, ended=False, head=head) for who in speakers]
        conversations = [chat.sides[position] for position in positions]
        groups = group_equal(conversations)
        streams = []
        for group in groups:
            adapters = [speakers[index].adapter for index in group]
            streams.append(self.worker.chat(adapters, to_messages(conversations[group[0]]), model=model, **options))
        indices = [index for group in groups for index in group]
        for texts in limit_frames(merge_streams(streams, [len(group) for group in groups])):
            if chat.question != number:
                return
            for index, answer in zip(indices, texts):
                turns[index] = replace(turns[index], text=answer, said=answer)
                chat.answer(positions[index], turns[index])
            yield
        if chat.question == number:
            for position, turn in zip(positions, turns):
                chat.answer(position, replace(turn, ended=True))

    def _head(self) -> int:
        """The head of the store; 0 where it cannot be read, because answers need no store."""
        with suppress(UserError):
            return self.workspace.store.head()
        return 0


def merge_streams(streams: list[Stream], counts: list[int] | None = None) -> Iterator[list[str]]:
    """Several streams as one: each item holds the newest texts of all of them.

    `counts` says how many texts each has (default: 1).

    More than one stream: each is read in a thread of its own. An error of any stream is raised here.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    counts = counts or [1] * len(streams)
    arrived: queue.Queue = queue.Queue()
    cancelled = threading.Event()

    def read(number: int, stream: Stream) -> None:
        end = None
        try:
            with closing(stream):
                for texts in stream:
                    arrived.put((number, texts))
                    if cancelled.is_set():
                        break
        except Exception as error:  # raised again below, in the thread that reads the merged stream
            end = error
        arrived.put((number, end))

    for number, stream in enumerate(streams):
        threading.Thread(target=read, args=(number, stream), daemon=True).start()
    latest, running = [[""] * count for count in counts], len(streams)
    try:
        while running:
            number, item = arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
                continue
            latest[number] = item
            yield [answer for texts in latest for answer in texts]
    finally:
        cancelled.set()


def limit_frames(texts: Iterator[list[str]]) -> Iterator[list[str]]:
    """The same stream with at most one item in `FRAME` seconds; its last item is always among them."""
    time_shown, latest, last_shown = 0.0, None, None
    for latest in texts:
        if time.monotonic() - time_shown >= FRAME:
            time_shown, last_shown = time.monotonic(), latest
            yield latest
    if latest is not None and latest != last_shown:
        yield latest
