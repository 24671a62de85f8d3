"""Small runs of the live loop on the toy models, with a simulated voter or with people whose votes the tests give."""

from pathlib import Path

from rlhf_engine.config import TeachConfig
from rlhf_engine.feedback.labelers import HumanLabeler, SimulatedLabeler
from rlhf_engine.feedback.queries import next_query
from rlhf_engine.feedback.store import Store
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.folder import Run
from rlhf_engine.teach.trainer import Teach
from tests.rlhf_engine.helpers.trainers import PROMPTS

SMALL = {"steps": 4, "batch_size": 8, "lora_rank": 4, "max_tokens": 100, "max_new_tokens": 10, "reference_samples": 16, "ppo_epochs": 1,
         "minibatches": 1, "votes": 10, "votes_first": 6, "votes_per_step": 2, "candidates": 4, "ensemble": 2, "value": "head"}
LIVE = SMALL | {"steps": 8, "votes": 20, "votes_first": 4, "patience": 2, "labeler": "person", "checkpoint_every": 2, "keep_checkpoints": 0}


def vowels(prompt: str, response: str) -> float:
    return sum(c in "aeiou" for c in response) / max(len(response), 1)


def make_simulated(path, function=vowels, held_out=(), **settings) -> Teach:
    """A live loop whose votes come from a scoring function."""
    config = TeachConfig(**SMALL | settings)
    return Teach(Backbone.load(str(path)), PROMPTS, SimulatedLabeler(function, noise=config.noise, seed=config.seed), config, held_out=held_out)


def make_live(model, folder: Path, *, store: Store | None = None, fresh: bool = True, **settings) -> tuple[Teach, Run]:
    """A live loop that people vote in, and its run folder."""
    config = TeachConfig(**LIVE | settings, output=str(folder / "run"))
    run = Run.create(folder / "run", config) if fresh else Run(folder / "run")
    person = HumanLabeler(run, store or Store(folder / "feedback.sqlite"))
    person.LOOK = 0.0
    return Teach(Backbone.load(str(model)), PROMPTS, person, config), run


def vote(run: Run, store: Store, count: int, voter: str = "ann") -> int:
    """Answer open queries by the share of vowels. Returns how many were answered, at most `count`."""
    for answered in range(count):
        if (query := next_query(run, store.events(run=run.id), voter)) is None:
            return answered
        best = max(range(len(query.responses)), key=lambda i: vowels("", query.responses[i]))
        store.add(query.event(str(best + 1), f"{voter} {query.id}", voter=voter))
    return count


def vote_when_asked(trainer: Teach, run: Run) -> None:
    while trainer.blocked_reason():
        vote(run, trainer.labeler.store, 2)
