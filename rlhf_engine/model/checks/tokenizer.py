"""Loads a tokenizer, and refuses one that cannot work with its model: no vocabulary, tokens that the model has no
embedding for, a chat template that never works."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rlhf_engine.data.chat_templates import broken_template, template_ways
from rlhf_engine.data.tokenization import Prompt, encode_prompt
from rlhf_engine.errors import UserError, first_line, kind_of
from rlhf_engine.runs.model_files import AGAIN, read_object
from rlhf_engine.runs.resolve import code_needed

TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*", "merges.txt", "*.tiktoken", "tekken.json", "*.vocab")
"""Files that hold a vocabulary."""
CONVERSATIONS: tuple[Prompt, ...] = (
    "Hello",
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "Bye"}],
)
"""What a chat template is tried with. It may refuse some of them."""
NEEDED = ("bos_token", "eos_token")
"""Special tokens that are put around a text."""
STRANGE_TEXT = "a \u2603\U00012000\x07"
"""A text with characters that many tokenizers have no token for."""


def load_tokenizer(folder: Path, model: str) -> Any:
    """The tokenizer in a model's folder.

    Raises UserError for files that are missing or broken, for several chat templates without a default, and for one
    that needs code of its own.
    """
    if not any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES):
        raise UserError(f"{model}: holds no tokenizer (tokenizer.json); copy it from the model that this one was made "
                        "of, or save it with tokenizer.save_pretrained")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each kind of tokenizer has errors of its own, those of the Rust library have no class
        if "trust_remote_code" in str(error):
            raise code_needed(model) from None
        raise UserError(f"{model}: {why_not_loaded(folder, error)}") from None
    drop_empty_names(tokenizer)
    try:
        tokenizer(CONVERSATIONS[0], add_special_tokens=False, split_special_tokens=True, verbose=False)
    except Exception as error:  # of a setting of another type, such as model_max_length as a text
        raise UserError(f"{model}: its tokenizer reads no text ({type(error).__name__}: {first_line(error)[:150]});"
                        f" correct tokenizer_config.json, or {AGAIN}") from None
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise UserError(f"{model}: its tokenizer has no vocabulary; {AGAIN} with its tokenizer")
    check_template_kind(tokenizer.chat_template, model)
    return tokenizer


def why_not_loaded(folder: Path, error: Exception) -> str:
    """What is wrong with a tokenizer that cannot be loaded, and what to do."""
    reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    if not (folder / "tokenizer.json").exists():
        return (f"has no tokenizer.json, and its tokenizer cannot be made from the other files ({reason[:150]}); "
                "where it loads, save it with tokenizer.save_pretrained, and copy tokenizer.json here")
    return f"its tokenizer cannot be loaded ({reason[:200]}); {AGAIN}"


def drop_empty_names(tokenizer: Any) -> None:
    """Take away special tokens whose text is empty: they stand for none, and would be found in every text."""
    for name, token in tokenizer.special_tokens_map.items():
        if token == "":
            setattr(tokenizer, name, None)


def check_template_kind(template: Any, model: str) -> None:
    """Raises UserError for several chat templates of which none is called default, and for one that is no text."""
    if isinstance(template, dict):
        if "default" not in template:
            names = ", ".join(map(str, template))
            raise UserError(f"{model}: has several chat templates ({names}), and none is called default; "
                            "call one so in tokenizer_config.json, or keep one as chat_template.jinja")
        template = template["default"]
    if template is not None and not isinstance(template, str):
        raise UserError(f"{model}: its chat template is {kind_of(template)} in place of a text; "
                        "correct chat_template in tokenizer_config.json")


# -- together with the model -----------------------------------------------------------------------------------------

def check_tokens(tokenizer: Any, rows: int, folder: Path, model: str) -> None:
    """Refuse a tokenizer that gives ids at or above `rows`, the number of rows of the model's embedding.

    Control tokens up there do no harm as long as nothing writes them. A padding token does none either:
    `FrozenBase.pad_id` replaces it. A special token that no file names comes from transformers' class of tokenizers; it
    is taken away. Raises UserError.
    """
    given = read_object(folder / "tokenizer_config.json", model)
    given |= read_object(folder / "special_tokens_map.json", model)
    for name, token in tokenizer.special_tokens_map.items():
        if not given.get(name) and (tokenizer.convert_tokens_to_ids(token) or 0) >= rows:
            setattr(tokenizer, name, None)
    vocabulary = tokenizer.get_vocab()
    beyond = {token: number for token, number in vocabulary.items() if number >= rows}
    control = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    needed = {tokenizer.special_tokens_map.get(name) for name in NEEDED}
    wrong = [token for token in beyond if token in needed or (token not in control and token != tokenizer.pad_token)]
    if wrong:
        raise beyond_embedding(wrong, beyond, rows, model)
    if beyond:
        written = set(tokenizer(STRANGE_TEXT)["input_ids"])
        for prompt in CONVERSATIONS:
            written.update(try_template(tokenizer, prompt))
        wrong = [token for token, number in beyond.items() if number in written]
        if wrong:
            raise beyond_embedding(wrong, beyond, rows, model)


def beyond_embedding(wrong: list[str], beyond: dict[str, int], rows: int, model: str) -> UserError:
    """The error for tokens that the model has no embedding for."""
    first = min(wrong, key=beyond.__getitem__)
    rest = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return UserError(f"{model}: its tokenizer has the token {first!r} (number {beyond[first]}){rest}, but its "
                     f"embedding has {rows} rows; add them with model.resize_token_embeddings(len(tokenizer)) and "
                     "save, or take the tokenizer that belongs to the model")


def check_template(tokenizer: Any, model: str) -> None:
    """Raises UserError for a chat template that is broken, or that refuses every conversation."""
    if tokenizer.chat_template and template_ways(tokenizer).broken:
        raise broken_template(template_ways(tokenizer), model)


def try_template(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The ids of a conversation; none if there is no template, or if it refuses the conversation."""
    if not tokenizer.chat_template:
        return []
    try:
        return encode_prompt(tokenizer, prompt).prompt_ids
    except UserError:
        return []
