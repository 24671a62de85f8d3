"""Chat templates: programs of a model's makers that turn messages into text, and what some of them cannot do.

Whatever a template makes of messages, their content has to be in the text. Some templates know content only as a list
of parts and write nothing for a text. Some have no system turn: they refuse it or leave it out. Some refuse a
conversation that ends with an answer. `TemplateWays` is what a trial shows of a template.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from rlhf_engine.errors import UserError, first_line

TRIAL = {"system": "Qzsysx 11", "user": "Qzaskx 22", "assistant": "Qzanswx 33"}
"""Texts that no template writes by itself."""


@dataclass(frozen=True)
class TemplateWays:
    """How a template has to be used. The fields that are texts say why; "" is for a template that is as usual."""

    parts: bool = False
    """Content is a list of parts {"type": "text", "text": ...}."""
    no_system: str = ""
    """Why a system text becomes the beginning of the first user turn."""
    no_answer: str = ""
    """Why the text of an answer is put behind the text of its prompt, outside of the template."""
    broken: str = ""
    """Why not even a question can be written, with a system turn or without."""


def fill_prompt(tokenizer, messages: list[dict]) -> str:
    """The text of messages that end with the user's, and of what a model writes before its answer.

    Raises UserError if the template refuses the messages, or leaves a part of them out.
    """
    ways = template_ways(tokenizer)
    if ways.broken:
        raise broken_template(ways, tokenizer.name_or_path)
    text, why = _try(tokenizer, _fold(messages, ways), ways.parts, add_generation_prompt=True)
    if not why:
        return text
    roles = [message["role"] for message in messages]
    if ways.no_system and roles[0] == "system":
        why = ways.no_system
    advice = "take the rows with such turns out, or choose another model"
    with_system = [{"role": "system", "content": TRIAL["system"]}, *messages]
    if roles[0] != "system" and not _try(tokenizer, with_system, ways.parts, add_generation_prompt=True)[1]:
        advice = "begin each conversation with a system turn (a `messages` column), or choose another model"
    raise UserError(f"{tokenizer.name_or_path}: its chat template cannot write a conversation of the turns "
                    f"{', '.join(roles)}: it {why}; {advice}")


def broken_template(ways: TemplateWays, model: str) -> UserError:
    """The error for a template that can write nothing."""
    return UserError(f"{model}: its chat template does not work ({ways.broken}); correct chat_template in its files, "
                     "or choose another model")


def fill_answer(tokenizer, messages: list[dict], text: str, answer: str) -> str:
    """The text of messages and the answer to them. `text` is that of the messages alone, and stands at its beginning.

    Where the template writes something else for the two together, the answer simply follows `text`.
    """
    ways = template_ways(tokenizer)
    if ways.no_answer:
        return text + answer
    whole, why = _try(tokenizer, [*_fold(messages, ways), {"role": "assistant", "content": answer}], ways.parts)
    if why or not whole.startswith(text) or not _holds(whole[len(text):], answer):
        return text + answer
    return whole


def template_notes(tokenizer, prompts: Iterable[str | list[dict]], answers: bool) -> list[str]:
    """Remarks on what the tokenizer's template cannot do with these prompts, and what is done in its place.

    `answers` says whether answers are written behind the prompts.
    """
    conversations = [prompt for prompt in prompts if prompt]
    if not tokenizer.chat_template or not conversations:
        return []
    ways, notes = template_ways(tokenizer), []
    systems = sum(isinstance(prompt, list) and prompt[0]["role"] == "system" for prompt in conversations)
    if ways.no_system and systems:
        notes.append(f"the model's chat template has no system turn (it {ways.no_system}): in {systems:,} "
                     f"row{'s' if systems > 1 else ''} the system text stands before the first user turn")
    if ways.no_answer and answers:
        notes.append("the model's chat template writes no conversation that ends with an answer (it "
                     f"{ways.no_answer}): answers stand behind the text of their prompt, with an end token")
    return notes


def template_ways(tokenizer) -> TemplateWays:
    """What a trial shows of the tokenizer's template. It is made once for each tokenizer and template."""
    return _template_ways(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _template_ways(tokenizer, _template: str) -> TemplateWays:
    def why_not(parts: bool, *names: str) -> str:
        turns = [{"role": name, "content": TRIAL[name]} for name in names]
        return _try(tokenizer, turns, parts, add_generation_prompt=names[-1] != "assistant")[1]

    reasons = []
    for parts in (False, True):
        alone, after_system = why_not(parts, "user"), why_not(parts, "system", "user")
        reasons.append(alone)
        if not alone:
            return TemplateWays(parts, after_system, why_not(parts, "user", "assistant"))
        if not after_system:  # it asks for a system turn
            return TemplateWays(parts, no_answer=why_not(parts, "system", "user", "assistant"))
    return TemplateWays(broken=re.sub(r'\Arefuses it with "(.*)"\Z', r"\1", reasons[0]))


def _fold(messages: list[dict], ways: TemplateWays) -> list[dict]:
    """Messages without a system turn, whose text stands before that of the user, where the template has none."""
    if not ways.no_system or messages[0]["role"] != "system" or len(messages) < 2:
        return messages
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def _try(tokenizer, messages: list[dict], parts: bool, **options) -> tuple[str, str]:
    """(the text of messages, what the template does wrong: "refuses it ..." or "leaves out ..."; "" if nothing)."""
    filled = messages
    if parts:
        filled = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
    try:
        text = tokenizer.apply_chat_template(filled, tokenize=False, **options)
    except Exception as error:  # a template is a program, and raises what it likes
        return "", f'refuses it with "{first_line(error)}"'
    squeezed = _squeeze(text)
    for turn in messages:
        content = turn["content"]
        if turn["role"] == "assistant":  # templates of models that think leave old thoughts out
            content = content.rpartition("</think>")[2]
        if _squeeze(content) not in squeezed:
            return text, f"leaves out the text of the {turn['role']} turn"
    return text, ""


def _holds(text: str, content: str) -> bool:
    return _squeeze(content) in _squeeze(text)


def _squeeze(text: str) -> str:
    """A text without white space, of which templates take away and add some."""
    return "".join(text.split())
