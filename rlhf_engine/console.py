"""A console that is not UTF-8: what it cannot show is escaped, and what was typed on it is read as UTF-8."""

import sys


def accept_any_text() -> None:
    """Let print write any text, and input read any.

    What the console's encoding lacks becomes an escape such as \\u2026. Without this a text by a model ends a command
    with an error where the encoding is ASCII or cp1252. What is typed goes through `typed_text`.
    """
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace"),
                           (sys.stdin, "surrogateescape")):
        reconfigure = getattr(stream, "reconfigure", None)  # a notebook's streams have none
        if reconfigure:
            reconfigure(errors=errors)


def typed_text(text: str) -> str:
    """A text that came from an argument or the keyboard, without half-decoded bytes.

    In the locale C, Python leaves bytes beyond ASCII as surrogates. They were UTF-8 when they were typed.
    """
    if text.isascii():
        return text
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a character, which no console gives
        data = text.encode("utf-8", "replace")
    return data.decode("utf-8", "replace")
