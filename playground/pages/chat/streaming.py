"""Has the conversations of a chat answered: the checkpoints of equal ones in one batch of the worker, all of them at the same time."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from playground.pages.chat.checkpoints import speaker
from playground.pages.chat.conversation import Chat, Turn, alike, messages, paced, together
from playground.workspace import Workspace
from rlhf_engine.errors import UserError


@dataclass(frozen=True)
class GenerationRequest:
    """Who is to answer, and how."""

    model: str
    picks: tuple[str, ...]
    """By picker; a blind chat has them in another order on the screen."""
    max_new_tokens: int
    temperature: float
    top_p: float

    @property
    def sampling(self) -> dict:
        return {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p}


class ChatRunner:
    def __init__(self, workspace: Workspace, worker):
        self.workspace, self.worker = workspace, worker

    def answer(self, chat: Chat, places: list[int], wish: GenerationRequest) -> Iterator[None]:
        """Answers to what the sides at `places` end with; at each item they have grown in `chat`.

        Ends early when something else has been asked meanwhile. Raises UserError.
        """
        number, model = chat.asked, self.workspace.model(wish.model)
        voices = [speaker(self.workspace, wish.picks[chat.order[place]]) for place in places]
        head = 0
        with suppress(UserError):  # a store out of order is no reason to be silent
            head = self.workspace.store.head()
        turns = [Turn("assistant", "", speaker=voice, sampling={"model": wish.model} | wish.sampling, ended=False, head=head)
                 for voice in voices]
        asked = [chat.sides[place] for place in places]
        groups = alike(asked)
        streams = [self.worker.chat([voices[i].adapter for i in group], messages(asked[group[0]]), model=model, **wish.sampling)
                   for group in groups]
        flat = [i for group in groups for i in group]
        for texts in paced(streams[0] if len(groups) == 1 else together(streams, [len(group) for group in groups])):
            if chat.asked != number:
                return
            for i, text in zip(flat, texts):
                turns[i] = replace(turns[i], text=text, said=text)
                chat.answer(places[i], turns[i])
            yield
        if chat.asked == number:
            for place, turn in zip(places, turns):
                chat.answer(place, replace(turn, ended=True))
