"""The live loop: PPO that asks people about its own responses, and follows a reward that learns from their answers as it goes."""

import random
import time
from collections.abc import Callable
from typing import Protocol

import torch

from rlhf_engine.backbone import Backbone
from rlhf_engine.config import TeachConfig
from rlhf_engine.encoding import Prompt
from rlhf_engine.evaluate import compare, text_judge
from rlhf_engine.events import Event
from rlhf_engine.generate import Sampling, nothing
from rlhf_engine.live_reward import LiveReward
from rlhf_engine.ppo import PPO
from rlhf_engine.queries import Query, choose
from rlhf_engine.training import Trainer

SAMPLES = 256
"""Fresh samples, at least, on which the outcome is measured."""


class Labeler(Protocol):
    """Who votes. `ask` offers a query and does not wait; `answers` gives the events that have come in since; `score`, where there is
    one, says how good a response is, by which the outcome is measured."""

    score: Callable[[Prompt, str], float] | None

    def ask(self, query: Query) -> None: ...

    def answers(self) -> list[Event]: ...


class Teach(Trainer):
    """One step: ask, take in what was answered, update the reward if there is news, then a PPO step against it.

    Roles and metrics are those of PPO (the reward is no role: it reads the bare base), and at each step `reward/votes`, and where votes
    came in `reward/guessed` (share of them that the reward had right before it learned them), `reward/loss` (nats per vote),
    `reward/drift` (how far the anchors' scores moved) and `reward/spread` (standard deviation between members on the anchors).
    """

    roles = ("policy", "reference", "value")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], labeler: Labeler, config: TeachConfig | None = None, *,
                 held_out: list[Prompt] = (), breathe: Callable[[], None] = nothing):
        super().__init__(backbone, config or TeachConfig(), breathe=breathe)
        config = self.config
        self.labeler = labeler
        self.held_out = list(held_out)
        """Prompts that are never trained on, for the report."""
        self.reward = LiveReward(backbone, config, breathe=breathe)
        self.ppo = PPO(backbone, prompts, self.reward, config, breathe=breathe)
        self.notes, self.total_steps = self.ppo.notes, config.steps
        self.asked, self.seconds = 0, 0.0

    def prepare(self) -> None:
        """Sample the anchors, on which the reward is normalised."""
        config, ppo = self.config, self.ppo
        rng = random.Random(f"{config.seed} anchors")
        chosen = rng.choices(range(len(ppo.encoded)), k=config.reference_samples)
        rollout = ppo.rollout(chosen, torch.Generator().manual_seed(config.seed + 2), role="reference", batch=config.batch_size)
        self.reward.set_anchors(list(zip(rollout.prompt_ids, rollout.response_ids)))

    def __next__(self) -> dict:
        start = time.perf_counter()
        metrics = super().__next__()
        self.seconds += time.perf_counter() - start
        return metrics

    def advance(self) -> dict:
        start = time.perf_counter()
        wanted = self.config.votes_first if self.asked == 0 else self.config.votes_per_step
        self.ask(min(wanted, self.config.votes - self.asked))
        events = self.labeler.answers()
        metrics = {}
        if events:
            found = self.reward.learn(events)
            self.events.append({"event": "reward", "step": self.step, "consumed": [event.id for event in events], **found})
            metrics = {f"reward/{name}": found[name] for name in ("loss", "drift", "spread")}
            if found["guesses"]:
                metrics["reward/guessed"] = found["guessed"] / found["guesses"]
        metrics |= {"reward/votes": len(self.reward.events), "time/teach": time.perf_counter() - start}
        metrics |= next(self.ppo)
        self.events += self.ppo.events
        self.samples = self.ppo.samples
        return metrics

    def ask(self, count: int) -> None:
        """Sample candidates to `count` prompts from the policy as it is, and ask about the most telling of each."""
        config, ppo = self.config, self.ppo
        rng = random.Random(f"{config.seed} queries {self.asked}")
        chosen = rng.sample(range(len(ppo.encoded)), min(count, len(ppo.encoded)))
        if not chosen:
            return
        rollout = ppo.rollout([i for i in chosen for _ in range(config.candidates)], torch.Generator().manual_seed(rng.getrandbits(62)),
                              batch=4 * config.candidates)
        scores = self.reward.score(list(zip(rollout.prompt_ids, rollout.response_ids)))
        for place, i in enumerate(chosen):
            here = slice(place * config.candidates, (place + 1) * config.candidates)
            texts = rollout.responses[here]
            shown = choose(scores[here], texts, config.choices, config.query, rng)
            self.labeler.ask(Query(f"{config.seed}-{self.asked}", ppo.prompts[i], tuple(texts[j] for j in shown),
                                   tuple(scores[here][j].mean().item() for j in shown), self.step,
                                   {"max_new_tokens": config.max_new_tokens, "temperature": config.temperature}))
            self.asked += 1

    def report(self) -> dict:
        """The contract's numbers: how the policy compares with the one it started from, by the labeler's own score, on held-out prompts."""
        votes = self.reward.events
        found = {"stage": "teach", "votes": len(votes), "ties": sum(is_tie(event) for event in votes), "seconds": self.seconds}
        if self.labeler.score is None or not self.held_out:
            return found
        compared, _ = compare(self.backbone, "policy", "reference", self.held_out, text_judge(self.labeler.score),
                              per_prompt=-(-SAMPLES // len(self.held_out)), seed=self.config.seed, max_tokens=self.max_tokens,
                              sampling=Sampling(self.config.max_new_tokens, self.config.temperature), breathe=self.breathe)
        return compared | {"sample_ties": compared["ties"]} | found

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        return {"step": self.step, "micro_batch": self.micro_batch, "asked": self.asked, "seconds": self.seconds,
                "ppo": self.ppo.state_dict(), "reward": self.reward.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.micro_batch, self.asked, self.seconds = (state[k] for k in ("step", "micro_batch", "asked", "seconds"))
        self.ppo.load_state_dict(state["ppo"])
        self.reward.load_state_dict(state["reward"])


def is_tie(event: Event) -> bool:
    """Whether a vote prefers nothing to anything else."""
    return len(event.ranks) > 1 and len(set(event.ranks)) == 1
