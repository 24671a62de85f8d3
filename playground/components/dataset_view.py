"""A data file as HTML: its kind, which column became what, how long the texts are, what was left out, and the rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

from markupsafe import Markup

from playground.components import text
from playground.components.formatting import conversation
from playground.components.html import empty, render
from playground.workspace import Workspace
from rlhf_engine.data.formats import Demonstration, Preference, Ranking
from rlhf_engine.data.readers import Rows, read_rows
from rlhf_engine.data.tables import OWN_PROMPTS, bundled_file
from rlhf_engine.errors import UserError
from rlhf_engine.files import ASSETS

BUNDLED = {"bundled-prompts": "prompts.jsonl", "bundled-heldout": "prompts-heldout.jsonl",
           "bundled-demonstrations": "demonstrations.jsonl", "bundled-preferences": "preferences.jsonl"}
"""The data sets that ship with the project, by the names that the page gives them."""
MOST_ROWS = 100_000
"""At most this many rows are read to be shown."""
MOST_CHARACTERS = 1500
"""At most this many characters of a text are shown."""
MOST_COLUMNS = 20
"""At most this many unused columns are named."""


@dataclass(frozen=True)
class Source:
    """Where rows come from, and the name that the page shows for it."""

    name: str
    location: str
    """An absolute path, or a Hub id."""
    subset: str = ""
    split: str = ""

    @property
    def hub(self) -> bool:
        """Whether this is a data set on the Hub."""
        return not Path(self.location).is_absolute()

    @property
    def key(self) -> str:
        """A text that identifies the source. A browser keeps the key of the Hub data set that it has asked for."""
        return "\n".join((self.location, self.subset, self.split))


@dataclass(frozen=True)
class Dataset:
    """Rows as a trainer would get them."""

    name: str
    rows: Rows
    lengths: dict[str, tuple[float, int]]
    """For each part of a row (prompt, chosen, ...): the median and the largest number of characters."""


def find_source(workspace: Workspace, value: str, kind: str = "", subset: str = "", split: str = "",
                model: str = "bundled") -> Source:
    """The source that a data field names: a key of `BUNDLED`, `bundled` (of a kind), a file of the workspace, or a Hub
    id.

    `model` is the one that reads it: some have bundled prompts of their own. Raises UserError.
    """
    value = str(value or "").strip()
    if value == "bundled" and model in OWN_PROMPTS:
        return Source(text.OWN_PROMPTS.format(model=model), str(bundled_file(value, kind or "prompts", model)))
    if value == "bundled":
        value = f"bundled-{kind or 'prompts'}"
    if value in BUNDLED:
        return Source(text.BUNDLED_DATA[value], str(ASSETS / BUNDLED[value]))
    if not value:
        raise UserError(text.NO_DATA_CHOSEN)
    location = workspace.data(value)
    return Source(workspace.name_of(location), location, str(subset or "").strip(), str(split or "").strip())


def read_dataset(source: Source, kind: str = "", limit: int = MOST_ROWS) -> Dataset:
    """The rows of a source, read once for each version of its file. `kind` is one of the kinds of data; "" recognises
    the kind.

    Raises UserError as the readers of the engine do.
    """
    try:
        stat = None if source.hub else Path(source.location).stat()
        version = stat and (stat.st_mtime_ns, stat.st_size)
        return _read_dataset(source, kind, min(limit or MOST_ROWS, MOST_ROWS), version)
    except OSError as error:
        raise UserError(text.UNREADABLE.format(name=source.name, error=error.strerror)) from None
    except UserError as error:
        raise UserError(str(error).replace(source.location, source.name)) from None


@lru_cache(maxsize=4)
def _read_dataset(source: Source, kind: str, limit: int, _version: tuple | None) -> Dataset:
    rows = read_rows(source.location, kind, subset=source.subset or None, split=source.split or None, limit=limit)
    lengths: dict[str, list[int]] = {}
    for row in rows:
        for name, content in row_texts(row):
            lengths.setdefault(name, []).append(len(content))
    return Dataset(source.name, rows, {name: (median(counts), max(counts)) for name, counts in lengths.items()})


def row_texts(row) -> list[tuple[str, str]]:
    """The parts of a row as (name, text); the responses of a ranking come best first."""
    if isinstance(row, Demonstration):
        return [("prompt", conversation(row.prompt)), ("completion", row.completion)]
    if isinstance(row, Preference):
        return [("prompt", conversation(row.prompt)), ("chosen", row.chosen), ("rejected", row.rejected)]
    if isinstance(row, Ranking):
        ranked = sorted(zip(row.ranks, row.responses))
        return [("prompt", conversation(row.prompt)), *(("response", response) for _, response in ranked)]
    return [("prompt", conversation(row))]


def matching_rows(data: Dataset, search: str) -> list[int]:
    """Indices of the rows that contain a text, in upper or lower case; all rows for an empty text."""
    search = (search or "").casefold()
    if not search:
        return list(range(len(data.rows)))
    return [index for index, row in enumerate(data.rows) if contains(row, search)]


def contains(row, search: str) -> bool:
    """Whether one of the texts of a row contains `search`, which is in lower case."""
    return any(search in content.casefold() for _, content in row_texts(row))


# -- HTML ------------------------------------------------------------------------------------------------------------

def remark(line: str) -> Markup:
    """A sentence in place of rows."""
    return empty(line, status=True)


def preview(data: Dataset, count: int = 3) -> Markup:
    """The summary, and the first rows."""
    return summary(data) + rows(data, range(min(count, len(data.rows))))


def summary(data: Dataset) -> Markup:
    """What the data was recognised as: the kind, the number of rows, and the column of each part."""
    facts = [text.ROWS.format(count=len(data.rows))]
    if len(data.rows) < data.rows.total:
        facts.append(text.ROWS_OF.format(total=data.rows.total))
    heads = (text.BECOMES, text.FROM_COLUMN, text.MEDIAN_LENGTH, text.LONGEST)
    return render("components/data_summary.html", text=text, name=data.name, kind=text.KINDS_OF_DATA[data.rows.kind],
                  facts=" · ".join(facts), heads=heads, parts=column_mapping(data), remarks=remarks_on(data))


def column_mapping(data: Dataset) -> list[dict]:
    """For each part of a row: the column it comes from, and its lengths in characters."""
    parts = []
    for name in text.PARTS_OF_DATA[data.rows.kind]:
        if name in data.lengths:
            middle, longest = data.lengths[name]
            parts.append({"name": text.TEXT_NAMES[name], "column": data.rows.format.source_of(name),
                          "median": f"{middle:,.0f}", "longest": f"{longest:,}"})
    return parts


def remarks_on(data: Dataset) -> list[str]:
    """Columns that are used besides, columns that are not used, and what the reader left out."""
    rows = data.rows
    optional = [name for name in rows.used if name not in rows.form.split(" + ")]
    remarks = [text.ALSO_USED[name] for name in optional if name in text.ALSO_USED]
    unused = rows.unused
    if rows.format.public:
        remarks.insert(0, text.READ_AS.format(name=rows.format.public))
    if unused:
        more = " …" if len(unused) > MOST_COLUMNS else ""
        remarks.append(text.UNUSED.format(names=", ".join(unused[:MOST_COLUMNS]) + more))
    if len(rows) == MOST_ROWS:
        remarks.append(text.ONLY_FIRST.format(count=MOST_ROWS))
    return [*remarks, *rows.notes]


def rows(data: Dataset, indices: Iterable[int]) -> Markup:
    """Some of the rows, each with its number in the file."""
    views = [row_view(data.rows.numbers[index], data.rows[index]) for index in indices]
    return render("components/data_rows.html", rows=views, text=text)


def row_view(number: int, row) -> dict:
    """The texts of a row for the template: its number, its prompt, and its answers."""
    (_, prompt), *rest = row_texts(row)
    titles = [text.TEXT_NAMES[name] for name, _ in rest]
    if isinstance(row, Ranking):
        titles = [text.RANK.format(rank=rank) for rank in sorted(row.ranks)]
    answers = [{"name": part[0], "title": title, "content": clip_text(part[1])} for title, part in zip(titles, rest)]
    return {"number": text.ROW_NUMBER.format(number=number), "prompt": clip_text(prompt), "answers": answers}


def clip_text(content: str) -> Markup:
    """A text as HTML; a long one is cut, so that a page of rows stays small enough to be sent."""
    rest = len(content) - MOST_CHARACTERS
    more = text.CLIPPED.format(count=rest) if rest > 0 else ""
    return render("components/clipped_text.html", shown=content[:MOST_CHARACTERS], more=more)
