"""What to ask next, of whom: queries, which of the sampled responses one shows, and how a voter's choice becomes an event.

Imports no torch: a page reads the queries of a run and writes the votes, whether the trainer lives or not.
"""

import dataclasses
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import SCORES, Event
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import Run

if TYPE_CHECKING:
    import torch

OFFERED = 32
"""Newest queries of a run that may still be shown; the policy has moved on from older ones."""
BLIND = 8
"""Votes before which the reward knows too little to choose by: candidates are shown as they come."""


@dataclass(frozen=True)
class Query:
    """Responses to one prompt that are waiting for a vote."""

    id: str
    prompt: Prompt
    responses: tuple[str, ...]
    """In the order in which they are shown, which is random."""
    scores: tuple[float, ...]
    """The reward's opinion at that time, one number a response."""
    step: int
    sampling: dict
    run: str = ""
    """The id of the run that asks (`Run.id`)."""
    checkpoint: str = ""

    @classmethod
    def from_dict(cls, row: dict) -> "Query":
        names = [f.name for f in dataclasses.fields(cls)]
        return cls(**{name: tuple(row[name]) if isinstance(row[name], list) and name != "prompt" else row[name] for name in names})

    def event(self, choice: str, event_id: str, *, voter: str = "", seconds: float = 0.0) -> Event:
        """The event that a choice means: "1" to "9" (the place of the best response), "tie" or "both_bad". Raises UserError."""
        count = len(self.responses)
        kind, value = parse_choice(choice, count)
        return Event(event_id, kind, self.prompt, self.responses, value, run=self.run, shown=tuple(range(count)),
                     checkpoint=self.checkpoint, sampling=self.sampling | {"query": self.id}, voter=voter, seconds=seconds,
                     scores=self.scores, step=self.step)

    def parse_annotation(self, choice: str, event_id: str, *, voter: str = "", seconds: float = 0.0) -> Event:
        """The event that a remark on one response means: "up:2", "down:2", "score:2:5" (of 1 to 7) or "edit:2:TEXT", where 2 is its place.

        It does not answer the query. Raises UserError.
        """
        kind, place, value = (*choice.split(":", 2), "", "")[:3]
        if place not in map(str, range(1, len(self.responses) + 1)):
            raise UserError(f"the remark {choice[:60]!r} is about no response; name its place, 1 to {len(self.responses)}, as in up:1")
        if kind in ("up", "down") and not value:
            kind, value = "thumb", kind
        elif kind == "score" and value in map(str, SCORES):
            value = int(value)
        elif kind != "edit":
            raise UserError(f"the remark is {choice[:60]!r}, but must be up:PLACE, down:PLACE, score:PLACE:1 to 7, or edit:PLACE:TEXT")
        at = int(place) - 1
        return Event(event_id, kind, self.prompt, (self.responses[at],), value, run=self.run, checkpoint=self.checkpoint,
                     sampling=self.sampling | {"about": self.id, "place": int(place)}, voter=voter, seconds=seconds,
                     scores=self.scores[at:at + 1], step=self.step)


def parse_choice(choice: str, count: int) -> tuple[str, str | tuple[int, ...]]:
    """(kind, value) of an event about `count` responses: "1" to "9" is the place of the best, from 1. Raises UserError for no choice."""
    if choice in ("tie", "both_bad"):
        return "comparison", choice
    if choice not in map(str, range(1, count + 1)):
        raise UserError(f"the choice is {choice[:60]!r}, but must be 1 to {count}, tie or both_bad")
    if count == 2:
        return "comparison", "left" if choice == "1" else "right"
    return "ranking", tuple(1 if place == int(choice) else 2 for place in range(1, count + 1))


def next_query(run: Run, store: Store, voter: str, skipped: frozenset[str] = frozenset()) -> Query | None:
    """What to show a voter: of the newest queries one that they have neither answered nor skipped, and others as seldom as can be.

    None while there is no such query: the trainer draws new ones, or the run is over. Raises UserError as the store does.
    """
    queries = [Query.from_dict(row) for row in run.queries()[-OFFERED:]]
    votes = [event for event in store.events(run=run.id) if "query" in event.sampling]
    own = {event.sampling["query"] for event in votes if event.voter == voter}
    times = {query.id: 0 for query in queries}
    for event in votes:
        if event.sampling["query"] in times:
            times[event.sampling["query"]] += 1
    left = [query for query in queries if query.id not in own | skipped]
    return min(reversed(left), key=lambda query: times[query.id], default=None)


def find_query(run: Run, query_id: str) -> Query:
    """A query by its id. Raises UserError if the run has not asked it."""
    for row in reversed(run.queries()):
        if row["id"] == query_id:
            return Query.from_dict(row)
    raise UserError(f"the run {run.path.name} has asked no query {query_id[:60]!r}: ask for the next one")


def select_responses(scores: "torch.Tensor", texts: list[str], count: int, strategy: str, rng: random.Random) -> list[int]:
    """Places of `count` of the candidates (all, if there are fewer), in random order. scores: [C, members] of the candidates, normalised.

    Equal texts are shown once, where there are enough others. `best`: the highest mean. `disagreement`: the two about whose difference
    members differ most (Christiano et al. 2017, section 2.2.4), then those of which that holds against all that are chosen.
    `spread`: the best, then those whose mean is farthest from all that are chosen. While all score the same, as before the first
    vote, that is all at random.
    """
    order = rng.sample(range(len(texts)), len(texts))
    order.sort(key=lambda i: texts.index(texts[i]) != i)  # repeats of a text come last
    fresh = order[:max(count, len(set(texts)))]
    mean = scores.mean(-1)
    if strategy == "random" or (scores.amax(0) - scores.amin(0)).max() < 1e-6:
        picked = fresh[:count]
    elif strategy == "best":
        picked = sorted(fresh, key=lambda i: -mean[i])[:count]
    else:
        if strategy == "disagreement":
            apart = (scores[:, None] - scores[None]).std(-1, correction=0)
            picked = [max(fresh, key=lambda i: apart[i, fresh].max())]
        else:
            apart = (mean[:, None] - mean[None]).abs()
            picked = [max(fresh, key=lambda i: mean[i])]
        while len(picked) < min(count, len(fresh)):
            left = [i for i in fresh if i not in picked]
            picked.append(max(left, key=lambda i: apart[i, picked].min()))
    return rng.sample(picked, len(picked))
