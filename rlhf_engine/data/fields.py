r"""The fields of a row: texts, numbers, lists and thumbs, each checked as it is read.

A table may hold a value as text: a list in a CSV cell, or a number in a JSON string. A field that is wrong raises
RowError, which says what is wrong with the row and how to mend it.
"""

import ast
import io
import json
import math
import re
import tokenize
import warnings
from collections.abc import Iterable

from rlhf_engine.errors import UserError, kind_of

NEVER, RARE, ALWAYS = 0.0, 0.02, 1.0
"""The share of all rows that may have a flaw and are skipped. If more rows have it, the first one ends the reading."""


class RowError(Exception):
    """A flaw of a row: what is wrong, how to mend it, and in which share of the rows it is tolerated."""

    def __init__(self, what: str, mend: str = "fill it in, or take the row out", tolerated: float = NEVER):
        super().__init__(what)
        self.what, self.mend, self.tolerated = what, mend, tolerated


class Row(dict):
    """A row of a table. `remarks` are about what was made of it where a reader could think of something else."""

    def __init__(self, values):
        super().__init__(values)
        self.remarks: list[str] = []


# -- values that are text ---------------------------------------------------------------------------------------------

NO_VALUE = {"nan", "none", "null", "<na>", "n/a", "#n/a", "[]", "{}", "noinput", "no input", "<noinput>",
            "<no input>"}
"""Texts that stand for a missing value where a column may be empty. Programs that turn every value into text write
them, and Alpaca has its own. In a column that must be filled, such a text is a text like any other."""
SPREADSHEET_ERRORS = {"#NAME?", "#VALUE!", "#REF!", "#DIV/0!", "#N/A", "#NUM!", "#NULL!"}
"""What a spreadsheet writes in place of a text that it took for a formula, such as one that begins with "=" or "-"."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def is_missing(value) -> bool:
    """Whether a value is None, a NaN (which pandas writes for None), a blank text, or an empty list or object."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def says_nothing(value) -> bool:
    """Whether a text is one of `NO_VALUE`, in upper or lower case."""
    return isinstance(value, str) and value.strip().lower() in NO_VALUE


def parse_number(value) -> float | None:
    """The number that a value is or, in a text cell, spells with digits. None if it is not a finite one."""
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond what a float holds
        return None


def parse_cell(value):
    """The list or object that a text spells, as JSON or as Python prints it. Other values come back unchanged.

    pandas writes lists in Python's spelling, and numpy arrays without commas.
    """
    if not isinstance(value, str) or not re.match(r"\s*[\[{]", value):
        return value
    for parse in (json.loads, _python_literal):
        try:
            result = parse(value)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        if isinstance(result, list | dict):
            return result
    return value


def _python_literal(text: str):
    text = text.strip()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a backslash that escapes nothing
        if not re.search(r"['\"]\s+['\"]", text):  # else Python may take two texts for one
            try:
                return ast.literal_eval(text)
            except (SyntaxError, ValueError):
                pass
        return ast.literal_eval(_with_commas(text))


VALUE_TOKENS = (tokenize.STRING, tokenize.NUMBER, tokenize.NAME)


def _with_commas(text: str) -> str:
    """A printed numpy array as a Python list: a comma between any two values that have none."""
    pieces: list[str] = []
    after_value, end = False, (1, 0)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_value = token.type in VALUE_TOKENS
        begins = is_value or token.string in ("[", "{") or (token.string == "-" and token.start != end)
        if after_value and begins:
            pieces.append(",")
        pieces.append(token.string)
        if token.string.strip():  # line ends inside of brackets are no values
            after_value, end = is_value or token.string in ("]", "}"), token.end
    return " ".join(pieces).strip()


def parse_numbers(value):
    """The list that a cell spells: as JSON, or as numbers with commas, semicolons or blanks between them.

    A value that is no such list comes back unchanged.
    """
    value = parse_cell(value)
    if isinstance(value, str):
        words = re.split(r"[\s,;]+", value.strip())
        if all(map(NUMBER.fullmatch, words)):
            return words
    return value


# -- texts and numbers -------------------------------------------------------------------------------------------------

def check_text(value, name: str) -> str:
    """A text that is not empty. `name` is what messages call it."""
    if not isinstance(value, str) and is_missing(value) and not isinstance(value, list | dict):
        raise RowError(f"{name} is missing", tolerated=RARE)
    if not isinstance(value, str):
        raise RowError(f"{name} is {kind_of(value)}", "write a text")
    if not value.strip():
        raise RowError(f"{name} is empty", tolerated=RARE)
    if value.strip() in SPREADSHEET_ERRORS:
        raise RowError(f"{name} is {value.strip()}, a spreadsheet's error in place of a text",
                       "write the text again, in a cell of the kind Text", RARE)
    if re.search("[\ud800-\udfff]", value):
        raise RowError(f"{name} holds half a character (a lone surrogate)", "write the text again")
    return value


def required_text(row: Row, column: str) -> str:
    return check_text(row.get(column), f"'{column}'")


def optional_text(row: Row, column: str) -> str:
    """The text of a column that may be empty; "" for a missing value, and for a text that stands for one."""
    value = row.get(column)
    if is_missing(value):
        return ""
    if says_nothing(value):
        row.remarks.append(f"the text {str(value).strip()!r} in '{column}' stands for nothing and is left out")
        return ""
    return check_text(value, f"'{column}'")


def required_number(row: Row, column: str) -> float:
    """The finite number of a column. Raises RowError."""
    value = row.get(column)
    number = parse_number(value)
    if number is None:
        if is_missing(value) or says_nothing(value):
            raise RowError(f"'{column}' is missing", tolerated=RARE)
        raise RowError(f"'{column}' is {kind_of(value)} ({str(value)[:40]!r})", "write a number, with a decimal point")
    return number


def margin_of(row: Row) -> float:
    """TRL's column `margin`; 0 where a row has none."""
    value = row.get("margin")
    if is_missing(value) or says_nothing(value):
        return 0.0
    number = parse_number(value)
    if number is None:
        raise RowError(f"'margin' is {kind_of(value)} ({str(value)[:40]!r})",
                       "write a number, with a decimal point, or leave it out")
    if number < 0:
        raise RowError(f"'margin' is {number:g}", "a margin is at least 0: swap chosen and rejected, or leave it out")
    return number


def list_of(row: Row, column: str) -> list:
    value = row.get(column)
    value = parse_numbers(value) if column in ("ranking", "scores") else parse_cell(value)
    if not isinstance(value, list):
        ranks = ", such as [2, 1, 3]: the rank of each response, 1 is best" if column == "ranking" else ""
        raise RowError(f"'{column}' is {kind_of(value)}", f"write a list, in a text cell as JSON{ranks}")
    return value


# -- thumbs ----------------------------------------------------------------------------------------------------------

LABEL_COLUMNS = ("label", "kto_tag")
"""The columns that say whether a response is good: TRL's name and LLaMA-Factory's."""
THUMB_COLUMNS = (*LABEL_COLUMNS, "thumb", "desirable", "preference", "feedback")
"""The columns that say so where thumbs are what is wanted. NeMo has `preference`: chosen or rejected."""
UP = {"true", "1", "1.0", "+1", "+1.0", "yes", "good", "up", "thumb up", "thumbs up", "👍", "like", "liked",
      "positive", "desirable", "chosen", "upvote", "accepted"}
DOWN = {"false", "0", "0.0", "-1", "-1.0", "no", "bad", "down", "thumb down", "thumbs down", "👎", "dislike",
        "disliked", "negative", "undesirable", "rejected", "downvote"}


def read_thumb(row: Row, column: str) -> bool:
    """Whether the thumb in a column is up. Raises RowError for one that is missing or says something else."""
    value = row.get(column)
    if is_missing(value) or says_nothing(value):
        raise RowError(f"the {column} is missing", tolerated=ALWAYS)
    word = str(value).strip().lower()
    plain = re.sub("[\U0001f3fb-\U0001f3ff\ufe0f]", "", word)  # a thumb of any skin colour
    plain = re.sub("(?<=[a-z])[_-](?=[a-z])", " ", plain)
    if plain not in UP | DOWN:
        mend = "a thumb is true or false; rename the column if it means something else"
        raise RowError(f"'{column}' is {word[:40]!r}", mend)
    return plain in UP


def check_thumb(row: Row, column: str) -> None:
    """Raise RowError for a row whose thumb is down or missing. Rows without the column pass."""
    if column in row and not read_thumb(row, column):
        raise RowError(f"the {column} is false", tolerated=ALWAYS)


def check_labels(rows: Iterable[dict], column: str, name: str) -> None:
    """Raise UserError for a column of thumbs with both 0 and -1: one of them means neither up nor down."""
    numbers = {parse_number(row.get(column)) for row in rows}
    if {0.0, -1.0} <= numbers:
        raise UserError(f"{name}: '{column}' holds both 0 and -1, so 0 may mean neither good nor bad; write true and "
                        "false, and take the other rows out")
