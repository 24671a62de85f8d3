r"""Prompts, demonstrations and preferences from the bundled assets, a local file or the Hub, checked row by row.

Readers return plain Python objects and raise UserError: one line with the file, the row (from 1) and the mend.
Malformed rows always end the reading. An empty text or turns out of order do so only where they are common: large
public sets hold a few, which nobody can mend, and these are skipped and counted in `Rows.notes`.
"""

from collections.abc import Collection, Sequence

from rlhf_engine.data.formats import COLUMNS, KNOWN, NEVER, RARE, Demonstration, Preference, Ranking, RowError
from rlhf_engine.data.tables import READABLE, Table, read_table
from rlhf_engine.data.tokenization import Encoded, Prompt, encode_example, encode_examples, encode_prompt, encode_prompts, render
from rlhf_engine.errors import UserError
from rlhf_engine.files import ASSETS

__all__ = [
    "Demonstration", "Encoded", "Preference", "Prompt", "Ranking", "Rows", "encode_example", "encode_examples", "encode_prompt",
    "encode_prompts", "preview", "read_demonstrations", "read_preferences", "read_prompts", "read_rows", "render"]


class Rows(list):
    """What a reader returns: a list, with one-line remarks on skipped rows in `notes`, to be shown to the user.

    Beside it, what the source was taken for: its `kind` and `columns`, the set of columns (`form`, as in `COLUMNS`) that was read,
    how many rows there are in `total`, and of each that was taken its number there, from 1.
    """

    def __init__(self, items=(), notes: Sequence[str] = (), *, kind: str = "", form: str = "", columns: Sequence[str] = (), total: int = 0):
        super().__init__(items)
        self.notes, self.kind, self.form, self.columns, self.total = list(notes), kind, form, tuple(columns), total
        self.numbers: list[int] = []


def read_prompts(source: str, *, subset: str | None = None, split: str | None = None, limit: int | None = None) -> Rows:
    """Prompts: a column `prompt`, or conversations, instructions and preferences up to the last user turn.

    `source` is `bundled`, `bundled-heldout`, a .json, .jsonl or .csv file (gzipped or not), a .parquet file, or a Hub
    id. `subset` and `split` choose within a Hub data set; no split means `train`, or the only one. At most `limit` rows
    are returned, all for None or 0. Raises UserError.
    """
    return _read(source, "prompts", subset, split, limit)


def read_demonstrations(source: str, *, subset: str | None = None, split: str | None = None,
                        limit: int | None = None) -> Rows:
    """Demonstrations: prompt and completion, a conversation (its last assistant turn), instruction and output, or text.

    Of rows with a thumb (`label`), those where it is true. Arguments and errors as for `read_prompts`.
    """
    return _read(source, "demonstrations", subset, split, limit)


def read_preferences(source: str, *, subset: str | None = None, split: str | None = None,
                     limit: int | None = None) -> Rows:
    """Preferences: prompt, chosen and rejected (and a margin); prompt, responses and their ranking or scores; a conversation with
    two answers; or HH's pair of whole dialogues.

    Where two dialogues part before their last answers, the prompt is what they share, and the answers are the turns at
    which they part. Arguments and errors as for `read_prompts`.
    """
    return _read(source, "preferences", subset, split, limit)


def read_rows(source: str, kind: str = "", *, subset: str | None = None, split: str | None = None, limit: int | None = None) -> Rows:
    """`kind` (prompts, demonstrations or preferences) of a source; "" is what it is: the one of them that uses most of its columns.

    Arguments and errors as for `read_prompts`.
    """
    return _read(source, kind, subset, split, limit)


def preview(tokenizer, row: Prompt | Demonstration | Preference | Ranking) -> str:
    """A row as the model will read it, the answers of a preference or a ranking one below the other."""
    if isinstance(row, Demonstration):
        return render(tokenizer, row.prompt, row.completion)
    if isinstance(row, Preference):
        answers = [("chosen", row.chosen), ("rejected", row.rejected)]
    elif isinstance(row, Ranking):
        answers = [(f"{rank:g}", text) for rank, text in sorted(zip(row.ranks, row.responses))]
    else:
        return render(tokenizer, row)
    prompt = render(tokenizer, row.prompt)
    return "\n".join([prompt, *(f"[{name}] {render(tokenizer, row.prompt, text)[len(prompt):]}" for name, text in answers)])


def _read(source: str, kind: str, subset: str | None, split: str | None, limit: int | None) -> Rows:
    source = str(source)
    if source in ("bundled", "bundled-heldout"):
        source = _bundled(source, kind or "prompts")
    table, where, notes = read_table(source, subset, split, KNOWN)
    rows = _convert(table, where, kind or _kind_of(table[0], where), limit)
    rows.notes[:0] = notes
    return rows


def _bundled(source: str, kind: str) -> str:
    path = ASSETS / f"{kind}{source.removeprefix('bundled')}.jsonl"
    if not path.exists():
        raise UserError(f"{source}: there are no such {kind} ({path} is missing); give {READABLE}")
    return str(path)


RICHEST = ("preferences", "demonstrations", "prompts")
"""A source that could be several kinds is the first of these."""


def _kind_of(columns: Collection[str], where: str) -> str:
    if not columns:
        return RICHEST[-1]  # it holds no rows, which `_convert` will say
    if kind := next((kind for kind in RICHEST if _forms(kind, columns)), None):
        return kind
    wanted = "; ".join(f"{kind}: {', or '.join(COLUMNS[kind])}" for kind in reversed(RICHEST))
    raise UserError(f"{where}: its columns are {', '.join(columns)}, which make no data; name them, for {wanted}")


def _forms(kind: str, columns: Collection[str]) -> list[str]:
    """The sets of columns that are there, of those that make a kind."""
    return [form for form in COLUMNS[kind] if set(form.split(" + ")) <= set(columns)]


def _convert(table: Table, where: str, kind: str, limit: int | None) -> Rows:
    """Rows with any known set of columns -> objects of `kind`. Raises UserError for missing columns and flawed rows."""
    columns, rows = table
    fitting = _forms(kind, columns)
    if not fitting and (columns or len(rows)):
        raise UserError(f"{where}: holds no {kind}, its columns are {', '.join(columns) or '(none)'}; "
                        f"name them {', or '.join(COLUMNS[kind])}")
    if not len(rows):
        raise UserError(f"{where}: holds no rows; fill it, or choose another file or split")
    convert = COLUMNS[kind][fitting[0]]
    result, skipped, rare = Rows(kind=kind, form=fitting[0], columns=columns, total=len(rows)), {}, []
    for number, row in enumerate(rows, 1):
        try:
            result.append(convert(row))
            result.numbers.append(number)
        except RowError as flaw:
            skipped.setdefault(flaw.what, []).append(number)
            rare += [(number, flaw)] * (flaw.tolerated == RARE)
            if flaw.tolerated == NEVER or len(rare) > RARE * len(rows):
                first, worst = (number, flaw) if flaw.tolerated == NEVER else rare[0]
                raise UserError(f"{where}, row {first}: {worst.what}; {worst.mend}") from None
        if limit and len(result) == limit:
            break
    result.notes = [f"{len(numbers):,} row{'s' * (len(numbers) > 1)} skipped: {what} (first: row {numbers[0]})"
                    for what, numbers in skipped.items()]
    if not result:
        raise UserError(f"{where}: leaves nothing to use: {'; '.join(result.notes)}; choose other data")
    return result
