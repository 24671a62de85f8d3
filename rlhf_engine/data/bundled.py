"""The data that `bundled` means: short stories, and for `smollm2` everyday requests."""

from pathlib import Path

from rlhf_engine.data.tables import READABLE
from rlhf_engine.errors import UserError
from rlhf_engine.files import ASSETS

NAMES = ("bundled", "bundled-heldout")
"""The names of bundled data: what is trained on, and prompts that are held out."""
OWN_PROMPTS = {"smollm2": "everyday-requests"}
"""Models that have bundled prompts of their own, and the beginning of their files' names."""


def bundled_file(source: str, kind: str, model: str = "bundled") -> Path:
    """The file of bundled data of a kind, for a model.

    Raises UserError for data that is not there, or that does not suit the model.
    """
    stem = kind
    if model in OWN_PROMPTS:
        if kind != "prompts":
            raise UserError(f"{source}: holds no {kind} for {model}, only prompts (the bundled {kind} are of short "
                            f"stories); name {kind} with --data: {READABLE}")
        stem = OWN_PROMPTS[model]
    path = ASSETS / f"{stem}{source.removeprefix('bundled')}.jsonl"
    if not path.exists():
        raise UserError(f"{source}: there are no such {kind} ({path} is missing); give {READABLE}")
    return path
