"""The error that bad input raises, how errors become one line of text, and a hook that does nothing."""


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


def kind_of(value) -> str:
    """The type of a value in plain words, for messages."""
    if isinstance(value, dict):
        return "an object"
    words = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return words.get(type(value), f"a {type(value).__name__}")


def noop() -> None:
    """Does nothing: the default of `on_microbatch`, where no worker answers chats between micro-batches."""
