"""Loads a base model and its tokenizer from a folder or the Hub: formats, devices, the tokens that end a response."""

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.model.checks.finite import check_base
from rlhf_engine.runs.resolve import code_needed, resolve_model


def load_base(model: str, dtype: str | torch.dtype, device: str) -> tuple[Any, Any, Path, str | torch.dtype]:
    """Load a causal language model.

    Args:
        model: `bundled`, a Hub id or a folder.
        dtype: "auto", "fp32", "bf16", "nf4", or a torch dtype, which is taken as it is.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Returns:
        (base, tokenizer, its folder, the dtype as given, or what "auto" means on this device).

    Raises UserError as `Backbone.load` does.
    """
    path = resolve_model(model)
    target = pick_device(device)
    if dtype == "auto":
        dtype = "fp32" if target.type == "cpu" else "bf16"
    options: dict[str, Any] = {"dtype": weight_dtype(dtype)}
    if dtype == "nf4":
        options["quantization_config"] = four_bits()
        options["device_map"] = {"": target}
    transformers_logging.disable_progress_bar()
    # The models' own log lines (load reports, generation flags) are not for a user of the playground.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        AutoConfig.from_pretrained(path, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        base: Any = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, trust_remote_code=False,
                                                    local_files_only=True, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise code_needed(model) from None
        raise UserError(f"{model}: cannot be loaded as a causal language model ({first_line(error)})") from None
    if dtype != "nf4":
        base.to(target)
    check_base(base, path, model, quantised=dtype == "nf4")
    return base, tokenizer, path, dtype


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
    there it comes first. Raises UserError if there are none.
    """
    configured = base.generation_config.eos_token_id
    ids = [configured] if isinstance(configured, int) else list(configured or [])
    end = tokenizer.eos_token_id
    if end is not None:
        ids = [end, *ids] if tokenizer.chat_template else [*ids, end]
    if not ids:
        raise UserError(f"{tokenizer.name_or_path}: neither tokenizer nor generation config names an end token; "
                        "choose another model")
    return list(dict.fromkeys(ids))


def pick_device(device: str) -> torch.device:
    """The device of the setting; "auto" is a GPU if there is one. Raises UserError for one that this machine lacks."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"--device is {device!r}, but must be auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA GPU that torch can use; leave it at auto")
    return chosen
