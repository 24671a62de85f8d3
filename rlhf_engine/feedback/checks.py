"""Checks of single values: texts that can be stored, whole numbers, finite numbers."""

import re
from collections.abc import Iterator

from rlhf_engine.errors import kind_of

MAX_NAME = 256
"""Longest id or other name, in characters."""
MAX_TEXT = 100_000
"""Longest text (a prompt, a response, an edit, the sampling settings as JSON), in characters."""


def text_errors(name: str, value: object, longest: int) -> Iterator[str]:
    """What keeps a value from being stored as a text of at most `longest` characters. `name` stands in the messages."""
    if not isinstance(value, str):
        yield f"{name} is {kind_of(value)}, but must be a text"
        return
    if len(value) > longest:
        yield f"{name} has {len(value):,} characters, at most {longest:,} are kept; shorten it"
    if re.search("[\ud800-\udfff]", value):
        yield f"{name} holds half a character (a lone surrogate); write it again"


def is_name(value: object) -> bool:
    """Whether a value is a text that may be an id or another name, and is not empty."""
    return bool(value) and not any(text_errors("", value, MAX_NAME))


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a finite number that fits into a float."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) < 1e300
