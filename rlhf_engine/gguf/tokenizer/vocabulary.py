"""The vocabulary in the metadata of a GGUF file: the tokens with their kinds, and the tokens with a role."""

import re
from dataclasses import dataclass, field

from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.gguf.metadata import Metadata

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens, by llama.cpp's numbers."""
PADDING = re.compile(r"\[PAD\d+\]")
"""Names with which the converter fills a vocabulary up to the rows of the embedding. No tokenizer has such tokens."""
PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"


@dataclass
class Vocabulary:
    """The tokens of a file by their numbers, without those that only fill it up."""

    tokens: dict[int, str]
    kinds: list[int]
    scores: list[float]
    rows: int
    """How many tokens the file lists, those that fill up included."""
    bos: int | None = None
    eos: int | None = None
    unknown: int | None = None
    padding: int | None = None
    turn_ends: list[int] = field(default_factory=list)
    """Further tokens that end a response: of a turn, of a message."""
    adds_bos: bool = False
    adds_eos: bool = False
    template: str = ""
    strips_right: set[int] = field(default_factory=set)
    """Control tokens that swallow the blanks behind them."""

    def named(self) -> dict[str, int | None]:
        """The tokens with a role, by their names in transformers."""
        return {"bos_token": self.bos, "eos_token": self.eos, "unk_token": self.unknown, "pad_token": self.padding}

    def stops(self) -> list[int]:
        """The tokens that end a response, the most important first."""
        first = [] if self.eos is None else [self.eos]
        return list(dict.fromkeys([*first, *self.turn_ends]))


def read_vocabulary(m: Metadata) -> Vocabulary:
    """The vocabulary of a file. Raises UserError for one that is missing, or has a token twice."""
    words = m.rows(f"{PREFIX}tokens", str)
    if not words:
        raise UserError(f"{m.model}: holds no vocabulary; give a file with its tokenizer")
    kinds = m.rows(f"{PREFIX}token_type", int) or [NORMAL] * len(words)
    scores = m.rows(f"{PREFIX}scores", float)
    for name, values in (("token_type", kinds), ("scores", scores or words)):
        if len(values) != len(words):
            raise UserError(f"{m.model}: lists {len(words)} tokens and {len(values)} values of {PREFIX}{name}; "
                            "download or convert the file again")
    tokens = {number: word for number, word in enumerate(words)
              if not (kinds[number] == UNUSED and PADDING.fullmatch(word))}
    refuse_double(tokens, m.model)
    vocabulary = Vocabulary(tokens, kinds, scores, len(words), template=read_template(m))
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unknown", "unknown"), ("padding", "padding")):
        setattr(vocabulary, role, token_id(m, f"{PREFIX}{key}_token_id", tokens))
    ends = [token_id(m, f"{PREFIX}{key}_token_id", tokens) for key in ("eot", "eom")]
    ends += [number for number in m.rows(f"{PREFIX}eos_token_ids", int) if number in tokens]  # in Ollama's files
    vocabulary.turn_ends = [number for number in ends if number is not None]
    m.raw(f"{PREFIX}token_type_count")
    return vocabulary


def refuse_double(tokens: dict[int, str], model: str) -> None:
    """Raises UserError for a token that stands there twice: only one of the two numbers could be written."""
    if len(set(tokens.values())) == len(tokens):
        return
    numbers: dict[str, int] = {}
    for number, token in tokens.items():
        if token in numbers:
            raise UserError(f"{model}: its vocabulary holds {short_repr(token)} twice (numbers {numbers[token]} and "
                            f"{number}); choose another file of this model")
        numbers[token] = number


def token_id(m: Metadata, key: str, tokens: dict[int, str]) -> int | None:
    """The number of a token with a role; None if the file names none. Raises UserError for one that is not there."""
    number = m.raw(key)
    if number is None or number in (-1, 0xFFFFFFFF):
        return None
    if type(number) is not int or number not in tokens:
        raise UserError(f"{m.model}: its {key} is {short_repr(number)}, and its vocabulary has no such token; download "
                        "or convert the file again")
    return number


def read_template(m: Metadata) -> str:
    """The chat template; empty if there is none. Raises UserError if there are only some with names of their own."""
    template = m.text(TEMPLATE, "")
    others = [key for key in m.values if key.startswith(f"{TEMPLATE}.")]
    if not template and others:
        raise UserError(f"{m.model}: has chat templates ({', '.join(others)}), and none is the default; choose another "
                        "file of this model")
    return template
