"""Queries: what people are asked, which of the sampled responses a query shows, and what becomes of the answer.

Imports no torch: a page reads the queries of a run and writes the votes, whether the trainer runs or not.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.choices import Choice, parse_choice
from rlhf_engine.feedback.events import Event, names_of_responses
from rlhf_engine.runs.folder import Run

if TYPE_CHECKING:
    import torch

OFFERED = 32
"""Newest queries of a run that may still be shown; the policy has moved on from older ones."""
BLIND = 8
"""Votes before which the reward knows too little to choose by. Until then all candidates that are drawn are shown."""
SAME_SCORE = 1e-6
"""Scores closer than this are equal."""


@dataclass(frozen=True)
class Query:
    """Responses to one prompt that wait for a vote."""

    id: str
    prompt: Prompt
    responses: tuple[str, ...]
    """In the order in which they are shown, which is random."""
    scores: tuple[float, ...]
    """The reward's score of each response at that time."""
    step: int
    """The training step that asked."""
    sampling: dict
    """The settings with which the responses were sampled."""
    run: str = ""
    """The id of the run that asks (`Run.id`)."""
    checkpoint: str = ""
    """What made the responses."""
    roles: tuple[str, ...] = ()
    """The role (`policy` or `reference`) that wrote each response, or ()."""

    @classmethod
    def from_dict(cls, row: dict) -> "Query":
        """A query from a row of queries.jsonl. Rows of the first version have the roles inside of `sampling`."""
        names = [f.name for f in dataclasses.fields(cls)]
        values: dict[str, Any] = {name: row[name] for name in names if name in row}
        for name in ("responses", "scores", "roles"):
            values[name] = tuple(values.get(name, ()))
        sampling = dict(row["sampling"])
        roles = names_of_responses(sampling.get("roles"), len(values["responses"]))
        if roles and not values["roles"]:
            del sampling["roles"]
            values["roles"] = roles
        values["sampling"] = sampling
        return cls(**values)

    def event(self, choice: str | Choice, event_id: str, *, voter: str = "", seconds: float = 0.0) -> Event:
        """The event that a choice means: an answer to the query, or an annotation of one response.

        Raises UserError for what is no choice.
        """
        if isinstance(choice, str):
            choice = parse_choice(choice, len(self.responses))
        about: dict[str, Any] = {"responses": self.responses, "shown": tuple(range(len(self.responses))),
                                 "scores": self.scores, "roles": self.roles}
        if choice.position:
            index = choice.position - 1
            about = {"responses": (self.responses[index],), "scores": self.scores[index:index + 1],
                     "roles": self.roles[index:index + 1], "position": choice.position}
        return Event(event_id, choice.kind, self.prompt, value=choice.value, run=self.run, checkpoint=self.checkpoint,
                     sampling=self.sampling, voter=voter, seconds=seconds, step=self.step, query=self.id, **about)


def next_query(run: Run, votes: Iterable[Event], voter: str, skipped: frozenset[str] = frozenset()) -> Query | None:
    """The query to show a voter next, from the live events (`votes`) of the run; None where there is none.

    Of the newest queries it is one that the voter has neither answered nor skipped, the one with the fewest answers of
    others, and of these the newest. There is none until the trainer draws new ones, and once the run is over.
    """
    queries = [Query.from_dict(row) for row in run.queries()[-OFFERED:]]
    answered: Counter[str] = Counter()
    done = set(skipped)
    for event in votes:
        answered[event.answers] += 1
        if event.voter == voter:
            done.add(event.answers)
    open_queries = [query for query in reversed(queries) if query.id not in done]
    return min(open_queries, key=lambda query: answered[query.id], default=None)


def find_query(run: Run, query_id: str) -> Query:
    """A query by its id. Raises UserError if the run has not asked it."""
    for row in reversed(run.queries()):
        if row["id"] == query_id:
            return Query.from_dict(row)
    raise UserError(f"the run {run.path.name} has asked no query {query_id[:60]!r}: ask for the next one")


def strategy_after(votes: Sequence[Event], strategy: str, *, doubt: bool = False) -> str:
    """The strategy of the next query, after these votes, the oldest first.

    `best` shows responses that the reward likes alike. Somebody who has just called all of them equal will probably do
    so again, and a tie says little. Nor do they tell whether somebody has changed their mind, if that is in `doubt`.
    Then `spread` shows them beside some that the reward does not like.
    """
    ranked = [event for event in votes if len(event.ranks) > 1]
    alike = bool(ranked) and ranked[-1].tie
    return "spread" if strategy == "best" and (alike or doubt) else strategy


def select_responses(scores: "torch.Tensor", texts: list[str], count: int, strategy: str,
                     rng: random.Random) -> list[int]:
    """Indices of `count` of the candidates (all, if there are fewer), in random order.

    scores: [C, members] of the candidates, normalised. Equal texts are shown once, where there are enough others.
    `best` takes the highest means. `disagreement` takes the two about whose difference members differ most (Christiano
    et al. 2017, section 2.2.4), then those about which they differ most from all that are chosen. `spread` takes the
    best, then those whose mean is farthest from all that are chosen. `random` takes any, and so do the others while all
    candidates score the same, as before the first vote.
    """
    order = rng.sample(range(len(texts)), len(texts))
    order.sort(key=lambda i: texts.index(texts[i]) != i)  # repeats of a text come last
    candidates = order[:max(count, len(set(texts)))]
    mean = scores.mean(-1)
    if strategy == "random" or (scores.amax(0) - scores.amin(0)).max() < SAME_SCORE:
        chosen = candidates[:count]
    elif strategy == "best":
        chosen = sorted(candidates, key=lambda i: -mean[i])[:count]
    else:
        if strategy == "disagreement":
            distance = (scores[:, None] - scores[None]).std(-1, correction=0)
            chosen = [max(candidates, key=lambda i: distance[i, candidates].max())]
        else:
            distance = (mean[:, None] - mean[None]).abs()
            chosen = [max(candidates, key=lambda i: mean[i])]
        while len(chosen) < min(count, len(candidates)):
            rest = [i for i in candidates if i not in chosen]
            chosen.append(max(rest, key=lambda i: distance[i, chosen].min()))
    return rng.sample(chosen, len(chosen))
