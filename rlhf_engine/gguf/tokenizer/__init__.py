"""The tokenizer of a GGUF file, as the files that transformers reads: tokenizer.json, its config and the template."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from rlhf_engine.errors import UserError
from rlhf_engine.files import write_json, write_text
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.tokenizer.byte_level import make_byte_level
from rlhf_engine.gguf.tokenizer.check import check_tokenizer
from rlhf_engine.gguf.tokenizer.sentencepiece import make_sentencepiece
from rlhf_engine.gguf.tokenizer.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary, read_vocabulary

MAKERS = {"gpt2": make_byte_level, "llama": make_sentencepiece}
"""`tokenizer.ggml.model` -> what makes such a tokenizer."""
NOT_DONE = ("tokenizer.ggml.add_sep_token", "tokenizer.ggml.remove_extra_whitespaces",
            "tokenizer.ggml.normalizer.lowercase", "tokenizer.ggml.normalizer.strip_accents")
"""What would change how a text is split, and is never done here: each must be false."""


def make_tokenizer(m: Metadata) -> tuple[Tokenizer, Vocabulary]:
    """(the tokenizer, the vocabulary in the file), checked.

    Raises UserError for a kind of tokenizer, or a way to split text, that is not known here.
    """
    kind = m.text("tokenizer.ggml.model", "none")
    if kind not in MAKERS:
        raise UserError(f"{m.model}: has a tokenizer of the kind {kind!r}, and {' and '.join(MAKERS)} are read; choose "
                        "the model's safetensors, or another model")
    for key in NOT_DONE:
        if m.flag(key, False):
            raise m.unusable(key)
    vocabulary = read_vocabulary(m)
    try:
        tokenizer = MAKERS[kind](m, vocabulary)
        add_whole_tokens(tokenizer, vocabulary)
    except UserError:
        raise
    except Exception as error:  # of the Rust library, which has no class for them
        raise UserError(f"{m.model}: its vocabulary makes no tokenizer ({' '.join(str(error).split())[:200]}); "
                        "download or convert the file again") from None
    add_ends(tokenizer, vocabulary)
    check_tokenizer(tokenizer, vocabulary, m.model)
    return tokenizer, vocabulary


def add_whole_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Tell the tokenizer which tokens are never cut: control tokens, and those that somebody added."""
    tokens = []
    for number, token in vocabulary.tokens.items():
        kind = vocabulary.kinds[number]
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            strip = kind != USER_DEFINED and number in vocabulary.strips_right
            tokens.append(AddedToken(token, normalized=False, special=kind != USER_DEFINED, rstrip=strip))
    tokenizer.add_tokens(tokens)


def add_ends(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Put the first and the last token around a text, where the file says so."""
    first = [vocabulary.bos] if vocabulary.adds_bos and vocabulary.bos is not None else []
    last = [vocabulary.eos] if vocabulary.adds_eos and vocabulary.eos is not None else []
    if not first and not last:
        return
    names = {number: vocabulary.tokens[number] for number in first + last}
    single = [*(names[number] for number in first), "$A:0", *(names[number] for number in last)]
    pair = [*single, *(f"{names[number]}:1" for number in first), "$B:1", *(f"{names[number]}:1" for number in last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(name, number) for number, name in names.items()])


def write_tokenizer(folder: Path, tokenizer: Tokenizer, vocabulary: Vocabulary, m: Metadata, longest: int) -> None:
    """Write the files of a tokenizer. `longest`: positions of the model."""
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=False))
    values: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
                              "model_max_length": longest}
    for name, number in vocabulary.named().items():
        if number is not None:
            values[name] = vocabulary.tokens[number]
    write_json(folder / "tokenizer_config.json", values)
    if vocabulary.template:
        write_text(folder / "chat_template.jinja", vocabulary.template)

