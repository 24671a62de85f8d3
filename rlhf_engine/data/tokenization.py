"""Text to token ids: the chat template, one BOS, one end token, and cuts that are counted.

The ids of a prompt are the same wherever it appears, in a PPO rollout or in front of a demonstration. Text from users
and data can never become a control token: what looks like one is encoded as the characters it consists of.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from rlhf_engine.errors import UserError, first_line

Prompt = str | list[dict]
"""Plain text, or messages {"role": system|user|assistant, "content": text}, the last one the user's."""

HIDDEN = re.compile("\ue000(\\d+)\ue001")
"""Stands for a piece of text that looks like a control token, from rendering until encoding."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a row, `completion_ids` empty for a bare prompt; `cut` counts what `max_tokens` took away."""

    prompt_ids: list[int]
    completion_ids: list[int]
    cut: int = 0

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.completion_ids


def render(tokenizer, prompt: Prompt, completion: str | None = None) -> str:
    """The text a model is prompted with, or, given a completion, the text of the whole row.

    With a chat template, plain text is one user message. Without one it stays as it is, and messages become
    "\\n\\nHuman: ...\\n\\nAssistant:", the system text first; the answer after that begins with a space. An empty
    prompt (plain language modelling) is nothing, template or not. Raises UserError if the template refuses a message.
    """
    if tokenizer.chat_template and prompt:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        text = _fill_template(tokenizer, messages, add_generation_prompt=True)
        if completion is None:
            return text
        whole = _fill_template(tokenizer, [*messages, {"role": "assistant", "content": completion}])
        return whole if whole.startswith(text) else text + completion
    if isinstance(prompt, str):
        return prompt + (completion or "")
    speakers = {"system": "", "user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    text = "".join(speakers[m["role"]] + m["content"] for m in prompt) + "\n\nAssistant:"
    if completion is None:
        return text
    return text + ("" if completion[:1].isspace() else " ") + completion


def encode_prompt(tokenizer, prompt: Prompt, max_tokens: int | None = None) -> Encoded:
    """The ids a model is prompted with, at least one; over `max_tokens`, tokens go from the left (a BOS stays).

    Raises UserError if the chat template refuses the prompt.
    """
    hidden: list[str] = []
    return _fit(tokenizer, _prompt_ids(tokenizer, _shield_prompt(tokenizer, prompt, hidden), hidden), [], max_tokens)


def encode_example(tokenizer, prompt: Prompt, completion: str, end_id: int | Collection[int], *,
                   max_tokens: int | None = None) -> Encoded:
    """Ids of a prompt, as from `encode_prompt`, and of a completion that ends with exactly one end token.

    `end_id` is the end token, or a list of all tokens that end a turn, of which the first is appended if the template
    writes none. Over `max_tokens` (2 at least), tokens go from the left of the prompt, which keeps its BOS or at least
    one token; if that is not enough the completion loses its end, and with it the end token.
    Raises UserError if the chat template refuses the prompt.
    """
    stops = [end_id] if isinstance(end_id, int) else list(end_id)
    hidden: list[str] = []
    shielded = _shield_prompt(tokenizer, prompt, hidden)
    # Some data sets spell the end token out; it comes once, as a token.
    answer = _shield(tokenizer, completion.removesuffix(tokenizer.convert_ids_to_tokens(stops[0])), hidden)
    text, whole = render(tokenizer, shielded), render(tokenizer, shielded, answer)
    template = bool(tokenizer.chat_template and prompt)
    prompt_ids = _prompt_ids(tokenizer, shielded, hidden)
    front = prompt_ids if not text else [] if template else _front(tokenizer)
    ids = front + _tokens(tokenizer, whole, hidden, template)
    if ids[:len(prompt_ids)] == prompt_ids:
        ids = ids[len(prompt_ids):]
    else:  # a token would span the border
        ids = _continuation(tokenizer, whole[len(text):], hidden, template)
    # Content cannot hold a control token, so the first one that ends a turn is the template's. What it writes behind
    # (Qwen: a newline) is never sampled and therefore not taught.
    control = _control_tokens(tokenizer, len(tokenizer))
    ends = [i for i, token in enumerate(ids) if token in stops and token in control]
    return _fit(tokenizer, prompt_ids, ids[:ends[0] + 1] if ends else ids + stops[:1], max_tokens)


def encode_prompts(backbone, prompts: list[Prompt], max_tokens: int | None = None) -> tuple[list[Encoded], list[str]]:
    """`encode_prompt` of each with the backbone's tokenizer, and a remark on what was cut, if anything was."""
    rows = [encode_prompt(backbone.tokenizer, prompt, max_tokens) for prompt in prompts]
    return rows, cut_report(rows, max_tokens)


def encode_examples(backbone, examples: list[tuple[Prompt, str]],
                    max_tokens: int | None = None) -> tuple[list[Encoded], list[str]]:
    """`encode_example` of each (prompt, completion), with the backbone's `stop_ids`, and a remark on what was cut."""
    rows = [encode_example(backbone.tokenizer, prompt, completion, backbone.stop_ids, max_tokens=max_tokens)
            for prompt, completion in examples]
    return rows, cut_report(rows, max_tokens, backbone.stop_ids)


def cut_report(rows: list[Encoded], max_tokens: int | None, stops: Collection[int] = ()) -> list[str]:
    """One line on how many rows were too long and what they lost; no line if none was."""
    cut = [row for row in rows if row.cut]
    if not cut:
        return []
    lost = sum(row.cut for row in cut)
    line = (f"{len(cut):,} of {len(rows):,} rows were longer than {max_tokens:,} tokens and lost {lost:,} tokens "
            "from the left of the prompt")
    endless = sum(bool(row.completion_ids) and row.completion_ids[-1] not in stops for row in cut)
    return [line + (f", and {endless:,} rows from the end of the completion, too" if endless else "")]


def _fill_template(tokenizer, messages: list[dict], **options) -> str:
    from jinja2 import TemplateError
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(f"{tokenizer.name_or_path}: its chat template refuses a conversation of the turns {roles} "
                        f"({first_line(error)}); change those rows, or choose another model") from None


@lru_cache(maxsize=8)
def _control_tokens(tokenizer, size: int) -> dict[int, str]:
    """Id and text of every control token. `size` is the length of the tokenizer: added tokens make a new entry."""
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens))
    return named | {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def _shield_prompt(tokenizer, prompt: Prompt, hidden: list[str]) -> Prompt:
    if isinstance(prompt, str):
        return _shield(tokenizer, prompt, hidden)
    return [{**message, "content": _shield(tokenizer, message["content"], hidden)} for message in prompt]


def _shield(tokenizer, text: str, hidden: list[str]) -> str:
    """`text` with a placeholder for each piece that reads like a control token; the pieces are appended to `hidden`."""
    names = [*_control_tokens(tokenizer, len(tokenizer)).values(), "\ue000"]  # the latter starts a placeholder
    if not any(name in text for name in names):
        return text

    def hide(match: re.Match) -> str:
        hidden.append(match[0])
        return f"\ue000{len(hidden) - 1}\ue001"

    return re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), hide, text)


def _tokens(tokenizer, text: str, hidden: list[str], template: bool) -> list[int]:
    """Ids of a shielded text, nothing added. Only text that a template wrote holds control tokens."""
    def ids(part: str, split: bool) -> list[int]:
        options = {"add_special_tokens": False, "split_special_tokens": split, "verbose": False}
        return tokenizer(part, **options)["input_ids"] if part else []

    if not template:
        return ids(HIDDEN.sub(lambda match: hidden[int(match[1])], text), True)
    parts = HIDDEN.split(text)  # text, number of a hidden piece, text, ...
    pieces = (ids(hidden[int(part)], True) if i % 2 else ids(part, False) for i, part in enumerate(parts))
    return [token for piece in pieces for token in piece]


def _prompt_ids(tokenizer, prompt: Prompt, hidden: list[str]) -> list[int]:
    """Ids of a shielded prompt. A template writes its own BOS; raw text gets what the tokenizer puts in front."""
    template = bool(tokenizer.chat_template and prompt)
    ids = ([] if template else _front(tokenizer)) + _tokens(tokenizer, render(tokenizer, prompt), hidden, template)
    if not ids:
        # A causal model predicts the first token from something: without a BOS, from the end of what came before.
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if start is None:
            raise UserError(f"{tokenizer.name_or_path}: has neither BOS nor end token to put before a text "
                            "without a prompt; give every row a prompt")
        ids = [start]
    return ids


def _front(tokenizer) -> list[int]:
    """What the tokenizer puts in front of a text: a BOS, mostly. (What some put behind it has no place in a prompt.)"""
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    return whole[:next((i for i in range(len(whole)) if whole[i:i + len(bare)] == bare), 0)]


def _continuation(tokenizer, text: str, hidden: list[str], template: bool) -> list[int]:
    """Ids of a text that goes on from another.

    Encoded behind a line break where that can be taken off again, because tokenizers of the SentencePiece kind put a
    space in front of a text.
    """
    lead, joint = (_tokens(tokenizer, t, hidden, template) for t in ("\n", "\n" + text))
    return joint[len(lead):] if joint[:len(lead)] == lead else _tokens(tokenizer, text, hidden, template)


def _fit(tokenizer, prompt_ids: list[int], completion_ids: list[int], max_tokens: int | None) -> Encoded:
    """Cut a row to `max_tokens`: from the left of the prompt first, then from the end of the completion."""
    before = len(prompt_ids) + len(completion_ids)
    if not max_tokens or before <= max_tokens:
        return Encoded(prompt_ids, completion_ids)
    completion_ids = completion_ids[:max_tokens - 1]
    room = max_tokens - len(completion_ids)
    first = prompt_ids[:1] if prompt_ids[0] == tokenizer.bos_token_id else []
    prompt_ids = first + prompt_ids[len(prompt_ids) - room + len(first):]
    return Encoded(prompt_ids, completion_ids, before - len(prompt_ids) - len(completion_ids))
