"""A console that is not UTF-8: what it cannot show is escaped, and what was typed on it is read as UTF-8."""

import sys


def accept_any_text() -> None:
    """Let print write any text: a character that the console's encoding lacks becomes an escape such as \\u2026.

    Without this a text by a model ends a command with an error where the encoding is ASCII or cp1252.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a notebook's streams have none
        if reconfigure:
            reconfigure(errors="backslashreplace")


def typed_text(text: str) -> str:
    """A text that came from an argument or the keyboard, without half-decoded bytes.

    In the locale C, Python leaves bytes beyond ASCII as surrogates. They were UTF-8 when they were typed.
    """
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
