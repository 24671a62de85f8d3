"""Guard rails: is what the policy writes still text? Measured on every rollout, said in plain words, acted on before it rots."""

import math
from dataclasses import dataclass, field

from rlhf_engine import measures
from rlhf_engine.model.text_metrics import distinct_ratio
from rlhf_engine.rollout.rollout import Rollout

SMOOTHING = 0.5
"""Share of the newest rollout in what is judged: one odd rollout is no collapse."""
PAUSE = 5
"""Steps between two cuts of the learning rate: the first has to show first."""
SLOWEST = 1 / 8
"""The learning rate is never cut below this share of itself."""
RECOVERY = 1.2
"""Factor by which it comes back with every step on which nothing is wrong."""


@dataclass(frozen=True)
class Threshold:
    """What a measure may be, beside what it is for the starting policy, and what to say where it is not."""

    low: float
    high: float
    text: str


THRESHOLDS = {
    measures.DISTINCT_RATIO: Threshold(0.75, float("inf"), "The responses repeat each other: {value:.0%} of the starting policy's variety of "
                                 "word pairs. Lower the KL target, raise pessimism, or vote for the response that is not like the others."),
    measures.EMPTY: Threshold(0.0, 0.1, "{value:.0%} of the responses are empty. Lower the KL target, or rewind to an earlier checkpoint; "
                        "a reward that likes short answers invites this."),
    measures.ENTROPY_RATIO: Threshold(0.5, 2.0, "The policy's choices have {value:.1f} times the entropy of the start: too sure of its words, or "
                                "no longer sure of any. Lower the KL target or the learning rate."),
    measures.PERPLEXITY_RATIO: Threshold(0.5, 1.6, "To the starting policy the responses are {value:.1f} times as surprising as its own: they "
                                   "stop being its kind of text. Lower the KL target, or rewind to an earlier checkpoint."),
}


@dataclass
class Guard:
    """Watches rollouts against those of the starting policy.

    `check(rollout)` gives the measures for the metrics; `new_warnings()` what to say, each once until it is mended; `lr_factor` is a factor on
    the learning rate: halved while something is wrong, and back to 1 in small steps when nothing is.
    """

    reference: list[list[int]] = field(default_factory=list)
    """Token ids of the starting policy's responses."""
    entropy: float = 0.0
    surprise: float = 0.0
    """Of the first rollout, which is the starting policy's own: entropy and negative log-probability, in nats per token."""
    empty: float = 0.0
    """Share of it that is empty."""
    temperature: float = 1.0
    """At which it was sampled; at another one, entropy and surprise have to be told anew from what is normal."""
    smooth: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    lr_factor: float = 1.0
    since: int = PAUSE

    def check(self, rollout: Rollout, temperature: float = 1.0) -> dict[str, float]:
        """Measure a rollout that has been through `measure`, both at this temperature."""
        surprise = -(rollout.ref_logprobs * rollout.mask).sum().item() / rollout.mask.sum().item()
        empty = sum(not text.strip() for text in rollout.responses) / len(rollout)
        if not self.surprise or temperature != self.temperature:
            self.entropy, self.surprise, self.empty, self.temperature = rollout.entropy, surprise, empty, temperature
        # exp of a difference of nats per token is a ratio of perplexities, here under the reference.
        found = {measures.DISTINCT_RATIO: distinct_ratio(rollout.response_ids, self.reference),
                 measures.EMPTY: empty,
                 measures.ENTROPY_RATIO: rollout.entropy / self.entropy if self.entropy else 1.0,
                 measures.PERPLEXITY_RATIO: math.exp(min(surprise - self.surprise, 20.0))}
        for name, value in found.items():
            self.smooth[name] = value + (1 - SMOOTHING) * (self.smooth.get(name, value) - value)
        return found

    def new_warnings(self) -> list[str]:
        """What has gone wrong since the last call, in sentences; sets `lr_factor` for the next update."""
        slack = {measures.EMPTY: self.empty}  # where the start is silent at times, its policy may be, too
        wrong = [name for name, limit in THRESHOLDS.items() if not limit.low <= self.smooth[name] - slack.get(name, 0.0) <= limit.high]
        news = [THRESHOLDS[name].text.format(value=self.smooth[name]) for name in wrong if name not in self.wrong]
        self.wrong, self.since = wrong, self.since + 1
        if wrong and self.since > PAUSE and self.lr_factor > SLOWEST:
            self.lr_factor, self.since = max(self.lr_factor / 2, SLOWEST), 0
        elif not wrong:
            self.lr_factor = min(1.0, self.lr_factor * RECOVERY)
        return news

    # -- state: the keys are those of checkpoints on disk, whatever the fields are called --------------------------------

    def state_dict(self) -> dict:
        return {key: getattr(self, name) for key, name in STATE_KEYS.items()}

    @classmethod
    def from_state(cls, state: dict) -> "Guard":
        """The guard as it was when `state_dict` was taken."""
        return cls(**{name: state[key] for key, name in STATE_KEYS.items()})


STATE_KEYS = {"reference": "reference", "entropy": "entropy", "surprise": "surprise", "empty": "empty",
              "temperature": "temperature", "smooth": "smooth", "wrong": "wrong", "pace": "lr_factor", "since": "since"}
"""Key in a checkpoint -> field of `Guard`."""
