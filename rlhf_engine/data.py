r"""Prompts, demonstrations and preferences from the bundled assets, a local file or the Hub, checked row by row.

Readers return plain Python objects and raise UserError: one line with the file, the row (from 1) and the mend.
Malformed rows always end the reading. An empty text or turns out of order do so only where they are common: large
public sets hold a few, which nobody can mend, and these are skipped and counted in `Rows.notes`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf_engine.config import UserError
from rlhf_engine.encoding import Encoded, Prompt, encode_example, encode_examples, encode_prompt, encode_prompts, render
from rlhf_engine.models import ASSETS
from rlhf_engine.sources import READABLE, Table, kind_of, read_table

__all__ = [
    "Demonstration", "Encoded", "Preference", "Prompt", "Rows", "encode_example", "encode_examples", "encode_prompt",
    "encode_prompts", "preview", "read_demonstrations", "read_preferences", "read_prompts", "render"]


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the response to imitate. An empty prompt is plain language modelling."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True)
class Preference:
    """Two responses to a prompt."""

    prompt: Prompt
    chosen: str
    rejected: str


class Rows(list):
    """What a reader returns: a list, with one-line remarks on skipped rows in `notes`, to be shown to the user."""

    def __init__(self, items=(), notes: Sequence[str] = ()):
        super().__init__(items)
        self.notes = list(notes)


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
    """Preferences: prompt, chosen and rejected; a conversation with two answers; or HH's pair of whole dialogues.

    Where two dialogues part before their last answers, the prompt is what they share, and the answers are the turns at
    which they part. Arguments and errors as for `read_prompts`.
    """
    return _read(source, "preferences", subset, split, limit)


def preview(tokenizer, row: Prompt | Demonstration | Preference) -> str:
    """A row as the model will read it, the two answers of a preference one below the other."""
    if isinstance(row, Demonstration):
        return render(tokenizer, row.prompt, row.completion)
    if isinstance(row, Preference):
        prompt = render(tokenizer, row.prompt)
        chosen, rejected = (render(tokenizer, row.prompt, text)[len(prompt):] for text in (row.chosen, row.rejected))
        return f"{prompt}\n[chosen] {chosen}\n[rejected] {rejected}"
    return render(tokenizer, row)


def _read(source: str, kind: str, subset: str | None, split: str | None, limit: int | None) -> Rows:
    source = str(source)
    if source in ("bundled", "bundled-heldout"):
        source = _bundled(source, kind)
    table, where, notes = read_table(source, subset, split, KNOWN)
    rows = _convert(table, where, kind, limit)
    rows.notes[:0] = notes
    return rows


def _bundled(source: str, kind: str) -> str:
    path = ASSETS / f"{kind}{source.removeprefix('bundled')}.jsonl"
    if not path.exists():
        raise UserError(f"{source}: there are no such {kind} ({path} is missing); give {READABLE}")
    return str(path)


# From a row to an object

NEVER, RARE, ALWAYS = 0.0, 0.02, 1.0
"""Share of all rows that may have a flaw and are skipped for it. Where more have it, the first one ends the reading."""


class _Flaw(Exception):
    """What is wrong with a row, how to mend it, and how common it may be."""

    def __init__(self, what: str, mend: str = "fill it in, or take the row out", tolerated: float = NEVER):
        super().__init__(what)
        self.what, self.mend, self.tolerated = what, mend, tolerated


def _convert(table: Table, where: str, kind: str, limit: int | None) -> Rows:
    """Rows with any known set of columns -> objects of `kind`. Raises UserError for missing columns and flawed rows."""
    columns, rows = table
    fitting = [read for names, read in COLUMNS[kind].items() if set(names.split(" + ")) <= set(columns)]
    if not fitting and (columns or len(rows)):
        raise UserError(f"{where}: holds no {kind}, its columns are {', '.join(columns) or '(none)'}; "
                        f"name them {', or '.join(COLUMNS[kind])}")
    if not len(rows):
        raise UserError(f"{where}: holds no rows; fill it, or choose another file or split")
    result, skipped, rare = Rows(), {}, []
    for number, row in enumerate(rows, 1):
        try:
            result.append(fitting[0](row))
        except _Flaw as flaw:
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


def _text(value, name: str) -> str:
    if value is None:
        raise _Flaw(f"{name} is missing", tolerated=RARE)
    if not isinstance(value, str):
        raise _Flaw(f"{name} is {kind_of(value)}", "write a text")
    if not value.strip():
        raise _Flaw(f"{name} is empty", tolerated=RARE)
    if re.search("[\ud800-\udfff]", value):
        raise _Flaw(f"{name} holds half a character (a lone surrogate)", "write the text again")
    return value


ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def _turns(value, column: str) -> list[dict]:
    """Messages in either spelling (role and content, or ShareGPT's from and value) as {"role", "content"}."""
    if value is None:
        raise _Flaw(f"'{column}' is missing", tolerated=RARE)
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        kind = "a list of other things" if isinstance(value, list) else kind_of(value)
        raise _Flaw(f"'{column}' is {kind}", 'write a list of messages {"role": ..., "content": ...}')
    turns = []
    for turn in value:
        # Arrow gives every row the fields of all rows, so the other spelling may be there as None.
        role = turn.get("from") if turn.get("role") is None else turn["role"]
        content = turn.get("value") if turn.get("content") is None else turn["content"]
        if not isinstance(role, str) or role not in ROLES:
            raise _Flaw(f"'{column}' has a turn with the role {role!r}", f"the roles are {', '.join(ROLES)}")
        if ROLES[role] != "system" or content:  # an empty system turn says nothing
            turns.append({"role": ROLES[role], "content": _text(content, f"a {ROLES[role]} turn in '{column}'")})
    return turns


def _until(turns: list[dict], role: str, column: str) -> list[dict]:
    """The turns up to the last one of `role`, checked to alternate."""
    end = max((i for i, turn in enumerate(turns, 1) if turn["role"] == role), default=0)
    if not end:
        raise _Flaw(f"'{column}' has no {role} turn", tolerated=RARE)
    start = turns[0]["role"] == "system"
    if [turn["role"] for turn in turns[start:end]] != (["user", "assistant"] * end)[:end - start]:
        raise _Flaw(f"the turns in '{column}' are out of order",
                    "after at most one system turn, user and assistant alternate, the user first", RARE)
    return turns[:end]


def _ending(value, role: str, column: str) -> list[dict]:
    """Messages of which the last must be one of `role`."""
    turns = _turns([value] if isinstance(value, dict) else value, column)
    if not turns or turns[-1]["role"] != role:
        raise _Flaw(f"'{column}' does not end with a turn of the {role}", "end it with one, or take the row out", RARE)
    return turns


def _prompt(value, column: str = "prompt") -> Prompt:
    if not isinstance(value, list):
        return _text(value, f"'{column}'")
    return _until(_ending(value, "user", column), "user", column)


def _answer(value, column: str) -> tuple[list[dict], str]:
    """(the turns before, the text) of a response: a text, a message, or a list of messages that ends with it."""
    if not isinstance(value, list | dict):
        return [], _text(value, f"'{column}'")
    *before, last = _ending(value, "assistant", column)
    return before, last["content"]


def _dialogue(value, column: str) -> list[dict]:
    """The turns of a whole conversation: a list of messages, or in place of answers HH's text."""
    if not isinstance(value, str) or column in ("messages", "conversations"):
        return _turns(value, column)
    head, *parts = re.split(r"(?:\A\s*|\n\n)(Human|Assistant):", value)
    if head.strip() or not parts:
        raise _Flaw(f"'{column}' is no dialogue", r'write "\n\nHuman: ...\n\nAssistant: ...", or add a column prompt')
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[speaker], "content": _text(text, f"a turn in '{column}'").strip()}
            for speaker, text in zip(parts[::2], parts[1::2])]


def _liked(row: dict) -> None:
    """Lets rows pass that have no label or a true one."""
    label = str(row.get("label", True)).lower()
    if label not in ("true", "false", "1", "0"):
        raise _Flaw(f"'label' is {label!r}", "a thumb is true or false; rename the column if it means something else")
    if label in ("false", "0"):
        raise _Flaw("the label is false", tolerated=ALWAYS)


def _asked(column: str) -> Callable[[dict], Prompt]:
    return lambda row: _until(_dialogue(row.get(column), column), "user", column)


def _instruction(row: dict) -> Prompt:
    text = _text(row.get("instruction"), "'instruction'")
    return [{"role": "user", "content": text + (f"\n\n{row['input']}" if row.get("input") else "")}]


def _completed(row: dict) -> Demonstration:
    _liked(row)
    before, text = _answer(row.get("completion"), "completion")
    return Demonstration(before or _prompt(row.get("prompt")), text)


def _conversed(column: str) -> Callable[[dict], Demonstration]:
    def convert(row: dict) -> Demonstration:
        _liked(row)
        *before, last = _until(_dialogue(row.get(column), column), "assistant", column)
        return Demonstration(before, last["content"])
    return convert


def _pair(prompt: Prompt, chosen: str, rejected: str) -> Preference:
    if chosen == rejected:
        raise _Flaw("chosen equals rejected", tolerated=ALWAYS)
    return Preference(prompt, chosen, rejected)


def _parted(chosen: list[dict], rejected: list[dict]) -> Preference:
    """A pair of whole conversations: what they share is the prompt, the turns at which they part are the answers."""
    if chosen == rejected:
        raise _Flaw("chosen equals rejected", tolerated=ALWAYS)
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b), min(len(chosen), len(rejected)))
    first, second = chosen[shared:shared + 1], rejected[shared:shared + 1]
    if not shared or [turn["role"] for turn in first + second] != ["assistant", "assistant"]:
        raise _Flaw("chosen and rejected do not part at an answer to the same prompt", tolerated=ALWAYS)
    return Preference(_prompt(chosen[:shared], "chosen"), first[0]["content"], second[0]["content"])


def _compared(row: dict) -> Preference:
    prompt = _prompt(row.get("prompt"))
    (before, chosen), (other, rejected) = (_answer(row.get(side), side) for side in ("chosen", "rejected"))
    if not before and not other:
        return _pair(prompt, chosen, rejected)
    pair = _parted(_turns(row["chosen"], "chosen"), _turns(row["rejected"], "rejected"))
    same = pair.prompt == [{"role": "user", "content": prompt}]  # then as read_prompts has it
    return Preference(prompt, pair.chosen, pair.rejected) if same else pair


def _compared_after(column: str) -> Callable[[dict], Preference]:
    return lambda row: _pair(_until(_ending(row.get(column), "user", column), "user", column),
                             *(_answer(row.get(side), side)[1] for side in ("chosen", "rejected")))


COLUMNS: dict[str, dict[str, Callable]] = {
    "prompts": {
        "prompt": lambda row: _prompt(row.get("prompt")),
        "messages": _asked("messages"),
        "conversations": _asked("conversations"),
        "instruction": _instruction,
        "chosen": _asked("chosen")},
    "demonstrations": {
        "prompt + completion": _completed,
        "messages": _conversed("messages"),
        "conversations": _conversed("conversations"),
        "instruction + output": lambda row: Demonstration(_instruction(row), _text(row.get("output"), "'output'")),
        "text": lambda row: Demonstration("", _text(row.get("text"), "'text'"))},
    "preferences": {
        "prompt + chosen + rejected": _compared,
        "conversations + chosen + rejected": _compared_after("conversations"),
        "messages + chosen + rejected": _compared_after("messages"),
        "chosen + rejected": lambda row: _parted(_dialogue(row.get("chosen"), "chosen"),
                                                 _dialogue(row.get("rejected"), "rejected"))}}
"""For each kind, the columns that make it, under exactly these names, and what reads them; the first to fit counts."""

KNOWN = {"input", "label"} | {name for kind in COLUMNS.values() for names in kind for name in names.split(" + ")}
