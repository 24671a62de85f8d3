"""Data sets of which several rows make one example: OpenAssistant's messages, and HelpSteer's rated responses.

Each function here makes other rows of those of a table: (number of the row in the table, the new row). In place of a
row that cannot be made there is a RowError.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rlhf_engine.data.fields import ALWAYS, NEVER, RowError, is_missing, parse_cell, parse_number

MadeRow = tuple[int, dict | RowError]
TREE_ROLES = {"prompter": "user", "user": "user", "assistant": "assistant"}


def group_by_prompt(rows: Iterable[dict]) -> Iterator[MadeRow]:
    """HelpSteer's rows, one a response, as one row a prompt: its responses and how helpful they are."""
    groups: dict[str, tuple[int, dict]] = {}
    for number, row in enumerate(rows, 1):
        key = repr(row.get("prompt"))
        _, group = groups.setdefault(key, (number, {"prompt": row.get("prompt"), "responses": [], "scores": []}))
        group["responses"].append(row.get("response"))
        group["scores"].append(row.get("helpfulness"))
    for number, group in groups.values():
        alone = len(group["responses"]) < 2
        yield number, RowError("its prompt has no second response", tolerated=ALWAYS) if alone else group


# -- OpenAssistant ---------------------------------------------------------------------------------------------------

class Message:
    """A message of a tree, with the messages that reply to it."""

    def __init__(self, number: int, row: dict):
        self.number = number
        self.role = TREE_ROLES.get(str(row.get("role")), "")
        self.text = row.get("text")
        self.rank = parse_number(row.get("rank"))
        self.deleted = str(row.get("deleted")).lower() in ("true", "1")
        self.replies: list[Message] = []


def roots_of_messages(rows: Iterable[dict]) -> Iterator[Message | MadeRow]:
    """The first message of each tree, from rows that are one message each and name the one that they reply to."""
    messages, parents = {}, {}
    for number, row in enumerate(rows, 1):
        name = str(row.get("message_id"))
        messages[name] = Message(number, row)
        parents[name] = None if is_missing(row.get("parent_id")) else str(row["parent_id"])
    for name, message in messages.items():
        parent = parents[name]
        if not message.role:
            yield message.number, RowError("'role' is neither prompter nor assistant", "take the row out", NEVER)
        elif parent is None:
            yield message
        elif parent in messages:
            messages[parent].replies.append(message)
        else:
            yield message.number, RowError("the message that it replies to is not there", tolerated=ALWAYS)


def roots_of_trees(rows: Iterable[dict]) -> Iterator[Message | MadeRow]:
    """The first message of each tree, from rows that are a whole tree each."""
    for number, row in enumerate(rows, 1):
        root = parse_cell(row.get("prompt"))
        if isinstance(root, dict):
            yield _grow(number, root)
        else:
            yield number, RowError("'prompt' is no message with its replies", "take the row out", NEVER)


def _grow(number: int, row: dict) -> Message:
    root = Message(number, row)
    waiting = [(root, row)]
    while waiting:
        message, content = waiting.pop()
        for reply in content.get("replies") or []:
            if isinstance(reply, dict):
                message.replies.append(Message(number, reply))
                waiting.append((message.replies[-1], reply))
    return root


@dataclass(frozen=True)
class Thread:
    """A question of a tree, and the conversation that ends with it."""

    question: Message
    turns: list[dict]

    @property
    def answers(self) -> list[Message]:
        """The answers to the question, without those that were deleted."""
        return [reply for reply in self.question.replies if reply.role == "assistant" and not reply.deleted]


def threads(roots: Iterable[Message | MadeRow]) -> Iterator[Thread | MadeRow]:
    """All questions of all trees, without what was deleted."""
    for root in list(roots):
        if not isinstance(root, Message):
            yield root
            continue
        waiting: list[tuple[Message, list[dict]]] = [(root, [])]
        while waiting:
            message, before = waiting.pop()
            if message.deleted:
                continue
            turns = [*before, {"role": message.role, "content": message.text}]
            if message.role == "user":
                yield Thread(message, turns)
            waiting += [(reply, turns) for reply in reversed(message.replies)]


def tree_prompts(roots: Iterable[Message | MadeRow]) -> Iterator[MadeRow]:
    """A row with a prompt for every question."""
    for thread in threads(roots):
        yield (thread.question.number, {"prompt": thread.turns}) if isinstance(thread, Thread) else thread


def tree_demonstrations(roots: Iterable[Message | MadeRow]) -> Iterator[MadeRow]:
    """A row with prompt and completion for every question that has answers: the best of them, or the first."""
    for thread in threads(roots):
        if not isinstance(thread, Thread):
            yield thread
        elif thread.answers:
            best = min(thread.answers, key=lambda reply: math.inf if reply.rank is None else reply.rank)
            yield best.number, {"prompt": thread.turns, "completion": best.text}


def tree_rankings(roots: Iterable[Message | MadeRow]) -> Iterator[MadeRow]:
    """A row with prompt, responses and their ranking for every question with two ranked answers or more."""
    for thread in threads(roots):
        if not isinstance(thread, Thread):
            yield thread
            continue
        answers = [(reply.text, 1 + reply.rank) for reply in thread.answers if reply.rank is not None]
        if len(answers) > 1:
            texts, ranks = zip(*answers)
            yield thread.question.number, {"prompt": thread.turns, "responses": list(texts), "ranking": list(ranks)}
