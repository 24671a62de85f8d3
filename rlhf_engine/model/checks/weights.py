"""Compares the weights in a model's files with those that its config.json asks for, and refuses by name what differs.

transformers gives a weight that is missing or misshapen random numbers, and leaves aside one that it does not know. It
only logs that. So what it reports is read here, together with the headers of the files.
"""

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rlhf_engine.errors import UserError
from rlhf_engine.runs.model_files import ModelFiles, Stored

BUFFERS = ("inv_freq", "position_ids", "masked_bias", "causal_mask", "cos_cached", "sin_cached", "_extra_state",
           "num_batches_tracked", "relative_position_index", "alibi", "version")
"""Last parts of names that are no weights: tables, masks and counters that a model computes itself."""
PERCEPTION = ("vision", "visual", "image", "audio", "speech", "multi_modal", "mm_", "projector", "merger", "talker",
              "token2wav", "code2wav", "perceiver", "resampler")
"""Parts of the names of weights with which a model sees or hears."""
WRAPPERS = {"module": "DistributedDataParallel or DeepSpeed", "_orig_mod": "torch.compile",
            "_fsdp_wrapped_module": "FSDP", "_checkpoint_wrapped_module": "activation checkpointing",
            "_forward_module": "Lightning"}
"""Parts that a wrapper puts into the names of weights, and what wraps."""
CLASSIFIERS = ("score", "classifier", "v_head", "qa_outputs", "regression_head", "value_head", "reward_head")
"""First parts of the names of a head that is no output layer over the vocabulary."""
TOO_MANY = 8
"""Times the numbers in the files that a config.json may ask for before it is refused unread. Packed numbers count as
two to eight."""
NAMED = 3
"""Names of weights in a message, at most."""


@contextmanager
def record_report() -> Iterator[list[str]]:
    """Records the names that transformers reports while it converts weights, and keeps its lines off the console.

    Yields the list of names. It is filled before transformers raises its error, which names none.
    """
    names: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            rows = re.findall(r"^(\S+)\s+\|\s+\S*CONVERSION", record.getMessage(), re.MULTILINE)
            names.extend(rows)

    logger, recorder = logging.getLogger("transformers.modeling_utils"), Recorder()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(recorder)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield names
    finally:
        logger.removeHandler(recorder)
        logger.setLevel(level)
        logger.propagate = propagate


def check_weights(base: Any, info: dict[str, Any], files: ModelFiles) -> None:
    """Refuse a model whose files do not hold exactly the weights that its config.json asks for.

    Args:
        base: the model, loaded.
        info: transformers' `output_loading_info`, without what the architecture says may be missing or left over.
        files: what the files hold.

    Raises UserError, which names the weights.
    """
    stored, config = files.tensors, files.config
    missing = sorted(info["missing_keys"])
    mismatched = sorted([*info["mismatched_keys"], *misshapen_in_four_bits(base)], key=lambda row: row[0])
    extra = [name for name in sorted(info["unexpected_keys"]) if not may_be_left(name, stored.get(name), config)]
    if not missing and not mismatched and not extra:
        return
    problems = []
    if mismatched:
        name, shape, wanted = mismatched[0]
        rest = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        problems.append(f"{name} is {list(shape)} in the files and {list(wanted)} by config.json{rest}")
    if missing:
        problems.append(f"missing: {first_names(missing)}")
    if extra:
        problems.append(f"no place for: {first_names(extra)}")
    raise UserError(f"{files.model}: its weights do not fit its config.json: {'; '.join(problems)}. "
                    + advice(missing, mismatched, extra, stored, config))


def check_size(base: Any, files: ModelFiles) -> None:
    """Refuse a config.json that asks for many times the numbers that are in the files, because transformers would make
    them all before it says what is missing. `base` is the model without memory for its weights. Raises UserError."""
    asked = sum(parameter.numel() for parameter in base.parameters())
    held = sum(math.prod(tensor.shape) for tensor in files.tensors.values())
    if asked > TOO_MANY * held + 1_000_000:
        raise UserError(f"{files.model}: its config.json asks for {asked:,} numbers, and its files hold {held:,}; "
                        "correct config.json, or download the model again")


def misshapen_in_four_bits(base: Any) -> list[tuple[str, tuple, tuple]]:
    """(name, shape in the files, shape by config.json) of 4-bit weights that differ. transformers does not compare
    them, because their numbers are packed."""
    rows = []
    for name, layer in base.named_modules():
        state = getattr(layer.weight, "quant_state", None) if type(layer).__name__ == "Linear4bit" else None
        if state is not None:  # a weight that is missing has none
            shape, wanted = tuple(state.shape), (layer.out_features, layer.in_features)
            if shape != wanted:
                rows.append((f"{name}.weight", shape, wanted))
    return rows


def check_formats(base: Any, files: ModelFiles) -> None:
    """Raises UserError where a file holds whole numbers for a weight: it is quantised, and its scale is not said."""
    for name, _ in base.named_parameters():
        tensor = files.tensors.get(name)
        if tensor and tensor.has_whole_numbers:
            raise UserError(f"{files.model}: {name} holds whole numbers ({tensor.format}), but config.json names no "
                            "quantisation; choose the model without quantisation")


def first_names(names: list[str]) -> str:
    """The first names of a list, and how many there are."""
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def may_be_left(name: str, tensor: Stored | None, config: dict) -> bool:
    """Whether a tensor that the model has no place for may be left aside without changing what the model computes."""
    parts = name.split(".")
    if parts[-1] in BUFFERS or is_causal_mask(parts, tensor):
        return True
    if any(part.startswith(("mtp", "nextn")) for part in parts) or is_prediction_layer(name, config):
        return True  # layers that guess tokens ahead, for faster decoding
    senses = any(key.startswith(("vision", "audio", "speech", "image")) and key.endswith("_config") for key in config)
    return senses and any(part.startswith(PERCEPTION) or part.endswith(PERCEPTION) for part in parts)


def is_causal_mask(parts: list[str], tensor: Stored | None) -> bool:
    """Whether a tensor `...attn.bias` is a mask [1, 1, T, T], as old files of GPT-2 hold them."""
    if parts[-1] != "bias" or tensor is None or len(tensor.shape) != 4:
        return False
    return tensor.shape[:2] == (1, 1) and tensor.shape[2] == tensor.shape[3]


def is_prediction_layer(name: str, config: dict) -> bool:
    """Whether a weight is of a layer behind the last one, of those that config.json says guess tokens ahead."""
    ahead, layers = config.get("num_nextn_predict_layers"), config.get("num_hidden_layers")
    found = re.search(r"\blayers\.(\d+)\.", name)
    if not found or not isinstance(ahead, int) or not isinstance(layers, int):
        return False
    return layers <= int(found[1]) < layers + ahead


# -- what to do ------------------------------------------------------------------------------------------------------

def advice(missing: list[str], mismatched: list[tuple], extra: list[str], stored: dict[str, Stored],
           config: dict) -> str:
    """The sentence that says where such files come from, and what to do."""
    parts = [name.split(".") for name in extra]
    if any(0 in tensor.shape for tensor in stored.values()):
        return ("Empty tensors come from DeepSpeed ZeRO-3: gather the weights with its zero_to_fp32.py, "
                "and save the model again")
    if any("base_layer" in row or row[0] == "base_model" or "lora_A" in row or "lora_B" in row for row in parts):
        return ("These are names of PEFT: merge the adapter (merge_and_unload) and save that, "
                "or give its base as --model and the adapter as --adapter")
    if any(row[0] in CLASSIFIERS for row in parts):
        return "This is a classifier or a reward model, not a language model; choose a causal language model"
    for wrapper, origin in WRAPPERS.items():
        if any(wrapper in row for row in parts):
            return f"The names still have `{wrapper}.` in them, from {origin}: save the model that is inside of it"
    return count_advice(missing, mismatched, extra, stored, config)


def count_advice(missing: list[str], mismatched: list[tuple], extra: list[str], stored: dict[str, Stored],
                 config: dict) -> str:
    """The advice where names are of the right kind, and some are too many or too few."""
    layers = config.get("num_hidden_layers") or config.get("n_layer") or 0
    held = 1 + max(map(layer_number, stored))
    others = [name for name in (*missing, *extra) if layer_number(name) < min(layers, held)]
    if layers and not mismatched and not others:
        return f"config.json asks for {layers} layers, and the files hold {held}: correct the one that is wrong"
    if missing and not extra and any("lm_head" in name or "embed_out" in name for name in missing):
        return ("The output layer is not in the files: save the whole causal model, or set tie_word_embeddings to true "
                "in config.json if it equals the embedding")
    if any("embed" in name or "lm_head" in name or "wte" in name for name, *_ in mismatched):
        return "vocab_size in config.json does not belong to these files: correct it, or download the model again"
    if missing and extra:
        return "The files are of another architecture or have other names: save the model with save_pretrained"
    return "config.json does not belong to these files, or a part is missing: download or save the model again"


def layer_number(name: str) -> int:
    """The number of the layer that a weight is in; -1 for none."""
    found = re.search(r"\b(?:layers|h|blocks)\.(\d+)\.", name)
    return int(found[1]) if found else -1
