"""The name that somebody probably meant, for messages about unknown flags, settings and commands."""

import difflib
import re
from collections.abc import Collection, Mapping

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


# -- columns -----------------------------------------------------------------------------------------------------------

KIN = (
    {"prompt", "prompts", "instruction", "instructions", "question", "query", "input", "inputs", "user", "human",
     "source", "problem"},
    {"completion", "response", "output", "answer", "assistant", "target", "targets", "solution", "gpt", "bot", "reply"},
    {"chosen", "preferred", "better", "winner", "accepted", "positive", "preferred_output", "chosen_response"},
    {"rejected", "dispreferred", "worse", "loser", "negative", "non_preferred_output", "rejected_response"},
    {"messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat"},
    {"responses", "completions", "answers", "generations", "candidates", "outputs"},
    {"ranking", "ranks", "rank", "rankings"}, {"scores", "ratings", "score", "rating", "rewards"},
    {"label", "labels", "vote", "votes", "thumbs", "thumbs_up", "is_good", "is_desirable", "liked", "verdict",
     "binary_label"},
    {"text", "texts", "content", "story"})
"""Names that columns of the same kind have."""


def renamed(columns: Collection[str], forms: Mapping[str, Collection[str]]) -> str:
    """The fewest columns to rename so that they make one of `forms`, in words; "" if they make none.

    A form is the names that it needs ("prompt + completion"), with those that it can use besides. A column may be
    spelled in another way, or have a name of the same kind.
    """
    ways = []
    for form, optional in forms.items():
        names = form.split(" + ")
        left = [column for column in columns if column not in names]
        pairs = {}
        for name in (name for name in names if name not in columns):
            column = _like(name, left)
            if column is None:
                break
            left.remove(column)
            pairs[column] = name
        else:
            foreign = sum(plain(column) != name for column, name in pairs.items())
            pairs |= {column: plain(column) for column in left if column not in optional and plain(column) in optional}
            ways.append((foreign, -len(names), pairs))
    pairs = min(ways, key=lambda way: way[:2])[2] if ways else {}
    return ", ".join(f"{_shown(column)} to {name}" for column, name in pairs.items())


def _shown(column: str) -> str:
    """A name as it is, or in quotes where it has something that nobody would see."""
    return column[:60] if column.isprintable() and column == column.strip() else repr(column[:60])


def _like(name: str, columns: Collection[str]) -> str | None:
    """The column that is probably meant to be `name`."""
    by_plain = {plain(column): column for column in columns}
    if name in by_plain:
        return by_plain[name]
    kin = next((names for names in KIN if name in names), set())
    found = [column for each, column in by_plain.items() if each in kin]
    return found[0] if found else closest(name, columns)
