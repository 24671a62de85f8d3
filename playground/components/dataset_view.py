"""What a data file is taken for, as HTML: its kind, which column became what, how long the texts are, what was left out, and the rows."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

from playground.components import text
from playground.components.formatting import conversation
from playground.components.html import escape
from playground.workspace import Workspace
from rlhf_engine.data.formats import Demonstration, Preference, Ranking
from rlhf_engine.data.readers import Rows, read_rows
from rlhf_engine.errors import UserError
from rlhf_engine.files import ASSETS

BUNDLED = {"bundled-prompts": "prompts.jsonl", "bundled-heldout": "prompts-heldout.jsonl",
           "bundled-demonstrations": "demonstrations.jsonl", "bundled-preferences": "preferences.jsonl"}
KIND_OF_STAGE = {"sft": "demonstrations", "reward": "preferences", "ppo": "prompts", "teach": "prompts"}
MOST = 100_000
"""Rows that are read, at most, to be looked at."""
CLIP = 1500
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Source:
    """Where rows come from, and what to call it."""

    name: str
    place: str
    """A path, or a Hub id."""
    subset: str = ""
    split: str = ""

    @property
    def hub(self) -> bool:
        return not Path(self.place).is_absolute()

    @property
    def key(self) -> str:
        """What a browser that asked for a Hub data set keeps: it has been asked for once."""
        return "\n".join((self.place, self.subset, self.split))


@dataclass(frozen=True)
class Look:
    """Rows as the trainers would get them."""

    name: str
    rows: Rows
    lengths: dict[str, tuple[float, int]]
    """Of what a row is made of (prompt, chosen, ...): median and largest number of characters."""


def source_of(workspace: Workspace, value: str, kind: str = "", subset: str = "", split: str = "") -> Source:
    """What a data field names: a key of `BUNDLED`, `bundled` (of a kind), a file of the workspace, or a Hub id. Raises UserError."""
    value = str(value or "").strip()
    if value == "bundled":
        value = f"bundled-{kind or 'prompts'}"
    if value in BUNDLED:
        return Source(text.BUNDLED_DATA[value], str(ASSETS / BUNDLED[value]))
    if not value:
        raise UserError(text.NO_DATA_CHOSEN)
    place = workspace.data(value)
    return Source(workspace.name_of(place), place, str(subset or "").strip(), str(split or "").strip())


def look_at(source: Source, kind: str = "", limit: int = MOST) -> Look:
    """Read a source as a kind of data ("": as what it is), once for each version of the file. Raises UserError as the readers do."""
    try:
        stat = None if source.hub else Path(source.place).stat()
        return _look_at(source, kind, min(limit or MOST, MOST), stat and (stat.st_mtime_ns, stat.st_size))
    except OSError as error:
        raise UserError(text.UNREADABLE.format(name=source.name, error=error.strerror)) from None
    except UserError as error:
        raise UserError(str(error).replace(source.place, source.name)) from None


@lru_cache(maxsize=4)
def _look_at(source: Source, kind: str, limit: int, _version: tuple | None) -> Look:
    rows = read_rows(source.place, kind, subset=source.subset or None, split=source.split or None, limit=limit)
    found: dict[str, list[int]] = {}
    for row in rows:
        for name, said in texts(row):
            found.setdefault(name, []).append(len(said))
    return Look(source.name, rows, {name: (median(lengths), max(lengths)) for name, lengths in found.items()})


def texts(row) -> list[tuple[str, str]]:
    """What a row consists of, as (name, text)."""
    if isinstance(row, Demonstration):
        return [("prompt", conversation(row.prompt)), ("completion", row.completion)]
    if isinstance(row, Preference):
        return [("prompt", conversation(row.prompt)), ("chosen", row.chosen), ("rejected", row.rejected)]
    if isinstance(row, Ranking):
        return [("prompt", conversation(row.prompt)), *(("response", said) for _, said in sorted(zip(row.ranks, row.responses)))]
    return [("prompt", conversation(row))]


def matching(look: Look, wanted: str) -> list[int]:
    """Places of the rows that hold a text, all for an empty one."""
    wanted = (wanted or "").casefold()
    return [i for i, row in enumerate(look.rows) if not wanted or any(wanted in said.casefold() for _, said in texts(row))]


# -- HTML ------------------------------------------------------------------------------------------------------------

def remark(line: str) -> str:
    """In place of rows, why there are none."""
    return f'<p class="empty" role="status">{escape(line)}</p>'


def preview(look: Look, count: int = 3) -> str:
    """The mapping, and the first rows."""
    return f"{summary(look)}{rows(look, range(min(count, len(look.rows))))}"


def summary(look: Look) -> str:
    """What the data was taken for."""
    taken = look.rows
    facts = [text.ROWS.format(count=len(taken))]
    if len(taken) < taken.total:
        facts.append(text.ROWS_OF.format(total=taken.total))
    used, names = set(taken.form.split(" + ")), text.COLUMN_OF[taken.kind].get(taken.form, {})
    roles = [name for name in text.COLUMN_OF[taken.kind]["all"] if name in look.lengths]
    body = "".join(
        f'<tr><th scope="row">{text.TEXT_NAMES[name]}</th><td>{escape(names.get(name, text.COLUMN.format(name=name)))}</td>'
        f'<td class="n" data-title="{text.MEDIAN_LENGTH}">{look.lengths[name][0]:,.0f}</td>'
        f'<td class="n" data-title="{text.LONGEST}">{look.lengths[name][1]:,}</td></tr>' for name in roles)
    heads = "".join(f'<th scope="col">{head}</th>' for head in (text.BECOMES, text.FROM_COLUMN, text.MEDIAN_LENGTH, text.LONGEST))
    also = [name for name in text.ALSO_USED[taken.kind] if name in taken.columns and (name != "input" or "instruction" in used)]
    remarks = [text.ALSO_USED[taken.kind][name] for name in also]
    if unused := [name for name in taken.columns if name not in used and name not in also]:
        remarks.append(text.UNUSED.format(names=", ".join(unused[:20]) + (" …" if len(unused) > 20 else "")))
    if len(taken) == MOST:
        remarks.append(text.ONLY_FIRST.format(count=MOST))
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in [*remarks, *taken.notes])
    return (f'<section class="data-look"><p class="run-title"><strong>{escape(look.name)}</strong>'
            f'<span class="badge running">{text.KINDS_OF_DATA[taken.kind]}</span><span class="facts">{escape(" · ".join(facts))}</span></p>'
            f'<table class="mapping"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
            f'{f"<ul>{remarks}</ul>" if remarks else ""}</section>')


def rows(look: Look, places) -> str:
    """Some of the rows, each with its number in the file."""
    found = "".join(_row(look.rows.numbers[i], look.rows[i]) for i in places)
    return f'<ol class="data-rows">{found}</ol>' if found else f'<p class="empty">{text.NO_ROW_MATCHES}</p>'


def _row(number: int, row) -> str:
    first, *rest = texts(row)
    titles = [text.TEXT_NAMES[name] for name, _ in rest]
    if isinstance(row, Ranking):
        titles = [text.RANK.format(rank=rank) for rank in sorted(row.ranks)]
    answers = "".join(f'<div class="said {name}"><b>{title}</b><p>{clipped(said)}</p></div>' for title, (name, said) in zip(titles, rest))
    return (f'<li><span class="number">{text.ROW_NUMBER.format(number=number)}</span>'
            f'<p class="prompt">{clipped(first[1]) or f"<em>{text.NO_PROMPT}</em>"}</p>'
            f'{f"""<div class="said-all">{answers}</div>""" if rest else ""}</li>')


def clipped(said: str) -> str:
    """A text, inert, and not so long that a page of them could not be sent."""
    if len(said) <= CLIP:
        return escape(said)
    return f"{escape(said[:CLIP])}… <em>{text.CLIPPED.format(count=len(said) - CLIP)}</em>"
