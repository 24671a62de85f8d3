"""Votes made by hand."""

from collections.abc import Sequence

from rlhf_engine.evaluation.leaderboard.votes import Vote
from rlhf_engine.feedback.events import Event

RANKS = {"win": (1, 2), "loss": (2, 1), "tie": (1, 1)}


def duel(one: str, other: str, outcome: str = "win", prompt: object = "p", voter: str = "v") -> Vote:
    return Vote((one, other), RANKS[outcome], str(prompt), voter)


def duels(one: str, other: str, wins: int, losses: int, ties: int = 0, start: int = 0) -> list[Vote]:
    """Votes on two checkpoints, each on a prompt of its own."""
    outcomes = ["win"] * wins + ["loss"] * losses + ["tie"] * ties
    return [duel(one, other, outcome, start + i) for i, outcome in enumerate(outcomes)]


def event(number: int, value: object = "left", checkpoints: Sequence[str] = ("a", "b"), **changes) -> Event:
    """A valid event: a comparison, or a ranking if the value is a tuple of ranks."""
    fields = {"kind": "ranking" if isinstance(value, tuple) else "comparison", "prompt": f"prompt {number}",
              "responses": tuple(f"text {i} of {number}" for i in range(len(checkpoints))), "voter": "v",
              "checkpoints": tuple(checkpoints), "blind": True}
    return Event(id=f"e{number}", value=value, **{**fields, **changes}).validate()


def score(number: int, value: int, checkpoint: str = "a", voter: str = "v", **changes) -> Event:
    fields = {"prompt": f"prompt {number}", "responses": (f"text {number}",), "checkpoint": checkpoint}
    return Event(id=f"s{number}", kind="score", value=value, voter=voter, **{**fields, **changes}).validate()
