"""Minimal pairs: two sentences that differ in one point of grammar, of which a good model finds the right one likelier.

BLiMP (Warstadt et al. 2020) has 67 paradigms of a thousand pairs each. On the Hub it is `nyu-mll/blimp`, with one
subset a paradigm.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_engine.data.fields import RARE, Row, RowError, required_text
from rlhf_engine.data.readers import column_names
from rlhf_engine.data.tables import (
    BUNDLED_NAMES,
    READERS,
    Table,
    hub_subsets,
    is_hub_name,
    read_table,
)
from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.files import ASSETS, expand_user

BUNDLED_PAIRS = ASSETS / "minimal-pairs.jsonl"
"""Pairs in the words of the bundled model."""
FORMS = (("good", "bad"), ("sentence_good", "sentence_bad"), ("good_sentence", "bad_sentence"), ("sen", "wrong_sen"),
         ("grammatical", "ungrammatical"), ("correct", "incorrect"))
"""Columns that hold the right and the wrong sentence: of this project, BLiMP, its Japanese kin, MultiBLiMP, others."""
PARADIGM_COLUMNS = ("paradigm", "UID", "phenomenon", "type", "category")
"""Columns that name what a pair tests. The first that is there counts."""
WANTED = {column for form in FORMS for column in form} | set(PARADIGM_COLUMNS)
WHOLE = "default"
"""What the Hub calls the only subset of a data set that has none."""
UNNAMED = "all"
"""The paradigm of pairs that have none."""
SPLIT_NAME = re.compile(r"(train|test|valid(ation)?|dev)?(-?\d+(-of-\d+)?)?")
"""Names of files that say nothing about what is in them: then their folder does."""


@dataclass(frozen=True)
class MinimalPair:
    """A right and a wrong sentence, and what they test."""

    good: str
    bad: str
    paradigm: str = UNNAMED


class MinimalPairs(list[MinimalPair]):
    """The pairs that a reader returns. `notes` are one-line remarks for the user."""

    def __init__(self, pairs: Sequence[MinimalPair] = (), notes: Sequence[str] = ()):
        super().__init__(pairs)
        self.notes = list(notes)

    @property
    def paradigms(self) -> list[str]:
        """The names of the paradigms, in the order in which they first come."""
        return list(dict.fromkeys(pair.paradigm for pair in self))


def read_minimal_pairs(source: str, *, subsets: Sequence[str] = (), split: str | None = None,
                       limit: int | None = None) -> MinimalPairs:
    """Pairs of sentences, with the names of their paradigms.

    Args:
        source: `bundled`, a table with columns as in `FORMS`, a folder of such tables (a file is a paradigm), or a Hub
            id, of which all subsets are read.
        subsets: names of paradigms; no others are returned. Of a Hub id no other subset is read.
        split: of a Hub data set; None is `train`, or the only one there is.
        limit: pairs of each paradigm, at most; None and 0 mean all.

    Raises UserError for what holds no pairs, for a flawed row, and for a name in `subsets` that is not there.
    """
    if source in BUNDLED_NAMES:
        pairs = _pairs_of(*read_table(str(BUNDLED_PAIRS), None, None, WANTED))
    elif source.strip() and Path(expand_user(source)).is_dir():
        if split:
            raise UserError(f"{source}: a folder has no splits; leave --split out")
        pairs = _read_folder(Path(expand_user(source)))
    elif is_hub_name(source):
        return _limited(_read_hub(source, subsets, split), limit)
    else:
        pairs = _pairs_of(*read_table(source, None, split, WANTED))
    _check_names(source, subsets, pairs.paradigms)
    chosen = [pair for pair in pairs if not subsets or pair.paradigm in subsets]
    return _limited(MinimalPairs(chosen, pairs.notes), limit)


def _check_names(source: str, wanted: Collection[str], known: list[str]) -> None:
    missing = [name for name in wanted if name not in known]
    if missing:
        raise UserError(f"{source}: has no pairs named {short_repr(missing[0])}; choose from {column_names(known)}")


def _limited(pairs: MinimalPairs, limit: int | None) -> MinimalPairs:
    """The first `limit` pairs of each paradigm."""
    if not limit:
        return pairs
    counts: dict[str, int] = defaultdict(int)
    kept = []
    for pair in pairs:
        counts[pair.paradigm] += 1
        if counts[pair.paradigm] <= limit:
            kept.append(pair)
    return MinimalPairs(kept, pairs.notes)


# -- several tables ----------------------------------------------------------------------------------------------------

def _read_hub(source: str, subsets: Sequence[str], split: str | None) -> MinimalPairs:
    """The pairs of some subsets of a Hub data set, or of all: a subset is a paradigm, where its rows name none."""
    names, notes = hub_subsets(source)
    _check_names(source, subsets, names)
    pairs = []
    for name in subsets or names:
        subset = "" if name == WHOLE else name
        found = _pairs_of(*read_table(source, subset or None, split, WANTED), subset)
        pairs += found
        notes += found.notes
    return MinimalPairs(pairs, list(dict.fromkeys(notes)))


def _read_folder(folder: Path) -> MinimalPairs:
    """The pairs of all tables in a folder and below it. Tables of something else are left out, with a remark."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and _is_table(file.relative_to(folder))]
    if not files:
        raise UserError(f"{folder}: holds no file of pairs; put .jsonl, .json, .csv or .parquet files into it")
    pairs, notes, others = [], [], []
    for file in files:
        table, name, _ = read_table(str(file), None, None, WANTED)
        if _form_of(table[0]) is None:
            others.append(file.name)
            continue
        found = _pairs_of(table, name, [], _paradigm_of(file))
        pairs += found
        notes += found.notes
    if not pairs:
        raise UserError(f"{folder}: no file in it holds pairs; {_columns_wanted()}")
    if others:
        notes.append(f"files that hold no pairs and are not used: {column_names(others)}")
    return MinimalPairs(pairs, notes)


def _is_table(path: Path) -> bool:
    """Whether a path, given from the folder on, is of a file that can be read. Hidden ones are not."""
    if any(part.startswith(".") for part in path.parts):
        return False
    return Path(path.name.lower().removesuffix(".gz")).suffix in READERS


def _paradigm_of(file: Path) -> str:
    """What a file without such a column is about: its name, or that of its folder if its own says nothing."""
    stem = file.name.split(".")[0]
    return file.parent.name if SPLIT_NAME.fullmatch(stem) else stem


# -- one table ---------------------------------------------------------------------------------------------------------

def _form_of(columns: Collection[str]) -> tuple[str, str] | None:
    """The columns of the right and the wrong sentence; None where there are none."""
    return next((form for form in FORMS if set(form) <= set(columns)), None)


def _columns_wanted() -> str:
    return "name the columns good and bad, with paradigm beside them where pairs are of several kinds"


def _pairs_of(table: Table, name: str, notes: Sequence[str], paradigm: str = "") -> MinimalPairs:
    """The pairs of a table. `paradigm` is that of rows that name none. Raises UserError."""
    columns, rows = table
    form = _form_of(columns)
    if not len(rows):
        raise UserError(f"{name}: holds no rows; fill it, or choose another file or split")
    if form is None:
        raise UserError(f"{name}: holds no minimal pairs, its columns are {column_names(columns)}; {_columns_wanted()}")
    kind = next((column for column in PARADIGM_COLUMNS if column in columns), "")
    pairs: list[MinimalPair] = []
    flaws: list[tuple[int, RowError]] = []
    for number, row in enumerate(rows, 1):
        try:
            pairs.append(_pair(Row(row), form, kind, paradigm))
        except RowError as flaw:
            flaws.append((number, flaw))
            if flaw.tolerated < RARE or len(flaws) > RARE * len(rows):
                first, why = (number, flaw) if flaw.tolerated < RARE else flaws[0]
                raise UserError(f"{name}, row {first}: {why.what}; {why.mend}") from None
    notes = list(notes)
    if flaws:
        notes.append(f"{name}: {len(flaws):,} rows are skipped, the first is row {flaws[0][0]}: {flaws[0][1].what}")
    return MinimalPairs(pairs, notes)


def _pair(row: Row, form: tuple[str, str], kind: str, paradigm: str) -> MinimalPair:
    """The pair of a row. Raises RowError."""
    good, bad = (required_text(row, column) for column in form)
    if good == bad:
        raise RowError(f"'{form[0]}' and '{form[1]}' are the same text", "write two that differ", RARE)
    named = row.get(kind) if kind else None
    text = "" if named is None else str(named).strip()
    return MinimalPair(good, bad, text or paradigm or UNNAMED)
