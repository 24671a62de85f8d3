"""What goes wrong with the input, in one line; and small things that every room needs."""




class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def kind_of(value) -> str:
    """A value's type in plain words, for messages."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return kinds.get(type(value), "an object" if isinstance(value, dict) else f"a {type(value).__name__}")


def noop() -> None:
    """The default `on_microbatch`: nobody is waiting."""
