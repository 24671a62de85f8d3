"""The name that somebody probably meant, for messages about unknown flags, settings and commands."""

import difflib
import re
from collections.abc import Collection

FOREIGN = {
    "lr": "learning_rate", "bs": "batch_size", "train_batch_size": "batch_size", "r": "lora_rank",
    "lora_r": "lora_rank", "rank": "lora_rank", "alpha": "lora_alpha", "per_device_train_batch_size": "batch_size",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "max_steps": "steps", "max_length": "max_tokens",
    "max_seq_length": "max_tokens", "max_seq_len": "max_tokens", "cutoff_len": "max_tokens", "output_dir": "output",
    "out": "output", "model_name": "model", "model_name_or_path": "model", "base_model": "model", "dataset": "data",
    "dataset_name": "data", "train_file": "data", "adapter_name_or_path": "adapter", "reward_model": "reward",
    "reward_model_path": "reward", "beta": "kl_coef", "init_kl_coef": "kl_coef", "target_kl": "kl_target",
    "save_steps": "checkpoint_every", "eval_steps": "evaluate_every", "save_total_limit": "keep_checkpoints",
    "warmup_ratio": "warmup", "lr_scheduler_type": "schedule", "cliprange": "clip", "clip_range": "clip",
    "vf_coef": "value_coef", "num_mini_batches": "minibatches", "precision": "dtype",
    "max_samples": "limit", "max_new_token": "max_new_tokens", "gpu": "device", "overwrite_output_dir": "overwrite",
    "resume_from_checkpoint": "resume", "val_size": "held_out", "load_in_4bit": "dtype",
}
"""Names that other tools have for a setting, and ours."""


def plain(name: str) -> str:
    """A name without the dashes before it, in lower case and with underscores."""
    return re.sub(r"[-\u2010-\u2015\u2212]", "_", name.lower().strip()).strip("_")


def closest(name: str, known: Collection[str]) -> str | None:
    """The name among `known` that is most like `name`, however either is spelled; None if none is much like it."""
    by_plain = {plain(each): each for each in known}
    wanted = plain(name)
    if wanted in by_plain:
        return by_plain[wanted]
    if FOREIGN.get(wanted) in by_plain:
        return by_plain[FOREIGN[wanted]]
    similar = difflib.get_close_matches(wanted, by_plain, n=1, cutoff=0.75)
    return by_plain[similar[0]] if similar else None
