"""Where rows come from: a local file or the Hub, as column names and dictionaries.

Local files do not go through `datasets`: its JSON and CSV readers fit one type to a column, so they change texts
(5.2: "2020-01-01" becomes a date, "007" a 7, and one number in a list of texts puts quotes around the others), refuse
a file in which a column begins late, cannot name the bad row, and ask a counter on the net at every reading.
"""

import csv
import gzip
import io
import json
import logging
import os
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlhf_engine.errors import UserError, first_line, kind_of

READABLE = "a .json, .jsonl or .csv file (gzipped or not), a .parquet file, or a Hub id (owner/name)"
Table = tuple[list[str], Sequence[dict]]
"""Names of the columns, and the rows."""


def read_table(source: str, subset: str | None, split: str | None, wanted: Collection[str]) -> tuple[Table, str, list[str]]:
    """(columns and rows, what to call the place in messages, remarks). Columns that are not `wanted` may be left unread.

    Raises UserError for whatever cannot be read.
    """
    path = Path(os.path.expanduser(source))
    name, exists = path.name.lower(), os.path.exists(path)  # unlike Path's, this one takes a text too long for a path
    read = READERS.get(Path(name.removesuffix(".gz")).suffix) if not name.endswith(".parquet.gz") else None
    if os.path.isdir(path):
        raise UserError(f"{source}: is a folder; name one file in it")
    if exists and not read:
        raise UserError(f"{source}: cannot read a file of this kind; give {READABLE}")
    if exists and (subset or split not in (None, "", "train")):
        raise UserError(f"{source}: a file has no subsets or splits; leave --subset and --split out")
    if exists:
        return read(path, wanted), source, []
    if read or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", source):
        raise UserError(f"{source}: there is no such file; give {READABLE}; paths start in {Path.cwd()}")
    return _from_hub(source, subset, split, wanted)


def _json_table(path: Path, _wanted: Collection[str]) -> Table:
    """A JSON list of objects, or JSON lines. Raises UserError with the first row that is broken or no object."""
    text, rows, line = _text_of(path), [], 0
    mend = "write a list [{...}, {...}], or one complete {...} per line"
    is_list = text.lstrip().startswith("[")
    try:
        if is_list:
            rows = json.loads(text)
        else:
            for number, content in enumerate(text.split("\n")):
                if content.strip():
                    line = number
                    rows.append(json.loads(content))
    except (ValueError, RecursionError) as error:  # JSONDecodeError, or a number or nesting beyond Python's limits
        row = _row_of_mistake(text) if is_list else len(rows) + 1
        what = f"{error.msg} in line {line + error.lineno}" if hasattr(error, "lineno") else first_line(error)
        raise UserError(f"{path}, row {row}: broken JSON ({what}); {mend}") from None
    for row, value in enumerate(rows, 1):
        if not isinstance(value, dict):
            raise UserError(f"{path}, row {row}: is {kind_of(value)}, not an object with columns; {mend}")
    return list(dict.fromkeys(column for row in rows for column in row)), rows


def _row_of_mistake(text: str) -> int:
    """Number of the element of a JSON list that is broken, or behind which the list is."""
    decoder, row, position = json.JSONDecoder(), 1, text.index("[") + 1
    while True:
        try:
            position = decoder.raw_decode(text, re.compile(r"\s*").match(text, position).end())[1]
        except (ValueError, RecursionError):
            return row
        comma = re.compile(r"\s*,").match(text, position)
        if not comma:
            return row
        row, position = row + 1, comma.end()


def _csv_table(path: Path, _wanted: Collection[str]) -> Table:
    """A CSV file with a header, every cell a text. Raises UserError with the first row that does not fit the header."""
    csv.field_size_limit(1 << 30)
    reader, rows = csv.reader(io.StringIO(_text_of(path), newline=""), strict=True), []
    mend = 'put texts that hold commas, quotes or line breaks into "double quotes" and double the quotes inside'
    try:
        header = next(reader, [])
        for cells in filter(None, reader):
            if len(cells) != len(header):
                wrong = f"has {len(cells)} cells, but the header {len(header)}"
                raise UserError(f"{path}, row {len(rows) + 1}: {wrong}; {mend}")
            rows.append(dict(zip(header, cells)))
    except csv.Error as error:
        raise UserError(f"{path}, row {len(rows) + 1}: broken CSV ({error}); {mend}") from None
    return header, rows


def _parquet_table(path: Path, wanted: Collection[str]) -> Table:
    import pyarrow
    from pyarrow.parquet import ParquetFile
    try:
        file = ParquetFile(path)
        columns = file.schema_arrow.names
        return columns, file.read(columns=[column for column in columns if column in wanted]).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: is no Parquet file ({first_line(error)}); write or download it again") from None


READERS = {".json": _json_table, ".jsonl": _json_table, ".csv": _csv_table, ".parquet": _parquet_table}


def _text_of(path: Path) -> str:
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); write or download it again") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: is not UTF-8 text; save the file as UTF-8") from None


def _from_hub(source: str, subset: str | None, split: str | None, wanted: Collection[str]) -> tuple[Table, str, list[str]]:
    """(a split of a Hub data set, which `datasets` caches, its name for messages, remarks)."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    offline, notes = datasets.config.HF_HUB_OFFLINE, []
    try:  # `datasets` tries for half a minute before it gives up; one request tells at once
        HfApi().dataset_info(source, timeout=10)
    except HfHubHTTPError:
        pass  # the Hub answers, so `datasets` will find out what is the matter
    except Exception:  # of the HTTP client, which changes with the version of huggingface_hub
        datasets.config.HF_HUB_OFFLINE = True  # makes `datasets` take its cached copy, if there is one
        notes = ["the Hub cannot be reached, these rows are from the copy cached last"]
    try:
        with _quiet():
            splits = datasets.load_dataset(source, subset or None)
    except Exception as error:  # DatasetNotFoundError, ValueError, RuntimeError, and what HTTP client and Arrow raise
        raise _hub_error(source, subset, error, unreachable=bool(notes)) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    split = split or ("train" if len(splits) > 1 else next(iter(splits)))
    if split not in splits:
        raise UserError(f"{source}: has no split {split!r}; choose one with --split: {', '.join(splits)}")
    columns = splits[split].column_names  # those that are not needed may hold pictures, which take long to decode
    rows = splits[split].select_columns([column for column in columns if column in wanted])
    return (columns, rows), f"{source}, split {split}", notes


def _hub_error(source: str, subset: str | None, error: Exception, unreachable: bool) -> UserError:
    said, listed = str(error), re.search(r"\[(.*?)\]", str(error), re.DOTALL)
    if listed and ("Config name is missing" in said or "BuilderConfig" in said):
        wrong = f"has no subset {subset!r}" if subset else "has several subsets"
        return UserError(f"{source}: {wrong}; choose one with --subset: {listed[1].replace(chr(39), '')}")
    if "is a gated dataset" in said:
        return UserError(f"{source}: is gated; accept its terms on its Hub page and log in with `hf auth login`")
    if "scripts are no longer supported" in said:
        return UserError(f"{source}: needs code of its own, which is never run; take one that consists of data files")
    if unreachable or isinstance(error, ConnectionError):
        return UserError(f"{source}: the Hub cannot be reached and no copy is here; check the network, or give a file")
    if "doesn't exist on the Hub" in said:
        return UserError(f"{source}: there is no such data set on the Hub and no such file here; check the spelling, "
                         "or log in with `hf auth login` if it is private")
    return UserError(f"{source}: cannot be loaded ({first_line(error.__cause__ or error)}); try again, or give a file")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines that the libraries print beside an exception."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


