"""The held-out texts on which perplexity is measured: documents of a file, of the Hub, or the bundled ones."""

import re
from collections.abc import Sequence
from pathlib import Path

from rlhf_engine.data.examples import Demonstration
from rlhf_engine.data.formats import COLUMNS, KNOWN_COLUMNS
from rlhf_engine.data.readers import Rows, column_names, convert_table
from rlhf_engine.data.tables import BUNDLED_NAMES, read_plain_text, read_table
from rlhf_engine.errors import UserError
from rlhf_engine.files import ASSETS, expand_user

BUNDLED_TEXTS = ASSETS / "stories-heldout.jsonl"
"""Stories that no bundled model has learned from."""
TEXT_COLUMNS = ("story", "content", "document", "article", "passage", "body", "sentence")
"""Columns that hold a text in public sets, beside `text`."""
PLAIN_SUFFIXES = (".txt", ".md")
"""Ends of the names of files that are plain text."""
BORDER = re.compile(r"^\s*(?:<\|endoftext\|>|<\|end\|>|</s>)\s*$", re.MULTILINE)
"""A line that parts the documents of a plain file, as in the files of TinyStories."""


def read_texts(source: str, *, subset: str | None = None, split: str | None = None, limit: int | None = None) -> Rows:
    """The documents of `source` as demonstrations with an empty prompt.

    `source` is `bundled`, a table with a column `text` (or another of `TEXT_COLUMNS`), a plain text file, or a Hub id.
    A plain file is one document, unless lines with the end token `<|endoftext|>` part it into several. A table with
    prompts and answers is read, too: then the answers are what is charged, given their prompts.

    At most `limit` documents are returned; None and 0 mean all. Raises UserError.
    """
    if source in BUNDLED_NAMES:
        rows = convert_table(*read_table(str(BUNDLED_TEXTS), None, None, ["text"])[:2], "demonstrations", limit)
        rows.bundled = True
        return rows
    path = Path(expand_user(source))
    if path.name.lower().removesuffix(".gz").endswith(PLAIN_SUFFIXES):
        if subset or split:
            raise UserError(f"{source}: a file has no subsets or splits; leave --subset and --split out")
        return _plain_documents(path, limit)
    (columns, rows), name, notes = read_table(source, subset, split, {*KNOWN_COLUMNS, *TEXT_COLUMNS})
    column = _text_column(columns, name)
    if column:
        columns, rows = ["text"], [{"text": row.get(column)} for row in rows]
        notes = [*notes, f"the column {column} is read as the text"]
    result = convert_table((columns, rows), name, "demonstrations", limit)
    result.notes[:0] = notes
    return result


def _text_column(columns: Sequence[str], name: str) -> str:
    """The column that holds the texts, where it has another name than those the readers know; "" where it has not.

    Raises UserError where no column holds texts, or where it is not clear which one does.
    """
    if not columns or any(set(form.split(" + ")) <= set(columns) for form in COLUMNS["demonstrations"]):
        return ""
    found = [column for column in TEXT_COLUMNS if column in columns]
    if len(found) == 1:
        return found[0]
    raise UserError(f"{name}: holds no texts, its columns are {column_names(columns)}; name the one that holds them "
                    "text")


def _plain_documents(path: Path, limit: int | None) -> Rows:
    """The documents of a plain text file. Raises UserError."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name one file in it")
    if not path.exists():
        raise UserError(f"{path}: there is no such file; paths start in {Path.cwd()}")
    pieces = [piece.strip() for piece in BORDER.split(read_plain_text(path))]
    documents = [Demonstration("", piece) for piece in pieces if piece]
    if not documents:
        raise UserError(f"{path}: holds no text; fill it, or name another file")
    notes = []
    if len(documents) == 1:
        notes.append("the file is one document, so there is no interval; part its documents with lines <|endoftext|>")
    result = Rows(documents[:limit or None], notes, kind="demonstrations", total=len(documents))
    result.numbers = list(range(1, len(result) + 1))
    return result
