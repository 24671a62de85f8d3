"""The error that bad input raises, how errors become one line of text, and a hook that does nothing."""

import reprlib

LONGEST_MESSAGE = 2000
"""Characters of a message that are shown: its beginning and its end."""
LONGEST_VALUE = 200
"""Characters of a value that are shown."""
HALF = LONGEST_MESSAGE // 2 - 3
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 120
SHORT.maxlevel = 3


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""


class NotFinite(UserError):
    """A number that is NaN or infinite where only a finite one makes sense: a loss, a gradient, a score, a weight.

    The message says which number, and where.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank, or the name of its class."""
    for line in str(error).splitlines():
        if line.strip():
            return line.strip()
    return type(error).__name__


def one_line(error: object) -> str:
    """A message as it is shown: on one line, without control characters, and not longer than a screen.

    What a user gave may hold any character. One that cannot be seen, such as a change of direction or half of a
    character, is shown as Python writes it in a text.
    """
    text = " ".join(str(error).split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= LONGEST_MESSAGE else f"{shown[:HALF]} ... {shown[-HALF:]}"


def short_repr(value) -> str:
    """A value as Python writes it, cut off where it is long or deep: it may come from somebody's file."""
    try:
        text = SHORT.repr(value)
    except (ValueError, RecursionError):  # an int of more digits than Python writes
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE - 4]} ..."


def kind_of(value) -> str:
    """The type of a value in plain words, for messages."""
    if isinstance(value, dict):
        return "an object"
    words = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return words.get(type(value), f"a {type(value).__name__}")


def noop() -> None:
    """Does nothing: the default of `on_microbatch`, where no worker answers chats between micro-batches."""
