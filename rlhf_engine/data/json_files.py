"""JSON files: a list of objects, objects one after another, or one object that holds the rows."""

import json
import re
from collections.abc import Collection

from rlhf_engine.errors import UserError, first_line, kind_of, short_repr

MEND = "write a list [{...}, {...}], or one complete {...} per line"


class TwiceError(ValueError):
    """An object has a name twice. Python takes the last value without a word, so a text would vanish."""


def _object(pairs: list[tuple[str, object]]) -> dict:
    """An object of which each name is there once. Raises TwiceError."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TwiceError(f"has {short_repr(twice)} twice; keep one of the two")
    return result


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def json_table(path: object, text: str, wanted: Collection[str]) -> tuple[list[str], list[dict]]:
    """(the names of the columns, the rows) of a JSON file.

    It is a list of objects; or objects one after another, on a line each (JSON Lines) or on several; or one object that
    holds the rows, as a list, by columns or by rows (see `_unpack`). `wanted` are the names of columns, by which such
    an object is recognised. Raises UserError with the first row that is broken or no object.
    """
    if text.lstrip().startswith("["):
        rows = _list(path, text)
    else:
        rows = _objects(path, text)
        if len(rows) == 1 and isinstance(rows[0], dict):
            rows = _unpack(path, rows[0], set(wanted))
    for row, value in enumerate(rows, 1):
        if not isinstance(value, dict):
            kind = "null" if value is None else kind_of(value)
            raise UserError(f"{path}, row {row}: is {kind}, not an object with columns; {MEND}")
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
    return list(columns), rows


def _broken(path: object, row: int, error: Exception, line: int = 0) -> UserError:
    what = first_line(error)
    if isinstance(error, TwiceError):
        return UserError(f"{path}, row {row}: {what}")
    if isinstance(error, json.JSONDecodeError):
        what = f"{error.msg} in line {line + error.lineno}"
    return UserError(f"{path}, row {row}: broken JSON ({what}); {MEND}")


# ValueError is a JSONDecodeError, or a number beyond Python's limits; RecursionError is nesting beyond them.

def _list(path: object, text: str) -> list:
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, _row_of_mistake(text), error) from None


def _objects(path: object, text: str) -> list:
    """The values of a file that has one after another. A comma may stand between two of them."""
    rows = []
    for number, content in enumerate(text.split("\n")):
        if not content.strip():
            continue
        try:
            rows.append(DECODER.decode(content.strip().removesuffix(",")))
        except (ValueError, RecursionError) as error:
            broken = _broken(path, len(rows) + 1, error, number)
            break
    else:
        return rows
    try:
        return _values(path, text)
    except UserError as error:
        # If the first line is a whole object, so should the others be.
        raise (broken if rows else error) from None


def _values(path: object, text: str) -> list:
    """The values of a text in which each may take several lines."""
    rows, position = [], _after_space(text, 0)
    while position < len(text):
        try:
            value, position = DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _broken(path, len(rows) + 1, error) from None
        rows.append(value)
        position = _after_space(text, position)
        if text.startswith(",", position):
            position = _after_space(text, position + 1)
    return rows


def _row_of_mistake(text: str) -> int:
    """The number of the element at which a JSON list is broken, or after which it is broken."""
    row, position = 1, text.index("[") + 1
    while True:
        try:
            position = DECODER.raw_decode(text, _after_space(text, position))[1]
        except (ValueError, RecursionError):
            return row
        position = _after_space(text, position)
        if not text.startswith(",", position):
            return row
        row, position = row + 1, position + 1


def _after_space(text: str, position: int) -> int:
    """The position of the first character from `position` on that is no white space."""
    space = re.compile(r"\s*").match(text, position)
    return space.end() if space else position


# -- one object that holds all rows ----------------------------------------------------------------------------------

def _unpack(path: object, content: dict, wanted: set[str]) -> list:
    """The rows of an object that is the whole file. An object that holds no rows is a row itself.

    It may have the rows in a list ({"data": [...]}), or be what pandas writes: a list or an object for each column, an
    object for each row, or columns and data apart ("split").
    """
    values = list(content.values())
    names, data = content.get("columns"), content.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [dict(zip(map(str, names), row)) for row in data]
    if values and not any(map(_is_of_messages, values)):
        if all(isinstance(value, list) for value in values) and wanted & set(content):
            return _rows_of_columns(path, content)
        if all(isinstance(value, dict) for value in values):
            if wanted & set(content):
                columns = {name: list(column.values()) for name, column in content.items()}
                return _rows_of_columns(path, columns)
            if any(wanted & set(value) for value in values):
                return values
    viewed = content.get("rows")
    if isinstance(viewed, list) and _is_of_rows(viewed) and all(isinstance(row.get("row"), dict) for row in viewed):
        return _rows_of_viewer(path, viewed)
    lists = [] if wanted & set(content) else [name for name, value in content.items() if _is_of_rows(value)]
    if len(lists) > 1:
        raise UserError(f"{path}: holds several lists of rows, {', '.join(lists)}; write each into a file of its own")
    if not lists:
        return [content]
    return content[lists[0]]


def _rows_of_viewer(path: object, rows: list[dict]) -> list[dict]:
    """The rows that the Hub's viewer gives. Raises UserError for one of which it shows the beginning only."""
    for number, row in enumerate(rows, 1):
        if row.get("truncated_cells"):
            raise UserError(f"{path}, row {number}: the Hub's viewer has cut {short_repr(row['truncated_cells'])}; "
                            "give the Hub id, or a file that holds the whole texts")
    return [row["row"] for row in rows]


def _rows_of_columns(path: object, columns: dict[str, list]) -> list[dict]:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise UserError(f"{path}: its columns have unlike numbers of rows ({counts}); {MEND}")
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _is_of_messages(value) -> bool:
    """Whether a value is a message or a list of messages, so that it is a field of a row."""
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(isinstance(turn, dict) and {"role", "from"} & set(turn) for turn in turns)


def _is_of_rows(value) -> bool:
    objects = isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)
    return objects and not _is_of_messages(value)
