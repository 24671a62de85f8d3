"""The live loop: PPO that asks people about its own responses, and follows a reward that learns from their answers as it goes."""

import random
import time
from collections.abc import Callable
from typing import Protocol

import torch

from rlhf_engine import measures
from rlhf_engine.config import TeachConfig
from rlhf_engine.data.formats import Demonstration
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import noop
from rlhf_engine.evaluation.compare import compare, text_judge
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.queries import BLIND, Query, select_responses
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling
from rlhf_engine.rollout.rollout import Rollout
from rlhf_engine.teach.online_reward import OnlineReward
from rlhf_engine.teach.tamer import Tamer
from rlhf_engine.trainers.base import Trainer
from rlhf_engine.trainers.ppo import PPO

SAMPLES = 256
"""Fresh samples, at least, on which the outcome is measured."""
FIXED, FIXED_EVERY = 3, 5
"""Prompts that are answered again every so many steps, with the same random numbers, to be read side by side."""


class Labeler(Protocol):
    """Who votes. Nobody is waited for: `ask` offers a query, `answers` gives the events that have come in since."""

    score: Callable[[Prompt, str], float] | None
    """How good a response is, by which the outcome is measured; None where nobody can say."""

    def queries_wanted(self, config: TeachConfig, asked: int, step: int) -> int:
        """Queries to draw now, `asked` so far."""

    def ask(self, query: Query) -> None: ...

    def new_events(self, only: list[str] | None = None) -> list[Event]:
        """New events, or exactly those of these ids, which a resumed run learns at the step at which it did before."""

    def pending_votes(self) -> int | None:
        """Votes that the next step would find; None of a labeler that answers at once."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Teach(Trainer):
    """One step: ask, take in what was answered, update the reward if there is news, then a PPO step against it.

    Roles and metrics are those of PPO (the reward is no role: it reads the bare base), and at each step `reward/votes`, and where votes
    came in `reward/guessed` (share of them that the reward had right before it learned them), `reward/loss` (nats per vote),
    `reward/drift` (how far the anchors' scores moved) and `reward/spread` (standard deviation between members on the anchors). Of a labeler
    that scores, `gold/score` is its mean score of the rollout, and `gold/wins` how often a response of the rollout beats one of the
    starting policy (any two prompts, ties half): the truth that the reward only guesses at.

    A step never waits for a person; whoever drives the trainer asks `blocked_reason` before. Between micro-batches, as `on_microbatch` is called, a
    query is drawn where a person has none left, with random numbers of its own: it does not change the training by a bit.
    """

    roles = ("policy", "reference", "value")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], labeler: Labeler, config: TeachConfig | None = None, *,
                 held_out: list[Prompt] = (), ptx: list[Demonstration] = (), on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, config or TeachConfig(), on_microbatch=on_microbatch)
        config = self.config
        self.labeler = labeler
        self.held_out = list(held_out)
        """Prompts that are never trained on, for the report."""
        self.reward = OnlineReward(backbone, config, on_microbatch=self._on_microbatch)
        self.ppo = (Tamer(backbone, prompts, config, ptx=ptx, on_microbatch=self._on_microbatch) if config.tamer else
                    PPO(backbone, prompts, self.reward_fn, config, ptx=ptx, on_microbatch=self._on_microbatch))
        self.data_notes, self.total_steps = self.ppo.data_notes, config.steps
        self.asked, self.seconds = 0, 0.0
        self.gold: list[torch.Tensor] = []
        """The labeler's own scores [N] of the anchors, and [B] of the newest rollout."""
        self.last_vote, self.asking, self.rested = 0, False, 0.0
        """Step that last learned from a vote; whether a query is being drawn at this moment; when the next may be, within a step."""
        self.learned: dict[str, float] = {}
        """Metrics of what has been learned since the last step."""
        self.past: dict[int, list[list[str]]] = {}
        """What the steps that a resumed run repeats have learned from: ids of events, those that were learned together in one list."""

    def prepare(self) -> None:
        """Sample the anchors, on which the reward is normalised, and what the start says to the fixed prompts."""
        rollout = self.ppo.sample_reference()
        self.reward.set_anchors(list(zip(rollout.prompt_ids, rollout.response_ids)))
        self.ppo.fit_reward_normalisation(rollout)
        self.ppo.prepared = True
        self.samples = self.answer_fixed("reference")

    def __next__(self) -> dict:
        start = time.perf_counter()
        metrics = super().__next__()
        self.seconds += time.perf_counter() - start
        return metrics

    def reward_fn(self, rollout: Rollout) -> torch.Tensor:
        """The reward as PPO is told it [B, R], and what the labeler itself thinks of the same responses."""
        if score := self.labeler.score:
            found = [score(prompt, response) for prompt, response in zip(rollout.prompts, rollout.responses)]
            self.gold = [*self.gold[:1], torch.tensor(found, dtype=torch.double)]
        return self.reward(rollout)

    def blocked_reason(self) -> str:
        """For whom, if for anybody: before the first step for `votes_first` votes, later when `patience` steps have learned nothing new."""
        unread = None if self.step < max(self.past, default=0) else self.labeler.pending_votes()
        if unread is None:
            return ""
        self.prepare_once()
        if self.step == 0 and unread and not self.config.tamer:
            self.take_votes()  # the next question is the better for it
            unread = 0
        self.ask()
        config, votes = self.config, len(self.reward.events) + unread
        if config.tamer:
            wanted = f"waiting for a vote, from which the next step learns ({votes} of {config.votes} so far)"
            return "" if unread or votes >= config.votes else wanted
        if self.step == 0 and votes < config.votes_first:
            return f"waiting for {config.votes_first - votes} more votes, then PPO starts"
        if votes < config.votes and not unread and self.step - self.last_vote >= config.patience:
            return f"waiting for a vote: {config.patience} steps have gone by without one ({votes} of {config.votes} so far)"
        return ""

    def train_step(self) -> dict:
        start = time.perf_counter()
        first = 0 if self.config.tamer else self.config.votes_first
        more = True
        while more:
            asked = self.asked
            self.take_votes()
            more = self.again() or (self.step == 1 and self.asked > asked and len(self.reward.events) < first and
                                    self.labeler.pending_votes() is None)
        metrics, self.learned = self.learned, {}
        metrics |= {measures.VOTES_LEARNED: len(self.reward.events), measures.TIME_TEACH: time.perf_counter() - start}
        metrics |= next(self.ppo)
        if len(self.gold) == 2:
            start, now = self.gold
            metrics |= {measures.GOLD_SCORE: now.mean().item(), measures.GOLD_WINS: wins(now, start)}
        self.events += self.ppo.events
        self.samples += self.ppo.samples
        if self.step % FIXED_EVERY == 0 or self.step == self.total_steps:
            self.samples += self.answer_fixed("policy")
        return metrics

    def again(self) -> list[list[str]]:
        """What the step that is being repeated has yet to learn, if people gave it."""
        return self.past.get(self.step, []) if self.labeler.pending_votes() is not None else []

    def take_votes(self) -> None:
        """Ask, and learn what has been answered since, if anything has."""
        self.ask()
        only = None
        if 0 < self.step <= max(self.past, default=0):
            past = self.past.get(self.step, [])
            only = [name for names in past for name in names] if self.labeler.pending_votes() is None else past.pop(0) if past else []
        events = self.labeler.new_events(only)
        if not events:
            return
        if self.labeler.pending_votes() is None:  # what people were asked, and said, is in queries.jsonl and in the store
            self.samples += [{"step": max(self.step, 1), "prompt": event.prompt, "response": event.responses[0],
                              "responses": list(event.responses), "vote": event.value} for event in events]
        if isinstance(self.ppo, Tamer):
            self.ppo.voted = [*self.ppo.voted, *events]
        self.last_vote = max(self.step, 1)
        found = self.reward.learn(events)
        likes, dislikes = self.reward.top_words()
        self.events.append({"event": "reward", "step": max(self.step, 1), "consumed": [event.id for event in events], **found,
                            "likes": likes, "dislikes": dislikes})
        if "outdated" in found:
            self.events.append({"event": "turned", "step": max(self.step, 1), "outdated": found["outdated"]})
        self.learned |= {f"reward/{name}": found[name] for name in ("loss", "drift", "spread")}
        if found["guesses"]:
            self.learned[measures.GUESSED] = found["guessed"] / found["guesses"]

    def ask(self) -> None:
        """Sample candidates, and ask about the most telling of them, as many times as the labeler wants."""
        rng, count = random.Random(f"{self.config.seed} queries {self.asked}"), len(self.ppo.encoded)
        chosen = rng.sample(range(count), min(self.labeler.queries_wanted(self.config, self.asked, self.step), count))
        if not chosen:
            return
        self.asking = True
        drawn = self.draw_candidates(chosen, rng)
        self.asking = False
        for i, (texts, roles, scores) in zip(chosen, drawn):
            shown = select_responses(scores, texts, self.config.choices, self.config.query, rng)
            self.labeler.ask(Query(f"{self.config.seed}-{self.asked}", self.ppo.prompts[i], tuple(texts[j] for j in shown),
                                   tuple(scores[j].mean().item() for j in shown), self.step,
                                   {"max_new_tokens": self.config.max_new_tokens, "temperature": self.config.temperature,
                                    "roles": [roles[j] for j in shown]}))
            self.asked += 1

    def draw_candidates(self, chosen: list[int], rng: random.Random) -> list[tuple[list[str], list[str], torch.Tensor]]:
        """(texts [C], the roles that wrote them, scores [C, members]) for each of the chosen prompts: half of them by the policy as it is,
        half by the starting policy, lest it asks about nothing but what it has come to believe in."""
        config, ppo = self.config, self.ppo
        count = config.candidates if len(self.reward.events) >= BLIND and not config.tamer else config.choices
        parts = {"reference": count} if self.step <= 1 else {"policy": -(-count // 2), "reference": count // 2}
        if config.tamer:
            parts = {"policy": count}
        found: list[tuple[list, list]] = [([], []) for _ in chosen]
        for role, share in parts.items():
            rollout = ppo.rollout([i for i in chosen for _ in range(share)], torch.Generator().manual_seed(rng.getrandbits(62)), role=role,
                                  batch=config.batch_size)
            for place, (texts, rows) in enumerate(found):
                here = slice(place * share, (place + 1) * share)
                texts += rollout.responses[here]
                rows += zip(rollout.prompt_ids[here], rollout.response_ids[here])
        scores = self.reward.score([row for _, rows in found for row in rows]).split(count)
        roles = [role for role, share in parts.items() for _ in range(share)]
        return [(texts, roles, each) for (texts, _), each in zip(found, scores)]

    def answer_fixed(self, role: str) -> list[dict]:
        """Rows for samples.jsonl, marked `fixed`: the same prompts and random numbers at every step."""
        prompts = (self.held_out or self.ppo.prompts)[:FIXED]
        answers = self.ppo.answer(prompts, torch.Generator().manual_seed(self.config.seed + 3), role=role)
        return [{"step": self.step, "prompt": prompt, "response": text, "fixed": True} for prompt, text in zip(prompts, answers)]

    def apply_config(self) -> None:
        self.ppo.apply_config()
        self.total_steps = self.config.steps

    def replay_journal(self, journal: list[dict]) -> None:
        self.past = {}
        for row in journal:
            if row["event"] == "reward":
                self.past.setdefault(row["step"], []).append(row["consumed"])

    def report(self) -> dict:
        """The contract's numbers: how the policy compares with the one it started from, by the labeler's own score (if it has one), on
        held-out prompts."""
        votes, score = self.reward.events, self.labeler.score
        found = {"stage": self.config.stage, "votes": len(votes), "ties": sum(event.tie for event in votes), "seconds": self.seconds}
        if bias := getattr(self.labeler, "bias", None):
            found["judge"] = bias()
        if not self.held_out:
            return found
        compared, _ = compare(self.backbone, "policy", "reference", self.held_out, text_judge(score) if score else None,
                              per_prompt=-(-SAMPLES // len(self.held_out)), seed=self.config.seed, max_tokens=self.max_tokens,
                              sampling=Sampling(self.config.max_new_tokens, self.config.temperature), on_microbatch=self.on_microbatch)
        if "ties" in compared:
            compared["sample_ties"] = compared["ties"]
        return compared | found

    def _on_microbatch(self) -> None:
        """What is to be done between micro-batches; and a person who has nothing left to judge gets a query. However many people vote,
        and however fast, drawing queries takes no more than half of the time."""
        self.on_microbatch()
        if self.prepared and not self.asking and self.labeler.pending_votes() is not None and (start := time.monotonic()) >= self.rested:
            asked = self.asked
            self.ask()
            if self.asked > asked:
                self.rested = 2 * time.monotonic() - start

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        return {"step": self.step, "micro_batch": self.micro_batch, "changed": self.overrides, "asked": self.asked, "seconds": self.seconds,
                "last_vote": self.last_vote, "gold": self.gold[:1], "labeler": self.labeler.state_dict(), "ppo": self.ppo.state_dict(),
                "reward": self.reward.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        for name in ("step", "micro_batch", "asked", "seconds", "last_vote"):
            setattr(self, name, state[name])
        self.past, self.learned, self.gold = {}, {}, list(state["gold"])
        self.labeler.load_state_dict(state["labeler"])
        self.ppo.load_state_dict(state["ppo"])
        self.reward.load_state_dict(state["reward"])
        self.restore_settings(state["changed"])


def wins(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """How often a score of `ours` [N] is above one of `theirs` [M], ties half, over all pairs."""
    apart = ours[:, None] - theirs[None]
    return ((apart > 0).double() + (apart == 0).double() / 2).mean().item()
