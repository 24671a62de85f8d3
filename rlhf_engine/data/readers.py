r"""Readers of prompts, demonstrations and preferences from the bundled assets, a local file or the Hub.

Readers return plain Python objects. They check every row and raise UserError: one line with the file, the row (counted
from 1) and what to do. A malformed row always ends the reading. An empty text, or turns that are out of order, end it
only where they are common. Large public sets hold a few such rows, which no user can mend: these are skipped, and
`Rows.notes` counts them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from rlhf_engine.data.examples import Demonstration, Preference, Ranking
from rlhf_engine.data.fields import LABEL_COLUMNS, NEVER, RARE, Row, RowError, check_labels
from rlhf_engine.data.formats import COLUMNS, KNOWN_COLUMNS, Format
from rlhf_engine.data.tables import BUNDLED_NAMES, Table, bundled_file, read_table
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
from rlhf_engine.spelling import renamed

__all__ = [
    "Demonstration", "Encoded", "Preference", "Prompt", "Ranking", "Rows", "encode_example", "encode_examples",
    "encode_prompt", "encode_prompts", "preview", "read_demonstrations", "read_preferences", "read_prompts",
    "read_rows", "render"]


class Rows(list):
    """The list that a reader returns, with what the user should know about it.

    `notes` holds one-line remarks about rows that were skipped or could have been read in another way. `kind` is what
    the rows are (prompts, demonstrations or preferences), `columns` are all columns of the source, `form` is the set of
    columns that was read (a key of `COLUMNS[kind]`), and `unused` are the columns that were not. `total` counts the
    rows of the source, and `numbers[i]` is the number of `self[i]` there, from 1.
    """

    def __init__(self, items=(), notes: Sequence[str] = (), *, kind: str = "", form: str = "",
                 columns: Sequence[str] = (), total: int = 0):
        super().__init__(items)
        self.notes, self.kind, self.form = list(notes), kind, form
        self.columns, self.total = tuple(columns), total
        self.numbers: list[int] = []
        self.bundled = False
        """Whether the data came with this project, so that nobody wonders about its columns."""

    @property
    def format(self) -> Format:
        return COLUMNS[self.kind][self.form]

    @property
    def used(self) -> list[str]:
        """The columns that were read, in the order of the source."""
        read = {*self.form.split(" + "), *self.format.optional}
        return [column for column in self.columns if column in read]

    @property
    def unused(self) -> list[str]:
        used = self.used
        return [column for column in self.columns if column not in used]

    @property
    def remarks(self) -> list[str]:
        """All that a run says about its data: as what it was read, `notes`, and the columns that are not used."""
        if self.bundled or not self.form:
            return list(self.notes)
        unused = [f"columns that are not used: {column_names(self.unused)}"] if self.unused else []
        return [*self._reading(), *self.notes, *unused]

    def _reading(self) -> list[str]:
        """A line that says what was taken for what, where the columns have other names than ours."""
        if not self.format.public:
            return []
        parts = {"prompts": [], "demonstrations": ["completion"], "preferences": self._answer_parts()}[self.kind]
        sources = "; ".join(f"{part}: {self.format.source_of(part)}" for part in ["prompt", *parts])
        return [f"read as {self.format.public} ({sources})"]

    def _answer_parts(self) -> list[str]:
        kinds = {type(row) for row in self}
        return ["chosen", "rejected"] * (Preference in kinds) + ["response"] * (Ranking in kinds)


MOST_COLUMNS, LONGEST_NAME = 20, 60
"""At most this many columns are named in a message, with this many characters each."""


def column_names(columns: Collection[str]) -> str:
    """The names of columns in one line, for messages."""
    names = [" ".join(str(column).split())[:LONGEST_NAME] for column in list(columns)[:MOST_COLUMNS]]
    more = [f"{len(columns) - MOST_COLUMNS:,} more"] if len(columns) > MOST_COLUMNS else []
    return ", ".join(names + more) or "(none)"


def read_prompts(source: str, *, subset: str | None = None, split: str | None = None, limit: int | None = None,
                 model: str = "bundled") -> Rows:
    """Prompts from a column `prompt`, or from conversations, instructions and preferences up to the last user turn.

    The columns of many public sets are known too, by `COLUMNS`.

    `source` is `bundled`, `bundled-heldout`, a .json, .jsonl, .csv or .tsv file (gzipped or not), a .parquet file, or
    a Hub id. `subset` and `split` choose within a Hub data set. Without a split it is `train`, or the only one there
    is. At most `limit` rows are returned; None and 0 mean all. `model` decides what `bundled` means: its own prompts,
    where it has some. Raises UserError.
    """
    return _read(source, "prompts", subset, split, limit, model)


def read_demonstrations(source: str, *, subset: str | None = None, split: str | None = None,
                        limit: int | None = None, model: str = "bundled") -> Rows:
    """Demonstrations from prompt and completion, a conversation, instruction and output, or text.

    Of a conversation, the last assistant turn is the completion. Where rows have a thumb (`label` or
    `kto_tag`), those with a false one or none are skipped. Arguments and errors as for `read_prompts`.
    """
    return _read(source, "demonstrations", subset, split, limit, model)


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
              limit: int | None = None, model: str = "bundled") -> Rows:
    """Rows of a `kind`: prompts, demonstrations or preferences. With "" it is the kind that uses most of the columns.

    Arguments and errors as for `read_prompts`.
    """
    return _read(source, kind, subset, split, limit, model)


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


def _read(source: str, kind: str, subset: str | None, split: str | None, limit: int | None,
          model: str = "bundled") -> Rows:
    source = str(source)
    bundled = source in BUNDLED_NAMES
    if bundled:
        source = str(bundled_file(source, kind or "prompts", model))
    table, name, notes = read_table(source, subset, split, KNOWN_COLUMNS)
    rows = _convert(table, name, kind or _kind_of_columns(table[0], name), limit)
    rows.notes[:0] = notes
    rows.bundled = bundled
    return rows


RICHEST_FIRST = ("preferences", "demonstrations", "prompts")
"""If a source could be of several kinds, it is of the first of these."""


def _kind_of_columns(columns: Collection[str], name: str) -> str:
    if not columns:
        return RICHEST_FIRST[-1]  # the source holds no rows, and `_convert` will say so
    for kind in RICHEST_FIRST:
        if _forms(kind, columns):
            return kind
    formats = "; ".join(f"{kind}: {_own_names(kind)}" for kind in reversed(RICHEST_FIRST))
    for kind in RICHEST_FIRST[:2]:
        pairs = renamed(columns, _own_forms(kind))
        if pairs:
            formats = f"{kind}: rename {pairs}; {formats}"
            break
    raise UserError(f"{name}: its columns are {column_names(columns)}, which make no data; name them, for {formats}")


def _forms(kind: str, columns: Collection[str]) -> list[str]:
    """The formats of a kind whose columns are all there."""
    return [form for form in COLUMNS[kind] if set(form.split(" + ")) <= set(columns)]


def _own_names(kind: str) -> str:
    """The columns of a kind by the names that a user should give them. Names of public sets are known besides."""
    return ", or ".join(_own_forms(kind))


def _own_forms(kind: str) -> dict[str, tuple[str, ...]]:
    """The formats of a kind with the names of this project, and the columns that each can use besides."""
    return {form: each.optional for form, each in COLUMNS[kind].items() if not each.public}


def _format_of(table: Table, name: str, kind: str) -> str:
    """The format in which a table is read. Raises UserError where there is none."""
    columns, rows = table
    forms = _forms(kind, columns)
    if not forms and (columns or len(rows)):
        others = [other for other in RICHEST_FIRST if _forms(other, columns)]
        hint = f"; as they are, they make {' or '.join(others)}" if others else ""
        pairs = renamed(columns, _own_forms(kind))
        mend = f"rename {pairs}; or " if pairs else ""
        raise UserError(f"{name}: holds no {kind}, its columns are {column_names(columns)}; {mend}"
                        f"name them {_own_names(kind)}{hint}")
    if not len(rows):
        raise UserError(f"{name}: holds no rows; fill it, or choose another file or split")
    if COLUMNS[kind][forms[0]].refusal:
        raise UserError(f"{name}: {COLUMNS[kind][forms[0]].refusal}")
    return forms[0]


def _convert(table: Table, name: str, kind: str, limit: int | None) -> Rows:
    """The rows of a table as objects of `kind`. Raises UserError for missing columns and flawed rows.

    `name` is what messages call the table.
    """
    form = _format_of(table, name, kind)
    columns, rows = table
    each = COLUMNS[kind][form]
    labels = [column for column in LABEL_COLUMNS if column in columns and column in each.optional]
    for column in labels:
        check_labels(rows, column, name)
    numbered = list(each.gather(rows)) if each.gather else enumerate(rows, 1)
    count = len(numbered) if isinstance(numbered, list) else len(rows)
    result = Rows(kind=kind, form=form, columns=columns, total=len(rows))
    skipped, remarked = defaultdict(list), defaultdict(list)
    rare_flaws: list[tuple[int, RowError]] = []
    for number, row in _checked_rows(numbered, labels):
        try:
            if isinstance(row, RowError):
                raise row
            result.append(each.convert(row))
            result.numbers.append(number)
            for remark in dict.fromkeys(row.remarks):
                remarked[remark].append(number)
        except RowError as flaw:
            skipped[flaw.what].append(number)
            if flaw.tolerated == NEVER:
                raise _row_error(name, number, flaw) from None
            if flaw.tolerated == RARE:
                rare_flaws.append((number, flaw))
            if len(rare_flaws) > RARE * count:
                raise _row_error(name, *rare_flaws[0]) from None
        if limit and len(result) == limit:
            break
    result.notes = [_counted(f"skipped: {what}", numbers) for what, numbers in skipped.items()]
    if not result:
        raise UserError(f"{name}: leaves nothing to use: {'; '.join(result.notes) or 'no row is of this kind'}; "
                        "choose other data")
    result.notes += [_counted(f"where {what}", numbers) for what, numbers in remarked.items()]
    return result


def _checked_rows(rows: Iterable[tuple[int, dict | RowError]],
                  labels: list[str]) -> Iterator[tuple[int, Row | RowError]]:
    """Rows whose missing label is None, as Arrow would have it, and flaws as they are."""
    for number, row in rows:
        if isinstance(row, dict):
            row = Row({**dict.fromkeys(labels), **row})
        yield number, row


def _row_error(name: str, number: int, flaw: RowError) -> UserError:
    return UserError(f"{name}, row {number}: {flaw.what}; {flaw.mend}")


def _counted(what: str, numbers: list[int]) -> str:
    plural = "s" if len(numbers) > 1 else ""
    return f"{len(numbers):,} row{plural} {what} (first: row {numbers[0]})"
