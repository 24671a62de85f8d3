"""The live loop: a learner's steps, votes on its own responses, and a reward that learns from the votes meanwhile."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from rlhf_engine import measures
from rlhf_engine.config import GROUP_LEARNERS, TeachConfig
from rlhf_engine.data.formats import Demonstration
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import noop
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.labelers import Labeler
from rlhf_engine.feedback.queries import Query, select_responses, strategy_after
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import seeded_generator
from rlhf_engine.rollout.rollout import Rollout
from rlhf_engine.teach.candidates import candidates_by_role, draw_candidates
from rlhf_engine.teach.learners.protocol import Learner
from rlhf_engine.teach.learners.tamer import Tamer
from rlhf_engine.teach.learners.vote_dpo import VoteDPO
from rlhf_engine.teach.outcome import measure_outcome, win_share
from rlhf_engine.teach.replay import VoteReplay
from rlhf_engine.teach.takeover.live_reward import LiveReward
from rlhf_engine.trainers.group import GroupLearner
from rlhf_engine.trainers.ppo import PPO
from rlhf_engine.trainers.state import load_checkpoint, save_checkpoint

FIXED, FIXED_EVERY = 3, 5
"""Number of prompts that are answered again with the same random numbers, to be read side by side; and every how many
steps."""
FEW_VOTES = 8
"""Votes from which on it is said that all of them are ties."""
UPDATE_METRICS = {"loss": measures.VOTE_LOSS, "drift": measures.DRIFT, "spread": measures.REWARD_SPREAD}
"""What of an update of the reward is a metric, by its name in the journal."""


class Teach:
    """An iterator over the steps of a learner that people (or other labelers) teach while it runs.

    One step: ask, take in what was answered, update the reward if there is news, then one step of the learner against
    that reward. `learner` is PPO, a group learner, or one that learns from the votes themselves (`VoteDPO`, `Tamer`).
    Roles and metrics are the learner's; the reward is no role, because it reads the bare base. Each step also has
    `reward/votes`. Where votes came in, it has `reward/guessed` (share of them that the reward predicted before it
    learned them), `reward/loss` (nats per vote), `reward/drift` (how far the anchors' scores moved) and `reward/spread`
    (standard deviation between members on the anchors). With a labeler that scores, `gold/score` is its mean score of
    the rollout, and `gold/wins` how often a response of the rollout beats one of the starting policy (any two prompts,
    ties half): the truth that the reward only estimates.

    A step never waits for a person; the loop asks `blocked_reason` before it. Between micro-batches a query is drawn
    where a person has none left, with random numbers of its own: this does not change the training by a bit.
    """

    roles = ("policy", "reference", "value")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], labeler: Labeler, config: TeachConfig | None = None,
                 *, held_out: Sequence[Prompt] = (), ptx: Sequence[Demonstration] = (),
                 on_microbatch: Callable[[], None] = noop):
        self.backbone, self.config, self.on_microbatch = backbone, config or TeachConfig(), on_microbatch
        self.on_news: Callable[[], None] = noop
        self.labeler = labeler
        self.held_out = list(held_out)
        """Prompts that are never trained on, for the report."""
        self.step = 0
        self.prepared = False
        self.samples: list[dict] = []
        self.events: list[dict] = []
        self.asked, self.seconds = 0, 0.0
        """Queries asked so far, and the time that steps have taken."""
        self.gold: list[torch.Tensor] = []
        """The labeler's own scores [N] of the anchors, and [B] of the newest rollout."""
        self.last_vote = 0
        """The step that last learned from a vote."""
        self.asking = False
        """Whether a query is being drawn at this moment."""
        self.ask_again_at = 0.0
        """Time (`time.monotonic`) from which the next query may be drawn between micro-batches."""
        self.new_votes: list[Event] = []
        """Events that came in since the learner's last step."""
        self.update_metrics: dict[str, float] = {}
        """Metrics of what the reward has learned since the last step."""
        self.replay = VoteReplay()
        """The votes that a resumed run learns once more."""
        self.reward = LiveReward(backbone, self.config, rows_per_pass=self._rows_per_pass,
                                 on_microbatch=self._on_microbatch)
        self.learner = self._make_learner(prompts, list(ptx))
        self.data_notes = list(self.learner.data_notes)

    def _rows_per_pass(self) -> int:
        """Rows that the learner reads at a time with gradients."""
        return self.learner.micro_batch or self.config.batch_size // self.config.minibatches

    def _make_learner(self, prompts: list[Prompt], ptx: list[Demonstration]) -> Learner:
        options = {"ptx": ptx, "on_microbatch": self._on_microbatch}
        learner = self.config.learner
        if self.config.is_tamer:
            return Tamer(self.backbone, prompts, self._take_new_votes, self.config, **options)
        if learner == "dpo":
            return VoteDPO(self.backbone, prompts, self.reward_fn, lambda: self.reward.events, self.config, **options)
        if learner in GROUP_LEARNERS:
            return GroupLearner(self.backbone, prompts, self.reward_fn, self.config, **options)
        return PPO(self.backbone, prompts, self.reward_fn, self.config, **options)

    # -- the iterator --------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        """Do one step; returns its metrics."""
        if self.step >= self.total_steps:
            raise StopIteration
        start = time.perf_counter()
        if self.step:
            self.samples, self.events = [], []
        self.prepare_once()
        self.step += 1
        metrics = {measures.STEP: self.step}
        metrics.update(self.train_step())
        self.seconds += time.perf_counter() - start
        return metrics

    @property
    def total_steps(self) -> int:
        return self.learner.total_steps

    def prepare_once(self) -> None:
        """`prepare`, once and only before the first step; what it has to say comes with the first step."""
        if self.step == 0 and not self.prepared:
            self.prepare()
        self.prepared = True

    def prepare(self) -> None:
        """Sample the anchors, on which the reward is normalised, and the start's answers to the fixed prompts."""
        self.learner.choose_passes()
        rollout = self.learner.sample_reference()
        self.reward.set_anchors(list(zip(rollout.prompt_ids, rollout.response_ids)))
        self.learner.fit_reward_normalisation(rollout)
        self.learner.prepared = True
        self.samples = self.answer_fixed("reference")
        self.on_news()

    def train_step(self) -> dict:
        """One step, after `step` has been counted up; returns its metrics."""
        start = time.perf_counter()
        self.learn_votes()
        metrics, self.update_metrics = self.update_metrics, {}
        metrics[measures.VOTES_LEARNED] = len(self.reward.events)
        metrics[measures.TIME_TEACH] = time.perf_counter() - start
        metrics.update(next(self.learner))
        self.new_votes = []
        if len(self.gold) == 2:
            initial, now = self.gold
            metrics[measures.GOLD_SCORE] = now.mean().item()
            metrics[measures.GOLD_WINS] = win_share(now, initial)
        self.events += self.learner.events
        self.samples += self.learner.samples
        if self.step % FIXED_EVERY == 0 or self.step == self.total_steps:
            self.samples += self.answer_fixed("policy")
        return metrics

    def reward_fn(self, rollout: Rollout) -> torch.Tensor:
        """The reward [B, R] of a rollout. A labeler that scores rates the same responses, for the metrics."""
        score = self.labeler.score
        if score:
            scores = [score(prompt, response) for prompt, response in zip(rollout.prompts, rollout.responses)]
            self.gold = [*self.gold[:1], torch.tensor(scores, dtype=torch.double)]
        return self.reward(rollout)

    # -- votes ---------------------------------------------------------------------------------------------------------

    def blocked_reason(self) -> str:
        """What the next step has to wait for; empty if it need not wait.

        The first step waits for `votes_first` votes, later ones wait when `patience` steps have learned no new vote.
        """
        pending = self.labeler.pending_votes()
        if pending is None or self._repeats_next_step():
            return ""
        self.prepare_once()
        if self.step == 0 and not self.config.is_tamer and (pending or self.labeler.pending_retracts()):
            self.take_votes()  # so that the next query is chosen by a better reward
            pending = 0
        self.ask()
        config, votes = self.config, len(self.reward.events) + pending
        if config.is_tamer:
            if pending or votes >= config.votes:
                return ""
            return f"waiting for a vote, from which the next step learns ({votes} of {config.votes} so far)"
        if self.step == 0 and votes < config.votes_first:
            return f"waiting for {config.votes_first - votes} more votes, then {self.config.learner_title} starts"
        if votes < config.votes and not pending and self.step - self.last_vote >= config.patience:
            return (f"waiting for a vote: {config.patience} steps have gone by without one "
                    f"({votes} of {config.votes} so far)")
        return ""

    def _repeats_next_step(self) -> bool:
        """Whether the next step is one that a resumed run has taken before, so that it need not wait for anything.

        A run that had not taken its first step first learns again what people had said by then. If these are fewer
        votes than the first step needs, it goes on waiting for more.
        """
        if self.step == 0 and self.replay.last_step == 1 and not self.config.is_tamer:
            self.prepare_once()
            while self.replay.has_more(1):
                self.take_votes()
            return len(self.reward.events) >= self.config.votes_first
        return self.step < self.replay.last_step

    def learn_votes(self) -> None:
        """Ask and learn what has been answered: once, or more often where votes are left to learn before this step.

        A repeated step learns from people's votes in as many updates as it did before. At the first step, a labeler
        that answers at once is asked until the first votes are in, or it wants no more queries.
        """
        first = 0 if self.config.is_tamer else self.config.votes_first
        at_once = self.labeler.pending_votes() is None
        while True:
            asked = self.asked
            self.take_votes()
            if at_once:
                more = self.step == 1 and self.asked > asked and len(self.reward.events) < first
            else:
                more = self.replay.has_more(self.step)
            if not (more or self.labeler.has_more()):
                return

    def take_votes(self) -> None:
        """Ask, and let the reward learn what has been answered since, if there is anything."""
        self.ask()
        at_once = self.labeler.pending_votes() is None
        events = self.labeler.new_events(self._ids_to_learn(at_once))
        if not events:
            return
        step = max(self.step, 1)
        if at_once:  # of people, the run folder has the queries, and the store has the votes
            self.samples += [vote_sample(event, step) for event in events]
        self.new_votes = [*self.new_votes, *events]
        self.last_vote = step
        update = self.reward.learn(events)
        likes, dislikes = self.reward.top_words()
        likes_features, dislikes_features = self.reward.top_features()
        self.events.append({"event": "reward", "step": step, "consumed": [event.id for event in events], **update,
                            "likes": likes, "dislikes": dislikes, "likes_features": likes_features,
                            "dislikes_features": dislikes_features})
        if "outdated" in update:
            self.events.append({"event": "turned", "step": step, "outdated": update["outdated"],
                                "opposite": update["opposite"]})
        self.events += [{"event": "takeover", "step": step, **change} for change in self.reward.take_changes()]
        for name, key in UPDATE_METRICS.items():
            self.update_metrics[key] = update[name]
        if update["guesses"]:
            self.update_metrics[measures.GUESSED] = update["guessed"] / update["guesses"]
        if self.step <= 1 and (text := all_ties(self.reward.events)):
            self.events.append({"event": "warning", "step": step, "kind": "all_ties", "text": text})
        if self.step <= 1:  # the first votes come minutes before the first step is over
            self.on_news()

    def _ids_to_learn(self, at_once: bool) -> list[str] | None:
        """Ids of the events from which a repeated step learns next; None where it learns from whatever is new."""
        step, replay = max(self.step, 1), self.replay
        if self.step == 0 and not replay.has_more(1):
            return None
        if at_once and step == 1 and replay.count(1) < min(self.config.votes_first, self.config.votes):
            return None  # it was ended among its first votes: they are asked for again
        return replay.next_ids(step, at_once=at_once)

    def _take_new_votes(self) -> list[Event]:
        """The events since the learner's last step, for a learner that learns from votes."""
        votes, self.new_votes = self.new_votes, []
        return votes

    def replay_journal(self, journal: list[dict]) -> None:
        """Take note of the votes that the steps which a resumed run repeats have learned from."""
        self.replay = VoteReplay(journal)

    # -- queries -------------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Draw as many queries as the labeler wants: sample candidates, and show the most informative of them."""
        config, learner = self.config, self.learner
        rng, count = random.Random(f"{config.seed} queries {self.asked}"), len(learner.encoded)
        chosen = rng.sample(range(count), min(self.labeler.queries_wanted(config, self.asked, self.step), count))
        if not chosen:
            return
        self.asking = True
        by_role = candidates_by_role(config, self.step, len(self.reward.events))
        drawn = draw_candidates(learner, self.reward, chosen, by_role, rng, config.batch_size)
        self.asking = False
        sampling = {"max_new_tokens": config.max_new_tokens, "temperature": config.temperature}
        strategy = strategy_after(self.reward.events, config.query, doubt=self.reward.doubts_minds)
        for i, candidates in zip(chosen, drawn):
            shown = select_responses(candidates.scores, candidates.texts, config.choices, strategy, rng)
            self.labeler.ask(Query(
                f"{config.seed}-{self.asked}", learner.prompts[i], tuple(candidates.texts[j] for j in shown),
                tuple(candidates.scores[j].mean().item() for j in shown), self.step, dict(sampling),
                roles=tuple(candidates.roles[j] for j in shown)))
            self.asked += 1

    def _on_microbatch(self) -> None:
        """What happens between micro-batches: the hook, and a query for a person who has nothing left to judge.

        However many people vote, and however fast, drawing queries takes at most half of the time.
        """
        self.on_microbatch()
        start = time.monotonic()
        if not self.prepared or self.asking or self.labeler.pending_votes() is None or start < self.ask_again_at:
            return
        asked = self.asked
        self.ask()
        if self.asked > asked:
            self.ask_again_at = 2 * time.monotonic() - start

    # -- texts and the report ------------------------------------------------------------------------------------------

    def answer_fixed(self, role: str) -> list[dict]:
        """Rows for samples.jsonl, marked `fixed`: the same prompts and random numbers at every step."""
        prompts = (self.held_out or self.learner.prompts)[:FIXED]
        answers = self.learner.answer(prompts, seeded_generator(self.config.seed + 3), role=role)
        return [{"step": self.step, "prompt": prompt, "response": text, "fixed": True}
                for prompt, text in zip(prompts, answers)]

    def report(self) -> dict:
        """The contract's numbers, for report.json."""
        votes = self.reward.events
        numbers = {"stage": self.config.stage, "votes": len(votes), "ties": sum(event.tie for event in votes),
                   "seconds": self.seconds}
        bias = self.labeler.bias()
        if bias is not None:
            numbers["judge"] = bias
        if not self.held_out:
            return numbers
        outcome = measure_outcome(self.backbone, self.held_out, self.labeler.score, self.config,
                                  on_microbatch=self.on_microbatch)
        return {**outcome, **numbers}

    # -- settings ------------------------------------------------------------------------------------------------------

    @property
    def tunable(self) -> tuple[str, ...]:
        """The settings that may change between two steps."""
        return self.learner.tunable

    @property
    def overrides(self) -> dict[str, float]:
        """Settings that have been changed while it runs."""
        return self.learner.overrides

    @property
    def peak_lr(self) -> float:
        return self.learner.peak_lr

    def change(self, name: str, value: float) -> float:
        """Change a setting from the next step on; returns the old value. Raises UserError, and changes nothing then."""
        return self.learner.change(name, value)

    def check(self, changes: dict[str, float]) -> None:
        """Raises UserError if these changes cannot be made, one after the other; makes none of them."""
        self.learner.check(changes)

    # -- state ---------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        save_checkpoint(folder, self.backbone, self.roles, self.state_dict())

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        self.load_state_dict(load_checkpoint(folder, self.backbone, self.roles))

    def state_dict(self) -> dict:
        """The keys are those of trainer.json, and stay as they are, whatever the attributes are called."""
        return {"step": self.step, "micro_batch": self.learner.micro_batch, "changed": self.overrides,
                "asked": self.asked, "seconds": self.seconds, "last_vote": self.last_vote, "gold": self.gold[:1],
                "labeler": self.labeler.state_dict(), "ppo": self.learner.state_dict(),
                "reward": self.reward.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.asked, self.seconds = state["step"], state["asked"], state["seconds"]
        self.last_vote, self.gold = state["last_vote"], list(state["gold"])
        self.replay, self.update_metrics, self.new_votes = VoteReplay(), {}, []
        self.labeler.load_state_dict(state["labeler"])
        self.learner.load_state_dict(state["ppo"])
        self.reward.load_state_dict(state["reward"])
        # Last, because the first version has the changed settings here, and none in the learner's state.
        self.learner.restore_settings(state["changed"])


def all_ties(votes: list[Event]) -> str:
    """What to say of a labeler whose first `FEW_VOTES` votes are all ties; "" for any others, and for more votes."""
    if len(votes) < FEW_VOTES or not all(event.tie for event in votes):
        return ""
    return (f"all {len(votes)} votes so far are ties: the labeler tells none of these responses apart, so there is "
            "nothing to learn from. What helps: prompts that ask for what it prefers, longer responses, or a labeler "
            "that also sees small differences")


def vote_sample(event: Event, step: int) -> dict:
    """A row for samples.jsonl: what a labeler was asked, and how it voted."""
    return {"step": step, "prompt": event.prompt, "response": event.responses[0], "responses": list(event.responses),
            "vote": event.value}
