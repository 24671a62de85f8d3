"""From text to token ids: with the chat template, one BOS and one end token. Rows that are cut are counted.

A prompt has the same ids wherever it appears, in a PPO rollout or in front of a demonstration. Text from users and data
can never become a control token. Text that looks like one is encoded as the characters it consists of.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from rlhf_engine.data.chat_templates import fill_answer, fill_prompt, template_notes
from rlhf_engine.errors import UserError, short_repr

Prompt = str | list[dict]
"""Plain text, or messages {"role": system|user|assistant, "content": text} that end with the user's."""

HIDDEN = re.compile("\ue000(\\d+)\ue001")
"""A placeholder for text that looks like a control token. It stands there from rendering until encoding."""


@dataclass(frozen=True)
class Encoded:
    """The token ids of a row. `cut` counts the tokens that `max_tokens` took away.

    A prompt without a completion has no `completion_ids`.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    cut: int = 0

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.completion_ids


def render(tokenizer, prompt: Prompt, completion: str | None = None) -> str:
    """The text that a model is prompted with. With a completion, the text of the whole row.

    With a chat template, plain text becomes one user message. Without a template, plain text stays as it is, and
    messages become "\\n\\nHuman: ...\\n\\nAssistant:", with the system text first; then the answer begins with a space.
    An empty prompt (plain language modelling) adds nothing, with or without a template. Raises UserError if the
    template refuses a message or leaves its content out.
    """
    if tokenizer.chat_template and prompt:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        text = fill_prompt(tokenizer, messages)
        return text if completion is None else fill_answer(tokenizer, messages, text, completion)
    if isinstance(prompt, str):
        return prompt + (completion or "")
    speakers = {"system": "", "user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    text = "".join(speakers[m["role"]] + m["content"] for m in prompt) + "\n\nAssistant:"
    if completion is None:
        return text
    return text + ("" if completion[:1].isspace() else " ") + completion


def encode_prompt(tokenizer, prompt: Prompt, max_tokens: int | None = None) -> Encoded:
    """The ids that a model is prompted with; there is at least one.

    A prompt of more than `max_tokens` tokens is cut from the left, but its BOS stays. Raises UserError if the chat
    template refuses the prompt.
    """
    hidden: list[str] = []
    prompt_ids = _prompt_ids(tokenizer, _shield_prompt(tokenizer, prompt, hidden), hidden)
    return fit_tokens(tokenizer, prompt_ids, [], max_tokens)


def encode_example(tokenizer, prompt: Prompt, completion: str, end_id: int | Collection[int], *,
                   max_tokens: int | None = None) -> Encoded:
    """The ids of a prompt, as from `encode_prompt`, and of a completion that ends with exactly one end token.

    `end_id` is the end token, or a list of all tokens that end a turn. If the template writes none of them, the first
    is appended. A row of more than `max_tokens` tokens (2 at least) is cut from the left of the prompt, which keeps its
    BOS or at least one token. If that is not enough, the completion loses its end, and with it the end token. Raises
    UserError if the chat template refuses the prompt.
    """
    stops = [end_id] if isinstance(end_id, int) else list(end_id)
    hidden: list[str] = []
    shielded = _shield_prompt(tokenizer, prompt, hidden)
    # Some data sets write the end token into the text. It must come once, as a token.
    answer = _shield(tokenizer, completion.removesuffix(tokenizer.convert_ids_to_tokens(stops[0])), hidden)
    text = render(tokenizer, shielded)
    whole = render(tokenizer, shielded, answer)
    template = bool(tokenizer.chat_template and prompt)
    prompt_ids = _prompt_ids(tokenizer, shielded, hidden)
    if not text:
        front = prompt_ids
    else:
        front = [] if template else _front(tokenizer)
    ids = front + _tokens(tokenizer, whole, hidden, template)
    if ids[:len(prompt_ids)] == prompt_ids:
        ids = ids[len(prompt_ids):]
    else:  # a token spans the border between prompt and completion
        ids = _continuation(tokenizer, whole[len(text):], hidden, template)
    # Content cannot hold a control token, so the first one that ends a turn is the template's. What the template writes
    # after it (Qwen: a newline) is never sampled, so it is not taught.
    control = _control_tokens(tokenizer, len(tokenizer))
    ends = [i for i, token in enumerate(ids) if token in stops and token in control]
    return fit_tokens(tokenizer, prompt_ids, ids[:ends[0] + 1] if ends else ids + stops[:1], max_tokens)


def encode_prompts(backbone, prompts: list[Prompt], max_tokens: int | None = None) -> tuple[list[Encoded], list[str]]:
    """(the encoded prompts, lines about cut rows and about what the chat template lacks), with the backbone's
    tokenizer."""
    rows = []
    for prompt in prompts:
        with _named(prompt):
            rows.append(encode_prompt(backbone.tokenizer, prompt, max_tokens))
    notes = template_notes(backbone.tokenizer, prompts, answers=False)
    return rows, notes + cut_report(rows, max_tokens)


def encode_examples(backbone, examples: list[tuple[Prompt, str]],
                    max_tokens: int | None = None) -> tuple[list[Encoded], list[str]]:
    """(the encoded pairs of prompt and completion, lines about cut rows and about what the chat template lacks).

    The backbone's tokenizer encodes them, and its `stop_ids` end a turn.
    """
    rows = []
    for prompt, completion in examples:
        with _named(prompt):
            rows.append(encode_example(backbone.tokenizer, prompt, completion, backbone.stop_ids,
                                       max_tokens=max_tokens))
    notes = template_notes(backbone.tokenizer, [prompt for prompt, _ in examples], answers=True)
    return rows, notes + cut_report(rows, max_tokens, backbone.stop_ids)


@contextmanager
def _named(prompt: Prompt) -> Iterator[None]:
    """Let the errors of this block end with the beginning of the prompt, by which somebody finds the row."""
    try:
        yield
    except UserError as error:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        shown = short_repr(" ".join(text.split()))
        raise UserError(f"{error} (the first is the one whose prompt is {shown})") from None


def cut_report(rows: list[Encoded], max_tokens: int | None, stops: Collection[int] = ()) -> list[str]:
    """One line that says how many rows were too long and what they lost. No line if none was."""
    cut = [row for row in rows if row.cut]
    if not cut:
        return []
    lost = sum(row.cut for row in cut)
    line = (f"{len(cut):,} of {len(rows):,} rows were longer than {max_tokens:,} tokens and lost {lost:,} tokens "
            "from the left of the prompt")
    endless = sum(bool(row.completion_ids) and row.completion_ids[-1] not in stops for row in cut)
    return [line + (f", and {endless:,} rows from the end of the completion, too" if endless else "")]


@lru_cache(maxsize=8)
def _control_tokens(tokenizer, size: int) -> dict[int, str]:
    """The id and text of every control token.

    `size` is the length of the tokenizer. It makes the cache forget the answer when tokens were added.
    """
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens))
    named |= {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {i: text for i, text in named.items() if text}  # an empty text would be found everywhere


def _shield_prompt(tokenizer, prompt: Prompt, hidden: list[str]) -> Prompt:
    if isinstance(prompt, str):
        return _shield(tokenizer, prompt, hidden)
    return [{**message, "content": _shield(tokenizer, message["content"], hidden)} for message in prompt]


def _shield(tokenizer, text: str, hidden: list[str]) -> str:
    """`text` with a placeholder for each piece that looks like a control token. The pieces are appended to `hidden`."""
    names = [*_control_tokens(tokenizer, len(tokenizer)).values(), "\ue000"]  # a placeholder begins with the last one
    if not any(name in text for name in names):
        return text

    def hide(match: re.Match) -> str:
        hidden.append(match[0])
        return f"\ue000{len(hidden) - 1}\ue001"

    return re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), hide, text)


def _tokens(tokenizer, text: str, hidden: list[str], template: bool) -> list[int]:
    """The ids of a shielded text, with nothing added. Only text that a template wrote can hold control tokens."""
    def ids(part: str, split: bool) -> list[int]:
        options = {"add_special_tokens": False, "split_special_tokens": split, "verbose": False}
        return tokenizer(part, **options)["input_ids"] if part else []

    if not template:
        return ids(HIDDEN.sub(lambda match: hidden[int(match[1])], text), True)
    parts = HIDDEN.split(text)  # text, number of a hidden piece, text, ...
    tokens = []
    for i, part in enumerate(parts):
        tokens += ids(hidden[int(part)], True) if i % 2 else ids(part, False)
    return tokens


def _prompt_ids(tokenizer, prompt: Prompt, hidden: list[str]) -> list[int]:
    """The ids of a shielded prompt. A template writes its own BOS. Raw text gets what the tokenizer puts in front."""
    template = bool(tokenizer.chat_template and prompt)
    ids = ([] if template else _front(tokenizer)) + _tokens(tokenizer, render(tokenizer, prompt), hidden, template)
    if not ids:
        # A causal model needs a token from which it predicts the first one. Without a BOS that is the end token.
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if start is None:
            raise UserError(f"{tokenizer.name_or_path}: has neither BOS nor end token to put before a text "
                            "without a prompt; give every row a prompt")
        ids = [start]
    return ids


def _front(tokenizer) -> list[int]:
    """The ids that the tokenizer puts in front of a text, mostly a BOS.

    Some tokenizers also put a token after the text. It does not belong into a prompt.
    """
    whole = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    starts = (i for i in range(len(whole)) if whole[i:i + len(bare)] == bare)
    return whole[:next(starts, 0)]


def _continuation(tokenizer, text: str, hidden: list[str], template: bool) -> list[int]:
    """The ids of a text that continues another one.

    Tokenizers of the SentencePiece kind put a space in front of a text. So the text is encoded after a line break, and
    the ids of the line break are taken off again, if they can be told apart.
    """
    lead = _tokens(tokenizer, "\n", hidden, template)
    joint = _tokens(tokenizer, "\n" + text, hidden, template)
    return joint[len(lead):] if joint[:len(lead)] == lead else _tokens(tokenizer, text, hidden, template)


def fit_tokens(tokenizer, prompt_ids: list[int], completion_ids: list[int], max_tokens: int | None) -> Encoded:
    """Cut a row to `max_tokens`: from the left of the prompt first, then from the end of the completion."""
    before = len(prompt_ids) + len(completion_ids)
    if not max_tokens or before <= max_tokens:
        return Encoded(prompt_ids, completion_ids)
    completion_ids = completion_ids[:max_tokens - 1]
    room = max_tokens - len(completion_ids)
    first = prompt_ids[:1] if prompt_ids[0] == tokenizer.bos_token_id else []
    prompt_ids = first + prompt_ids[len(prompt_ids) - room + len(first):]
    return Encoded(prompt_ids, completion_ids, before - len(prompt_ids) - len(completion_ids))
