"""The arguments of an endpoint, as a program sends them: any JSON. Here they get the types that the endpoint says."""

import inspect
from collections.abc import Callable
from typing import Any

from rlhf_engine.errors import UserError, short_repr

KINDS = {dict: "a mapping", list: "a list"}
"""Types of arguments that are taken as they are, in words."""


def checked(endpoint: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments of a call by name. A number where a text belongs becomes a text, and null an empty one.

    Raises UserError that names the argument.
    """
    signature = inspect.signature(endpoint)
    values = signature.bind(*args, **kwargs).arguments
    for name, value in values.items():
        kind = signature.parameters[name].annotation
        if kind is str:
            values[name] = text_of(name, value)
        elif kind in KINDS and not isinstance(value, kind):
            raise UserError(f"{name} is {short_repr(value)}, but must be {KINDS[kind]}")
    return values


def text_of(name: str, value: Any) -> str:
    """An argument that is a text. Raises UserError."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{name} is {short_repr(value)}, but must be a text")
    return str(value)
