r"""Messages, dialogues and prompts: how the spellings of the public sets become turns {"role", "content"}.

A field that is wrong raises RowError, which says what is wrong with the row and how to mend it.
"""

import re

from rlhf_engine.data.fields import (
    RARE,
    Row,
    RowError,
    check_text,
    is_missing,
    optional_text,
    parse_cell,
    says_nothing,
)
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import kind_of

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
         "developer": "system", "prompter": "user", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
         "model": "assistant", "bot": "assistant"}
"""The role that each name of a speaker stands for."""
TOOL_ROLES = {"tool", "function", "ipython", "observation", "environment", "function_call", "function_response",
              "function-call", "function-response", "tool_call", "tool_response", "tool_result"}
TURN_FIELDS = {"role", "content", "from", "value", "tool_calls", "function_call"}
NO_TOOLS = f"the roles are {', '.join(list(ROLES)[:5])}; a tool cannot be called here, so take the row out"


def read_messages(row: Row, column: str, value=None) -> list[dict]:
    """Messages {"role", "content"} in a column or `value`.

    They may be spelled as OpenAI's ("role", "content"), as ShareGPT's ("from", "value") or as Capybara's
    ("input", "output"), as an object of lists, or all of it as text.
    """
    value = parse_cell(row.get(column) if value is None else value)
    if value is None:
        raise RowError(f"'{column}' is missing", tolerated=RARE)
    value = _as_turns(value)
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        kind = "a list of other things" if isinstance(value, list) else kind_of(value)
        raise RowError(f"'{column}' is {kind}", 'write a list of messages {"role": ..., "content": ...}')
    turns = []
    for turn in value:
        turns += _read_turn(row, column, turn)
    return turns


def _as_turns(value):
    """A list of turns. `datasets` can make an object of lists of it, {"role": [...], "content": [...]}."""
    if not isinstance(value, dict):
        return value
    lists = list(value.values())
    if lists and all(isinstance(each, list) for each in lists) and len(set(map(len, lists))) == 1:
        return [dict(zip(value, turn)) for turn in zip(*lists)]
    return [value]


def _read_turn(row: Row, column: str, turn: dict) -> list[dict]:
    """One message, or the two of a question with its answer; none for an empty system turn, which says nothing."""
    if {"input", "output"} <= set(turn) and not {"role", "from"} & set(turn):
        return [{"role": role, "content": check_text(turn[name], f"'{name}' of a turn in '{column}'")}
                for role, name in (("user", "input"), ("assistant", "output"))]
    # Arrow gives every row the fields of all rows, so the other spelling can be present as None.
    name = turn.get("from") if turn.get("role") is None else turn["role"]
    content = turn.get("value") if turn.get("content") is None else turn["content"]
    role = name.strip().lower() if isinstance(name, str) else ""
    has_content = {"content", "value", "tool_calls", "function_call"} & set(turn)
    if not ({"role", "from"} & set(turn) and has_content):
        fields = " ".join(", ".join(map(str, turn)).split())[:200] or "no fields"
        raise RowError(f"'{column}' has a turn of {fields}", 'write each turn as {"role": ..., "content": ...}')
    if role in TOOL_ROLES:
        raise RowError(f"'{column}' has a turn with the role {str(name)[:40]!r}", NO_TOOLS, RARE)
    if role not in ROLES:
        raise RowError(f"'{column}' has a turn with the role {str(name)[:40]!r}", f"the roles are {', '.join(ROLES)}")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise RowError(f"a turn in '{column}' calls a tool", NO_TOOLS, RARE)
    role = ROLES[role]
    more = sorted(str(name) for name, each in turn.items() if name not in TURN_FIELDS and not is_missing(each))
    if more:
        row.remarks.append(f"the turns in '{column}' have {' '.join(', '.join(more).split())[:200]}, not used here")
    where = f"{'an' if role == 'assistant' else 'a'} {role} turn in '{column}'"
    content = _joined_parts(content, where)
    if role == "system" and is_missing(content):
        return []
    return [{"role": role, "content": check_text(content, where)}]


def _joined_parts(content, name: str):
    """The text of content that is a list of parts {"type": "text", "text": ...}; other content unchanged."""
    parts = [content] if isinstance(content, dict) else content
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        return content
    for part in parts:
        kind = part.get("type", "text")
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            raise RowError(f"{name} holds a part of the type {kind!r}", "only text is read: take the row out", RARE)
    return "".join(part["text"] for part in parts)


def turns_up_to(turns: list[dict], role: str, column: str) -> list[dict]:
    """The turns up to the last one of `role`. User and assistant must alternate in them."""
    end = max((i for i, turn in enumerate(turns, 1) if turn["role"] == role), default=0)
    if not end:
        raise RowError(f"'{column}' has no {role} turn", tolerated=RARE)
    start = 1 if turns[0]["role"] == "system" else 0
    if not alternates(turns[start:end]):
        raise RowError(f"the turns in '{column}' are out of order",
                       "after at most one system turn, user and assistant alternate, the user first", RARE)
    return turns[:end]


def alternates(turns: list[dict]) -> bool:
    """Whether user and assistant take turns, the user first."""
    return [turn["role"] for turn in turns] == (["user", "assistant"] * len(turns))[:len(turns)]


def messages_ending_with(row: Row, value, role: str, column: str) -> list[dict]:
    """One message or a list of messages, of which the last must be one of `role`."""
    turns = read_messages(row, column, value)
    if not turns or turns[-1]["role"] != role:
        mend = "end it with one, or take the row out"
        raise RowError(f"'{column}' does not end with a turn of the {role}", mend, RARE)
    return turns


LIST_START = re.compile(r"\s*(array\()?[\s\[]*\{\s*['\"]")
"""How a text begins that spells out a message, or a list of them."""


def unfold(value, column: str):
    """The messages that a text spells out, as in a CSV file; any other value unchanged. Raises RowError for half of
    them."""
    if not isinstance(value, str) or not LIST_START.match(value):
        return value
    parsed = parse_cell(value)
    turns = [parsed] if isinstance(parsed, dict) else parsed
    if isinstance(turns, list) and turns and all(isinstance(turn, dict) and spells_turn(turn) for turn in turns):
        return turns
    keys = set(re.findall(r"""['"](role|content|from|value)['"]\s*:""", value))
    if isinstance(parsed, str) and spells_turn(keys):
        raise RowError(f"'{column}' begins like a list of messages, but cannot be read as one", "write it as JSON")
    return value


def spells_turn(keys) -> bool:
    """Whether the keys of an object are those of a message."""
    return {"role", "content"} <= set(keys) or {"from", "value"} <= set(keys)


# -- prompts and responses -------------------------------------------------------------------------------------------

def read_prompt(row: Row, column: str = "prompt") -> Prompt:
    """A prompt: a text, messages that end with the user's, or HH's dialogue that ends with "Assistant:"."""
    value = unfold(row.get(column), column)
    if isinstance(value, list | dict):
        return turns_up_to(messages_ending_with(row, value, "user", column), "user", column)
    text = check_text(value, f"'{column}'")
    if re.match(rf"\s*{USER}:.*\n[ \t]*{ASSISTANT}:\s*\Z|(\r?\n){{2}}Human:", text, re.DOTALL):
        turns = read_dialogue(re.sub(rf"\s*{ASSISTANT}:\s*\Z", "", text), column)
        row.remarks.append(f"'{column}' is a dialogue, whose {speaker_of(text)} and Assistant became turns")
        return turns_up_to(turns, "user", column)
    note_markup(row, column, text)
    return text


def read_response(row: Row, column: str) -> tuple[list[dict], str]:
    """(the turns before it, its text) of a response: a text, a message, or a list of messages that ends with it."""
    value = unfold(row.get(column), column)
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        raise RowError(f"'{column}' is a list of texts", "write one text; of two answers, the better one belongs in a "
                       "column chosen and the other one in a column rejected")
    if not isinstance(value, list | dict):
        return [], check_text(value, f"'{column}'")
    *before, last = messages_ending_with(row, value, "assistant", column)
    return before, last["content"]


def read_conversation(row: Row, column: str) -> list[dict]:
    """The turns of a whole conversation: messages or, in the columns of answers, HH's dialogue as one text."""
    value = unfold(row.get(column), column)
    if not isinstance(value, str) or column in ("messages", "conversations", "conversation"):
        return read_messages(row, column, value)
    return read_dialogue(value, column)


USER, ASSISTANT = r"(?:###? ?)?(?:Human|User)", r"(?:###? ?)?Assistant"
"""The speakers of a dialogue in one text: HH's Human or, in other sets, User, with or without ### before them."""
MARKUP = re.compile(r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|(?:user|assistant)\|>|\[INST\]|"
                    r"### ?(?:Human|User|Assistant|Instruction|Response):")
"""How templates of models, and of data sets, mark the beginning of a turn."""


def note_markup(row: Row, column: str, text: str) -> None:
    """Remark on a text that a template has been through: its marks are read as characters, and no turns begin there."""
    mark = MARKUP.search(text)
    if mark:
        row.remarks.append(f"'{column}' holds the marks of turns ({mark[0]}), which are read as plain characters; to "
                           "make turns of them, give a column messages")


TURN_STARTS = (rf"(?:\A\s*|\n\n)({USER}|{ASSISTANT}):", rf"(?:\A\s*|\n)[ \t]*({USER}|{ASSISTANT}):")
"""How a turn of HH's dialogues begins: after an empty line, or (in copies of it) after any line."""


def speaker_of(text: str) -> str:
    """What a dialogue calls the one who asks: Human or User."""
    return "Human" if re.match(r"[\s#]*Human", text) else "User"


def is_dialogue(value) -> bool:
    """Whether a value is a text of HH's kind: it begins with "Human:", and a later line with "Assistant:"."""
    return isinstance(value, str) and bool(re.match(rf"\s*{USER}:.*\n[ \t]*{ASSISTANT}:", value, re.DOTALL))


def read_dialogue(text: str, column: str) -> list[dict]:
    """The turns of HH's dialogue. Of the two ways to part them, the first counts that lets the speakers alternate."""
    text = text.replace("\r\n", "\n")
    readings = []
    for pattern in TURN_STARTS:
        head, *parts = re.split(pattern, text)
        roles = ["assistant" if speaker.endswith("Assistant") else "user" for speaker in parts[::2]]
        if parts and not head.strip():
            readings.append([{"role": role, "content": content} for role, content in zip(roles, parts[1::2])])
    if not readings:
        raise RowError(f"'{column}' is no dialogue",
                       r'write "\n\nHuman: ...\n\nAssistant: ...", or add a column prompt')
    whole = [turns for turns in readings if alternates(turns) and len(turns) > 1]
    turns = (whole or readings)[0]
    return [turn | {"content": check_text(turn["content"], f"a turn in '{column}'").strip()} for turn in turns]


def frame_prompt(row: Row, prompt: Prompt, columns: tuple[str, ...]) -> Prompt:
    """A prompt with the system text and the earlier turns that the row has in those of `columns`."""
    texts = [optional_text(row, name) for name in SYSTEM_COLUMNS if name in columns]
    system = next(filter(None, texts), "")
    if len(set(filter(None, texts))) > 1:
        row.remarks.append(f"'{SYSTEM_COLUMNS[0]}' and '{SYSTEM_COLUMNS[1]}' differ, so the second one is left out")
    earlier = read_history(row) if "history" in columns else []
    if not system and not earlier:
        return prompt
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    head = [{"role": "system", "content": system}] if system else []
    if turns[0]["role"] == "system":
        if system and turns[0]["content"] != system:
            row.remarks.append("the conversation has a system turn, so the system text beside it is left out")
        head, turns = turns[:1], turns[1:]
    return head + earlier + turns


SYSTEM_COLUMNS = ("system", "system_prompt")
"""Columns whose text is a system turn before the prompt."""


def read_history(row: Row) -> list[dict]:
    """Earlier turns, as LLaMA-Factory has them: a list of pairs of a question and its answer. Messages do as well."""
    value = row.get("history")
    if is_missing(value) or says_nothing(value):
        return []
    value = parse_cell(value)
    mend = 'write a list of pairs ["question", "answer"], in a text cell as JSON'
    if not isinstance(value, list):
        raise RowError(f"'history' is {kind_of(value)}", mend)
    if any(isinstance(turn, dict) for turn in value):
        turns = messages_ending_with(row, value, "assistant", "history")
        return turns_up_to(turns, "assistant", "history")
    turns = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError("'history' holds something other than pairs", mend)
        for role, text in zip(("user", "assistant"), pair):
            turns.append({"role": role, "content": check_text(text, f"a turn of the {role} in 'history'")})
    return turns
