"""Loads a base model and its tokenizer from a folder or the Hub: formats, devices, the tokens that end a response."""

import logging
import re
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
)
from transformers.utils import logging as transformers_logging

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.model.checks.finite import check_base
from rlhf_engine.model.checks.tokenizer import check_template, check_tokens, load_tokenizer
from rlhf_engine.model.checks.weights import check_formats, check_size, check_weights, first_names, record_report
from rlhf_engine.runs.model_files import ModelFiles, not_causal, read_files
from rlhf_engine.runs.resolve import code_needed, describe_base, resolve_model


def load_base(model: str, dtype: str | torch.dtype, device: str) -> tuple[Any, Any, Path, str | torch.dtype]:
    """Load a causal language model and its tokenizer, and check that they belong together.

    Args:
        model: `bundled`, `smollm2`, a Hub id, a GGUF file or a folder.
        dtype: "auto", "fp32", "bf16", "nf4", or a torch dtype, which is taken as it is.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Returns:
        (base, tokenizer, its folder, the dtype as given, or what "auto" means for this model on this device).

    Raises UserError as `Backbone.load` does.
    """
    target = pick_device(device)
    path = resolve_model(model)
    if line := describe_base(model, path):
        print(line, file=sys.stderr, flush=True)
    transformers_logging.disable_progress_bar()
    # The models' own log lines (load reports, generation flags) are not for a user of the playground.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    files = read_files(path, model)
    config = read_config(files)
    tokenizer = load_tokenizer(path, model)
    dtype = resolve_dtype(dtype, config, target, model)
    base = load_weights(files, config, dtype, target)
    check_tokens(tokenizer, base.get_input_embeddings().weight.shape[0], path, model)
    check_template(tokenizer, model)
    return base, tokenizer, path, dtype


def read_config(files: ModelFiles) -> Any:
    """The configuration of a model. Raises UserError for one that is broken or of no causal language model."""
    model, kind = files.model, files.config.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{model}: its config.json names no model_type; take config.json from the model that this one "
                        "was made of")
    if kind not in CONFIG_MAPPING:
        raise UserError(f"{model}: is of the type {kind!r}, which transformers {transformers.__version__} does not "
                        "know; update transformers, or choose a model such as Llama, Qwen, Mistral or GPT-2")
    try:
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each configuration checks its fields in its own way
        if "trust_remote_code" in str(error):
            raise code_needed(model) from None
        raise UserError(f"{model}: its config.json does not work ({short_reason(error)}); correct it, or download the "
                        "model again") from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise not_causal(model, f"of the type {kind}")
    if config.is_encoder_decoder:
        raise not_causal(model, f"an encoder and a decoder ({kind})")
    names = files.config.get("architectures")
    masked = [name for name in names if str(name).endswith("ForMaskedLM")] if isinstance(names, list) else []
    if masked and not getattr(config, "is_decoder", False):
        raise not_causal(model, f"an encoder ({masked[0]})")
    for part in (config, config.get_text_config()):
        if isinstance(part, PreTrainedConfig):
            # It may name code on the Hub. transformers chooses an implementation that this machine has.
            part._attn_implementation_internal = part._experts_implementation_internal = None
            part.return_dict = True  # else a pass would return a tuple, whose parts have no names
            drop_padding_outside(part)
    return config


def drop_padding_outside(config: PreTrainedConfig) -> None:
    """Take away a padding token that the embedding has no row for: torch would make no such embedding.

    Many models got one without a new row. `FrozenBase.pad_id` replaces it.
    """
    pad, rows = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if isinstance(pad, int) and isinstance(rows, int) and pad >= rows:
        config.pad_token_id = None


def resolve_dtype(dtype: str | torch.dtype, config: Any, device: torch.device, model: str) -> str | torch.dtype:
    """What "auto" means for this model on this device.

    Raises UserError where the weights have 4 bits already, and another format was asked for.
    """
    if getattr(config, "quantization_config", None):
        if dtype not in ("auto", "nf4"):
            raise UserError(f"{model}: its weights are in 4 bits already, so --dtype {dtype} cannot be had; "
                            "give --dtype nf4, or choose the same model without quantisation")
        return "nf4"
    if dtype == "auto":
        return "fp32" if device.type == "cpu" else "bf16"
    return dtype


def load_weights(files: ModelFiles, config: Any, dtype: str | torch.dtype, device: torch.device) -> Any:
    """The model with the weights in its files, on the device. Raises UserError unless they are exactly its own."""
    options: dict[str, Any] = {"dtype": weight_dtype(dtype)}
    quantised = getattr(config, "quantization_config", None)
    if dtype == "nf4":
        options["device_map"] = {"": device}
    if quantised:
        config.quantization_config = {**quantised, "bnb_4bit_compute_dtype": "bfloat16"}
    elif dtype == "nf4":
        options["quantization_config"] = four_bits()
    base, info = build(files, config, options)
    check_weights(base, info, files)
    if not quantised:
        check_formats(base, files)
    if dtype != "nf4":
        base.to(device)
    check_base(base, files.folder, files.model, quantised=dtype == "nf4")
    return base


def build(files: ModelFiles, config: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(the model, what transformers reports of its weights). Raises UserError if it cannot be built."""
    with record_report() as names:
        try:
            with torch.device("meta"):
                check_size(AutoModelForCausalLM.from_config(config, dtype=options["dtype"]), files)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                files.folder, config=config, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                ignore_mismatched_sizes=True, output_loading_info=True, **options)
            return loaded
        except (torch.OutOfMemoryError, UserError):
            raise
        except Exception as error:  # whatever a layer makes of sizes that do not belong together
            if "trust_remote_code" in str(error):
                raise code_needed(files.model) from None
            if names:
                raise UserError(f"{files.model}: its weights do not fit its config.json: {first_names(names)} cannot "
                                "be put together from the files; download or save the model again") from None
            raise UserError(f"{files.model}: cannot be loaded as a causal language model ({short_reason(error)}); "
                            "check its config.json, or download the model again") from None


def short_reason(error: Exception) -> str:
    """What an error of transformers says, in one line: its first, and the next if that one only announces it."""
    if isinstance(error, KeyError):
        return f"it does not know {error}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"[:300]
    return first_line(error)[:300]


def weight_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of weights that are not quantised."""
    if isinstance(dtype, torch.dtype):
        return dtype
    return torch.float32 if dtype == "fp32" else torch.bfloat16


def four_bits() -> BitsAndBytesConfig:
    """NF4 with double quantisation, computed with in bf16 (Dettmers et al. 2023)."""
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=torch.bfloat16)


def stop_ids(base: Any, tokenizer: Any) -> list[int]:
    """Ids of the tokens that end a response. The first is the one that fine-tuning teaches.

    They are those of the generation config, and the tokenizer's end token. A chat model ends a turn with the latter, so
    there it comes first. Ids that the output layer does not have are left out. Raises UserError if there are none.
    """
    name = tokenizer.name_or_path
    configured = base.generation_config.eos_token_id
    ids = [] if configured is None else list(configured) if isinstance(configured, (list, tuple)) else [configured]
    ids = [number for number in ids if number is not None]
    if not all(type(number) is int for number in ids):
        raise UserError(f"{name}: eos_token_id is {configured!r} in its generation_config.json, but must be a number "
                        "or a list of numbers; correct it")
    end = tokenizer.eos_token_id
    if end is not None:
        ids = [end, *ids] if tokenizer.chat_template else [*ids, end]
    ids = [number for number in ids if 0 <= number < base.get_output_embeddings().weight.shape[0]]
    if not ids:
        raise UserError(f"{name}: neither tokenizer nor generation config names an end token; choose another model")
    return list(dict.fromkeys(ids))


def pick_device(device: str) -> torch.device:
    """The device of the setting; "auto" is a GPU if there is one. Raises UserError for one that this machine lacks, and
    for kinds on which nothing was ever tested (mps, xpu)."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = re.fullmatch(r"(cpu)|cuda(?::([0-9]{1,3}))?", device)
    if found is None:
        kind = device.partition(":")[0]
        if kind in ("mps", "xpu", "hpu", "npu", "mlu", "xla", "directml", "dml", "vulkan", "musa"):
            raise UserError(f"--device {device}: only CPUs and CUDA GPUs are supported; give cpu, or leave it at auto")
        raise UserError(f"--device is {device!r}, but must be auto, cpu, cuda or cuda:N")
    if found[1]:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"--device {device}: this machine has no CUDA GPU that torch can use; leave it at auto")
    count = torch.cuda.device_count()
    if found[2] and int(found[2]) >= count:
        raise UserError(f"--device {device}: this machine has {count} CUDA GPUs, counted from cuda:0; "
                        "give one of them, or leave it at auto")
    return torch.device(device)
