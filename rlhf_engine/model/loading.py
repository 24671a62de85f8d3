"""Loading a base model and its tokenizer from a folder or the Hub: formats, devices, the tokens that end a response."""

import logging

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.runs.resolve import code_needed, resolve_model


def load_base(model: str, dtype: str | torch.dtype, device: str) -> tuple:
    """(base, tokenizer, folder, "fp32" | "bf16" | "nf4"), on the device; a torch dtype is taken as it is. Raises UserError as
    `Backbone.load` does."""
    path = resolve_model(model)
    device = pick_device(device)
    if dtype == "auto":
        dtype = "fp32" if device.type == "cpu" else "bf16"
    options = {"dtype": dtype if isinstance(dtype, torch.dtype) else torch.float32 if dtype == "fp32" else torch.bfloat16}
    if dtype == "nf4":
        options["quantization_config"] = four_bits()
        options["device_map"] = {"": device}
    transformers_logging.disable_progress_bar()
    # The models' own log lines (load reports, generation flags) are not for a user of the playground.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        AutoConfig.from_pretrained(path, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        base = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, trust_remote_code=False,
                                                    local_files_only=True, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise code_needed(model) from None
        raise UserError(f"{model}: cannot be loaded as a causal language model ({first_line(error)})") from None
    if dtype != "nf4":
        base.to(device)
    return base, tokenizer, path, dtype


def four_bits() -> BitsAndBytesConfig:
    """NF4 with double quantisation, computed with in bf16 (Dettmers et al. 2023)."""
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=torch.bfloat16)


def stop_ids(base, tokenizer) -> list[int]:
    """Tokens that end a response, the one to teach first: the generation config's, then the tokenizer's end token."""
    listed = base.generation_config.eos_token_id
    listed = [listed] if isinstance(listed, int) else list(listed or [])
    if tokenizer.chat_template and tokenizer.eos_token_id is not None:
        listed.insert(0, tokenizer.eos_token_id)  # chat models end a turn with the tokenizer's own
    if tokenizer.eos_token_id is not None:
        listed.append(tokenizer.eos_token_id)
    if not listed:
        raise UserError(f"{tokenizer.name_or_path}: neither tokenizer nor generation config names an end token")
    return list(dict.fromkeys(listed))


def pick_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"--device is {device!r}, but must be auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA GPU that torch can use; leave it at auto")
    return chosen
