"""The metadata of a GGUF file. It records which keys were used, so that no key is left aside without a word."""

import re
from typing import Any

from rlhf_engine.errors import UserError, kind_of, short_repr

REVIEWED = re.compile("|".join((
    # What the model is called and where it comes from, how it was packed, and advice for sampling.
    r"general\.(name|basename|author|organization|version|finetune|description|quantized_by|size_label|url|doi|uuid)",
    r"general\.(repo_url|tags|languages|datasets|license(\.\w+)?|file_type|quantization_version|alignment)",
    r"general\.parameter_count",  # Ollama's
    r"general\.(source|base_model|dataset|sampling)\..+",
    r"quantize\.imatrix\..+",
    # Tokens for what is not done here: filling in the middle of code, classification, masks.
    r"tokenizer\.ggml\.(fim_\w+|prefix|suffix|middle|cls|mask|seperator|separator|sep|fsep)(_token_id)?",
    # Of several chat templates, the default one is used.
    r"tokenizer\.chat_templates", r"tokenizer\.chat_template\..+",
)))
"""Keys that change nothing of what a model computes here."""
NO_MODEL = {
    "adapter": "a LoRA adapter of llama.cpp, not a model; give the model that it belongs to",
    "mmproj": "the part of a model that sees or hears (mmproj), not a language model; give the file of its language "
              "model",
    "vocab": "a vocabulary without weights; give the file of the whole model",
    "imatrix": "a table for quantisation (imatrix), not a model; give the file of the model",
}
"""`general.type` of files that are no models -> what they are, and what to do."""


class Metadata:
    """The metadata of a model, by key. `architecture` is `general.architecture`, with which the keys about the model's
    shape begin.

    Raises UserError for a file that is no model, and in each method for a value of another type.
    """

    def __init__(self, values: dict[str, Any], model: str):
        self.values, self.model = values, model
        self.used: set[str] = set()
        kind = self.text("general.type", "model")
        if kind in NO_MODEL:
            raise UserError(f"{model}: is {NO_MODEL[kind]}")
        if kind != "model":
            raise UserError(f"{model}: is a GGUF file of the type {short_repr(kind)}, not a model; give the file of a "
                            "language model")
        self.architecture = self.text("general.architecture")

    def raw(self, key: str, default: Any = None) -> Any:
        """The value of a key, which counts as used; `default` if it is not there."""
        self.used.add(key)
        return self.values.get(key, default)

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number that is not negative."""
        value = self._needed(key, default)
        if type(value) is not int or value < 0:
            raise self.wrong(key, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._needed(key, default)
        if type(value) not in (int, float) or value - value != 0:
            raise self.wrong(key, "a number")
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._needed(key, default)
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text."""
        value = self._needed(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def rows(self, key: str, kind: type) -> list:
        """A list of values of one type; empty if it is not there."""
        value = self.raw(key, [])
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise self.wrong(key, "a list")
        return value

    def name(self, key: str) -> str:
        """The whole key of something about the model's shape."""
        return f"{self.architecture}.{key}"

    def has(self, key: str) -> bool:
        """Whether something is said about the model's shape under this key."""
        return self.name(key) in self.values

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number about the model's shape. Some files say it layer by layer; all layers must agree."""
        key = self.name(key)
        value = self.values.get(key)
        if isinstance(value, list):
            self.used.add(key)
            if not value or any(item != value[0] for item in value):
                raise UserError(f"{self.model}: {key} differs from layer to layer ({short_repr(value)}), which is not "
                                "read; choose another model")
            return value[0]
        return self.integer(key, default)

    def factor(self, key: str, default: float | None = None) -> float:
        """A number about the model's shape."""
        return self.number(self.name(key), default)

    def must_be(self, key: str, *allowed: Any) -> None:
        """Raises UserError if a key about the model's shape is there and says something else than `allowed`."""
        value = self.raw(self.name(key), allowed[0])
        if value not in allowed:
            raise self.unusable(self.name(key))

    def unusable(self, key: str) -> UserError:
        """The error for a key that asks for something which is not done here."""
        return UserError(f"{self.model}: its {key} is {short_repr(self.values[key])}, which cannot be used here, and "
                         "without it the model would come out wrong; choose another file or model")

    def refuse_unused(self) -> None:
        """Raises UserError with the names of the keys that nobody has used and that are on no reviewed list."""
        left = [key for key in self.values if key not in self.used and not REVIEWED.fullmatch(key)]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise UserError(f"{self.model}: says {left[0]} = {short_repr(self.values[left[0]])}{more}, of which "
                            "nothing here knows what it means, so the model could come out wrong; choose another file "
                            "of this model, or its safetensors")

    def wrong(self, key: str, wanted: str) -> UserError:
        """The error for a value of another type."""
        return UserError(f"{self.model}: its {key} is {kind_of(self.values[key])} ({short_repr(self.values[key])}) in "
                         f"place of {wanted}; download or convert the file again")

    def _needed(self, key: str, default: Any) -> Any:
        value = self.raw(key, default)
        if value is None:
            raise UserError(f"{self.model}: its metadata lack {key}; download or convert the file again")
        return value
