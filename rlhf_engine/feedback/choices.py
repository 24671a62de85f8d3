"""A person's choice, as buttons and the API write it: the one place that reads it.

    "1" to "9"                          the position of the best response
    "tie", "both_bad"                   no response is best
    "up:2", "down:2"                    a thumb for the response at a position
    "score:2:5"                         its score, 1 to 7
    "edit:2:TEXT"                       a better text for it

The first two lines answer a query. The others annotate one response, and leave the query open.
"""

from dataclasses import dataclass

from rlhf_engine.errors import UserError
from rlhf_engine.feedback.kinds import KINDS


@dataclass(frozen=True)
class Choice:
    """What somebody chose: the kind and the value of an event, and which responses of the query it is about."""

    kind: str
    value: str | int | tuple[int, ...]
    best: int = 0
    """Position of the best response, from 1; 0 where none is preferred."""
    position: int = 0
    """Position of the one response that is annotated, from 1; 0: the choice answers the query."""


def is_annotation(choice: str) -> bool:
    """Whether a choice is about one response, and leaves the query open."""
    return ":" in choice


def parse_choice(choice: str, count: int) -> Choice:
    """What a choice about `count` responses means. Raises UserError for what is none."""
    if is_annotation(choice):
        return parse_annotation(choice, count)
    if choice in ("tie", "both_bad"):
        return Choice("comparison", choice)
    if choice not in map(str, range(1, count + 1)):
        raise UserError(f"the choice is {choice[:60]!r}, but must be 1 to {count}, tie or both_bad")
    return best_response(int(choice), count)


def best_response(position: int, count: int) -> Choice:
    """The choice of the response at a position, from 1, as the best of `count`."""
    if count == 2:
        return Choice("comparison", "left" if position == 1 else "right", best=position)
    return Choice("ranking", tuple(1 if each == position else 2 for each in range(1, count + 1)), best=position)


def parse_annotation(choice: str, count: int) -> Choice:
    """`WORD:POSITION` or `WORD:POSITION:TEXT`. Raises UserError."""
    word, position, *rest = choice.split(":", 2)
    kind = next((kind for kind in KINDS.values() if word in kind.words), None)
    if kind is None:
        forms = ", ".join(kind.syntax for kind in KINDS.values() if kind.syntax)
        raise UserError(f"the annotation is {choice[:60]!r}, but must be one of {forms}")
    if position not in map(str, range(1, count + 1)):
        raise UserError(f"the annotation {choice[:60]!r} names no response; "
                        f"give a position from 1 to {count}, as in up:1")
    return Choice(kind.name, kind.parse(word, rest[0] if rest else ""), position=int(position))
