"""Has somebody changed their mind? Page's CUSUM test (1954) on what they say against what is taken to be wanted.

Votes that a reward did not expect are no sign of that: they may be noise, or on responses of which it knows nothing yet. Votes that are
the opposite of what it expects, one after the other, are. So the evidence of a vote is its log-probability under the reward with its
sign turned, less that under no reward at all; both as sure of themselves as the reward's guesses so far have earned. While there is any,
the reward stays for this purpose as it was, for it learns from the very votes that speak against it. benchmarks/README.md has the trial.
"""

import torch

from rlhf_engine.feedback.events import Event
from rlhf_engine.teach.likelihood import ResponseModel, log_likelihood

ENOUGH = 3.0
"""Nats of evidence at which it is plain. Over 400 votes for one thing, a fifth of them at random, it came to 1.2; votes for the opposite
took four to twelve."""
SHARES = torch.linspace(0.0, 1.0, 11)
"""How sure of itself a reward may be: its scores count this much."""


class DriftDetector:
    def __init__(self):
        self.scale_evidence = torch.zeros(len(SHARES))
        """Log-probability of all votes so far, as they were guessed before they were learned, at each share; in nats more than at none."""
        self.evidence, self.votes = 0.0, []
        """Nats, and the ids of the votes that they come from."""
        self.then: tuple[torch.Tensor, ResponseModel] | None = None
        """The reward's weights [D] and answer scale before the first of these."""

    def update(self, event: Event, features: torch.Tensor, weights: torch.Tensor, scale: ResponseModel) -> bool:
        """Whether with this vote it is plain that what was said before `votes` is not meant any more. `features` [K, D] of its responses;
        the reward's weights [D] and answer scale, which have not learned it yet."""
        if self.then is None:
            self.then = weights.clone(), scale
        share = SHARES[self.scale_evidence.argmax()]
        old, old_scale = self.then
        with torch.no_grad():
            turned, blank = log_likelihood(event.kind, event.value, torch.stack([-share, share * 0]) * (features @ old)[:, None], old_scale)
            found = log_likelihood(event.kind, event.value, SHARES * (features @ weights)[:, None], scale)
        self.scale_evidence = self.scale_evidence + found - found[0]
        self.evidence, self.votes = self.evidence + (turned - blank).item(), [*self.votes, event.id]
        if self.evidence <= 0:
            self.forget()
        return self.evidence > ENOUGH

    def forget(self) -> None:
        self.evidence, self.votes, self.then = 0.0, [], None

    def state_dict(self) -> dict:
        then = {"weights": self.then[0], "scale": self.then[1].state_dict()} if self.then else {}
        return {"earned": self.scale_evidence, "evidence": self.evidence, "votes": self.votes, "then": then}

    @classmethod
    def of(cls, state: dict) -> "DriftDetector":
        """As it was when `state_dict` was taken."""
        found = cls()
        found.scale_evidence, found.evidence, found.votes = state["earned"], state["evidence"], list(state["votes"])
        if then := state["then"]:
            scale = ResponseModel().requires_grad_(False)
            scale.load_state_dict(then["scale"])
            found.then = then["weights"], scale
        return found
