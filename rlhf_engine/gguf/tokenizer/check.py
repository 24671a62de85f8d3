"""Checks a tokenizer that was made from a GGUF file against the vocabulary in the file."""

from tokenizers import Tokenizer

from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.gguf.tokenizer.vocabulary import Vocabulary

PROBES = ("Hello world", "  two  blanks", "It's 12345 o'clock, isn't it?\n\n\tYes!",
          "naïve café 中文 😀", "x = [1, 2];\r\n")
"""Texts that are read and written again: words, blanks, digits, apostrophes, other scripts, code."""


def check_tokenizer(tokenizer: Tokenizer, vocabulary: Vocabulary, model: str) -> None:
    """Raises UserError unless each token of the file has its number, no other token was added, and texts that are read
    come back as they were, where the vocabulary can write them."""
    numbers = tokenizer.get_vocab(with_added_tokens=True)
    for number, token in vocabulary.tokens.items():
        if numbers.get(token) != number:
            raise UserError(f"{model}: its token {short_repr(token)} would get the number {numbers.get(token)} in "
                            f"place of {number}; choose another file of this model, or its safetensors")
    if extra := set(numbers) - set(vocabulary.tokens.values()):
        raise UserError(f"{model}: its tokenizer would have the token {short_repr(min(extra))}, which the file does "
                        "not have; choose another file of this model, or its safetensors")
    unknown = None if vocabulary.unknown is None else vocabulary.unknown
    for probe in PROBES:
        ids = tokenizer.encode(probe, add_special_tokens=False).ids
        if unknown in ids or not ids:
            continue
        written = tokenizer.decode(ids)
        if written != probe and covers(vocabulary, probe):
            raise UserError(f"{model}: its tokenizer reads {short_repr(probe)} and writes {short_repr(written)}; "
                            "choose another file of this model, or its safetensors")


def covers(vocabulary: Vocabulary, probe: str) -> bool:
    """Whether a vocabulary has all bytes or all characters of a text, so that nothing of it can be lost."""
    tokens = set(vocabulary.tokens.values())
    if "<0x0A>" in tokens:
        return all(f"<0x{number:02X}>" in tokens for number in range(256))
    from tokenizers import pre_tokenizers
    return set(pre_tokenizers.ByteLevel.alphabet()) <= tokens or {*probe.replace(" ", "▁")} <= tokens
