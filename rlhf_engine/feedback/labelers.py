"""Labelers: what votes on queries. People vote through the store; a simulated labeler votes by a scoring function."""

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

RANDOM = "random"
"""The labeler that votes without reading: a negative control, from which nothing can be learned."""
REPLAY = "replay="
"""How a labeler is written that gives the votes of another run once more: `replay=RUN`."""


class Labeler:
    """Votes on queries. Nothing waits for an answer: `ask` offers a query, `new_events` gives the answers so far.

    A subclass writes `queries_wanted`, `ask` and `new_events`.
    """

    score: Callable[[Prompt, str], float] | None = None
    """How good a response is, by which the outcome is measured; None of a labeler that can only compare."""

    def queries_wanted(self, config: "TeachConfig", asked: int, step: int) -> int:
        """Number of queries to draw now, before training step `step + 1`; `asked` have been drawn so far."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many queries it wants")

    def ask(self, query: "Query") -> None:
        """Offer a query."""
        raise NotImplementedError(f"{type(self).__name__} takes no queries")

    def new_events(self, only: list[str] | None = None) -> list[Event]:
        """The events since the last call.

        With `only`, exactly the events of these ids: a resumed run learns from them at the step at which it did before.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no answers")

    def pending_votes(self) -> int | None:
        """Number of votes that the next call of `new_events` would give; None of a labeler that answers at once."""
        return None

    def pending_retracts(self) -> int:
        """Number of events that the next call of `new_events` would give and that take a vote back."""
        return 0

    def has_more(self) -> bool:
        """Whether it has more votes for this step, which the reward is to learn in an update of their own."""
        return False

    def bias(self) -> dict | None:
        """How far the order of the responses decides, for the report; None of a labeler that does not measure it."""
        return None

    def state_dict(self) -> dict:
        """What `load_state_dict` needs to go on from here, as JSON."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state of `state_dict`. Queries since then are forgotten: a resumed run asks them again."""


class ImmediateLabeler(Labeler):
    """What labelers share that answer as soon as they are asked. A subclass writes `new_events`."""

    def __init__(self):
        self.waiting: list[Query] = []
        """Queries that have been asked and not answered."""

    def queries_wanted(self, config: "TeachConfig", asked: int, step: int) -> int:
        left = config.votes - asked
        if config.is_tamer:
            steps_left = config.steps - step + 1
            return max(0, -(-left // steps_left))
        wanted = config.votes_per_step if asked else min(BLIND, config.votes_first)
        return max(0, min(wanted, left))

    def ask(self, query: "Query") -> None:
        self.waiting.append(query)

    def load_state_dict(self, state: dict) -> None:
        self.waiting = []


class SimulatedLabeler(ImmediateLabeler):
    """A scoring function that votes as a person would: of two responses the better one, or a tie; of more the best.

    `noise` is the share of its votes that go to a response drawn at random.
    """

    def __init__(self, function: Callable[[str, str], float], *, noise: float = 0.0, seed: int = 0):
        super().__init__()
        self.function, self.noise, self.seed = function, noise, seed

    def score(self, prompt: Prompt, response: str) -> float:
        """The score of a response. Raises UserError where the function fails."""
        return score_text(self.function, prompt, response)

    def new_events(self, only: list[str] | None = None) -> list[Event]:
        """The votes on all queries since the last call.

        A resumed run asks again what it asked since its checkpoint, and gets the same votes.
        """
        queries, self.waiting = self.waiting, []
        return [self.vote(query) for query in queries]

    def vote(self, query: "Query") -> Event:
        """The vote on a query; the same query always gets the same vote."""
        rng = random.Random(f"{self.seed} vote {query.id}")
        scores = [self.score(query.prompt, response) for response in query.responses]
        if rng.random() < self.noise:
            scores = random_choice(len(scores), rng)
        return vote_by_scores(query, scores)


class RandomLabeler(ImmediateLabeler):
    """Chooses one of the responses at random. It has no score, so nothing can be said of the outcome by it."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.seed = seed

    def new_events(self, only: list[str] | None = None) -> list[Event]:
        """The votes on all queries since the last call; the same query always gets the same vote."""
        queries, self.waiting = self.waiting, []
        return [self.vote(query) for query in queries]

    def vote(self, query: "Query") -> Event:
        """The vote on a query."""
        rng = random.Random(f"{self.seed} vote {query.id}")
        return vote_by_scores(query, random_choice(len(query.responses), rng))


def random_choice(count: int, rng: random.Random) -> list[float]:
    """Scores of so many responses, one of which, at random, is the best."""
    best = rng.randrange(count)
    return [float(place == best) for place in range(count)]


def vote_by_scores(query: "Query", scores: list[float]) -> Event:
    """The vote of a simulated labeler that gives the responses of a query these scores."""
    kind, value = answer_by_scores(scores)
    return Event(f"{query.id} vote", kind, query.prompt, query.responses, value, run=query.run,
                 checkpoint=query.checkpoint, sampling=query.sampling, roles=query.roles, voter="simulated",
                 scores=query.scores, step=query.step)


def answer_by_scores(scores: list[float]) -> tuple[str, str | tuple[int, ...]]:
    """(kind, value) of the event that puts the highest score first. Responses with equal scores share a rank."""
    best = max(scores)
    if len(scores) != 2:
        return "ranking", tuple(1 if score == best else 2 for score in scores)
    if scores[0] == scores[1]:
        return "comparison", "tie"
    return "comparison", "left" if scores[0] == best else "right"


class HumanLabeler(Labeler):
    """People, who vote on a page. It writes queries into the run folder, and reads votes from the store.

    At most four queries are open at a time, drawn from the policy as it is. A query that nobody has answered for a few
    steps makes room for a new one.
    """

    OPEN = 4
    """Queries to have open."""
    FRESH = 4
    """Steps after which an open query is too old to count."""
    LOOK = 0.5
    """Seconds between two reads of the store."""

    def __init__(self, run: "Run", store: Store):
        self.run, self.store = run, store
        self.seen = 0
        """Number (seq) of the last event that has been taken."""
        self.open: dict[str, int] = {}
        """Queries that nobody has answered, and the steps at which they were asked."""
        self._events: list[Event] = []
        """Events in the store that have not been taken yet."""
        self._last_read = 0.0

    def queries_wanted(self, config: "TeachConfig", asked: int, step: int) -> int:
        self._read_store()
        fresh = [asked_at for asked_at in self.open.values() if step - asked_at < self.FRESH]
        return self.OPEN - len(fresh)

    def ask(self, query: "Query") -> None:
        """Write a query into the run folder, under an id that is new even if a rewound run asks the same again.

        People have seen the earlier one, and may have answered it.
        """
        query = dataclasses.replace(query, id=f"{query.id}-{secrets.token_hex(3)}", run=self.run.id,
                                    checkpoint=f"{self.run.path.name} at step {query.step}")
        self.run.add_queries([dataclasses.asdict(query)])
        self.open[query.id] = query.step

    def pending_votes(self) -> int:
        self._read_store()
        return sum(event.kind != "retract" for event in self._events)

    def pending_retracts(self) -> int:
        self._read_store()
        return sum(event.kind == "retract" for event in self._events)

    def new_events(self, only: list[str] | None = None) -> list[Event]:
        """The events since the last call, or those of the ids `only`. Raises UserError if the store lacks one."""
        self._read_store(now=True)
        events = self._events
        if only is not None:
            by_id = {event.id: event for event in self._events}
            missing = [event_id for event_id in only if event_id not in by_id]
            if missing:
                raise UserError(f"{self.store.path} does not hold the event {missing[0]!r}, from which this run has "
                                "learned; resume it with the store that it was taught with")
            events = [by_id[event_id] for event_id in only]
        self.seen = max((event.seq for event in events), default=self.seen)
        self._events = [event for event in self._events if event.seq > self.seen]
        return events

    def _read_store(self, now: bool = False) -> None:
        """Read the events that have come into the store. Unless `now`, at most every `LOOK` seconds."""
        if not now and time.monotonic() - self._last_read < self.LOOK:
            return
        self._last_read = time.monotonic()
        self._events = self.store.events(run=self.run.id, after=self.seen, retracted=True)
        for event in self._events:
            self.open.pop(event.answers, None)

    def state_dict(self) -> dict:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        self.seen, self.open, self._last_read = state["seen"], {}, 0.0
