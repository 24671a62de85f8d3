"""Has somebody changed their mind? Page's CUSUM test (1954) on their votes, against the reward that they have taught.

Votes that a reward did not expect are no sign of a change: they may be noise, or be about responses of which it knows
nothing yet. A sign is a series of votes that are the opposite of what it expects. So the evidence of a vote is its
log-probability under the reward with its sign turned, less that under no reward at all. Both rewards are scaled by how
good the predictions have been so far. While there is evidence, the test keeps the reward as it was before the first of
these votes, because the reward learns from the very votes that contradict it. benchmarks/README.md has the trial.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch

from rlhf_engine.feedback.events import Event
from rlhf_engine.teach.likelihood import ResponseModel, log_likelihood

ENOUGH = 3.0
"""Nats of evidence for a change. Over 400 votes for one thing, a fifth of them at random, the evidence came to 1.2.
Votes for the opposite needed four to twelve votes."""
DOUBT = 0.7
"""Nats of evidence that cast doubt. From there on queries show what tells a change from chance, and each vote is
checked for the opposite (`evidence.compare_minds`)."""
SHARES = torch.linspace(0.0, 1.0, 11)
"""Factors by which the reward's scores may be scaled, from not sure at all to as sure as it is."""


class ChangeOfMind(NamedTuple):
    """What somebody said before no longer counts as they said it."""

    votes: list[str]
    """Ids of the votes that show the change."""
    before: list[str]
    """Ids of the same person's events before."""
    opposite: bool = False
    """Whether they now want the opposite. What they said before then counts the other way round."""


def counts_now(changes: list[ChangeOfMind], present: Iterable[str]) -> dict[str, int]:
    """For each event before a change, by its id: how it counts now, 1 as it is, -1 the other way round, 0 not at all.

    `present` has the ids of the events that have not been taken back. A change counts as long as one of the votes that
    show it is among them.
    """
    there = set(present)
    counts: dict[str, int] = {}
    for change in changes:
        for name in change.before if there.intersection(change.votes) else ():
            counts[name] = counts.get(name, 1) * (-1 if change.opposite else 0)
    return counts


class DriftDetector:
    """Watches the votes of one person for a change of mind."""

    def __init__(self):
        self.scale_evidence = torch.zeros(len(SHARES))
        """For each of `SHARES`: log-probability of all votes so far, each predicted before it was learned, less that at
        a share of 0; in nats."""
        self.evidence = 0.0
        """Nats that speak for a change."""
        self.votes: list[str] = []
        """Ids of the votes that the evidence comes from."""
        self.reward_before: tuple[torch.Tensor, ResponseModel] | None = None
        """The reward's weights [D] and response model before the first of these votes. The weights have the scale that
        they had earned by then: the votes that contradict a reward also say that it cannot be trusted."""

    def update(self, event: Event, features: torch.Tensor, weights: torch.Tensor, model: ResponseModel) -> bool:
        """Take in a vote; whether by now what the person said before `votes` is out of date.

        features [K, D] are those of the event's texts. The reward (weights [D], response model) has not learned the
        vote yet.
        """
        if self.reward_before is None:
            self.reward_before = SHARES[self.scale_evidence.argmax()] * weights, model
        old_weights, old_model = self.reward_before
        with torch.no_grad():
            opposite_and_none = torch.tensor([-1.0, 0.0]) * (features @ old_weights)[:, None]
            opposite, none = log_likelihood(event.kind, event.value, opposite_and_none, old_model)
            predicted = log_likelihood(event.kind, event.value, SHARES * (features @ weights)[:, None], model)
        self.scale_evidence = self.scale_evidence + predicted - predicted[0]
        self.evidence, self.votes = self.evidence + (opposite - none).item(), [*self.votes, event.id]
        if self.evidence <= 0:
            self.forget()
        return self.evidence > ENOUGH

    def forget(self) -> None:
        """Begin the collection of evidence anew."""
        self.evidence, self.votes, self.reward_before = 0.0, [], None

    def state_dict(self) -> dict:
        before = {}
        if self.reward_before:
            weights, model = self.reward_before
            before = {"weights": weights, "scale": model.to_checkpoint()}
        return {"earned": self.scale_evidence, "evidence": self.evidence, "votes": self.votes, "then": before}

    @classmethod
    def from_state(cls, state: dict) -> "DriftDetector":
        """A detector as it was when `state_dict` was taken."""
        detector = cls()
        detector.scale_evidence, detector.evidence = state["earned"], state["evidence"]
        detector.votes = list(state["votes"])
        before = state["then"]
        if before:
            detector.reward_before = before["weights"], ResponseModel.from_checkpoint(before["scale"])
        return detector
