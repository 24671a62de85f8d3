"""CSV files: a header and rows of text cells, with the delimiter, the quotes and the blanks that programs write."""

import csv
import io
import re
from collections.abc import Collection

from rlhf_engine.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
"""What may stand between two cells; the first one that fits the header best is taken."""
MEND = 'put texts that hold {delimiter}, quotes or line breaks into "double quotes" and double the quotes inside'
INVISIBLE = "\ufeff\u200b"
"""Marks that nobody sees, which programs leave before the first name of a header."""
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def csv_table(path: object, text: str, wanted: Collection[str]) -> tuple[list[str], list[dict]]:
    """(the names of the columns, the rows) of a CSV file with a header. Every cell is a text.

    Blanks around a name, and cells without a name that are all empty, are no matter. Raises UserError with the first
    row that does not fit the header. `wanted` are the names that tell a header's delimiter.
    """
    csv.field_size_limit(1 << 30)
    if re.match(r'\s*(\[\s*)?\{\s*"', text):
        raise UserError(f"{path}: holds JSON and not CSV; let its name end in .jsonl")
    text, delimiter = _delimiter(text.lstrip("\r\n"), wanted)
    header = _header(text, delimiter)
    # A program that writes ", " between two names writes it between two cells as well.
    blanks = len(header) > 1 and all(name[:1] == " " for name in header[1:])
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter, skipinitialspace=blanks)
    names = [name.strip().strip(INVISIBLE) for name in header]
    rows: list[list[str]] = []
    mend = MEND.format(delimiter=NAMES.get(delimiter, repr(delimiter)))
    try:
        next(reader, None)
        for cells in filter(None, reader):
            if len(names) > 1 and not any(map(str.strip, cells)):
                continue  # spreadsheets end with rows of nothing but delimiters
            while len(cells) > len(names) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(names):
                wrong = f"has {len(cells)} cells, but the header {len(names)}"
                raise UserError(f"{path}, row {len(rows) + 1}: {wrong}; {mend}")
            if len(names) > 1 and [cell.strip() for cell in cells] == names:
                raise UserError(f"{path}, row {len(rows) + 1}: is the header once more; take that line out")
            rows.append(cells)
    except csv.Error as error:
        raise UserError(f"{path}, row {len(rows) + 1}: broken CSV ({error}); {mend}") from None
    columns = _columns(path, names, rows)
    return list(columns), [{name: cells[i] for name, i in columns.items()} for cells in rows]


def _delimiter(text: str, wanted: Collection[str]) -> tuple[str, str]:
    """(the text without a line of Excel's that names the delimiter, the delimiter)."""
    said = re.match(r'"?sep=(.)"?\r?\n', text)
    if said:
        return text[said.end():], said[1]
    scores = []
    for delimiter in DELIMITERS:
        names = {name.strip().strip(INVISIBLE) for name in _header(text, delimiter)}
        scores.append((len(names & set(wanted)), len(names)))
    return text, DELIMITERS[scores.index(max(scores))]


def _header(text: str, delimiter: str) -> list[str]:
    """The cells of the first line; none if it cannot be read that way."""
    try:
        return next(csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter), [])
    except csv.Error:
        return []


def _columns(path: object, names: list[str], rows: list[list[str]]) -> dict[str, int]:
    """The place of each column by its name. A column without a name is left out if it is empty."""
    columns: dict[str, int] = {}
    for i, name in enumerate(names):
        if not name:
            if not any(cells[i].strip() for cells in rows):
                continue
            name = f"(column {i + 1}, without a name)"
        if name in columns:
            raise UserError(f"{path}: two columns are named {name[:60]!r}; rename one of them, or take it out")
        columns[name] = i
    return columns
