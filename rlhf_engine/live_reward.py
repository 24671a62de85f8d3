"""The reward while people are teaching it: linear read-outs of the frozen base, fitted to every kind of feedback at once.

A few dozen votes do not move an adapter to where it generalises. They do fit a linear read-out of what the base knows already: the mean
over a response's positions of its hidden states at three depths (the embedding says which words there are, the middle and the end what
they are about). Fitting is a convex problem of milliseconds, from scratch after every vote, so there is no optimiser whose past could
matter, and old votes weigh as much as new ones. benchmarks/README.md has the comparison.
"""

import dataclasses
import random
from collections.abc import Callable

import torch

from rlhf_engine.backbone import Backbone
from rlhf_engine.config import TeachConfig
from rlhf_engine.encoding import encode_example
from rlhf_engine.events import Event
from rlhf_engine.feedback_export import live
from rlhf_engine.generate import nothing
from rlhf_engine.likelihood import Scale, guess, log_likelihood
from rlhf_engine.logprobs import pad_right
from rlhf_engine.rollout import Rollout
from rlhf_engine.training import micro_batches

Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of a response."""
PRIOR = 0.1
"""Precision of the Gaussian prior on a member's weights, for standardised features divided by the root of their number."""
SCALE_PRIOR = 4.0
"""Precision of the prior on how people answer (`Scale`), around where it starts: ties alone must not carry it away."""
SMALLEST = 0.05
"""Spread of raw scores on the anchors, in logits, below which a reward has learned nothing that is worth blowing up."""


class LiveReward:
    """`learn(events)` between PPO steps, and `reward(rollout) -> scores [B]` for PPO.

    An ensemble: each member weighs the events in its own way (a Bayesian bootstrap), so that members differ where the votes leave it
    open. Scores are normalised on `anchors`, responses of the starting policy; what PPO is given is the mean of the members
    less `pessimism` times their standard deviation.
    """

    def __init__(self, backbone: Backbone, config: TeachConfig, *, breathe: Callable[[], None] = nothing):
        self.backbone, self.config, self.breathe = backbone, config, breathe
        self.scale = Scale()
        size = 3 * backbone.hidden_size
        self.weights = torch.zeros(config.ensemble, size)
        self.gain, self.shift = torch.ones(config.ensemble), torch.zeros(config.ensemble)
        self.centre, self.spread = torch.zeros(size), torch.ones(size)
        """Mean and standard deviation of the features of the anchors."""
        self.anchors: list[Row] = []
        self.events: list[Event] = []
        """All feedback so far that says something, the oldest first."""
        self.read: dict[str, torch.Tensor] = {}
        """Features [K, D] of the responses of an event. The base is frozen, so they are read once."""

    def set_anchors(self, rows: list[Row]) -> None:
        """Standardise the features on these responses, and normalise scores on them from now on."""
        self.anchors = rows
        features = self._pooled(rows)
        self.centre, self.spread = features.mean(0), features.std(0, correction=0).clamp(min=1e-4)
        self._anchored = self._standard(features)

    # -- scores ------------------------------------------------------------------------------------------------------

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        """[B] on the CPU: what PPO maximises."""
        return self.cautious(self.score(list(zip(rollout.prompt_ids, rollout.response_ids))))

    def score(self, rows: list[Row]) -> torch.Tensor:
        """Normalised scores [N, members] on the CPU."""
        return self._scores(self.features(rows))

    def cautious(self, scores: torch.Tensor) -> torch.Tensor:
        """[N, members] -> [N]: the mean less `config.pessimism` standard deviations."""
        return scores.mean(-1) - self.config.pessimism * scores.std(-1, correction=0)

    def features(self, rows: list[Row]) -> torch.Tensor:
        """[N, 3 d] on the CPU, standardised, divided by the root of their number."""
        return self._standard(self._pooled(rows))

    # -- learning ----------------------------------------------------------------------------------------------------

    def learn(self, events: list[Event]) -> dict:
        """Take in new events and fit all of them; returns what the journal says about the update.

        The reward first guesses the new events (the prequential accuracy: the one honest number about it), then learns.
        """
        guesses = [g for event in events if event.kind != "retract" and (g := self._guess(event)) is not None]
        before = self._scores(self._anchored).mean(-1)
        self.events = live([*self.events, *events])
        loss = self._fit()
        self._normalise()
        after = self._scores(self._anchored)
        return {"votes": len(self.events), "new": len(events), "guessed": sum(guesses), "guesses": len(guesses), "loss": loss,
                "drift": (after.mean(-1) - before).square().mean().sqrt().item(), "spread": after.std(-1, correction=0).mean().item(),
                "gain": self.gain.mean().item()}

    def _guess(self, event: Event) -> float | None:
        raw = self._event_features(event) @ self.weights.T
        return guess(event.kind, event.value, raw.mean(-1), self.scale)

    def _fit(self) -> float:
        """The most probable weights and answer scale given all events and the prior; returns the loss per event, in nats."""
        groups = self._groups()
        start = [p.detach().clone() for p in Scale().parameters()]
        weights, scale = torch.zeros_like(self.weights, requires_grad=True), Scale()
        optimizer = torch.optim.LBFGS([weights, *scale.parameters()], max_iter=100, line_search_fn="strong_wolfe")
        found = [0.0]

        def closure():
            optimizer.zero_grad()
            loss = weights.sum() * 0
            for kind, value, features, shares in groups:
                loss = loss - (shares * log_likelihood(kind, value, features @ weights.T, scale)).sum() / len(self.weights)
            found[0] = loss.item()
            prior = PRIOR * weights.square().sum() / len(self.weights)
            prior = prior + SCALE_PRIOR * sum((p - q).square().sum() for p, q in zip(scale.parameters(), start))
            (loss + prior / 2).backward()
            return loss + prior / 2

        with torch.enable_grad():
            optimizer.step(closure)
        self.weights, self.scale = weights.detach(), scale.requires_grad_(False)
        return found[0] / max(len(self.events), 1)

    def _groups(self) -> list[tuple]:
        """(kind, value, features [K, N, D], shares [N, members]) of events that say the same, their responses in the order of their ranks:
        a thousand votes are a few products."""
        alike: dict[tuple, list[tuple]] = {}
        for event in self.events:
            ranks, value, features = event.ranks, event.value, self._event_features(event)
            if len(set(ranks)) > 1:
                features = features[sorted(range(len(ranks)), key=lambda i: ranks[i])]
                value = tuple(sorted(ranks)) if event.kind == "ranking" else "left"
            key = (event.kind, "" if event.kind == "edit" else value, len(features))
            alike.setdefault(key, []).append((features, self._shares(event)))
        return [(kind, value, torch.stack([f for f, _ in rows], dim=1), torch.stack([s for _, s in rows]))
                for (kind, value, _), rows in alike.items()]

    def _shares(self, event: Event) -> torch.Tensor:
        """[members]: Exponential(1) draws that hang on the event alone."""
        rng, members = random.Random(f"{self.config.seed} {event.id}"), len(self.weights)
        return torch.tensor([rng.expovariate(1.0) if members > 1 else 1.0 for _ in range(members)])

    def _normalise(self) -> None:
        """Fit each member's gain and shift on the anchors: mean 0, and a standard deviation that grows to 1 with the votes, so that
        the noise of the first few is not blown up."""
        raw = self._anchored @ self.weights.T
        trust = min(1.0, len(self.events) / self.config.votes_trusted)
        self.gain = trust / raw.std(0, correction=0).clamp(min=SMALLEST)
        self.shift = -self.gain * raw.mean(0)

    # -- features ----------------------------------------------------------------------------------------------------

    def _scores(self, features: torch.Tensor) -> torch.Tensor:
        return self.gain * (features @ self.weights.T) + self.shift

    def _standard(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.centre) / self.spread / features.shape[1] ** 0.5

    @torch.no_grad()
    def _pooled(self, rows: list[Row]) -> torch.Tensor:
        """[N, 3 d]: hidden states of the bare base at its embedding, middle and end, each averaged over the response's positions."""
        found = torch.zeros(len(rows), len(self.centre))
        with self.backbone.use(None):
            for part in micro_batches(sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i]))), self.config.batch_size):
                ids = pad_right([rows[i][0] + rows[i][1] for i in part], self.backbone.pad_id, self.backbone.device)
                ends = torch.tensor([[len(rows[i][0]), sum(map(len, rows[i]))] for i in part], device=ids.device)
                places = torch.arange(ids.shape[1], device=ids.device)
                share = ((places >= ends[:, :1]) & (places < ends[:, 1:])).float()
                share = share / share.sum(1, keepdim=True).clamp(min=1)
                states = self.backbone.depths(ids)
                found[part] = torch.cat([torch.einsum("bt,btd->bd", share, h.float()) for h in states], dim=1).cpu()
                self.breathe()
        return found

    def _event_features(self, event: Event) -> torch.Tensor:
        """[K, D] of an event's responses, the person's own text of an edit as the last."""
        if event.id not in self.read:
            texts = [*event.responses, event.value] if event.kind == "edit" else event.responses
            self.read[event.id] = self.features([self._row(event, text) for text in texts])
        return self.read[event.id]

    def _row(self, event: Event, text: str) -> Row:
        found = encode_example(self.backbone.tokenizer, event.prompt, text, self.backbone.stop_ids, max_tokens=self.config.max_tokens)
        # A response that was cut off at its longest has no end token, here as in a rollout.
        cut = len(found.completion_ids) > event.sampling.get("max_new_tokens", len(found.completion_ids))
        return found.prompt_ids, found.completion_ids[:-1] if cut else found.completion_ids

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        return {"weights": self.weights, "gain": self.gain, "shift": self.shift, "centre": self.centre, "spread": self.spread,
                "anchored": self._anchored, "anchors": self.anchors, "scale": self.scale.state_dict(),
                "events": [dataclasses.asdict(event) for event in self.events]}

    def load_state_dict(self, state: dict) -> None:
        for name in ("weights", "gain", "shift", "centre", "spread"):
            setattr(self, name, state[name])
        self._anchored, self.anchors = state["anchored"], [tuple(row) for row in state["anchors"]]
        self.scale.load_state_dict(state["scale"])
        self.events = [Event.from_dict(row) for row in state["events"]]
        self.read.clear()
