"""The reward while people are teaching it: weights on a few of the base's words, fitted to every kind of feedback at once.

A few dozen votes do not move an adapter to where it generalises. They do fit a linear function of what the base knows already about
the words of a response (`soft_words`), if few of its weights are believed to matter. Fitting is four convex problems of milliseconds,
from scratch after every vote, so there is no optimiser whose past could matter, and old votes weigh as much as new ones, until it is
plain that they are not meant any more (`turning`).
benchmarks/README.md has the comparison.
"""

import dataclasses
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F

from rlhf_engine.config import TeachConfig
from rlhf_engine.errors import noop
from rlhf_engine.feedback.datasets import live
from rlhf_engine.feedback.events import Event
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.rollout import Rollout, as_sampled
from rlhf_engine.teach.likelihood import ResponseModel, log_likelihood, was_predicted
from rlhf_engine.teach.preference_drift import DriftDetector
from rlhf_engine.teach.word_features import Row, WordFeatures

PRIOR = 0.1
"""Precision of the Gaussian prior on a member's weights, for features of size 1 on the anchors."""
REFITS, FADED = 3, 0.2
"""How often the prior follows the weights, and the spread it leaves to a weight of zero, beside 1 of a weight of mean size."""
SCALE_PRIOR = 4.0
"""Precision of the prior on how people answer (`ResponseModel`), around where it starts: ties alone must not carry it away."""
SOFT = 0.5
"""Width of the bend of the reward at `enough`, in standard deviations of the anchors' scores."""
SMALLEST = 0.05
"""Spread of raw scores on the anchors, in logits, below which a reward has learned nothing that is worth blowing up."""


class OnlineReward:
    """`learn(events)` between PPO steps, and `reward(rollout) -> scores [B]` for PPO.

    An ensemble: each member weighs the events in its own way (a Bayesian bootstrap), so that members differ where the votes leave it
    open. Scores are normalised on `anchors`, responses of the starting policy; what PPO is given is the mean of the members
    less `pessimism` times their standard deviation.
    """

    def __init__(self, backbone: Backbone, config: TeachConfig, *, on_microbatch: Callable[[], None] = noop):
        self.backbone, self.config, self.on_microbatch = backbone, config, on_microbatch
        self.scale = ResponseModel()
        self.words = WordFeatures(backbone, batch=config.batch_size, on_microbatch=on_microbatch)
        self.weights = torch.zeros(config.ensemble, 0)
        self.gain, self.shift = torch.ones(config.ensemble), torch.zeros(config.ensemble)
        self.anchors: list[Row] = []
        self.events: list[Event] = []
        """All feedback so far that says something, the oldest first."""
        self.turning: dict[str, DriftDetector] = {}
        """Of each voter: whether they have changed their mind."""
        self.turns: list[tuple[list[str], list[str]]] = []
        """Ids of events by which somebody did, and of those of theirs that count no more for it."""
        self.read: dict[str, torch.Tensor] = {}
        """Features [K, D] of the responses of an event. The base is frozen, so they are read once."""

    def set_anchors(self, rows: list[Row]) -> None:
        """Fit the features to these responses, and normalise scores on them from now on."""
        self.anchors, self._anchored = rows, self.words.fit(rows)
        self.weights = torch.zeros(self.config.ensemble, self._anchored.shape[1])

    # -- scores ------------------------------------------------------------------------------------------------------

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        """[B, R] on the CPU: what each token of a response adds to what PPO maximises, which the tokens of a row sum up to.

        The score is a mean over positions, so what a response is worth is known at every one of them: PPO need not find out which of
        a hundred tokens a score at the end was for.
        """
        found = torch.zeros(rollout.mask.shape)
        added = self.words.token_contributions(list(zip(rollout.prompt_ids, rollout.response_ids)), self.weights)
        enough = self.lower_bound(self._scores(self._anchored)).quantile(self.config.score_cap_quantile) if self.config.score_cap_quantile else torch.inf
        for row, adds in zip(found, added):
            path = torch.cat([torch.zeros(1, adds.shape[1]), adds]).cumsum(0)
            worth = soft_cap(self.lower_bound(self.gain * path + self.shift), enough)
            row[:len(adds)] = worth.diff()
            row[len(adds) - 1] += worth[0]
        return found

    def score(self, rows: list[Row]) -> torch.Tensor:
        """Normalised scores [N, members] on the CPU."""
        return self._scores(self.words.read(rows))

    def lower_bound(self, scores: torch.Tensor) -> torch.Tensor:
        """[N, members] -> [N]: the mean less `config.pessimism` standard deviations."""
        return scores.mean(-1) - self.config.pessimism * scores.std(-1, correction=0)

    def top_words(self, count: int = 5) -> tuple[list[str], list[str]]:
        """The words, of those that the anchors hold, that the reward likes most and least: most first, least first."""
        if not self.words.chosen or not self.weights.any():
            return [], []
        worth = self.words.word_weights(self.weights).mean(1)
        names = [self.backbone.tokenizer.decode(word).strip() for word in self.words.chosen]
        order = [i for i in worth.argsort(descending=True, stable=True).tolist() if names[i]]
        liked, disliked = ([names[i] for i in order if worth[i] > 0], [names[i] for i in reversed(order) if worth[i] < 0])
        return list(dict.fromkeys(liked))[:count], list(dict.fromkeys(disliked))[:count]  # "dog" and " dog" are one to a reader

    # -- learning ----------------------------------------------------------------------------------------------------

    def learn(self, events: list[Event]) -> dict:
        """Take in new events and fit all of them; returns what the journal says about the update.

        The reward first guesses the new events (the prequential accuracy: the one honest number about it), then learns.
        """
        said = [event for event in events if event.kind != "retract"]
        guesses = [g for event in said if (g := self._guess(event)) is not None]
        before = self._scores(self._anchored).mean(-1)
        turned = self._turned(said)
        self.events = live([*self.events, *events])
        loss = self._fit()
        self._normalise()
        after = self._scores(self._anchored)
        return {"votes": len(self.events), "new": len(events), "guessed": sum(guesses), "guesses": len(guesses), "loss": loss,
                "drift": (after.mean(-1) - before).square().mean().sqrt().item(), "spread": after.std(-1, correction=0).mean().item(),
                "gain": self.gain.mean().item(), **({"outdated": len(self.outdated)} if turned else {})}

    def _turned(self, events: list[Event]) -> bool:
        """Whether new votes make it plain that people have changed their mind; older ones than these are outdated then."""
        for place, event in enumerate(events):
            turning = self.turning.setdefault(event.voter, DriftDetector())
            if turning.update(event, self._event_features(event), self.weights.mean(0), self.scale):
                before = [old.id for old in (*self.events, *events[:place]) if old.voter == event.voter and old.id not in turning.votes]
                self.turns.append((turning.votes, before))
                self.turning[event.voter] = DriftDetector()  # what is left of `events` is guessed by a reward that has learned this
                return True
        return False

    @property
    def outdated(self) -> set[str]:
        """Events that count no more: unless the votes that contradict them have been taken back."""
        there = {event.id for event in self.events}
        return {name for votes, before in self.turns if there.intersection(votes) for name in before}

    def _guess(self, event: Event) -> float | None:
        raw = self._event_features(event) @ self.weights.T
        return was_predicted(event.kind, event.value, raw.mean(-1), self.scale)

    def _fit(self) -> float:
        """The most probable weights and answer scale given all events and the prior; returns the loss per event, in nats."""
        groups = self._groups()
        if not groups:
            self.weights, self.scale = torch.zeros_like(self.weights), ResponseModel().requires_grad_(False)
            return 0.0
        self.weights, self.scale, loss = fit_sparse(groups, len(self.weights))
        return loss / len(self._counted())

    def _groups(self) -> list[tuple]:
        """(kind, value, features [K, N, D], shares [N, members]) of events that say the same, their responses in the order of their ranks:
        a thousand votes are a few products."""
        alike: dict[tuple, list[tuple]] = {}
        for event in self._counted():
            ranks, value, features = event.ranks, event.value, self._event_features(event)
            if len(set(ranks)) > 1:
                features = features[sorted(range(len(ranks)), key=lambda i: ranks[i])]
                value = tuple(sorted(ranks)) if event.kind == "ranking" else "left"
            key = (event.kind, "" if event.kind == "edit" else value, len(features))
            alike.setdefault(key, []).append((features, self.bootstrap_weights(event)))
        return [(kind, value, torch.stack([f for f, _ in rows], dim=1), torch.stack([s for _, s in rows]))
                for (kind, value, _), rows in alike.items()]

    def _counted(self) -> list[Event]:
        outdated = self.outdated
        return [event for event in self.events if event.id not in outdated]

    def bootstrap_weights(self, event: Event) -> torch.Tensor:
        """[members]: Exponential(1) draws that hang on the event alone."""
        rng, members = random.Random(f"{self.config.seed} {event.id}"), len(self.weights)
        return torch.tensor([rng.expovariate(1.0) if members > 1 else 1.0 for _ in range(members)])

    def _normalise(self) -> None:
        """Fit each member's gain and shift on the anchors: mean 0, and a standard deviation that grows to 1 with the votes that tell
        responses apart, so that the noise of the first few is not blown up."""
        raw = self._anchored @ self.weights.T
        trust = min(1.0, sum(not event.tie for event in self._counted()) / self.config.votes_trusted)
        self.gain = trust / raw.std(0, correction=0).clamp(min=SMALLEST)
        self.shift = -self.gain * raw.mean(0)

    # -- features ----------------------------------------------------------------------------------------------------

    def _scores(self, features: torch.Tensor) -> torch.Tensor:
        return self.gain * (features @ self.weights.T) + self.shift

    def _event_features(self, event: Event) -> torch.Tensor:
        """[K, D] of an event's responses, the person's own text of an edit as the last."""
        if event.id not in self.read:
            texts = [*event.responses, event.value] if event.kind == "edit" else event.responses
            self.read[event.id] = self.words.read([as_sampled(self.backbone, event.prompt, text, event.sampling, self.config.max_tokens)
                                                   for text in texts])
        return self.read[event.id]

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        return {"weights": self.weights, "gain": self.gain, "shift": self.shift, "words": self.words.state_dict(),
                "anchored": self._anchored, "anchors": self.anchors, "scale": self.scale.state_dict(),
                "events": [dataclasses.asdict(event) for event in self.events], "turns": self.turns,
                "turning": {voter: turning.state_dict() for voter, turning in self.turning.items()}}

    def load_state_dict(self, state: dict) -> None:
        for name in ("weights", "gain", "shift"):
            setattr(self, name, state[name])
        self.words.load_state_dict(state["words"])
        self._anchored, self.anchors = state["anchored"], [tuple(row) for row in state["anchors"]]
        self.scale.load_state_dict(state["scale"])
        self.events = [Event.from_dict(row) for row in state["events"]]
        self.turns = [(list(votes), list(before)) for votes, before in state.get("turns", [])]  # older checkpoints know of none
        self.turning = {voter: DriftDetector.of(found) for voter, found in state.get("turning", {}).items()}
        self.read.clear()


def soft_cap(scores: torch.Tensor, enough: float) -> torch.Tensor:
    """Scores as they are far below `enough`, and hardly growing above it."""
    return enough - SOFT * F.softplus((enough - scores) / SOFT) if enough < torch.inf else scores


def fit_sparse(groups: list[tuple], members: int) -> tuple[torch.Tensor, ResponseModel, float]:
    """(weights [members, D], answer scale, loss in nats) for groups of votes (`OnlineReward._groups`), on the assumption that few
    of the features matter.

    The first fit has the same prior for all weights. In each further one a weight's prior standard deviation is what the fit before
    made of it (its mean over the members, beside that of the others), so that what the votes do not need is left to fade: iteratively
    reweighted, as in Chartrand & Yin 2008 and, with a posterior in the place of the mode, in Tipping's (2001) relevance vectors.
    """
    size = groups[0][2].shape[-1]
    shown = torch.cat([features.flatten(0, 1) for _, _, features, _ in groups])
    spread, weights = torch.ones(size), None
    for _ in range(1 + REFITS):
        if weights is not None:
            found = weights.abs().mean(0)
            spread = found / found.square().mean().sqrt().clamp(min=1e-12) + FADED
            spread = spread / spread.square().mean().sqrt()
        # The most probable weights lie in the span of what was shown; while that is small, there is less to fit.
        basis = torch.linalg.qr((shown * spread).T).Q if len(shown) < size else torch.eye(size)
        turned = spread[:, None] * basis
        inner, scale, loss = fit([(kind, value, features @ turned, shares) for kind, value, features, shares in groups], members)
        weights = inner @ turned.T
    return weights, scale, loss


def fit(groups: list[tuple], members: int) -> tuple[torch.Tensor, ResponseModel, float]:
    """(weights [members, size], answer scale, loss in nats) that are the most probable, given groups of votes (`OnlineReward._groups`)
    and the priors."""
    start = [p.detach().clone() for p in ResponseModel().parameters()]
    weights, scale = torch.zeros(members, groups[0][2].shape[-1], requires_grad=True), ResponseModel()
    optimizer = torch.optim.LBFGS([weights, *scale.parameters()], max_iter=100, line_search_fn="strong_wolfe")
    found = [0.0]

    def closure():
        optimizer.zero_grad()
        loss = weights.sum() * 0
        for kind, value, features, shares in groups:
            loss = loss - (shares * log_likelihood(kind, value, features @ weights.T, scale)).sum() / members
        found[0] = loss.item()
        prior = PRIOR * weights.square().sum() / members
        prior = prior + SCALE_PRIOR * sum((p - q).square().sum() for p, q in zip(scale.parameters(), start))
        (loss + prior / 2).backward()
        return loss + prior / 2

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach(), scale.requires_grad_(False), found[0]
