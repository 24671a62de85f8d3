r"""From a row with known columns to a prompt, a demonstration, a preference or a ranking, checked field by field."""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import kind_of


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
    margin: float = 0.0
    """By how much the chosen one should win, in units of the reward before it is normalised."""


@dataclass(frozen=True)
class Ranking:
    """Two or more responses to a prompt; `ranks[i]` is the rank of `responses[i]`, 1 is best, equal ranks are ties."""

    prompt: Prompt
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    ratings: tuple[float, ...] = ()
    """The scores behind the ranks (1 to 7, say), where there are some; how far they lie apart can become a margin."""


NEVER, RARE, ALWAYS = 0.0, 0.02, 1.0
"""Share of all rows that may have a flaw and are skipped for it. Where more have it, the first one ends the reading."""


class RowError(Exception):
    """What is wrong with a row, how to mend it, and how common it may be."""

    def __init__(self, what: str, mend: str = "fill it in, or take the row out", tolerated: float = NEVER):
        super().__init__(what)
        self.what, self.mend, self.tolerated = what, mend, tolerated


def _text(value, name: str) -> str:
    if value is None:
        raise RowError(f"{name} is missing", tolerated=RARE)
    if not isinstance(value, str):
        raise RowError(f"{name} is {kind_of(value)}", "write a text")
    if not value.strip():
        raise RowError(f"{name} is empty", tolerated=RARE)
    if re.search("[\ud800-\udfff]", value):
        raise RowError(f"{name} holds half a character (a lone surrogate)", "write the text again")
    return value


ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def _turns(value, column: str) -> list[dict]:
    """Messages in either spelling (role and content, or ShareGPT's from and value) as {"role", "content"}."""
    if value is None:
        raise RowError(f"'{column}' is missing", tolerated=RARE)
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        kind = "a list of other things" if isinstance(value, list) else kind_of(value)
        raise RowError(f"'{column}' is {kind}", 'write a list of messages {"role": ..., "content": ...}')
    turns = []
    for turn in value:
        # Arrow gives every row the fields of all rows, so the other spelling may be there as None.
        role = turn.get("from") if turn.get("role") is None else turn["role"]
        content = turn.get("value") if turn.get("content") is None else turn["content"]
        if not isinstance(role, str) or role not in ROLES:
            raise RowError(f"'{column}' has a turn with the role {role!r}", f"the roles are {', '.join(ROLES)}")
        if ROLES[role] != "system" or content:  # an empty system turn says nothing
            turns.append({"role": ROLES[role], "content": _text(content, f"a {ROLES[role]} turn in '{column}'")})
    return turns


def _until(turns: list[dict], role: str, column: str) -> list[dict]:
    """The turns up to the last one of `role`, checked to alternate."""
    end = max((i for i, turn in enumerate(turns, 1) if turn["role"] == role), default=0)
    if not end:
        raise RowError(f"'{column}' has no {role} turn", tolerated=RARE)
    start = turns[0]["role"] == "system"
    if [turn["role"] for turn in turns[start:end]] != (["user", "assistant"] * end)[:end - start]:
        raise RowError(f"the turns in '{column}' are out of order",
                    "after at most one system turn, user and assistant alternate, the user first", RARE)
    return turns[:end]


def _ending(value, role: str, column: str) -> list[dict]:
    """Messages of which the last must be one of `role`."""
    turns = _turns([value] if isinstance(value, dict) else value, column)
    if not turns or turns[-1]["role"] != role:
        raise RowError(f"'{column}' does not end with a turn of the {role}", "end it with one, or take the row out", RARE)
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
        raise RowError(f"'{column}' is no dialogue", r'write "\n\nHuman: ...\n\nAssistant: ...", or add a column prompt')
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[speaker], "content": _text(text, f"a turn in '{column}'").strip()}
            for speaker, text in zip(parts[::2], parts[1::2])]


def _liked(row: dict) -> None:
    """Lets rows pass that have no label or a true one."""
    label = str(row.get("label", True)).lower()
    if label not in ("true", "false", "1", "0"):
        raise RowError(f"'label' is {label!r}", "a thumb is true or false; rename the column if it means something else")
    if label in ("false", "0"):
        raise RowError("the label is false", tolerated=ALWAYS)


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
        raise RowError("chosen equals rejected", tolerated=ALWAYS)
    return Preference(prompt, chosen, rejected)


def _parted(chosen: list[dict], rejected: list[dict]) -> Preference:
    """A pair of whole conversations: what they share is the prompt, the turns at which they part are the answers."""
    if chosen == rejected:
        raise RowError("chosen equals rejected", tolerated=ALWAYS)
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b), min(len(chosen), len(rejected)))
    first, second = chosen[shared:shared + 1], rejected[shared:shared + 1]
    if not shared or [turn["role"] for turn in first + second] != ["assistant", "assistant"]:
        raise RowError("chosen and rejected do not part at an answer to the same prompt", tolerated=ALWAYS)
    return Preference(_prompt(chosen[:shared], "chosen"), first[0]["content"], second[0]["content"])


def _compared(row: dict) -> Preference:
    prompt = _prompt(row.get("prompt"))
    (before, chosen), (other, rejected) = (_answer(row.get(side), side) for side in ("chosen", "rejected"))
    if not before and not other:
        return _pair(prompt, chosen, rejected)
    pair = _parted(_turns(row["chosen"], "chosen"), _turns(row["rejected"], "rejected"))
    same = pair.prompt == [{"role": "user", "content": prompt}]  # then as read_prompts has it
    return Preference(prompt, pair.chosen, pair.rejected) if same else pair


def _with_margin(convert: Callable[[dict], Preference]) -> Callable[[dict], Preference]:
    """TRL's column `margin`, where a row has one."""
    def converted(row: dict) -> Preference:
        margin = row.get("margin")
        if margin is not None and not _is_number(margin):
            raise RowError(f"'margin' is {kind_of(margin)}", "write a number, or leave it out")
        return dataclasses.replace(convert(row), margin=float(margin or 0.0))
    return converted


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ranked(by: str) -> Callable[[dict], Ranking]:
    """Rows of K responses with a list of as many numbers: ranks (1 is best) or scores (more is better)."""
    def convert(row: dict) -> Ranking:
        prompt, responses, given = _prompt(row.get("prompt")), row.get("responses"), row.get(by)
        for name, value in (("responses", responses), (by, given)):
            if not isinstance(value, list):
                raise RowError(f"'{name}' is {kind_of(value)}", "write a list")
        texts = tuple(_text(text, "a response") for text in responses)
        if len(texts) < 2 or len(given) != len(texts):
            raise RowError(f"{len(texts)} responses and {len(given)} numbers in '{by}'", "give two or more responses and one number for each")
        if not all(map(_is_number, given)):
            raise RowError(f"'{by}' holds something other than numbers", "write one number for each response")
        numbers = tuple(float(x) for x in given)
        if by == "ranking":
            return Ranking(prompt, texts, numbers)
        return Ranking(prompt, texts, tuple(1.0 + sum(other > x for other in numbers) for x in numbers), numbers)
    return convert


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
        "prompt + chosen + rejected": _with_margin(_compared),
        "conversations + chosen + rejected": _with_margin(_compared_after("conversations")),
        "messages + chosen + rejected": _with_margin(_compared_after("messages")),
        "chosen + rejected": _with_margin(lambda row: _parted(_dialogue(row.get("chosen"), "chosen"),
                                                              _dialogue(row.get("rejected"), "rejected"))),
        "prompt + responses + ranking": _ranked("ranking"),
        "prompt + responses + scores": _ranked("scores")}}
"""For each kind, the columns that make it, under exactly these names, and what reads them; the first to fit counts."""

KNOWN = {"input", "label", "margin"} | {name for kind in COLUMNS.values() for names in kind for name in names.split(" + ")}
