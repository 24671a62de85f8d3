"""Tables: a local file or a Hub data set as column names and rows (dictionaries).

Local files do not go through `datasets`. Its JSON and CSV readers (5.2) give every column one type, so they change
texts: "2020-01-01" becomes a date, "007" a 7, and one number in a list of texts puts quotes around the others. They
also refuse a file in which a column begins late, cannot name the bad row, and send a request to a counter on the net
at every reading.
"""

import gzip
import logging
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from rlhf_engine.data.csv_files import csv_table
from rlhf_engine.data.json_files import json_table
from rlhf_engine.errors import UserError, first_line
from rlhf_engine.files import ASSETS

READABLE = "a .json, .jsonl or .csv file (gzipped or not), a .parquet file, or a Hub id (owner/name)"
Table = tuple[list[str], Sequence[dict]]
"""The names of the columns, and the rows."""


def read_table(source: str, subset: str | None, split: str | None,
               wanted: Collection[str]) -> tuple[Table, str, list[str]]:
    """(the table, its name for messages, remarks for the user) of a file or a Hub id.

    Columns that are not in `wanted` may be left unread. Raises UserError for whatever cannot be read.
    """
    if not source.strip():
        raise UserError(f"the name of the data is empty; give {READABLE}")
    if re.match(r"[a-z][a-z0-9+]+://", source, re.IGNORECASE):
        raise UserError(f"{source}: is an address; download the file and name it where it is then, or give a Hub id "
                        "(owner/name)")
    path = Path(os.path.expanduser(source))
    name = path.name.lower()
    exists = os.path.exists(path)  # unlike Path.exists, it accepts a text that is too long for a path
    read = READERS.get(Path(name.removesuffix(".gz")).suffix) if not name.endswith(".parquet.gz") else None
    if os.path.isdir(path):
        raise UserError(f"{source}: is a folder; name one file in it")
    if exists:
        if not read:
            raise UserError(f"{source}: cannot read a file of this kind; give {READABLE}")
        if subset or split not in (None, "", "train"):
            raise UserError(f"{source}: a file has no subsets or splits; leave --subset and --split out")
        return read(path, wanted), source, []
    if read or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", source):
        raise UserError(f"{source}: there is no such file; give {READABLE}; paths start in {Path.cwd()}")
    return _from_hub(source, subset, split, wanted)


def _parquet_table(path: Path, wanted: Collection[str]) -> Table:
    import pyarrow
    from pyarrow.parquet import ParquetFile
    try:
        file = ParquetFile(path)
        columns = file.schema_arrow.names
        return columns, file.read(columns=[column for column in columns if column in wanted]).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        with open(path, "rb") as pointer:
            if pointer.read(len(LFS)) == LFS:
                raise UserError(f"{path}: {NOT_FETCHED}") from None
        raise UserError(f"{path}: is no Parquet file ({first_line(error)}); write or download it again") from None


def _text_table(parse: Callable[[object, str, Collection[str]], Table]) -> Callable[[Path, Collection[str]], Table]:
    """A reader of files of text, of which `parse` makes a table."""
    return lambda path, wanted: parse(path, read_plain_text(path), wanted)


READERS = {".json": _text_table(json_table), ".jsonl": _text_table(json_table), ".ndjson": _text_table(json_table),
           ".csv": _text_table(csv_table), ".tsv": _text_table(csv_table), ".parquet": _parquet_table}
MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""The bytes with which a text begins that is not UTF-8."""
EXCEL = " (Excel: CSV UTF-8)"
LFS = b"version https://git-lfs"
NOT_FETCHED = "is a pointer of Git LFS and not the file itself; fetch it with `git lfs pull`, or download it"
WEB_PAGE = "is a web page and not the file itself; download the raw file"
OTHER_FILES = {b"pk\x03\x04": "is a zip or Excel file; unpack it, or save the table as CSV", LFS: NOT_FETCHED,
               b"<!doctype html": WEB_PAGE, b"<html": WEB_PAGE,
               b"par1": "is a Parquet file; let its name end in .parquet"}
"""How files begin that are no table as text, in lower case, and what to say of them."""
LONGEST_BEGINNING = 200
"""Bytes in which the beginning is looked for. There may be blanks before it."""


def read_plain_text(path: Path) -> str:
    """The text of a file, gzipped or not. Raises UserError for a file that cannot be read or is no text."""
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz" or data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); write or download it again") from None
    for beginning, what in OTHER_FILES.items():
        if data[:LONGEST_BEGINNING].lstrip().lower().startswith(beginning):
            raise UserError(f"{path}: {what}")
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: is not UTF-8 text; save the file as UTF-8{EXCEL}") from None
    if "\0" in text:  # UTF-16 without a mark, or a file with holes
        if len(text) > 8 and text.count("\0") * 3 > len(text):
            raise UserError(f"{path}: is UTF-16 text without the mark that says so; save the file as UTF-8{EXCEL}")
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line}: holds a NUL byte, which no text does; save the file as UTF-8")
    return text


def _from_hub(source: str, subset: str | None, split: str | None,
              wanted: Collection[str]) -> tuple[Table, str, list[str]]:
    """(a split of a Hub data set, its name for messages, remarks for the user). `datasets` caches a copy."""
    import datasets
    notes = [] if _hub_answers(source) else [FROM_CACHE]
    splits = _load_splits(source, subset, offline=bool(notes))
    names = [str(name) for name in splits]
    split = split or ("train" if len(names) > 1 else names[0])
    if split not in names:
        raise UserError(f"{source}: has no split {split!r}; choose one with --split: {', '.join(names)}")
    rows: datasets.Dataset = splits[split]
    columns = rows.column_names
    # Columns that nobody needs can hold pictures, which take long to decode.
    rows = rows.select_columns([column for column in columns if column in wanted])
    table = columns, cast(Sequence[dict], rows)
    return table, f"{source}, split {split}", notes


def is_hub_name(source: str) -> bool:
    """Whether a source names a data set of the Hub: it looks like owner/name, and nothing here has that path."""
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", source)) and not os.path.exists(source)


def hub_subsets(source: str) -> tuple[list[str], list[str]]:
    """(names of the subsets (configurations) of a Hub data set in its own order, remarks for the user).

    Where the Hub cannot be reached, they are those of which a copy is cached, and a remark says so. Raises UserError.
    """
    import datasets
    if not _hub_answers(source):
        names = _cached_subsets(source)
        if not names:
            raise _hub_error(source, None, ConnectionError(), unreachable=True)
        return names, [f"the Hub cannot be reached, so of {source} there are only the subsets that are cached"]
    try:
        with _quiet():
            return [str(name) for name in datasets.get_dataset_config_names(source)], []
    except Exception as error:  # as in `_load_splits`
        raise _hub_error(source, None, error, unreachable=False) from None


def _cached_subsets(source: str) -> list[str]:
    """Names of the subsets of a Hub data set that `datasets` has in its cache: it has a folder for each."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase
    owner, _, name = source.rpartition("/")
    folder = Path(config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}"
    return sorted(path.name for path in folder.glob("*") if any(path.glob("*/*")))


FROM_CACHE = "the Hub cannot be reached, these rows are from the copy cached last"


def _hub_answers(source: str) -> bool:
    """Whether the Hub can be reached, by one request. `datasets` itself would try for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    try:
        HfApi().dataset_info(source, timeout=10)
    except HfHubHTTPError:
        return True  # the Hub answers, so `datasets` will find out what is wrong
    except Exception:  # of the HTTP client, which changes with the version of huggingface_hub
        return False
    return True


def _load_splits(source: str, subset: str | None, offline: bool):
    """All splits of a Hub data set (a DatasetDict). With `offline` they come from the cache. Raises UserError."""
    import datasets
    from datasets import config
    offline_before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = offline_before or offline
    try:
        with _quiet():
            return datasets.load_dataset(source, subset or None)
    except Exception as error:  # DatasetNotFoundError, ValueError, RuntimeError, and what HTTP client and Arrow raise
        raise _hub_error(source, subset, error, unreachable=offline) from None
    finally:
        config.HF_HUB_OFFLINE = offline_before


def _hub_error(source: str, subset: str | None, error: Exception, unreachable: bool) -> UserError:
    """What the user should know of an error of `datasets`, which is recognised by its words."""
    message = str(error)
    subsets = re.search(r"\[(.*?)\]", message, re.DOTALL)
    if subsets and ("Config name is missing" in message or "BuilderConfig" in message):
        what = f"has no subset {subset!r}" if subset else "has several subsets"
        return UserError(f"{source}: {what}; choose one with --subset: {subsets[1].replace(chr(39), '')}")
    if "is a gated dataset" in message:
        return UserError(f"{source}: is gated; accept its terms on its Hub page and log in with `hf auth login`")
    if "scripts are no longer supported" in message:
        return UserError(f"{source}: needs code of its own, which is never run; take one that consists of data files")
    if unreachable or isinstance(error, ConnectionError):
        return UserError(f"{source}: the Hub cannot be reached and no copy is here; check the network, or give a file")
    if "doesn't exist on the Hub" in message:
        return UserError(f"{source}: there is no such data set on the Hub and no such file here; check the spelling, "
                         "or log in with `hf auth login` if it is private")
    return UserError(f"{source}: cannot be loaded ({first_line(error.__cause__ or error)}); try again, or give a file")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries from logging what they also raise."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


# -- bundled data ------------------------------------------------------------------------------------------------------

BUNDLED_NAMES = ("bundled", "bundled-heldout")
"""The names of bundled data: what is trained on, and prompts that are held out."""
OWN_PROMPTS = {"smollm2": "everyday-requests"}
"""Models that have bundled prompts of their own, and the beginning of their files' names."""


def bundled_file(source: str, kind: str, model: str = "bundled") -> Path:
    """The file of bundled data of a kind, for a model.

    Raises UserError for data that is not there, or that does not suit the model.
    """
    stem = "preferences" if kind == "thumbs" else kind  # the bundled pairs are split into thumbs
    if model in OWN_PROMPTS:
        if kind != "prompts":
            raise UserError(f"{source}: holds no {kind} for {model}, only prompts (the bundled {kind} are of short "
                            f"stories); name {kind} with --data: {READABLE}")
        stem = OWN_PROMPTS[model]
    path = ASSETS / f"{stem}{source.removeprefix('bundled')}.jsonl"
    if not path.exists():
        raise UserError(f"{source}: there are no such {kind} ({path} is missing); give {READABLE}")
    return path
