"""The files of a model folder: JSON, config.json's facts, and the names and shapes of its weights. No torch.

Everything here is read before a model is loaded, so that a broken download is named by its file.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from rlhf_engine.errors import UserError, first_line, kind_of

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Names under which transformers looks for weights: one file, or the table of several."""
JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json",
              "special_tokens_map.json", INDEX)
AGAIN = "download or save the model again"
TRAINING_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""A file of a distributed checkpoint, which transformers would prefer to the weights."""
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "F16": 16,
        "BF16": 16, "F32": 32, "F64": 64, "F8_E4M3": 8, "F8_E5M2": 8}
"""Bits of a number in each format of safetensors that is checked."""
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
"""Names of the number of layers in config.json."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a weight file: the format of its numbers, in the words of safetensors, and its shape."""

    format: str
    shape: tuple[int, ...]

    @property
    def has_whole_numbers(self) -> bool:
        """Whether its numbers are integers or true and false."""
        return self.format == "BOOL" or self.format[:1] in ("U", "I")


@dataclass(frozen=True)
class ModelFiles:
    """What the files of a model say before it is loaded."""

    model: str
    """MODEL, by which messages name it."""
    folder: Path
    config: dict
    """The mapping in config.json."""
    tensors: dict[str, Stored]
    """The tensors in the weight files, by name."""


def read_files(folder: Path, model: str) -> ModelFiles:
    """Read and check the files of MODEL. Raises UserError for those that are missing or broken, and for a model that
    cannot be used by its config.json."""
    check_json(folder, model)
    config = read_object(folder / "config.json", model)
    check_config(config, model)
    tensors = read_weights(folder, model)
    check_layers(config, tensors, model)
    return ModelFiles(model, folder, config, tensors)


# -- JSON ------------------------------------------------------------------------------------------------------------

def read_object(file: Path, model: str) -> dict:
    """The mapping in a JSON file of MODEL; empty if there is no file. Raises UserError for anything else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{model}: its {file.name} is broken ({first_line(error)}); {AGAIN}") from None
    if not isinstance(value, dict):
        raise UserError(f"{model}: its {file.name} holds {kind_of(value)} in place of an object; {AGAIN}")
    return value


def check_json(folder: Path, model: str) -> None:
    """Raises UserError for a JSON file of the model that is broken."""
    for name in JSON_FILES:
        read_object(folder / name, model)


# -- config.json -----------------------------------------------------------------------------------------------------

def check_config(config: dict, model: str) -> None:
    """Refuse by config.json what cannot be trained here. Raises UserError."""
    if config.get("is_encoder_decoder") is True:
        raise not_causal(model, f"an encoder and a decoder ({config.get('model_type')})")
    quantisation = read_quantisation(config)
    if quantisation is not None and not is_four_bit(quantisation):
        raise UserError(f"{model}: its weights are quantised ({name_of(quantisation)}), and of such models only those "
                        "in the 4 bits of bitsandbytes can be used; choose the same model without quantisation "
                        "(--dtype nf4 makes 4 bits of it)")


def not_causal(model: str, kind: str) -> UserError:
    """The error for a model that does not continue a text from the left to the right."""
    return UserError(f"{model}: is {kind}, not a causal language model; "
                     "choose one that continues a text, such as Llama, Qwen, Mistral or GPT-2")


def read_quantisation(config: dict) -> object | None:
    """What config.json says about quantised weights; None if they are plain."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config", "quantization"):  # the last is MLX's
            if part.get(key) is not None:
                return part[key]
    return None


def is_four_bit(quantisation: object) -> bool:
    """Whether weights are in the 4 bits of bitsandbytes, which a base may be loaded from."""
    return (isinstance(quantisation, dict) and quantisation.get("load_in_4bit") is True
            and quantisation.get("quant_method", "bitsandbytes") == "bitsandbytes")


def name_of(quantisation: object) -> str:
    """The name of a method of quantisation."""
    if not isinstance(quantisation, dict):
        return f"quantization_config is {kind_of(quantisation)}"
    method = quantisation.get("quant_method") or "unknown method"
    return f"{method}, 8 bits" if quantisation.get("load_in_8bit") else str(method)


# -- weights ---------------------------------------------------------------------------------------------------------

def read_weights(folder: Path, model: str) -> dict[str, Stored]:
    """The tensors in the files that transformers will read, by name. Only the headers of the files are read.

    Raises UserError for files that are missing, cut short or no safetensors.
    """
    tensors: dict[str, Stored] = {}
    for file in weight_files(folder, model):
        tensors |= read_header(file, model)
    if not tensors:
        raise UserError(f"{model}: its weight files hold no weights; {AGAIN}")
    return tensors


def check_layers(config: dict, stored: dict[str, Stored], model: str) -> None:
    """Raises UserError for a config.json that asks for more layers than there are tensors; such a model would take
    for ever to build."""
    for key in LAYERS:
        count = config.get(key)
        if isinstance(count, int) and count > len(stored):
            raise UserError(f"{model}: its config.json asks for {count} layers ({key}), but its files hold "
                            f"{len(stored)} tensors; correct config.json, or {AGAIN}")


def weight_files(folder: Path, model: str) -> list[Path]:
    """The weight files that transformers will read. Raises UserError where one is missing or elsewhere."""
    shards = [file.name for file in folder.glob("shard-*.safetensors") if TRAINING_SHARD.fullmatch(file.name)]
    if shards:
        raise UserError(f"{model}: holds a distributed training checkpoint ({min(shards)}), no finished model; "
                        "save the whole model with save_pretrained")
    links = [file.name for file in folder.glob("*.safetensors") if not file.exists()]
    if links:
        raise UserError(f"{model}: its {min(links)} is a link to a file that is gone; {AGAIN}")
    name = read_object(folder / "config.json", model).get("transformers_weights") or WEIGHTS
    if name == WEIGHTS and not (folder / WEIGHTS).exists():
        name = INDEX
    if not isinstance(name, str) or Path(name).name != name:
        raise UserError(f"{model}: its weights are said to be in {name!r}, which is outside of its folder; {AGAIN}")
    if not (folder / name).exists():
        seen = min(file.name for file in folder.glob("*.safetensors"))
        raise UserError(f"{model}: holds neither {WEIGHTS} nor {INDEX}, but {seen}; {AGAIN} with save_pretrained")
    return indexed_files(folder, name, model) if name.endswith(".json") else [folder / name]


def indexed_files(folder: Path, index: str, model: str) -> list[Path]:
    """The files that the table `index` names. Raises UserError for a table that is broken, and for a missing file."""
    content = read_object(folder / index, model)
    table = content.get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise UserError(f"{model}: its {index} names no weight files; {AGAIN}")
    names = sorted(set(table.values()))
    outside = [name for name in names if Path(name).name != name or "\\" in name]
    if outside:
        raise UserError(f"{model}: its {index} names {outside[0]!r}, which is outside of its folder; {AGAIN}")
    if not isinstance(content.get("metadata"), dict):
        raise UserError(f"{model}: its {index} lacks metadata, without which transformers does not read it; "
                        'add "metadata": {} to it')
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise UserError(f"{model}: {len(missing)} of its {len(names)} weight files missing, first {missing[0]}; "
                        f"{AGAIN}")
    return [folder / name for name in names]


def read_header(file: Path, model: str) -> dict[str, Stored]:
    """The tensors that a .safetensors file says it holds. Raises UserError for one that is cut short or another kind.

    Format: 8 bytes with the length of a JSON object, which has dtype, shape and offsets by name, then the numbers.
    """
    refusal = UserError(f"{model}: {file.name} is {broken_kind(file)}; {AGAIN}")
    try:
        size = file.stat().st_size
        with open(file, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= size - 8:
                raise refusal
            header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        tensors = {name: Stored(str(entry["dtype"]), tuple(entry["shape"])) for name, entry in header.items()}
        fits = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0) == size
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            bits = BITS.get(tensors[name].format, 0)
            whole = not bits or (stop - start) * 8 == math.prod(entry["shape"]) * bits
            fits = fits and whole and isinstance(entry["dtype"], str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise refusal from None
    if not fits:
        raise refusal
    return tensors


def broken_kind(file: Path) -> str:
    """What a weight file is that cannot be read."""
    try:
        with open(file, "rb") as handle:
            start = handle.read(64)
    except OSError:
        return "not readable"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the weights themselves (fetch them with `git lfs pull`)"
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return "a pickled file with another name"
    if start.startswith((b"<!DOCTYPE", b"<html")):
        return "a web page, not weights"
    return "empty" if not start else "cut short or broken"
