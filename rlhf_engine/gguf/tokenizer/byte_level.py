"""Byte-level BPE (`tokenizer.ggml.model` is gpt2): the vocabulary, the merges, and how a text is split before them."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.tokenizer.splits import SPLITS, Split
from rlhf_engine.gguf.tokenizer.vocabulary import PREFIX, Vocabulary


def make_byte_level(m: Metadata, vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer. Raises UserError for a way to split text that is not known, and for broken merges."""
    split = read_split(m)
    merges = [tuple(merge.split(" ")) for merge in m.rows(f"{PREFIX}merges", str)]
    if not merges:
        raise UserError(f"{m.model}: its tokenizer has no merges ({PREFIX}merges); convert the model again with a "
                        "newer llama.cpp")
    if broken := next((merge for merge in merges if len(merge) != 2), None):
        raise UserError(f"{m.model}: its {PREFIX}merges hold {short_repr(' '.join(broken))}, which is no pair; "
                        "download or convert the file again")
    numbers = {token: number for number, token in vocabulary.tokens.items()}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=merges, ignore_merges=split.whole_words))
    if split.composes:
        tokenizer.normalizer = normalizers.NFC()
    adds_space = m.flag(f"{PREFIX}add_space_prefix", False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split.parts(adds_space))
    tokenizer.decoder = decoders.ByteLevel()
    vocabulary.adds_bos = m.flag(f"{PREFIX}add_bos_token", split.adds_bos)
    vocabulary.adds_eos = m.flag(f"{PREFIX}add_eos_token", False)
    return tokenizer


def read_split(m: Metadata) -> Split:
    """How the text is split. llama.cpp splits by a rule of its own where a file names none or one that it does not
    know; then the model would read other tokens than it was trained on. Raises UserError."""
    name = m.raw(f"{PREFIX}pre")
    if name in SPLITS:
        return SPLITS[name]
    said = "does not say" if name in (None, "default") else f"says {short_repr(name)} of"
    raise UserError(f"{m.model}: {said} how its tokenizer splits a text ({PREFIX}pre), so it would read other tokens "
                    "than it was trained on; choose a newer file of this model, or its safetensors")
