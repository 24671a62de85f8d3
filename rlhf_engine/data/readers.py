r"""Readers of prompts, demonstrations and preferences from the bundled assets, a local file or the Hub.

Readers return plain Python objects. They check every row and raise UserError: one line with the file, the row (counted
from 1) and what to do. A malformed row always ends the reading. An empty text, or turns that are out of order, end it
only where they are common. Large public sets hold a few such rows, which no user can mend: these are skipped, and
`Rows.notes` counts them.
"""

from collections.abc import Collection, Sequence

from rlhf_engine.data.formats import (
    COLUMNS,
    KNOWN_COLUMNS,
    NEVER,
    RARE,
    Demonstration,
    Preference,
    Ranking,
    RowError,
)
from rlhf_engine.data.tables import READABLE, Table, read_table
from rlhf_engine.data.tokenization import (
    Encoded,
    Prompt,
    encode_example,
    encode_examples,
    encode_prompt,
    encode_prompts,
    render,
)
from rlhf_engine.errors import UserError
from rlhf_engine.files import ASSETS

__all__ = [
    "Demonstration", "Encoded", "Preference", "Prompt", "Ranking", "Rows", "encode_example", "encode_examples",
    "encode_prompt", "encode_prompts", "preview", "read_demonstrations", "read_preferences", "read_prompts",
    "read_rows", "render"]


class Rows(list):
    """The list that a reader returns, with what the user should know about it.

    `notes` holds one-line remarks about skipped rows. `kind` is what the rows are (prompts, demonstrations or
    preferences), `columns` are all columns of the source, and `form` is the set of columns that was read (a key of
    `COLUMNS[kind]`). `total` counts the rows of the source, and `numbers[i]` is the number of `self[i]` there, from 1.
    """

    def __init__(self, items=(), notes: Sequence[str] = (), *, kind: str = "", form: str = "",
                 columns: Sequence[str] = (), total: int = 0):
        super().__init__(items)
        self.notes, self.kind, self.form = list(notes), kind, form
        self.columns, self.total = tuple(columns), total
        self.numbers: list[int] = []


def read_prompts(source: str, *, subset: str | None = None, split: str | None = None, limit: int | None = None) -> Rows:
    """Prompts from a column `prompt`, or from conversations, instructions and preferences up to the last user turn.

    `source` is `bundled`, `bundled-heldout`, a .json, .jsonl or .csv file (gzipped or not), a .parquet file, or a Hub
    id. `subset` and `split` choose within a Hub data set. Without a split it is `train`, or the only one there is. At
    most `limit` rows are returned; None and 0 mean all. Raises UserError.
    """
    return _read(source, "prompts", subset, split, limit)


def read_demonstrations(source: str, *, subset: str | None = None, split: str | None = None,
                        limit: int | None = None) -> Rows:
    """Demonstrations from prompt and completion, a conversation, instruction and output, or text.

    Of a conversation, the last assistant turn is the completion. Where rows have a thumb (`label`), those with a false
    one are skipped. Arguments and errors as for `read_prompts`.
    """
    return _read(source, "demonstrations", subset, split, limit)


def read_preferences(source: str, *, subset: str | None = None, split: str | None = None,
                     limit: int | None = None) -> Rows:
    """Preferences and rankings from one of these formats:

    * prompt, chosen and rejected, with or without a margin;
    * prompt, responses and their ranking or scores;
    * a conversation and two answers to it;
    * HH's pair of whole dialogues. What the two share is the prompt, and the answers are the turns at which they part.

    Arguments and errors as for `read_prompts`.
    """
    return _read(source, "preferences", subset, split, limit)


def read_rows(source: str, kind: str = "", *, subset: str | None = None, split: str | None = None,
              limit: int | None = None) -> Rows:
    """Rows of a `kind`: prompts, demonstrations or preferences. With "" it is the kind that uses most of the columns.

    Arguments and errors as for `read_prompts`.
    """
    return _read(source, kind, subset, split, limit)


def preview(tokenizer, row: Prompt | Demonstration | Preference | Ranking) -> str:
    """A row as the model will read it. The answers of a preference or a ranking stand one below the other."""
    if isinstance(row, Demonstration):
        return render(tokenizer, row.prompt, row.completion)
    if isinstance(row, Preference):
        answers = [("chosen", row.chosen), ("rejected", row.rejected)]
    elif isinstance(row, Ranking):
        answers = [(f"{rank:g}", text) for rank, text in sorted(zip(row.ranks, row.responses))]
    else:
        return render(tokenizer, row)
    prompt = render(tokenizer, row.prompt)
    lines = [f"[{name}] {render(tokenizer, row.prompt, text)[len(prompt):]}" for name, text in answers]
    return "\n".join([prompt, *lines])


def _read(source: str, kind: str, subset: str | None, split: str | None, limit: int | None) -> Rows:
    source = str(source)
    if source in ("bundled", "bundled-heldout"):
        source = _bundled_file(source, kind or "prompts")
    table, name, notes = read_table(source, subset, split, KNOWN_COLUMNS)
    rows = _convert(table, name, kind or _kind_of_columns(table[0], name), limit)
    rows.notes[:0] = notes
    return rows


def _bundled_file(source: str, kind: str) -> str:
    path = ASSETS / f"{kind}{source.removeprefix('bundled')}.jsonl"
    if not path.exists():
        raise UserError(f"{source}: there are no such {kind} ({path} is missing); give {READABLE}")
    return str(path)


RICHEST_FIRST = ("preferences", "demonstrations", "prompts")
"""If a source could be of several kinds, it is of the first of these."""


def _kind_of_columns(columns: Collection[str], name: str) -> str:
    if not columns:
        return RICHEST_FIRST[-1]  # the source holds no rows, and `_convert` will say so
    for kind in RICHEST_FIRST:
        if _forms(kind, columns):
            return kind
    formats = "; ".join(f"{kind}: {', or '.join(COLUMNS[kind])}" for kind in reversed(RICHEST_FIRST))
    raise UserError(f"{name}: its columns are {', '.join(columns)}, which make no data; name them, for {formats}")


def _forms(kind: str, columns: Collection[str]) -> list[str]:
    """The formats of a kind whose columns are all there."""
    return [form for form in COLUMNS[kind] if set(form.split(" + ")) <= set(columns)]


def _convert(table: Table, name: str, kind: str, limit: int | None) -> Rows:
    """The rows of a table as objects of `kind`. Raises UserError for missing columns and flawed rows.

    `name` is what messages call the table.
    """
    columns, rows = table
    forms = _forms(kind, columns)
    if not forms and (columns or len(rows)):
        raise UserError(f"{name}: holds no {kind}, its columns are {', '.join(columns) or '(none)'}; "
                        f"name them {', or '.join(COLUMNS[kind])}")
    if not len(rows):
        raise UserError(f"{name}: holds no rows; fill it, or choose another file or split")
    convert = COLUMNS[kind][forms[0]]
    result = Rows(kind=kind, form=forms[0], columns=columns, total=len(rows))
    skipped: dict[str, list[int]] = {}
    rare_flaws: list[tuple[int, RowError]] = []
    for number, row in enumerate(rows, 1):
        try:
            result.append(convert(row))
            result.numbers.append(number)
        except RowError as flaw:
            skipped.setdefault(flaw.what, []).append(number)
            if flaw.tolerated == NEVER:
                raise _row_error(name, number, flaw) from None
            if flaw.tolerated == RARE:
                rare_flaws.append((number, flaw))
            if len(rare_flaws) > RARE * len(rows):
                raise _row_error(name, *rare_flaws[0]) from None
        if limit and len(result) == limit:
            break
    result.notes = [_skipped_note(what, numbers) for what, numbers in skipped.items()]
    if not result:
        raise UserError(f"{name}: leaves nothing to use: {'; '.join(result.notes)}; choose other data")
    return result


def _row_error(name: str, number: int, flaw: RowError) -> UserError:
    return UserError(f"{name}, row {number}: {flaw.what}; {flaw.mend}")


def _skipped_note(what: str, numbers: list[int]) -> str:
    plural = "s" if len(numbers) > 1 else ""
    return f"{len(numbers):,} row{plural} skipped: {what} (first: row {numbers[0]})"
