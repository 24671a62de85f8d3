"""The settings of a study of over-optimisation, and its presets. No torch."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from rlhf_engine.config import (
    LARGEST_SEED,
    MOST_ROWS,
    MOST_TOKENS,
    GroupConfig,
    RewardConfig,
    RunConfig,
    coerce,
    field_types,
    flag,
)
from rlhf_engine.config.fields import LARGEST, LONGEST, bounded
from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.stages import make_config

MOST_LABELS = 100_000
"""Labels of a proxy, at most."""
LEARNERS = {"ppo": "ppo", "grpo": "grpo", "rloo": "grpo"}
"""What may optimise a proxy -> its stage."""
GROUP = GroupConfig.group_size
"""Responses to a prompt that grpo and rloo compare with one another."""
STUDY = "overoptimisation"
"""What the report of a study says it is."""


@dataclass(frozen=True)
class StudySettings:
    """What a study of over-optimisation does. The string below a field is its documentation."""

    gold: str = "varied-joy"
    """The true reward: varied-joy, a reward run, FILE.py:FUNCTION, sentiment, short, long, dialogue or keyword=WORD."""
    labels: tuple[int, ...] = (50, 200, 1000, 5000)
    """Labels that each proxy is trained on, such as 50,200,1000,5000: pairs of samples of the start, compared by gold
    without noise."""
    seeds: int = bounded(3, 1, 100)
    """How often all of it is done, with other labels, proxies and runs."""
    seed: int = bounded(0, 0, LARGEST_SEED)
    """The first seed."""
    learner: str = "ppo"
    """What optimises each proxy, without a KL price: ppo, grpo or rloo."""
    steps: int = bounded(48, 2, LONGEST)
    """Steps of the learner."""
    batch_size: int = bounded(32, 2, MOST_ROWS)
    """Responses of a step."""
    learning_rate: float = bounded(0.0, 0.0)
    """Its learning rate; 0 takes twice the rate that the stage fits to the width of the model: a run without a KL price
    is to go far."""
    kl_limit: float = bounded(150.0, 1.0, LARGEST)
    """A run ends where the KL of a step is above this many nats a sequence."""
    measurements: int = bounded(16, 2, 1000)
    """How often a run is measured on the held-out prompts, beside its start; more often at first."""
    prompts: int = bounded(64, 4, MOST_ROWS)
    """Held-out prompts that are measured on, at most."""
    per_prompt: int = bounded(2, 1, 1000)
    """Responses to each of them at a measurement."""
    samples: int = bounded(64, 4, 4096)
    """Responses of the start to each of them: best-of-n chooses among these, and they set the scale of all rewards."""
    ensemble: int = bounded(3, 0, 64)
    """Proxies of different seeds in an ensemble, whose score is their mean less `spread_cost` times their spread. 0 or
    1 studies none."""
    spread_cost: float = bounded(1.0, 0.0, LARGEST)
    """What a standard deviation between the proxies of an ensemble costs, in standard deviations of the score."""
    proxy_steps: int = bounded(40, 1, LONGEST)
    """Optimiser steps of a proxy, at least; with many labels one pass over them is more."""
    model: str = "bundled"
    """Base model."""
    adapter: str = "auto"
    """Adapter to start from, as for the stages: `auto` is the bundled SFT adapter on the bundled model."""
    data: str = "bundled"
    """Prompts. Of other data than the bundled, a tenth is held out."""
    max_new_tokens: int = bounded(96, 1, MOST_TOKENS)
    """Longest response in tokens."""
    max_tokens: int = bounded(512, 8, MOST_TOKENS)
    """Longest prompt plus response in tokens."""
    temperature: float = bounded(1.0, 0.01, 10.0)
    """Sampling temperature."""
    dtype: str = "auto"
    """Number format of the base: auto, fp32, bf16 or nf4. auto is bf16 on the bundled model, fp32 elsewhere on a
    CPU."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda or cuda:N."""

    def validate(self) -> "StudySettings":
        """The same settings, checked. Raises UserError that names the flag and the mend."""
        for name, kind in field_types(type(self)).items():
            if name == "labels":
                continue
            value, meta = coerce(name, getattr(self, name), kind), type(self).__dataclass_fields__[name].metadata
            low, high = meta.get("low"), meta.get("high")
            if (low is not None and value < low) or (high is not None and value > high):
                limits = [f"at {word} {limit}" for word, limit in (("least", low), ("most", high)) if limit is not None]
                raise UserError(f"{flag(name)} is {short_repr(value)}, but must be {' and '.join(limits)}")
        if self.learner not in LEARNERS:
            raise UserError(f"--learner is {short_repr(self.learner)}, but must be one of {', '.join(LEARNERS)}")
        if not self.labels:
            raise UserError("--labels is empty: name one number of labels or several, such as 50,1000")
        if self.measurements > self.steps:
            raise UserError(f"--measurements is {self.measurements}, more than the --steps ({self.steps})")
        if self.learner != "ppo" and (self.batch_size % GROUP or self.batch_size < 2 * GROUP):
            raise UserError(f"--batch-size is {self.batch_size}, but {self.learner} compares groups of {GROUP} "
                            f"responses, two at least: give a multiple of {GROUP}, from {2 * GROUP} on")
        self.learner_config(self.seed, 1.0)
        self.proxy_config(self.seed, 1)
        return self

    # -- the configs of the stages that a study runs -----------------------------------------------------------------

    def shared(self, seed: int) -> dict[str, Any]:
        return {"model": self.model, "adapter": self.adapter, "data": self.data, "seed": seed, "dtype": self.dtype,
                "device": self.device, "max_tokens": self.max_tokens, "max_new_tokens": self.max_new_tokens}

    def learner_config(self, seed: int, learning_rate: float) -> RunConfig:
        """The settings of a run against a proxy: no KL price, no brake of any kind."""
        values = {**self.shared(seed), "steps": self.steps, "batch_size": self.batch_size,
                  "learning_rate": learning_rate, "temperature": self.temperature, "kl_coef": 0.0, "kl_target": 0.0,
                  "kl_floor": 0.0, "guard": False, "normalise_reward": False, "missing_end": "none", "warmup": 0.0,
                  "reference_samples": 16, "ppo_epochs": 2}
        if self.learner == "ppo":
            return make_config("ppo", {**values, "value": "fitted", "reward": "proxy"})
        return make_config("grpo", {**values, "estimator": self.learner, "reward": "proxy"})

    def proxy_config(self, seed: int, labels: int) -> RewardConfig:
        """The settings of a proxy with so many labels: one pass over them, or `proxy_steps` steps if that is more."""
        config = make_config("reward", {**self.shared(seed), "held_out": 0.0, "reference_samples": 64})
        assert isinstance(config, RewardConfig)
        config.steps = max(self.proxy_steps, -(-labels // config.batch_size))
        return config


QUICK = {"labels": (50, 1000), "seeds": 1, "steps": 36, "measurements": 9, "samples": 32}
PRESETS: dict[str, dict[str, Any]] = {"quick": QUICK}
"""Settings by the name of a preset. `quick`: one seed and two numbers of labels."""


def parse_labels(text: str) -> tuple[int, ...]:
    """Numbers of labels in ascending order, from a text such as "50,200,1000". Raises UserError."""
    counts = set()
    for part in text.replace(" ", ",").split(","):
        if not part:
            continue
        count = int(coerce("labels", part, int))
        if not 2 <= count <= MOST_LABELS:
            raise UserError(f"--labels has {count}, but each must be at least 2 and at most {MOST_LABELS}")
        counts.add(count)
    if not counts:
        raise UserError(f"--labels is {short_repr(text)}, but must be one whole number or several, such as 50,1000")
    return tuple(sorted(counts))


def to_dict(settings: StudySettings) -> dict[str, Any]:
    return {**dataclasses.asdict(settings), "labels": list(settings.labels)}


def different(before: dict[str, Any], settings: StudySettings) -> list[str]:
    """The settings that differ from those of a study which is to go on. More seeds, labels and ensembles may come."""
    now = to_dict(settings)
    return [name for name, value in before.items() if name in now and name not in MAY_GROW and now[name] != value]


MAY_GROW = ("labels", "seeds")
"""Settings that a study which goes on may have other values for: the pieces that are there still count."""
