"""Watches whether the policy still writes text: measures every rollout, warns in plain words, slows the learning
down."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rlhf_engine import measures
from rlhf_engine.model.text_metrics import distinct_ratio
from rlhf_engine.rollout.rollout import Rollout

SMOOTHING = 0.5
"""Weight of the newest rollout in the smoothed measures: one odd rollout is no collapse."""
PAUSE = 5
"""Steps between two cuts of the learning rate. The first cut has to show its effect first."""
SLOWEST = 1 / 8
"""Lowest factor on the learning rate."""
RECOVERY = 1.2
"""Factor by which the learning rate comes back, per step on which nothing is wrong."""
MAX_LOG_RATIO = 20.0
"""Bound on the logarithm of a ratio of perplexities, so that its exponential stays finite."""


@dataclass(frozen=True)
class Threshold:
    """The range that is normal for a measure, and the warning for a value outside of it."""

    kind: str
    """By this name the journal knows the warning."""
    low: float
    high: float
    text: str


THRESHOLDS = {
    measures.DISTINCT_RATIO: Threshold(
        "repetition", 0.75, float("inf"),
        "The responses repeat each other: {value:.0%} of the starting policy's variety of word pairs. Lower the KL "
        "target, raise pessimism, or vote for the response that is not like the others."),
    measures.EMPTY: Threshold(
        "empty", 0.0, 0.1,
        "{value:.0%} of the responses are empty. Lower the KL target, or rewind to an earlier checkpoint; a reward "
        "that likes short answers invites this."),
    measures.ENTROPY_RATIO: Threshold(
        "entropy", 0.5, 2.0,
        "The policy's choices have {value:.1f} times the entropy of the start: too sure of its words, or no longer "
        "sure of any. Lower the KL target or the learning rate."),
    measures.PERPLEXITY_RATIO: Threshold(
        "perplexity", 0.5, 1.6,
        "To the starting policy the responses are {value:.1f} times as surprising as its own: they stop being its kind "
        "of text. Lower the KL target, or rewind to an earlier checkpoint."),
}

STATE_KEYS = {"reference": "reference", "entropy": "entropy", "surprise": "surprise", "empty": "empty",
              "temperature": "temperature", "smooth": "smoothed", "wrong": "wrong", "pace": "lr_factor",
              "since": "steps_since_cut"}
"""Key in a checkpoint on disk -> field of `Guard`. A field may get another name; a key may not."""


class CollapseWarning(NamedTuple):
    """Something that has gone wrong: the kind of the threshold, and a sentence for people."""

    kind: str
    text: str


@dataclass
class Guard:
    """Compares rollouts with those of the starting policy.

    `check(rollout)` returns the measures for the metrics. `new_warnings()` returns warnings, each once until the matter
    is mended. `lr_factor` is a factor on the learning rate: it is halved while something is wrong and comes back to 1
    in small steps when nothing is.
    """

    reference: list[list[int]] = field(default_factory=list)
    """Token ids of the starting policy's responses."""
    entropy: float = 0.0
    """Entropy of the first rollout, which is the starting policy's own, in nats per token."""
    surprise: float = 0.0
    """Negative log-probability of the first rollout under the reference, in nats per token."""
    empty: float = 0.0
    """Share of empty responses in the first rollout."""
    temperature: float = 1.0
    """Sampling temperature of the first rollout. At another one, entropy and surprise are measured anew."""
    smoothed: dict[str, float] = field(default_factory=dict)
    """The measures, smoothed over rollouts."""
    wrong: list[str] = field(default_factory=list)
    """The measures that were outside of their range at the last call of `new_warnings`."""
    lr_factor: float = 1.0
    steps_since_cut: int = PAUSE
    """Steps since the learning rate was last cut."""

    def check(self, rollout: Rollout, temperature: float = 1.0) -> dict[str, float]:
        """Measure a rollout that was sampled, and went through `measure`, at this temperature."""
        surprise = -(rollout.ref_logprobs * rollout.mask).sum().item() / rollout.mask.sum().item()
        empty = sum(not text.strip() for text in rollout.responses) / len(rollout)
        if not self.surprise or temperature != self.temperature:
            self.entropy, self.surprise, self.empty, self.temperature = rollout.entropy, surprise, empty, temperature
        values = {
            measures.DISTINCT_RATIO: distinct_ratio(rollout.response_ids, self.reference),
            measures.EMPTY: empty,
            measures.ENTROPY_RATIO: rollout.entropy / self.entropy if self.entropy else 1.0,
            # exp of a difference in nats per token is a ratio of perplexities, here under the reference.
            measures.PERPLEXITY_RATIO: math.exp(min(surprise - self.surprise, MAX_LOG_RATIO)),
        }
        for name, value in values.items():
            before = self.smoothed.get(name, value)
            self.smoothed[name] = value + (1 - SMOOTHING) * (before - value)
        return values

    def new_warnings(self) -> list[CollapseWarning]:
        """What has gone wrong since the last call. Sets `lr_factor` for the next update."""
        wrong = [name for name in THRESHOLDS if self._is_wrong(name)]
        news = [name for name in wrong if name not in self.wrong]
        self.wrong = wrong
        self.steps_since_cut += 1
        if wrong and self.steps_since_cut > PAUSE and self.lr_factor > SLOWEST:
            self.lr_factor = max(self.lr_factor / 2, SLOWEST)
            self.steps_since_cut = 0
        elif not wrong:
            self.lr_factor = min(1.0, self.lr_factor * RECOVERY)
        return [self._warning(name) for name in news]

    def _warning(self, name: str) -> CollapseWarning:
        threshold = THRESHOLDS[name]
        return CollapseWarning(threshold.kind, threshold.text.format(value=self.smoothed[name]))

    def _is_wrong(self, name: str) -> bool:
        value = self.smoothed[name]
        if name == measures.EMPTY:
            value -= self.empty  # a starting policy that is silent at times leaves that much to its successors
        return not THRESHOLDS[name].low <= value <= THRESHOLDS[name].high

    def state_dict(self) -> dict[str, Any]:
        """The guard as plain data, under the keys of a checkpoint."""
        return {key: getattr(self, name) for key, name in STATE_KEYS.items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Guard":
        """The guard whose `state_dict` is `state`."""
        return cls(**{name: state[key] for key, name in STATE_KEYS.items()})
