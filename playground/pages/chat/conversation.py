"""Conversations side by side: the turns of each, and what one browser tab talks about. Knows no Gradio."""

import secrets
import time
from dataclasses import dataclass, field, replace

from playground.pages.chat.checkpoints import ChatCheckpoint
from rlhf_engine.data.tokenization import Prompt

SIDES = 4
"""Checkpoints that can be asked at the same time."""
DOUBLE_CLICK = 1.0
"""Seconds within which the same message again is a double click."""


def fresh_id() -> str:
    """A new id of a turn or a round."""
    return f"chat-{secrets.token_hex(8)}"


@dataclass(frozen=True)
class Turn:
    """One message of a conversation. An answer also says who gave it and how: feedback on it is stored with that."""

    role: str
    """`user` or `assistant`."""
    text: str
    id: str = field(default_factory=fresh_id)
    """A message that the user has sent to several sides has the same id on all of them."""
    said: str = ""
    """What the model has written. `text` is different where a person has edited the answer."""
    speaker: ChatCheckpoint = ChatCheckpoint("none", "none", "none")
    """The checkpoint that gave the answer."""
    sampling: dict = field(default_factory=dict)
    """The settings with which the answer was sampled."""
    ended: bool = True
    """False while the answer is being written."""
    stopped: bool = False
    """Whether somebody stopped the answer before it was complete."""
    head: int = 0
    """The head of the store when the answer began: feedback on it has higher numbers."""


@dataclass
class Chat:
    """What one browser tab talks about.

    It stays on the server, so that the browser cannot know who is who in a blind round.

    A position is the index of a side on the screen, from the left.
    """

    model: str = "bundled"
    picks: tuple[str, ...] = ()
    """The checkpoints that were asked last: the value of each picker."""
    count: int = 2
    """Sides that are shown."""
    sides: list[list[Turn]] = field(default_factory=lambda: [[] for _ in range(SIDES)])
    """The conversation of each side. The lists are replaced and never changed, so that a reader may keep one."""
    blind: bool = False
    order: tuple[int, ...] = tuple(range(SIDES))
    """Position -> index of the picker whose checkpoint speaks there. Shuffled in a blind round."""
    round_id: str = ""
    """Id of the newest blind question."""
    vote: str = ""
    """The vote on it: "1" to "4" for the best position, "tie" or "both_bad"; "" before the vote."""
    wins: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name of a checkpoint -> (blind rounds that it has won, blind rounds)."""
    question: int = 0
    """Goes up with each question, stop and clear: whoever writes an answer to an earlier question ends."""
    last_sent: tuple[str, float] = ("", 0.0)
    """The last message and when it was sent (`time.monotonic`). Empty after it was cleared or has failed: it may be
    sent again at once."""

    @property
    def hidden(self) -> bool:
        """Whether the names of the checkpoints are hidden."""
        return self.blind and not self.vote

    @property
    def votable(self) -> bool:
        """Whether a blind round waits for its vote: every side has a complete answer."""
        last = [side[-1] for side in self.sides[:self.count] if side]
        complete = len(last) == self.count and all(turn.role == "assistant" and turn.ended for turn in last)
        return self.hidden and bool(self.round_id) and complete

    def snapshot(self) -> tuple:
        """What `restore` brings back after a question that has failed."""
        return self.sides, self.order, self.round_id, self.vote

    def restore(self, snapshot: tuple) -> None:
        """Go back to a snapshot; the last message may be sent again."""
        self.sides, self.order, self.round_id, self.vote = snapshot
        self.last_sent = ("", 0.0)

    def clear(self) -> None:
        """Empty all sides; the last message may be sent again."""
        self._empty()
        self.last_sent = ("", 0.0)

    def _empty(self) -> None:
        self.question += 1
        self.sides, self.round_id, self.vote, self.order = [[] for _ in range(SIDES)], "", "", tuple(range(SIDES))

    def shuffle(self) -> None:
        """Begin a blind round: empty sides, in a random order."""
        self._empty()
        self.round_id = fresh_id()
        self.order = tuple(secrets.SystemRandom().sample(range(self.count), self.count))

    def begin(self, conversations: dict[int, list[Turn]]) -> int:
        """Show conversations that wait for an answer, by position; returns the number of this question."""
        self.stop()
        self.sides = [conversations.get(position, side) for position, side in enumerate(self.sides)]
        return self.question

    def answer(self, position: int, turn: Turn) -> None:
        """Put an answer at the end of a side, in the place of an earlier state of the same answer."""
        side = self.sides[position]
        if not side:  # the chat was cleared meanwhile
            return
        before = side[:-1] if side[-1].id == turn.id else side
        self._replace_side(position, [*before, turn])

    def replace_turn(self, position: int, index: int, turn: Turn) -> None:
        """Put `turn` in the place of the turn at `index` of a side, and drop what came after it."""
        self.question += 1
        self._replace_side(position, [*self.sides[position][:index], turn])

    def _replace_side(self, position: int, turns: list[Turn]) -> None:
        self.sides = [turns if index == position else side for index, side in enumerate(self.sides)]

    def record_vote(self, choice: str, labels: list[str]) -> None:
        """Note the vote on a blind round; `labels` are the names of the checkpoints by position."""
        self.vote = choice
        for number, label in enumerate(labels[:self.count], 1):
            wins, rounds = self.wins.get(label, (0, 0))
            self.wins[label] = wins + (choice == str(number)), rounds + 1

    def is_double_click(self, message: str) -> bool:
        """Whether the same message has been sent a moment ago. Notes this one as the last."""
        before, now = self.last_sent, time.monotonic()
        self.last_sent = (message, now)
        return message == before[0] and now - before[1] < DOUBLE_CLICK

    def stop(self) -> None:
        """End the answers that are being written where they are; those without a word are removed."""
        self.question += 1
        self.sides = [stopped(side) for side in self.sides]


def stopped(side: list[Turn]) -> list[Turn]:
    """A conversation whose unfinished answer, if it has one, ends here and is marked as stopped.

    An answer without a word is removed.
    """
    turns = []
    for turn in side:
        if turn.ended:
            turns.append(turn)
        elif turn.text:
            turns.append(replace(turn, ended=True, stopped=True))
    return turns


def without_open_question(side: list[Turn]) -> list[Turn]:
    """A conversation without a last question that nobody has answered."""
    return side[:-1] if side and side[-1].role == "user" else side


def up_to_last_question(side: list[Turn]) -> list[Turn]:
    """A conversation without the answer to its last question; [] where it holds no question."""
    for index in reversed(range(len(side))):
        if side[index].role == "user":
            return side[:index + 1]
    return []


def with_question_reworded(side: list[Turn], question: Turn, reworded: Turn) -> list[Turn]:
    """A conversation up to `question`, with `reworded` in its place; [] where it does not hold the question."""
    for index, turn in enumerate(side):
        if turn.id == question.id:
            return [*side[:index], reworded]
    return []


def to_messages(side: list[Turn]) -> list[dict]:
    """A conversation as a worker takes it."""
    return [{"role": turn.role, "content": turn.text} for turn in side]


def prompt_of(side: list[Turn]) -> Prompt:
    """What came before an answer, as the store takes it: a single question is a text, as the prompts of a run are."""
    return side[0].text if len(side) == 1 else to_messages(side)


def group_equal(sides: list[list[Turn]]) -> list[list[int]]:
    """The indices of the conversations, those of equal ones together: the worker answers these in one batch."""
    groups: dict[tuple, list[int]] = {}
    for index, side in enumerate(sides):
        key = tuple((turn.role, turn.text) for turn in side)
        groups.setdefault(key, []).append(index)
    return list(groups.values())
