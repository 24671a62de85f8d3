"""Who votes: people, through the store; and scoring functions, our own and those of a file, which is named on the command line and
nowhere else."""

import dataclasses
import random
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.queries import BLIND
from rlhf_engine.feedback.scoring_functions import score_text
from rlhf_engine.feedback.store import Store

if TYPE_CHECKING:

    from rlhf_engine.config import TeachConfig
    from rlhf_engine.feedback.queries import Query
    from rlhf_engine.runs.folder import Run


class ImmediateLabeler:
    """What labelers have in common that answer as soon as they are asked."""

    def __init__(self):
        self.waiting: list[Query] = []

    def queries_wanted(self, config: "TeachConfig", asked: int, step: int) -> int:
        if config.tamer:
            return max(0, -(-(config.votes - asked) // (config.steps - step + 1)))
        return max(0, min(config.votes_per_step if asked else min(BLIND, config.votes_first), config.votes - asked))

    def ask(self, query: "Query") -> None:
        self.waiting.append(query)

    def pending_votes(self) -> None:
        return None

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        self.waiting = []


class SimulatedLabeler(ImmediateLabeler):
    """A scoring function that votes as a person would: of two responses the better one, or a tie; of more the best.

    With `noise`, that share of its votes is given to a response drawn at random.
    """

    def __init__(self, function: Callable[[str, str], float], *, noise: float = 0.0, seed: int = 0):
        super().__init__()
        self.function, self.noise, self.seed = function, noise, seed

    def score(self, prompt: Prompt, response: str) -> float:
        return score_text(self.function, prompt, response)

    def new_events(self, only: list[str] | None = None) -> list[Event]:
        """The votes on all that was asked since: what was asked before a resumed step is asked, and answered, again."""
        asked, self.waiting = self.waiting, []
        return [self.vote(query) for query in asked]

    def vote(self, query: "Query") -> Event:
        rng = random.Random(f"{self.seed} vote {query.id}")
        scores = [self.score(query.prompt, response) for response in query.responses]
        if rng.random() < self.noise:
            scores = [0.0] * len(scores)
            scores[rng.randrange(len(scores))] = 1.0
        best = max(scores)
        if len(scores) == 2:
            kind, value = "comparison", "tie" if scores[0] == scores[1] else "left" if scores[0] == best else "right"
        else:
            kind, value = "ranking", tuple(1 if score == best else 2 for score in scores)
        return Event(f"{query.id} vote", kind, query.prompt, query.responses, value, run=query.run, checkpoint=query.checkpoint,
                     sampling=query.sampling, voter="simulated", scores=query.scores, step=query.step)


class HumanLabeler:
    """People, through the queries of a run folder and the store: a page shows the ones and fills the other, whether this process lives
    or not.

    Four queries at most are open at a time, drawn from the policy as it is; those nobody has answered for a while make way for new ones.
    """

    OPEN, FRESH, LOOK = 4, 4, 0.5
    """Queries to have ready, the steps after which one is stale, and the seconds between two looks into the store."""
    score = None

    def __init__(self, run: "Run", store: Store):
        self.run, self.store = run, store
        self.seen = 0
        """Place in the store up to which events have been read."""
        self.open: dict[str, int] = {}
        """Queries that nobody has answered, and the steps at which they were asked."""
        self._news, self._looked = [], 0.0

    def queries_wanted(self, config: "TeachConfig", asked: int, step: int) -> int:
        self._look()
        return self.OPEN - sum(step - asked_at < self.FRESH for asked_at in self.open.values())

    def ask(self, query: "Query") -> None:
        """Ids are new even if a run that was wound back asks the same again: what people saw, they saw."""
        query = dataclasses.replace(query, id=f"{query.id}-{secrets.token_hex(3)}", run=self.run.id,
                                    checkpoint=f"{self.run.path.name} at step {query.step}")
        self.run.add_queries([dataclasses.asdict(query)])
        self.open[query.id] = query.step

    def pending_votes(self) -> int:
        self._look()
        return sum(event.kind != "retract" for event in self._news)

    def new_events(self, only: list[str] | None = None) -> list[Event]:
        self._look(now=True)
        if only is None:
            found = self._news
        else:
            known = {event.id: event for event in self._news}
            if missing := [name for name in only if name not in known]:
                raise UserError(f"{self.store.path} does not hold the event {missing[0]!r}, from which this run has learned; "
                                "resume it with the store that it was taught with")
            found = [known[name] for name in only]
        self.seen = max((event.seq for event in found), default=self.seen)
        self._news = [event for event in self._news if event.seq > self.seen]
        return found

    def _look(self, now: bool = False) -> None:
        """Read what has come into the store since."""
        if not now and time.monotonic() - self._looked < self.LOOK:
            return
        self._looked = time.monotonic()
        self._news = self.store.events(run=self.run.id, after=self.seen, retracted=True)
        for event in self._news:
            self.open.pop(event.sampling.get("query", ""), None)

    def state_dict(self) -> dict:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        self.seen, self.open, self._looked = state["seen"], {}, 0.0


