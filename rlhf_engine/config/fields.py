"""What a setting is: its bounds, its type, its documentation and the names that it had before."""

import ast
import dataclasses
import inspect
import math
import typing
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Literal

from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.files import expand_user

MOST_ROWS, MOST_TOKENS, LONGEST, LARGEST = 1 << 16, 1 << 24, 10**9, 1e6
"""Upper bounds of settings: rows that are in memory at once, tokens of a row, steps and votes of a run, coefficients.
They are far beyond what makes sense. A number above them is a mistake, which would fill the memory or take for ever."""
PATHS = ("model", "adapter", "data", "ptx_data", "output", "reward", "labeler")
"""Settings that may name a file or a folder. A `~` at their start is spelled out, wherever they come from."""
LARGEST_WHOLE = 2**53
"""The largest whole number of a setting; a float, and JSON in a browser, holds no larger one exactly."""
LARGEST_SEED = 2**64 - 1
"""Seeds have 64 bits, as torch's random generators do."""
OLD_NAMES = {"lam": "gae_lambda", "enough": "score_cap_quantile", "direct": "tamer"}
"""Renamed settings, old name to new. The old name is an alias in YAML, flags, API, journals and checkpoints."""


def bounded(default, low=None, high=None, *, advanced=False, live=False):
    """A dataclass field with inclusive bounds.

    `advanced` puts it behind "All settings" in a form. `live` lets it change while a run goes on.
    """
    return field(default=default, metadata={"low": low, "high": high, "advanced": advanced, "live": live})


def current_name(name: str) -> str:
    """The name that a setting has today."""
    return OLD_NAMES.get(name, name)


def old_names(name: str) -> list[str]:
    """The names that a setting had before."""
    return [old for old, new in OLD_NAMES.items() if new == name]


def current_names(values: dict) -> dict:
    """The same settings under the names of today. Raises UserError where one is given under both names."""
    renamed = {}
    for name, value in values.items():
        new = current_name(name)
        if new in renamed and renamed[new] != value:
            raise UserError(f"{flag(new)} is given twice, also under its old name: give it once")
        renamed[new] = value
    return renamed


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@cache
def field_types(cls) -> dict[str, type]:
    """Field name to type, in order."""
    found = typing.get_type_hints(cls)
    return {f.name: found[f.name] for f in dataclasses.fields(cls)}


@cache
def docs(cls) -> dict[str, str]:
    """The documentation of each field: the string that stands below it in the source, on one line.

    Where a field is declared again in a subclass, the string of the subclass counts.
    """
    texts: dict[str, str] = {}
    for base in reversed([each for each in cls.__mro__ if dataclasses.is_dataclass(each)]):
        texts.update(_field_docs(inspect.getsource(typing.cast(type, base))))
    return {name: texts[name] for name in field_types(cls) if name in texts}


def _field_docs(source: str) -> dict[str, str]:
    """The documented fields of one dataclass, from its source."""
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for statement, after in zip(body.body, body.body[1:]):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            texts[statement.target.id] = " ".join(after.value.value.split())
    return texts


def live_settings(cls) -> tuple[str, ...]:
    """The fields of a config that may change while a run goes on."""
    return tuple(name for name, each in cls.__dataclass_fields__.items() if each.metadata.get("live"))


WANTED = {bool: "true or false", str: "a text", int: "a whole number", float: "a finite number"}
"""What a setting of a type must be, in words."""


def choices(kind) -> tuple[str, ...]:
    """The values of a Literal type, else nothing."""
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def coerce(name: str, value, kind):
    """`value` as `kind`, from YAML, a form or a flag. Raises UserError."""
    if options := choices(kind):
        if value not in options:
            raise UserError(f"{flag(name)} is {short_repr(value)}, but must be one of {', '.join(options)}")
        return value
    wrong = UserError(f"{flag(name)} is {short_repr(value)}, but must be {WANTED[kind]}")
    if kind is bool:
        if not isinstance(value, bool):
            raise wrong
        return value
    if kind is str:
        if value is not None and not isinstance(value, (str, Path)):
            quotes = "" if isinstance(value, list | dict) else ': in YAML, put it into "quotes"'
            raise UserError(f"{wrong}{quotes}")
        return check_text(name, expand_user(str(value or "")) if name in PATHS else str(value or ""))
    if isinstance(value, bool):
        raise wrong
    try:
        number = kind(value)
        # A large int is no float: the comparison with the text's float would round it.
        whole = kind is float or isinstance(value, int | str) or number == value
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if not whole or (kind is float and not math.isfinite(number)):
        raise wrong
    return number


def check_text(name: str, text: str) -> str:
    """The same text. Raises UserError for one that no file of ours, or no path, can hold: a file name whose bytes are
    no UTF-8, or a zero byte."""
    if "\x00" in text:
        raise UserError(f"{flag(name)} is {short_repr(text)}, which holds a zero byte: take it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        shown = text.encode("ascii", "backslashreplace").decode()
        raise UserError(f"{flag(name)} is {shown}, which is no UTF-8 text: rename the file, or run with "
                        "PYTHONUTF8=1") from None
    return text
