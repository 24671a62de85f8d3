"""How a text is split into words before byte-level BPE merges their bytes, by llama.cpp's names (`tokenizer.ggml.pre`).

The rules are those of the models' own tokenizer.json; llama.cpp keeps only their names. A name that is not here is
refused. Source of the names: llama-vocab.cpp of llama.cpp.
"""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}" + REST
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDINGS}"
         r"|\p{N}{1,3}" + REST)
DEEPSEEK3 = (r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
             r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
             r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SEED = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"


@dataclass(frozen=True)
class Split:
    """A way to split a text."""

    patterns: tuple[str, ...] = (GPT2,)
    """Regular expressions; each cuts the pieces of the one before."""
    digits: bool = False
    """Whether digits are split off one by one, before all else."""
    whole_words: bool = False
    """Whether a word that is a token is taken as a whole, whatever the merges say."""
    composes: bool = False
    """Whether the characters of the text are composed first (NFC)."""
    adds_bos: bool = False
    """Whether the first token is put before a text where the file does not say so."""
    punctuation: bool = False
    """Falcon's way: runs of punctuation first, and digits by threes at the end."""

    def parts(self, adds_space: bool) -> list:
        """The steps for the library `tokenizers`. `adds_space`: a blank is put before a text that begins with none."""
        isolated = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns]
        level = pre_tokenizers.ByteLevel(add_prefix_space=adds_space, use_regex=False)
        if self.patterns == (GPT2,):  # in ByteLevel's own words, as the models' files have it
            isolated, level = [], pre_tokenizers.ByteLevel(add_prefix_space=adds_space, use_regex=True)
        if self.punctuation:
            return [pre_tokenizers.Punctuation("contiguous"), level, pre_tokenizers.Digits(individual_digits=False),
                    pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), behavior="isolated")]
        first = [pre_tokenizers.Digits(individual_digits=True)] if self.digits else []
        return [*first, *isolated, level]


_GPT2, _DIGITS = Split(), Split(digits=True)
_COMPOSED = Split(composes=True)
_LLAMA3 = Split((LLAMA3,), whole_words=True, adds_bos=True)
_LLAMA3_PLAIN = Split((LLAMA3,))
_QWEN2 = Split((QWEN2,), composes=True)
_GPT4O = Split((GPT4O,))

SPLITS: dict[str, Split] = {
    "gpt-2": _GPT2, "phi-2": _GPT2, "gigachat": _GPT2, "a.x-4.0": _GPT2, "mellum": _GPT2, "jais": _GPT2,
    "exaone4": _GPT2, "trillion": _GPT2, "granite-docling": _GPT2,
    "mpt": _COMPOSED, "olmo": _COMPOSED,
    "smollm": _DIGITS, "starcoder": _DIGITS, "refact": _DIGITS, "codeshell": _DIGITS, "minerva-7b": _DIGITS,
    "command-r": Split(digits=True, composes=True), "exaone": Split(digits=True, composes=True),
    "falcon": Split(punctuation=True),
    "llama3": _LLAMA3, "llama-v3": _LLAMA3, "llama-bpe": _LLAMA3, "falcon3": _LLAMA3, "falcon-h1": _LLAMA3,
    "pixtral": _LLAMA3, "midm-2.0": _LLAMA3, "lfm2": _LLAMA3,
    "dbrx": _LLAMA3_PLAIN, "smaug-bpe": _LLAMA3_PLAIN, "chatglm-bpe": _LLAMA3_PLAIN,
    "glm4": Split((LLAMA3,), whole_words=True),
    "tekken": Split((TEKKEN,), whole_words=True, adds_bos=True),
    "qwen2": _QWEN2, "deepseek-r1-qwen": _QWEN2, "kormo": _QWEN2, "megrez": _QWEN2, "stablelm2": _QWEN2,
    "hunyuan": _QWEN2, "solar-open": _QWEN2,
    "qwen35": Split((QWEN35,), composes=True),
    "gpt-4o": _GPT4O, "llama4": _GPT4O, "kanana2": _GPT4O, "minimax-m2": _GPT4O,
    "deepseek-v3": Split(DEEPSEEK3), "hunyuan-dense": Split(DEEPSEEK3),
    "seed-coder": Split((SEED,)),
    "bloom": Split((BLOOM,)), "gpt3-finnish": Split((BLOOM,)), "poro-chat": Split((BLOOM,)),
}
