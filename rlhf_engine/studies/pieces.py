"""The pieces of a study of over-optimisation: what they are, in which order they come, and which are done. No torch."""

from pathlib import Path
from typing import Any, NamedTuple

from rlhf_engine.files import read_lines
from rlhf_engine.studies.settings import StudySettings

PIECES = "pieces.jsonl"
"""A line for each piece that is done."""


class StudyStopped(Exception):
    """Somebody has asked for the study to end. What is done is written."""


class Piece(NamedTuple):
    """What is done at a time."""

    labels: int
    seed: int
    kind: str
    """`rl`, `best_of` or `ensemble`."""

    @property
    def name(self) -> str:
        return f"{self.kind} of {self.labels:,} labels, seed {self.seed}"


def plan(settings: StudySettings) -> list[Piece]:
    """All pieces of a study, in the order in which they are done: whole seeds, each kind for all numbers of labels."""
    kinds = ("rl", "best_of", *(("ensemble",) if settings.ensemble > 1 else ()))
    pieces = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for kind in kinds:
            pieces += [Piece(labels, seed, kind) for labels in settings.labels]
    return pieces


def read_pieces(folder: Path) -> dict[Piece, dict[str, Any]]:
    """The pieces that are done, from a study's folder."""
    rows = read_lines(folder / PIECES) if (folder / PIECES).exists() else []
    names = Piece._fields
    return {Piece(*(row[name] for name in names)): row for row in rows if all(name in row for name in names)}
