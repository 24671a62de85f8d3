"""SentencePiece's BPE (`tokenizer.ggml.model` is llama): merges come from the scores, and unknown characters are bytes.

Form: that of the tokenizer.json of Llama 2. Blanks are written as `▁`, and one is put before each piece of text where
the file says so.
"""

import re

from tokenizers import Tokenizer, decoders, models, normalizers

from rlhf_engine.errors import UserError
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.tokenizer.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    PREFIX,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
)

BLANK = "▁"
ORDERED = ("gemma",)
"""Beginnings of the architectures whose merges follow the order of the tokens; their scores say something else."""
DEFAULT_IDS = {"unknown": 0, "bos": 1, "eos": 2}
"""What llama.cpp takes where a file does not name these tokens."""
PHI3_NO_STRIP = ("<unk>", "<s>", "<|endoftext|>")
"""Tokens of Phi-3 that swallow no blanks; its other control tokens do, as its tokenizer.json says."""


def make_sentencepiece(m: Metadata, vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer. Raises UserError where the scores do not say how a text is split."""
    m.raw(f"{PREFIX}pre")  # "default"; it is of no use without a split into words
    m.raw(f"{PREFIX}merges")  # the scores say the same
    for role, number in DEFAULT_IDS.items():
        if getattr(vocabulary, role) is None and f"{PREFIX}{role}_token_id" not in m.values:
            setattr(vocabulary, role, number if number in vocabulary.tokens else None)
    ordered = m.architecture.startswith(ORDERED)
    check_scores(vocabulary, m.model)
    respell_blanks(vocabulary)
    numbers = {token: number for number, token in vocabulary.tokens.items()}
    ranks = {number: -number if ordered else vocabulary.scores[number] for number in vocabulary.tokens}
    unknown = None if vocabulary.unknown is None else vocabulary.tokens[vocabulary.unknown]
    has_bytes = BYTE in vocabulary.kinds
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=make_merges(vocabulary, numbers, ranks), unk_token=unknown,
                                     fuse_unk=True, byte_fallback=has_bytes))
    adds_space = m.flag(f"{PREFIX}add_space_prefix", True)
    steps = [normalizers.Prepend(BLANK)] if adds_space else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", BLANK)])
    ends = [decoders.Strip(" ", 1, 0)] if adds_space else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(),
                                           *ends])
    vocabulary.adds_bos = m.flag(f"{PREFIX}add_bos_token", True)
    vocabulary.adds_eos = m.flag(f"{PREFIX}add_eos_token", False)
    if m.architecture == "phi3":
        vocabulary.strips_right = {number for number, token in vocabulary.tokens.items()
                                   if vocabulary.kinds[number] in (CONTROL, UNKNOWN) and token not in PHI3_NO_STRIP}
    return tokenizer


def check_scores(vocabulary: Vocabulary, model: str) -> None:
    """Raises UserError where all words have one score: llama.cpp's converter writes such scores for a tokenizer that
    it cannot read, and then nothing in the file says which merge comes first."""
    scores = {vocabulary.scores[number] for number, token in vocabulary.tokens.items()
              if vocabulary.kinds[number] == NORMAL and len(token) > 1} if vocabulary.scores else set()
    if len(scores) < 2:
        raise UserError(f"{model}: all its tokens have the same score, so the file does not say how a text is split; "
                        "choose another file of this model, or its safetensors")


def respell_blanks(vocabulary: Vocabulary) -> None:
    """Spell tokens of blanks alone with `▁`, as the merges have them: the converter writes those that were added with
    blanks."""
    taken = set(vocabulary.tokens.values())
    for number, token in vocabulary.tokens.items():
        spelled = BLANK * len(token)
        if vocabulary.kinds[number] == USER_DEFINED and re.fullmatch(" +", token) and spelled not in taken:
            vocabulary.tokens[number] = spelled
            vocabulary.kinds[number] = NORMAL


def make_merges(vocabulary: Vocabulary, numbers: dict[str, int], ranks: dict[int, float]) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, best rank first; of one token, those with the smaller numbers first."""
    whole = (CONTROL, UNKNOWN, BYTE, UNUSED)
    rows = []
    for number, token in vocabulary.tokens.items():
        if vocabulary.kinds[number] in whole:
            continue
        for cut in range(1, len(token)):
            left, right = numbers.get(token[:cut]), numbers.get(token[cut:])
            if left is not None and right is not None:
                rows.append((-ranks[number], number, left, right))
    rows.sort()
    tokens = vocabulary.tokens
    return [(tokens[left], tokens[right]) for *_, left, right in rows]
