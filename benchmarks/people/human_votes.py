"""How well a few votes of real people predict further ones: live reward, adapter reward, "the longer one", chance.

    python benchmarks/people/human_votes.py --data PAIRS.jsonl.gz [--model smollm2] [--votes 40 100 300]
        [--cache FOLDER]

PAIRS are public comparisons, such as Anthropic's HH (`chosen` and `rejected` dialogues). `--pool` of them are the
votes; `--held-out` further ones, of other prompts, are to be predicted. For each number of votes, `--draws` draws from
the pool are learned by the rewards of `teach` from nothing, each in one update. Where a draw is the whole pool, there
is only one. The features are fitted to one response of each of the first pairs, without what people said of them.

Prints one line of JSON for each method and number of votes: the share of held-out pairs that it predicts (ties count
half), and a 95 % interval, bootstrapped over held-out pairs and over draws. The cache holds what was read and what was
predicted: a run that was ended goes on where it was, and a larger one reads only what is new. `--methods features`
leaves the adapter out, which is slow.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.helpers.common import machine, peak_mb, say

if TYPE_CHECKING:
    from rlhf_engine.teach.online_reward import OnlineReward

CHUNK = 16
"""Pairs that are read between two writes to the cache."""
ANCHORS = 96
"""Pairs of the pool of which a response is an anchor, as `teach` samples them from the starting policy."""
RESAMPLES = 2000
METHODS = ("chance", "longer", "features", "adapter")


class HumanVotes:
    """The pairs as events, their rows, and the predictions that are in the cache."""

    def __init__(self, args):
        from rlhf_engine.config import TeachConfig
        from rlhf_engine.model.backbone import Backbone

        self.args, self.cache = args, Path(args.cache)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.pool, self.held_out = split_pairs(args.data, args.pool, args.held_out, args.seed)
        self.backbone = Backbone.load(args.model, dtype=args.dtype)
        self.config = TeachConfig(model=args.model, labeler="short", max_tokens=args.max_tokens, batch_size=args.batch,
                                  lora_rank=args.rank, seed=args.seed)
        self.name = f"{self.backbone.fingerprint[:12]}-{args.dtype}-{args.max_tokens}-{args.seed}"
        self.results_file = self.cache / f"{self.name}-{args.pool}-{args.held_out}.jsonl"
        self.results = {}
        """(method, votes, draw) -> what was predicted of each held-out pair: 1, 1/2 or 0."""
        for line in self.results_file.read_text().splitlines() if self.results_file.exists() else []:
            row = json.loads(line)
            self.results[row["method"], row["votes"], row["draw"]] = row["predicted"]
        self.features = {}
        """Features [2, D] of each pair, by the id of its event."""

    def draws(self, votes: int) -> list[list]:
        """The events of each draw of so many votes."""
        count = 1 if votes >= len(self.pool) else self.args.draws
        return [random.Random(f"{self.args.seed} {votes} {draw}").sample(self.pool, min(votes, len(self.pool)))
                for draw in range(count)]

    def predict(self, method: str, votes: int, draw: int, events: list) -> None:
        """Note what a method predicts from these votes, unless the cache has it."""
        if (method, votes, draw) in self.results:
            return
        start = time.perf_counter()
        predicted = getattr(self, f"predict_{method}")(events, draw)
        row = {"method": method, "votes": votes, "draw": draw, "predicted": predicted,
               "seconds": round(time.perf_counter() - start, 1), "peak_mb": peak_mb()}
        with self.results_file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.results[method, votes, draw] = predicted
        say({name: row[name] for name in ("method", "votes", "draw", "seconds", "peak_mb")}
            | {"accuracy": round(sum(predicted) / len(predicted), 3)})

    # -- methods -----------------------------------------------------------------------------------------------------

    def predict_chance(self, events: list, draw: int) -> list[float]:
        return [0.5] * len(self.held_out)

    def predict_longer(self, events: list, draw: int) -> list[float]:
        """The response with more words."""
        return [verdict(event, [len(text.split()) for text in event.responses]) for event in self.held_out]

    def predict_features(self, events: list, draw: int) -> list[float]:
        reward = self.read_features()
        reward.config.seed = draw
        reward.event_features.update(self.features)
        reward.learn(events)
        scores = [(self.features[event.id] @ reward.weights.T).mean(1).tolist() for event in self.held_out]
        return [verdict(event, each) for event, each in zip(self.held_out, scores)]

    def predict_adapter(self, events: list, draw: int) -> list[float]:
        """The adapter that `teach` would have after as many updates as it needs."""
        from rlhf_engine.teach.online_reward import OnlineReward
        from rlhf_engine.teach.takeover.adapter_reward import AdapterReward

        shares = OnlineReward(self.backbone, self.config)
        shares.weights = shares.weights.new_zeros(self.config.ensemble, 1)
        self.config.seed = draw
        adapter = AdapterReward(self.backbone, self.config, self.anchor_rows(), rows_per_pass=lambda: self.args.batch)
        try:
            adapter.standardise()
            adapter.learn(events, shares.rows_of, shares.bootstrap_weights, sys.maxsize)
            rows = [row for event in self.held_out for row in shares.rows_of(event)]
            scores = adapter.score(rows).mean(1).tolist()
        finally:
            adapter.drop()
        return [verdict(event, scores[2 * i:2 * i + 2]) for i, event in enumerate(self.held_out)]

    # -- features ------------------------------------------------------------------------------------------------------

    def anchor_rows(self) -> list:
        """Responses of the pool, to which features are fitted."""
        from rlhf_engine.teach.online_reward import OnlineReward

        reward = OnlineReward(self.backbone, self.config)
        return [reward.rows_of(event)[0] for event in self.pool[:ANCHORS]]

    def read_features(self) -> "OnlineReward":
        """A reward that has learned nothing, and the features of all pairs, from the cache as far as it has them."""
        import torch

        from rlhf_engine.teach.online_reward import OnlineReward
        from rlhf_engine.trainers.state import load_state, save_state

        reward = OnlineReward(self.backbone, self.config)
        anchors = self.anchor_rows()
        folder = self.cache / f"{self.name}-features-{reward.features.version}-{len(anchors)}"
        if not (folder / "trainer.json").exists():
            start = time.perf_counter()
            reward.set_anchors(anchors)
            folder.mkdir(exist_ok=True)
            save_state(folder, reward.state_dict())
            say({"fitted": len(reward.anchors), "seconds": round(time.perf_counter() - start, 1)})
        reward.load_state_dict(load_state(folder))
        chunks: dict[int, list] = {}
        for event in [*self.pool, *self.held_out]:
            chunks.setdefault(number_of(event) // CHUNK, []).append(event)
        for number, part in chunks.items() if not self.features else ():
            file = folder / f"{number:05}-{number_of(part[0])}-{len(part)}"
            if not (file / "trainer.json").exists():
                rows = [row for event in part for row in reward.rows_of(event)]
                file.mkdir(exist_ok=True)
                save_state(file, {"features": reward.features.read(rows)})
            features = load_state(file)["features"]
            self.features |= dict(zip([event.id for event in part], torch.split(features, 2)))
        return reward


def number_of(event) -> int:
    """The number of the pair of an event."""
    return int(event.id.split("-")[1])


def split_pairs(data: str, pool: int, held_out: int, seed: int) -> tuple[list, list]:
    """(votes, further votes about other prompts) as events, with the better response left or right at random."""
    from rlhf_engine.data.readers import read_preferences
    from rlhf_engine.feedback.events import Event

    rng, by_prompt = random.Random(f"{seed} pairs"), {}
    for row in read_preferences(data):
        if row.chosen.strip() and row.rejected.strip() and row.chosen != row.rejected:
            by_prompt.setdefault(str(row.prompt), row)  # one pair of each prompt
    rows = rng.sample(sorted(by_prompt.values(), key=lambda row: str(row.prompt)), len(by_prompt))
    if len(rows) < pool + held_out:
        sys.exit(f"{data}: holds {len(rows)} pairs with prompts of their own; ask for fewer with --pool and --held-out")
    events = []
    for number, row in enumerate(rows):
        texts, value = ((row.chosen, row.rejected), "left") if rng.random() < 0.5 else ((row.rejected, row.chosen),
                                                                                         "right")
        # Many people voted, and nobody knows who gave which vote: each has a voter of its own.
        events.append(Event(f"pair-{number}", "comparison", row.prompt, texts, value, voter=f"voter-{number}"))
    return events[:pool], events[len(events) - held_out:]  # a larger pool, or more held-out pairs, keep the others


def verdict(event, scores: list[float]) -> float:
    """Whether scores of the two responses put the better one first: 1, 0, or 1/2 for equal scores."""
    better, worse = scores if event.value == "left" else scores[::-1]
    return 1.0 if better > worse else 0.5 if better == worse else 0.0


def interval(predicted: list[list[float]], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the accuracy from predictions [draws][pairs], resampled over both."""
    rng, count = random.Random(seed), len(predicted[0])
    means = []
    for _ in range(RESAMPLES):
        rows = rng.choices(predicted, k=len(predicted))
        pairs = rng.choices(range(count), k=count)
        means.append(sum(sum(row[i] for i in pairs) for row in rows) / len(rows) / count)
    means.sort()
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--votes", nargs="+", type=int, default=[40, 100, 300])
    parser.add_argument("--pool", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=300)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default="runs/human-votes")
    args = parser.parse_args()
    votes = HumanVotes(args)
    say({"machine": machine(), "model": args.model, "pairs": len(votes.pool), "held_out": len(votes.held_out)})
    for count in sorted(args.votes):
        for method in args.methods:
            draws = votes.draws(count)
            for draw, events in enumerate(draws if method in ("features", "adapter") else draws[:1]):
                votes.predict(method, count, draw, events)
    for count in sorted(args.votes):
        for method in args.methods:
            predicted = [votes.results[key] for key in sorted(votes.results) if key[:2] == (method, count)]
            low, high = interval(predicted)
            mean = sum(map(sum, predicted)) / len(predicted) / len(predicted[0])
            say({"method": method, "votes": count, "draws": len(predicted), "accuracy": round(mean, 3),
                 "low": round(low, 3), "high": round(high, 3)})


if __name__ == "__main__":
    main()
