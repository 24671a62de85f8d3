"""Which options of PEFT's LoRA an adapter may use.

Several roles share one frozen base here. An option that rewrites the base, or that PEFT holds for one adapter only,
cannot be kept for one role without moving the others. It is refused by name. Everything else is kept, and copied as it
stands.
"""

import copy
import math
import warnings
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import peft
from peft import LoraConfig
from safetensors import safe_open

from rlhf_engine.errors import UserError, first_line, one_line, short_repr
from rlhf_engine.files import read_json_or_none
from rlhf_engine.runs.adapter_folder import CONFIG_FILE, WEIGHTS_FILE

PREFIX = "base_model.model."
"""Begins each name in PEFT's files of weights."""
MERGE = "merge it into its base with PEFT's merge_and_unload() and give the result as --model"
PLAIN = f"train it as plain LoRA, or {MERGE}"
"""What to do with an adapter that no role can hold."""
KNOWN = {field.name for field in fields(LoraConfig)}
"""Names of the options that this version of PEFT knows."""
STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base as it is."""
REWRITING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of those with which PEFT takes a part out of the base's own weights, and begins the adapter with it."""
REFUSED = {
    "modules_to_save": "has whole modules of its own beside LoRA",
    "trainable_token_indices": "has rows of its own in the embedding",
    "layer_replication": "repeats layers of the base",
    "alora_invocation_tokens": "acts only after certain tokens",
    "use_qalora": "is made for GPTQ's quantised layers",
    "use_bdlora": "has block-diagonal matrices",
    "arrow_config": "mixes other adapters",
    "kasa_config": "rewrites the base's own weights",
    "monteclora_config": "draws its weights at random in each pass",
    "velora_config": "has gradients of its own",
    "megatron_config": "is made for Megatron's layers",
    "ensure_weight_tying": "shares its matrices between the embedding and the output layer",
}
"""Options that no role can hold -> what such an adapter does."""
NAME_LISTS = ("target_modules", "exclude_modules", "layers_pattern", "target_parameters")
"""Options that are lists of names, or a regular expression."""
SWITCHES = ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out")
"""Options that are true or false."""
DEFAULTS = {field.name: field.default if field.default_factory is MISSING else field.default_factory()
            for field in fields(LoraConfig)}
"""The value of each option that a file does not name."""


def fresh_lora(rank: int, alpha: int, base: str) -> LoraConfig:
    """Configuration of a new adapter on every linear layer but the output layer, for the base of this name."""
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0, bias="none",
                      task_type="CAUSAL_LM", base_model_name_or_path=base)


def copy_lora(config: LoraConfig) -> LoraConfig:
    """The whole configuration again, for another role."""
    return copy.deepcopy(config)


def read_lora(folder: Path) -> LoraConfig:
    """The configuration of a PEFT folder. Raises UserError for anything but a LoRA adapter that a role can hold."""
    values = read_json_or_none(folder / CONFIG_FILE)
    if not isinstance(values, dict):
        raise UserError(f"{folder}: its {CONFIG_FILE} is no JSON object; fetch it anew, or name another adapter")
    kind = one_line(values.get("peft_type") or "")
    if kind.upper() != "LORA":
        raise UserError(f"{folder}: is {f'a {kind} adapter' if kind else 'an adapter of no type'}, and only LoRA is "
                        f"known here; {PLAIN}")
    refuse_options(folder, values)
    known: dict[str, Any] = {name: value for name, value in values.items()
                             if name in KNOWN and name != "runtime_config"}
    # A null stands for the default where PEFT itself never writes one.
    known = {name: value for name, value in known.items() if value is not None or DEFAULTS[name] is None}
    known.update({"bias": "none", "inference_mode": False})  # biases that were trained are refused with the weights
    if "task_type" in known:
        known["task_type"] = str(known["task_type"]).upper() if known["task_type"] else None
    try:
        if is_spelled_out(known.get("target_modules")):
            known["target_modules"] = adapted_layers(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return LoraConfig(**known)
    except Exception as error:  # whatever PEFT makes of values that are not its own
        raise UserError(f"{folder}: its {CONFIG_FILE} cannot be used ({first_line(error)}); name another adapter") \
            from None


def name_fitting(config: LoraConfig, model: str) -> str:
    """What to do with an adapter that does not fit the base `model`."""
    base = one_line(config.base_model_name_or_path or "that it was trained on")
    if base == one_line(model):
        return "save it again with PEFT's save_pretrained, or name another adapter"
    return f"use it with the base {base}, or name another adapter"


def is_spelled_out(targets: Any) -> bool:
    """Whether `target_modules` are the letters of a regular expression, as earlier versions of the engine wrote it."""
    return isinstance(targets, list) and len(targets) > 1 and all(isinstance(name, str) and len(name) == 1
                                                                  for name in targets)


def adapted_layers(folder: Path) -> list[str]:
    """Names of the layers that a PEFT folder has weights for."""
    with safe_open(folder / WEIGHTS_FILE, "pt") as file:
        names = {name.partition(".lora_")[0].removeprefix(PREFIX) for name in file.keys()}  # noqa: SIM118
    return sorted(names)


def lora_values(config: LoraConfig) -> dict[str, Any]:
    """The configuration as PEFT writes it into its file, with the names in sets in a stable order.

    A set's order differs between processes. A `target_modules` that is a text is a regular expression, and stays one.
    """
    values = {**config.to_dict(), "inference_mode": True}
    return {name: sorted(value) if isinstance(value, (set, frozenset)) else value for name, value in values.items()}


def refuse_options(folder: Path, values: dict[str, Any]) -> None:
    """Raises UserError for the first option that no role can hold, that PEFT does not know, or that has no sense."""
    task = values.get("task_type")
    if task is not None and str(task).upper() != "CAUSAL_LM":
        raise UserError(f"{folder}: is made for the task {one_line(task)}, not for a causal language model; name a "
                        "policy's adapter, or train a reward model here on its preference data")
    for name, reason in REFUSED.items():
        if values.get(name):
            raise UserError(f"{folder}: sets {name}: it {reason}, which no role on a shared base can hold; {PLAIN}")
    refuse_start(folder, values.get("init_lora_weights"))
    unknown = sorted(name for name, value in values.items() if name not in KNOWN and value)
    if unknown:
        raise UserError(f"{folder}: sets {one_line(unknown[0])}, which PEFT {peft.__version__} does not know; update "
                        f"PEFT, or take it out of {CONFIG_FILE} if the adapter makes no use of it; otherwise {PLAIN}")
    refuse_numbers(folder, values)


def refuse_start(folder: Path, start: Any) -> None:
    """Raises UserError for an `init_lora_weights` with which an adapter fits a changed base only, or is unknown."""
    name = start.lower() if isinstance(start, str) else start
    if any(name is allowed or (isinstance(name, str) and name == allowed) for allowed in STARTS):
        return
    shown = short_repr(start)
    if isinstance(name, str) and name.startswith(REWRITING):
        raise UserError(f"{folder}: sets init_lora_weights {shown}: it rewrites the base's own weights, which all "
                        "roles share; convert it to plain LoRA with PEFT's save_pretrained(..., "
                        f"path_initial_model_for_weight_conversion=...), or {MERGE}")
    raise UserError(f"{folder}: sets init_lora_weights {shown}, which no role on a shared base can hold; {PLAIN}")


def refuse_numbers(folder: Path, values: dict[str, Any]) -> None:
    """Raises UserError for a rank that is no positive integer, a scale that is no number, a name that is no text, or a
    switch that is none."""
    ranks, scales = values.get("rank_pattern") or {}, values.get("alpha_pattern") or {}

    def refuse(name: str, value: Any, needed: str) -> UserError:
        return UserError(f"{folder}: its {name} is {short_repr(value)}, but must be {needed}; correct it in "
                         f"{CONFIG_FILE}")
    for name, pattern in (("rank_pattern", ranks), ("alpha_pattern", scales)):
        if not isinstance(pattern, dict):
            raise refuse(name, pattern, "a map from names of layers to numbers")
    for name, rank in numbers("r", values.get("r", 8), "rank_pattern", ranks):
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise refuse(name, rank, "an integer of at least 1")
    for name, scale in numbers("lora_alpha", values.get("lora_alpha", 8), "alpha_pattern", scales):
        if not is_number(scale):
            raise refuse(name, scale, "a number")
    for name in NAME_LISTS:
        value = values.get(name)
        if isinstance(value, list) and not all(isinstance(part, str) for part in value):
            raise refuse(name, value, "a list of names")
    dropout = values.get("lora_dropout")
    if dropout is not None and not is_number(dropout):
        raise refuse("lora_dropout", dropout, "a number")
    for name in SWITCHES:
        if not isinstance(values.get(name), (bool, type(None))):
            raise refuse(name, values[name], "true or false")


def numbers(name: str, value: Any, pattern: str, values: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """(name, number) of an option and of its exceptions for single layers."""
    yield name, value
    for key, other in values.items():
        yield f"{pattern} at {one_line(key)}", other


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number."""
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False
