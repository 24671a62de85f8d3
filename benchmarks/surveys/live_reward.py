"""How well the live reward knows a labeler from a few votes, without PPO: seconds a labeler instead of minutes.

    python -m benchmarks.surveys.live_reward [--labelers takes_up ...] [--seeds 0 1] [--votes 24 40]

Samples `--responses` responses of the starting policy to each of `--prompts` prompts, and reads their features once. A
labeler votes on four responses to one of two thirds of the prompts: eight times on any four, then on the four that the
reward likes best so far (after a tie, on four that it likes and does not like), as `teach` does. On the other third the
reward is measured: `wins` (of its best of half of the responses against the other half, ties half), `best` (the same by
the labeler's own score: what can be had) and `accuracy` (share of pairs of responses to one prompt that it orders as
the labeler does, ties left out). Prints one line of JSON for each labeler, for the words alone (`words`) and for all
features (`all`).
"""

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks import preferences
from benchmarks.helpers import further_preferences, kept_preferences
from benchmarks.helpers.common import machine, say
from rlhf_engine.build import make_trainer
from rlhf_engine.feedback.labelers import answer_by_scores
from rlhf_engine.feedback.queries import BLIND, select_responses
from rlhf_engine.stages import make_config
from rlhf_engine.teach.features.evidence import weigh_groups
from rlhf_engine.teach.features.feature_set import FeatureSet
from rlhf_engine.teach.reward_fit import VoteGroup, fit_sparse

CHOICES, MEMBERS, PESSIMISM, BETWEEN = 4, 8, 0.5, 8
"""Responses shown, members of the ensemble, standard deviations taken off, and votes between two fits."""
Score = Callable[[str, str], float]


class World:
    """Responses of the starting policy, [P prompts, R responses] in all, and their features [P * R, D]."""

    def __init__(self, settings: dict, prompts: int, responses: int):
        trainer = make_trainer(make_config("teach", {"labeler": "short", **settings}))
        learner = trainer.learner
        count = min(prompts, len(learner.encoded))
        rows = [i for i in random.Random(0).sample(range(len(learner.encoded)), count) for _ in range(responses)]
        rollout = learner.rollout(rows, torch.Generator().manual_seed(0), role="reference", batch=64)
        anchors = learner.sample_reference()
        self.prompts, self.texts, self.width = rollout.prompts, rollout.responses, responses
        self.features = FeatureSet(trainer.backbone, batch=64)
        self.anchors = self.features.fit(list(zip(anchors.prompt_ids, anchors.response_ids)))
        self.values = self.features.read(list(zip(rollout.prompt_ids, rollout.response_ids)))
        self.noise = trainer.config.noise
        self.taught = count * 2 // 3
        """Prompts that are voted on."""

    def group(self, number: int) -> list[int]:
        """Indices of the responses to a prompt."""
        return list(range(number * self.width, (number + 1) * self.width))


class Pupil:
    """A reward that learns from votes, by all features or by the words alone."""

    def __init__(self, world: World, only_words: bool):
        groups = world.features.groups
        self.columns = groups["words"] if only_words else slice(0, world.features.size)
        self.groups = None if only_words else groups
        self.world, self.weights = world, torch.zeros(MEMBERS, 0)

    def learn(self, votes: list[VoteGroup]) -> None:
        """Fit the weights to all votes, whose features are those of all groups."""
        own = [VoteGroup(vote.kind, vote.value, vote.features[..., self.columns], vote.shares) for vote in votes]
        parts = weigh_groups(own, self.groups, self.world.features.soft_words) if self.groups else None
        self.weights = fit_sparse(own, MEMBERS, parts)[0]

    def scores(self, rows: list[int]) -> torch.Tensor:
        """[N, members], normalised on the anchors."""
        raw = self.world.anchors[:, self.columns] @ self.weights.T
        gain = 1 / raw.std(0, correction=0).clamp(min=0.05)
        return gain * (self.world.values[rows][:, self.columns] @ self.weights.T - raw.mean(0))


def teach(world: World, gold: torch.Tensor, pupil: Pupil, seed: int, stops: list[int]) -> dict[int, dict[str, float]]:
    """What the pupil knows after so many votes (`stops`) by a labeler whose scores [P * R] are `gold`."""
    rng = random.Random(f"{seed}")
    alike: dict[tuple, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    results: dict[int, dict[str, float]] = {}
    tied = False
    for number in range(1, max(stops) + 1):
        candidates = world.group(rng.randrange(world.taught))
        if number <= BLIND:
            shown = rng.sample(candidates, CHOICES)
        else:
            texts = [world.texts[i] for i in candidates]
            strategy = "spread" if tied else "best"
            shown = [candidates[j] for j in select_responses(pupil.scores(candidates), texts, CHOICES, strategy, rng)]
        scores = gold[shown].tolist()
        if rng.random() < world.noise:
            lucky = rng.randrange(CHOICES)
            scores = [float(i == lucky) for i in range(CHOICES)]
        value = answer_by_scores(scores)[1]
        tied = len(set(value)) == 1
        order = sorted(range(CHOICES), key=lambda i: value[i])
        shares = torch.tensor([rng.expovariate(1.0) for _ in range(MEMBERS)])
        alike.setdefault(tuple(sorted(value)), []).append((world.values[shown][order], shares))
        if number % BETWEEN == 0 or number in stops:
            pupil.learn([VoteGroup("ranking", value, torch.stack([f for f, _ in rows], 1),
                                   torch.stack([s for _, s in rows])) for value, rows in alike.items()])
        if number in stops:
            results[number] = measure(world, gold, pupil)
    return results


def measure(world: World, gold: torch.Tensor, pupil: Pupil) -> dict[str, float]:
    """Wins and accuracy on prompts that were not voted on."""
    rows = list(range(world.taught * world.width, len(world.values)))
    members = pupil.scores(rows)
    found = (members.mean(1) - PESSIMISM * members.std(1, correction=0)).view(-1, world.width)
    truth = gold[rows].view(-1, world.width)
    pairs = truth[:, :, None] - truth[:, None]
    right = (pairs.sign() * (found[:, :, None] - found[:, None]) > 0)[pairs != 0]
    best = wins(truth + 1e-6 * torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)), truth)
    return {"wins": wins(found, truth), "best": best, "accuracy": right.float().mean().item()}


def wins(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """How often the best of one half of the responses by `scores` [P, R] beats one of the other half; ties half."""
    half = scores.shape[1] // 2
    total = 0.0
    for ours, theirs in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        top = truth[:, ours].gather(1, scores[:, ours].argmax(1, keepdim=True)) - truth[:, theirs]
        total += ((top > 0).float() + (top == 0).float() / 2).mean().item() / 2
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = {each.__name__: each for each in (*preferences.BEYOND_WORDS, *preferences.YES_OR_NO, *preferences.COMMON,
                                              *preferences.RARE, *kept_preferences.KEPT,
                                              *further_preferences.FURTHER)}
    parser.add_argument("--labelers", nargs="+", default=list(every), choices=list(every))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--votes", nargs="+", type=int, default=[24, 40])
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--responses", type=int, default=32)
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    args = parser.parse_args()
    say({"machine": machine(), "set": args.set, "seeds": args.seeds})
    world = World(dict(field.split("=", 1) for field in args.set), args.prompts, args.responses)
    for name in args.labelers:
        gold = torch.tensor([float(every[name](prompt, text)) for prompt, text in zip(world.prompts, world.texts)])
        line: dict = {"labeler": name}
        for kind in ("words", "all"):
            runs = [teach(world, gold, Pupil(world, kind == "words"), seed, args.votes) for seed in args.seeds]
            for votes in args.votes:
                means = {key: sum(run[votes][key] for run in runs) / len(runs) for key in runs[0][votes]}
                line[f"{kind} {votes}"] = {key: round(100 * value) for key, value in means.items()}
        say(line)


if __name__ == "__main__":
    main()
