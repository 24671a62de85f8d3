"""The reward while people are teaching it: weights on a few features of a response, fitted to all feedback at once.

A few dozen votes do not move an adapter to where it generalises. They do fit a linear function of what the base knows
already about the words of a response, and of its shape, its places and its relation to the prompt (`features`), if few
of its weights are believed to matter. The fit starts
from nothing after every vote (`reward_fit`), so old votes weigh as much as new ones, until the person has plainly
changed their mind (`preference_drift`). benchmarks/README.md has the comparison.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from rlhf_engine.config import TeachConfig
from rlhf_engine.errors import noop
from rlhf_engine.feedback.events import Event, without_retracted
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.rollout import Rollout, as_sampled
from rlhf_engine.teach.features.evidence import Minds, compare_minds, weigh_groups
from rlhf_engine.teach.features.feature_set import NEWEST, WORDS_ONLY, FeatureSet
from rlhf_engine.teach.likelihood import ResponseModel, was_predicted
from rlhf_engine.teach.preference_drift import DOUBT, ChangeOfMind, DriftDetector, counts_now
from rlhf_engine.teach.reward_fit import VoteGroup, fit_sparse
from rlhf_engine.teach.word_features import Row
from rlhf_engine.trainers.base import check_numbers

SOFT = 0.5
"""Width of the bend of the reward at its cap, in standard deviations of the anchors' scores."""
SMALLEST_SPREAD = 0.05
"""Spread of raw scores on the anchors, in logits, below which a reward has learned nothing that is worth enlarging."""

NAMED = 0.15
"""Share of the reward's spread from which a group of features is named to people."""


class OnlineReward:
    """Learns from events between two steps (`learn`), and scores rollouts for PPO (call it).

    It is an ensemble. Each member weighs the events in its own way (a Bayesian bootstrap), so members differ where the
    votes leave the answer open. Scores are normalised on `anchors`, responses of the starting policy. PPO gets the mean
    of the members less `pessimism` times their standard deviation.
    """

    def __init__(self, backbone: Backbone, config: TeachConfig, *, on_microbatch: Callable[[], None] = noop,
                 version: int = NEWEST):
        self.backbone, self.config, self.on_microbatch = backbone, config, on_microbatch
        self.response_model = ResponseModel()
        self.features = self._make_features(version)
        self.weights = torch.zeros(config.ensemble, 0)
        """[members, D] on the features of `features`."""
        self.gains, self.offsets = torch.ones(config.ensemble), torch.zeros(config.ensemble)
        """[members]: a normalised score is gain * raw score + offset."""
        self.anchors: list[Row] = []
        self.anchor_features = torch.zeros(0, 0)
        """[N, D] of the anchors."""
        self.events: list[Event] = []
        """All feedback so far that is not taken back, the oldest first."""
        self.drift: dict[str, DriftDetector] = {}
        """For each voter: whether they have changed their mind."""
        self.changes_of_mind: list[ChangeOfMind] = []
        self.event_features: dict[str, torch.Tensor] = {}
        """Features [K, D] of the texts of an event, by its id. The base is frozen, so they are read once."""

    def _make_features(self, version: int) -> FeatureSet:
        return FeatureSet(self.backbone, batch=self.config.batch_size, on_microbatch=self.on_microbatch,
                          version=version)

    def set_anchors(self, rows: list[Row]) -> None:
        """Fit the features to these responses, and normalise scores on them from now on."""
        self.anchors, self.anchor_features = rows, self.features.fit(rows)
        self.weights = torch.zeros(self.config.ensemble, self.anchor_features.shape[1])

    # -- scores --------------------------------------------------------------------------------------------------------

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        """[B, R] on the CPU: what each token of a response adds to what PPO maximises.

        The tokens of a row sum up to the score of the response, capped softly (`soft_cap`). A token gets the difference
        that it makes to the score (`FeatureSet.scores_after_tokens`). PPO need not find out which of a hundred tokens
        earned a score that comes at the end. What a response without a word would score is no token's merit, and is
        spread evenly.
        """
        rows = list(zip(rollout.prompt_ids, rollout.response_ids))
        after = [self.gains * raw + self.offsets for raw in self.features.scores_after_tokens(rows, self.weights)]
        return self.token_rewards(rollout, after)

    def token_rewards(self, rollout: Rollout, scores_after_tokens: list[torch.Tensor]) -> torch.Tensor:
        """[B, R] from the normalised scores [T + 1, members] of each response, cut off after 0 to T tokens."""
        rewards, cap = torch.zeros(rollout.mask.shape), self.score_cap()
        for row, raw in zip(rewards, scores_after_tokens):
            scores = soft_cap(self.lower_bound(raw), cap)
            count = len(raw) - 1
            row[:count] = scores.diff()
            if self.features.version == WORDS_ONLY:
                row[count - 1] += scores[0]
            else:
                row[:count] += scores[0] / max(count, 1)
        return rewards

    def score_cap(self) -> torch.Tensor | float:
        """The score above which PPO gains hardly anything: a quantile of the anchors' scores; infinite without one."""
        if not self.config.score_cap_quantile:
            return torch.inf
        return self.lower_bound(self.anchor_scores()).quantile(self.config.score_cap_quantile)

    def anchor_scores(self) -> torch.Tensor:
        """Normalised scores [N, members] of the anchors."""
        return self._scores(self.anchor_features)

    def score(self, rows: list[Row]) -> torch.Tensor:
        """Normalised scores [N, members] on the CPU."""
        return self._scores(self.features.read(rows))

    def lower_bound(self, scores: torch.Tensor) -> torch.Tensor:
        """[N, members] -> [N]: the mean less `config.pessimism` standard deviations."""
        return scores.mean(-1) - self.config.pessimism * scores.std(-1, correction=0)

    def top_words(self, count: int = 5) -> tuple[list[str], list[str]]:
        """The words of the anchors that the reward likes most, and those that it likes least, the strongest first."""
        words = self.features.words
        if not words.chosen or not self.weights.any():
            return [], []
        by_word = words.word_weights(self.weights[:, self.features.groups["words"]]).mean(1)
        liked, disliked = self.features.rank_words(by_word)
        return liked[:count], disliked[:count]

    def top_features(self, count: int = 5) -> tuple[list[str], list[str]]:
        """What the reward likes and dislikes, in plain English ("about 50 words"), the strongest first.

        Only what makes a difference between responses is named; nothing before the first vote.
        """
        if not self.weights.any():
            return [], []
        likes = self.features.likes(self.weights.mean(0))
        names = [name for name, adds in self.feature_shares().items() if adds >= NAMED]
        liked = [likes[name][0] for name in names if likes[name][0]]
        disliked = [likes[name][1] for name in names if likes[name][1]]
        return liked[:count], disliked[:count]

    def feature_shares(self) -> dict[str, float]:
        """How much each group of features adds to the score: the spread of its part over the anchors, as a share of the
        spread of the whole. The largest first."""
        weights = self.weights.mean(0)
        whole = (self.anchor_features @ weights).std(correction=0).clamp(min=1e-9)
        shares = {}
        for name, columns in self.features.groups.items():
            shares[name] = ((self.anchor_features[:, columns] @ weights[columns]).std(correction=0) / whole).item()
        return dict(sorted(shares.items(), key=lambda pair: -pair[1]))

    def take_changes(self) -> list[dict[str, Any]]:
        """For the journal: changes of the reward that leads. This one leads always."""
        return []

    # -- learning ------------------------------------------------------------------------------------------------------

    def learn(self, events: list[Event]) -> dict[str, Any]:
        """Take in new events and fit all of them; returns what the journal says about the update.

        The reward first predicts the new events, then learns them. The share it gets right is the prequential accuracy,
        the one honest number about it. Raises NotFinite if the fit ends in numbers that are NaN or infinite.
        """
        votes = [event for event in events if event.kind != "retract"]
        predictions = [None if event.kind == "retract" else self._guess(event) for event in events]
        before = self._scores(self.anchor_features).mean(-1)
        changed = self._update_drift(votes)
        self.events = without_retracted([*self.events, *events])
        loss = self._fit()
        self._normalise()
        after = self._scores(self.anchor_features)
        update = {"votes": len(self.events), "new": len(events), **counted_predictions(predictions),
                  "chances": [chance_to_guess(event) for event in events], "loss": loss,
                  "drift": (after.mean(-1) - before).square().mean().sqrt().item(),
                  "spread": after.std(-1, correction=0).mean().item(), "gain": self.gains.mean().item()}
        if changed:
            update["outdated"] = len(self.outdated)
            update["opposite"] = self.changes_of_mind[-1].opposite
        return check_numbers(update)

    def _update_drift(self, votes: list[Event]) -> bool:
        """Whether new votes show that somebody has changed their mind; what they said before is out of date then."""
        for number, event in enumerate(votes):
            change = self._notice_change(event, [*self.events, *votes[:number]])
            if change:
                self.changes_of_mind.append(change)
                self.drift[event.voter] = DriftDetector()
                return True  # the other votes wait for a reward that has learned this
        return False

    def _notice_change(self, event: Event, earlier: list[Event]) -> ChangeOfMind | None:
        """The change of mind that a vote shows, after `earlier` ones of anybody.

        Evidence of `DOUBT` is enough to look for the opposite of what somebody wanted. Another taste has to be learned
        first, so it needs more evidence.
        """
        detector = self.drift.setdefault(event.voter, DriftDetector())
        certain = detector.update(event, self.features_of(event), self.weights.mean(0), self.response_model)
        if detector.evidence <= DOUBT:
            return None
        before = [old for old in earlier if old.voter == event.voter]
        minds = self._compare_minds([*before, event], detector.votes)
        if minds == "opposite" or (minds == "other" and certain):
            outdated = [old.id for old in before if old.id not in detector.votes]
            return ChangeOfMind(detector.votes, outdated, minds == "opposite")
        if certain and minds == "same":
            detector.forget()
        return None

    @property
    def doubts_minds(self) -> bool:
        """Whether there is some evidence that somebody has changed their mind."""
        return any(detector.evidence > DOUBT for detector in self.drift.values())

    def _compare_minds(self, votes: list[Event], later: list[str]) -> Minds:
        """How a person's votes of the ids `later` go with those before.

        A reward with many kinds of features may have believed in the wrong one. That is no change of mind.
        """
        if self.features.version == WORDS_ONLY:
            return "other"
        counts = self._counts()
        counted = [event for event in votes if counts.get(event.id, 1)]
        before = self._groups([event for event in counted if event.id not in later])
        after = self._groups([event for event in counted if event.id in later])
        return compare_minds(before, after, self.features.groups) if before and after else "same"

    def _counts(self) -> dict[str, int]:
        """How events before a change of mind count now (`counts_now`)."""
        return counts_now(self.changes_of_mind, [event.id for event in self.events])

    @property
    def outdated(self) -> set[str]:
        """Ids of events that do not count as they were said."""
        return {name for name, count in self._counts().items() if count < 1}

    def _guess(self, event: Event) -> float | None:
        """Whether the reward predicts an event (`was_predicted`)."""
        raw = self.features_of(event) @ self.weights.T
        return was_predicted(event.kind, event.value, raw.mean(-1), self.response_model)

    def _fit(self) -> float:
        """Set weights and response model to the most probable ones, given all events; returns nats per event."""
        learned = self._learned()
        groups = self._groups(learned)
        if not groups:
            self.weights, self.response_model = torch.zeros_like(self.weights), ResponseModel().requires_grad_(False)
            return 0.0
        parts = None
        if self.features.version > WORDS_ONLY:
            parts = weigh_groups(groups, self.features.groups, self.features.soft_words)
        self.weights, self.response_model, loss = fit_sparse(groups, len(self.weights), parts)
        return loss / len(learned)

    def _groups(self, events: list[Event]) -> list[VoteGroup]:
        """Events grouped by what they say, so that a thousand votes are a few products."""
        alike: dict[tuple, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        counts = self._counts()
        for event in events:
            order, value = event.rules.canonical(event)
            features = self.features_of(event)[order] * counts.get(event.id, 1)
            alike.setdefault((event.kind, value, len(features)), []).append((features, self.bootstrap_weights(event)))
        groups = []
        for (kind, value, _), rows in alike.items():
            features, shares = zip(*rows)
            groups.append(VoteGroup(kind, value, torch.stack(features, dim=1), torch.stack(shares)))
        return groups

    def _learned(self) -> list[Event]:
        """The events that the reward is fitted to, some of them the other way round."""
        counts = self._counts()
        return [event for event in self.events if counts.get(event.id, 1)]

    def _counted(self) -> list[Event]:
        """The events that count as they were said."""
        outdated = self.outdated
        return [event for event in self.events if event.id not in outdated]

    def bootstrap_weights(self, event: Event) -> torch.Tensor:
        """[members]: Exponential(1) draws that depend on the event's id and the seed alone."""
        rng, members = random.Random(f"{self.config.seed} {event.id}"), len(self.weights)
        return torch.tensor([rng.expovariate(1.0) if members > 1 else 1.0 for _ in range(members)])

    def _normalise(self) -> None:
        """Fit each member's gain and offset on the anchors: mean 0, and a standard deviation that grows to 1.

        It grows with the number of votes that prefer something, so that the noise of the first few is not enlarged.
        """
        raw = self.anchor_features @ self.weights.T
        self.gains = self.trust / raw.std(0, correction=0).clamp(min=SMALLEST_SPREAD)
        self.offsets = -self.gains * raw.mean(0)

    @property
    def trust(self) -> float:
        """The standard deviation that scores get on the anchors, in [0, 1]."""
        return min(1.0, sum(not event.tie for event in self._learned()) / self.config.votes_trusted)

    # -- features ------------------------------------------------------------------------------------------------------

    def _scores(self, features: torch.Tensor) -> torch.Tensor:
        return self.gains * (features @ self.weights.T) + self.offsets

    def features_of(self, event: Event) -> torch.Tensor:
        """[K, D] of an event's texts, in the order of `FeedbackKind.texts`."""
        if event.id not in self.event_features:
            self.event_features[event.id] = self.features.read(self.rows_of(event))
        return self.event_features[event.id]

    def rows_of(self, event: Event) -> list[Row]:
        """The token rows of an event's texts, in the order of `FeedbackKind.texts`."""
        return [as_sampled(self.backbone, event.prompt, text, event.sampling, self.config.max_tokens)
                for text in event.rules.texts(event)]

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """The keys are those of trainer.json, and stay as they are, whatever the attributes are called."""
        return {"weights": self.weights, "gain": self.gains, "shift": self.offsets,
                "words": self.features.words.state_dict(), "features": self.features.state_dict(),
                "anchored": self.anchor_features, "anchors": self.anchors, "scale": self.response_model.to_checkpoint(),
                "events": [dataclasses.asdict(event) for event in self.events], "turns": self.changes_of_mind,
                "turning": {voter: detector.state_dict() for voter, detector in self.drift.items()}}

    def load_state_dict(self, state: dict) -> None:
        self.weights, self.gains, self.offsets = state["weights"], state["gain"], state["shift"]
        features = state.get("features", {"version": WORDS_ONLY})  # older checkpoints know of words alone
        if features["version"] != self.features.version:
            self.features = self._make_features(features["version"])
        self.features.words.load_state_dict(state["words"])
        if features["version"] > WORDS_ONLY:
            self.features.load_state_dict(features)
        self.anchor_features, self.anchors = state["anchored"], [tuple(row) for row in state["anchors"]]
        self.response_model = ResponseModel.from_checkpoint(state["scale"])
        self.events = [Event.from_dict(row) for row in state["events"]]
        # Older checkpoints know of no changes of mind, or of none to the opposite.
        self.changes_of_mind = [ChangeOfMind(list(votes), list(before), bool(opposite and opposite[0]))
                                for votes, before, *opposite in state.get("turns", [])]
        detectors = state.get("turning", {})
        self.drift = {voter: DriftDetector.from_state(each) for voter, each in detectors.items()}
        self.event_features.clear()


def counted_predictions(predictions: list[float | None]) -> dict[str, Any]:
    """What the journal says about predictions of events: 1, 0, 1/2 between equals, None where there is no order."""
    guesses = [guess for guess in predictions if guess is not None]
    return {"guessed": sum(guesses), "guesses": len(guesses), "predictions": predictions}


def chance_to_guess(event: Event) -> float:
    """How often a reward that knows nothing predicts an event: one in four where the best of four was chosen."""
    ranks = event.ranks
    return ranks.count(1) / len(ranks) if ranks else 0.5


def soft_cap(scores: torch.Tensor, cap: torch.Tensor | float) -> torch.Tensor:
    """Scores [N] as they are far below `cap`, and hardly growing above it."""
    return cap - SOFT * F.softplus((cap - scores) / SOFT) if cap < torch.inf else scores
