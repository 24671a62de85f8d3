r"""The column formats of data sets: how a row becomes a prompt, a demonstration, a preference or a ranking.

`COLUMNS` lists the formats. Each function below reads one row (a dictionary) and checks it field by field. It raises
RowError, which says what is wrong with the row and how to mend it.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import kind_of


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the response to imitate. An empty prompt means plain language modelling."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True)
class Preference:
    """Two responses to a prompt, of which one was chosen."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0
    """By how much the chosen response should win, in units of the reward before it is normalised."""


@dataclass(frozen=True)
class Ranking:
    """Two or more responses to a prompt. `ranks[i]` is the rank of `responses[i]`: 1 is best, equal ranks are ties."""

    prompt: Prompt
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    ratings: tuple[float, ...] = ()
    """The scores from which the ranks were made (1 to 7, say), if there are any; their differences can be margins."""


NEVER, RARE, ALWAYS = 0.0, 0.02, 1.0
"""The share of all rows that may have a flaw and are skipped. If more rows have it, the first one ends the reading."""


class RowError(Exception):
    """A flaw of a row: what is wrong, how to mend it, and in which share of the rows it is tolerated."""

    def __init__(self, what: str, mend: str = "fill it in, or take the row out", tolerated: float = NEVER):
        super().__init__(what)
        self.what, self.mend, self.tolerated = what, mend, tolerated


# -- fields ----------------------------------------------------------------------------------------------------------

def _text(value, name: str) -> str:
    """A text that is not empty. `name` is what messages call it."""
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
"""The role that each name of a speaker stands for."""


def _messages(value, column: str) -> list[dict]:
    """Messages {"role", "content"}, from a list in that spelling or in ShareGPT's ("from", "value")."""
    if value is None:
        raise RowError(f"'{column}' is missing", tolerated=RARE)
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        kind = "a list of other things" if isinstance(value, list) else kind_of(value)
        raise RowError(f"'{column}' is {kind}", 'write a list of messages {"role": ..., "content": ...}')
    turns = []
    for turn in value:
        # Arrow gives every row the fields of all rows, so the other spelling can be present as None.
        role = turn.get("from") if turn.get("role") is None else turn["role"]
        content = turn.get("value") if turn.get("content") is None else turn["content"]
        if not isinstance(role, str) or role not in ROLES:
            raise RowError(f"'{column}' has a turn with the role {role!r}", f"the roles are {', '.join(ROLES)}")
        if ROLES[role] != "system" or content:  # an empty system turn says nothing
            turns.append({"role": ROLES[role], "content": _text(content, f"a {ROLES[role]} turn in '{column}'")})
    return turns


def _turns_up_to(turns: list[dict], role: str, column: str) -> list[dict]:
    """The turns up to the last one of `role`. User and assistant must alternate in them."""
    end = max((i for i, turn in enumerate(turns, 1) if turn["role"] == role), default=0)
    if not end:
        raise RowError(f"'{column}' has no {role} turn", tolerated=RARE)
    start = 1 if turns[0]["role"] == "system" else 0
    if [turn["role"] for turn in turns[start:end]] != (["user", "assistant"] * end)[:end - start]:
        raise RowError(f"the turns in '{column}' are out of order",
                       "after at most one system turn, user and assistant alternate, the user first", RARE)
    return turns[:end]


def _messages_ending_with(value, role: str, column: str) -> list[dict]:
    """One message or a list of messages, of which the last must be one of `role`."""
    turns = _messages([value] if isinstance(value, dict) else value, column)
    if not turns or turns[-1]["role"] != role:
        mend = "end it with one, or take the row out"
        raise RowError(f"'{column}' does not end with a turn of the {role}", mend, RARE)
    return turns


def _prompt(value, column: str = "prompt") -> Prompt:
    """A prompt: a text, or messages that end with the user's."""
    if not isinstance(value, list):
        return _text(value, f"'{column}'")
    return _turns_up_to(_messages_ending_with(value, "user", column), "user", column)


def _response(value, column: str) -> tuple[list[dict], str]:
    """(the turns before it, its text) of a response: a text, a message, or a list of messages that ends with it."""
    if not isinstance(value, list | dict):
        return [], _text(value, f"'{column}'")
    *before, last = _messages_ending_with(value, "assistant", column)
    return before, last["content"]


def _response_text(row: dict, column: str) -> str:
    return _response(row.get(column), column)[1]


def _conversation(value, column: str) -> list[dict]:
    """The turns of a whole conversation: messages or, in the columns of answers, HH's dialogue as one text."""
    if not isinstance(value, str) or column in ("messages", "conversations"):
        return _messages(value, column)
    head, *parts = re.split(r"(?:\A\s*|\n\n)(Human|Assistant):", value)
    if head.strip() or not parts:
        mend = r'write "\n\nHuman: ...\n\nAssistant: ...", or add a column prompt'
        raise RowError(f"'{column}' is no dialogue", mend)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[speaker], "content": _text(text, f"a turn in '{column}'").strip()}
            for speaker, text in zip(parts[::2], parts[1::2])]


def _check_thumb(row: dict) -> None:
    """Raise RowError for a row whose `label` is false. Rows without a label pass."""
    label = str(row.get("label", True)).lower()
    if label not in ("true", "false", "1", "0"):
        mend = "a thumb is true or false; rename the column if it means something else"
        raise RowError(f"'label' is {label!r}", mend)
    if label in ("false", "0"):
        raise RowError("the label is false", tolerated=ALWAYS)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# -- prompts and demonstrations --------------------------------------------------------------------------------------

def _prompt_column(row: dict) -> Prompt:
    return _prompt(row.get("prompt"))


def _prompt_of_conversation(column: str) -> Callable[[dict], Prompt]:
    """A reader of the turns up to the user's last."""
    return lambda row: _turns_up_to(_conversation(row.get(column), column), "user", column)


def _instruction(row: dict) -> Prompt:
    """Alpaca's `instruction`, with its `input` below."""
    text = _text(row.get("instruction"), "'instruction'")
    return [{"role": "user", "content": text + (f"\n\n{row['input']}" if row.get("input") else "")}]


def _prompt_and_completion(row: dict) -> Demonstration:
    _check_thumb(row)
    before, text = _response(row.get("completion"), "completion")
    return Demonstration(before or _prompt(row.get("prompt")), text)


def _last_answer_of(column: str) -> Callable[[dict], Demonstration]:
    """A reader of the last assistant turn of a conversation, with the turns before it as the prompt."""
    def convert(row: dict) -> Demonstration:
        _check_thumb(row)
        *before, last = _turns_up_to(_conversation(row.get(column), column), "assistant", column)
        return Demonstration(before, last["content"])
    return convert


def _instruction_and_output(row: dict) -> Demonstration:
    return Demonstration(_instruction(row), _text(row.get("output"), "'output'"))


def _plain_text(row: dict) -> Demonstration:
    return Demonstration("", _text(row.get("text"), "'text'"))


# -- preferences -----------------------------------------------------------------------------------------------------

def _pair(prompt: Prompt, chosen: str, rejected: str) -> Preference:
    if chosen == rejected:
        raise RowError("chosen equals rejected", tolerated=ALWAYS)
    return Preference(prompt, chosen, rejected)


def _pair_of_conversations(chosen: list[dict], rejected: list[dict]) -> Preference:
    """A preference from two whole conversations.

    What the two share is the prompt. The first turns that differ are the answers.
    """
    if chosen == rejected:
        raise RowError("chosen equals rejected", tolerated=ALWAYS)
    differ = (i for i, (left, right) in enumerate(zip(chosen, rejected)) if left != right)
    shared = next(differ, min(len(chosen), len(rejected)))
    first, second = chosen[shared:shared + 1], rejected[shared:shared + 1]
    if not shared or [turn["role"] for turn in first + second] != ["assistant", "assistant"]:
        raise RowError("chosen and rejected do not part at an answer to the same prompt", tolerated=ALWAYS)
    return Preference(_prompt(chosen[:shared], "chosen"), first[0]["content"], second[0]["content"])


def _dialogue_pair(row: dict) -> Preference:
    """HH's rows: two whole dialogues and no column for the prompt."""
    return _pair_of_conversations(*(_conversation(row.get(column), column) for column in ("chosen", "rejected")))


def _prompt_and_pair(row: dict) -> Preference:
    """A prompt and two answers, or a prompt and two conversations that begin with it."""
    prompt = _prompt(row.get("prompt"))
    before_chosen, chosen = _response(row.get("chosen"), "chosen")
    before_rejected, rejected = _response(row.get("rejected"), "rejected")
    if not before_chosen and not before_rejected:
        return _pair(prompt, chosen, rejected)
    pair = _pair_of_conversations(_messages(row["chosen"], "chosen"), _messages(row["rejected"], "rejected"))
    if pair.prompt == [{"role": "user", "content": prompt}]:
        return Preference(prompt, pair.chosen, pair.rejected)  # a text, which is also what read_prompts returns
    return pair


def _conversation_and_pair(column: str) -> Callable[[dict], Preference]:
    """A reader of a conversation that ends with the user, and two answers to it."""
    def convert(row: dict) -> Preference:
        prompt = _turns_up_to(_messages_ending_with(row.get(column), "user", column), "user", column)
        return _pair(prompt, _response_text(row, "chosen"), _response_text(row, "rejected"))
    return convert


def _with_margin(convert: Callable[[dict], Preference]) -> Callable[[dict], Preference]:
    """`convert` and then TRL's column `margin`, where a row has one."""
    def convert_with_margin(row: dict) -> Preference:
        margin = row.get("margin")
        if margin is not None and not _is_number(margin):
            raise RowError(f"'margin' is {kind_of(margin)}", "write a number, or leave it out")
        return dataclasses.replace(convert(row), margin=float(margin or 0.0))
    return convert_with_margin


def _ranking_by(column: str) -> Callable[[dict], Ranking]:
    """A reader of K responses and a list of as many numbers: ranks (1 is best) or scores (more is better)."""
    def convert(row: dict) -> Ranking:
        prompt = _prompt(row.get("prompt"))
        responses, numbers = _list_of(row, "responses"), _list_of(row, column)
        texts = tuple(_text(text, "a response") for text in responses)
        if len(texts) < 2 or len(numbers) != len(texts):
            raise RowError(f"{len(texts)} responses and {len(numbers)} numbers in '{column}'",
                           "give two or more responses and one number for each")
        if not all(map(_is_number, numbers)):
            raise RowError(f"'{column}' holds something other than numbers", "write one number for each response")
        numbers = tuple(float(number) for number in numbers)
        if column == "ranking":
            return Ranking(prompt, texts, numbers)
        ranks = tuple(1.0 + sum(other > number for other in numbers) for number in numbers)
        return Ranking(prompt, texts, ranks, numbers)
    return convert


def _list_of(row: dict, column: str) -> list:
    value = row.get(column)
    if not isinstance(value, list):
        raise RowError(f"'{column}' is {kind_of(value)}", "write a list")
    return value


# -- the table of formats --------------------------------------------------------------------------------------------

COLUMNS: dict[str, dict[str, Callable]] = {
    "prompts": {
        "prompt": _prompt_column,
        "messages": _prompt_of_conversation("messages"),
        "conversations": _prompt_of_conversation("conversations"),
        "instruction": _instruction,
        "chosen": _prompt_of_conversation("chosen")},
    "demonstrations": {
        "prompt + completion": _prompt_and_completion,
        "messages": _last_answer_of("messages"),
        "conversations": _last_answer_of("conversations"),
        "instruction + output": _instruction_and_output,
        "text": _plain_text},
    "preferences": {
        "prompt + chosen + rejected": _with_margin(_prompt_and_pair),
        "conversations + chosen + rejected": _with_margin(_conversation_and_pair("conversations")),
        "messages + chosen + rejected": _with_margin(_conversation_and_pair("messages")),
        "chosen + rejected": _with_margin(_dialogue_pair),
        "prompt + responses + ranking": _ranking_by("ranking"),
        "prompt + responses + scores": _ranking_by("scores")}}
"""For each kind of data, the sets of columns that make it and the function that reads such a row. The first set whose
columns are all there, under exactly these names, is used."""

OPTIONAL_COLUMNS = {"input", "label", "margin"}
KNOWN_COLUMNS = OPTIONAL_COLUMNS.union(*(form.split(" + ") for forms in COLUMNS.values() for form in forms))
"""All columns that some format reads."""
