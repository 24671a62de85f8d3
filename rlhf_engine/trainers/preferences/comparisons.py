"""Preferences and rankings as trainers read them: a prompt with its tokenised responses, and all pairs among them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from rlhf_engine.data.readers import Preference, Ranking
from rlhf_engine.data.tokenization import Encoded, Prompt, encode_examples
from rlhf_engine.losses.preference import ranked_pairs
from rlhf_engine.model.backbone import Backbone


class Pair(NamedTuple):
    """A comparison of two responses to a prompt."""

    better: int
    """Index of the better response among those of the prompt."""
    worse: int
    tied: bool
    margin: float
    """By how much the better one should win, in units of the reward before it is normalised."""


@dataclass(frozen=True)
class Group:
    """A prompt as one batch element: its responses, and all pairs among them."""

    prompt: Prompt
    answers: list[Encoded]
    """Prompt and response, for each response."""
    ranks: tuple[float, ...]
    """The rank of each response: 1 is best, equal ranks are ties."""
    pairs: list[Pair]
    weights: Sequence[float] = (1.0,)
    """Weight of the prompt for each member of an ensemble."""

    @cached_property
    def rows(self) -> list[list[int]]:
        """Token ids of prompt and response together, for each response."""
        return [answer.ids for answer in self.answers]


def make_groups(backbone: Backbone, preferences: Sequence[Preference | Ranking], max_tokens: int,
                rating_margin: float = 0.0) -> tuple[list[Group], list[str]]:
    """A group for each row of the data, and remarks on rows that were cut.

    Two responses of which the cut left the same tokens are no pair, unless they are tied. A group may so have none.
    """
    examples = [(row.prompt, text) for row in preferences for text in responses_of(row)]
    encoded, notes = encode_examples(backbone, examples, max_tokens)
    token_rows = iter(encoded)
    groups, same = [], 0
    for row in preferences:
        answers = [next(token_rows) for _ in responses_of(row)]
        pairs = pairs_of(row, rating_margin)
        unlike = [pair for pair in pairs if pair.tied or answers[pair.better].ids != answers[pair.worse].ids]
        same += len(pairs) - len(unlike)
        groups.append(Group(row.prompt, answers, ranks_of(row), unlike))
    if same:
        notes.append(f"{same:,} pair{'s' if same > 1 else ''} skipped: both responses are the same tokens, as the "
                     "model reads them (after the cut, where rows were too long)")
    return groups, notes


def shuffle_labels(group: Group, rng: random.Random) -> Group:
    """The group with its judgements about its responses in another, random order, so that they say nothing."""
    order = rng.sample(range(len(group.ranks)), len(group.ranks))
    ranks = list(group.ranks)
    for place, other in enumerate(order):
        ranks[other] = group.ranks[place]
    pairs = [pair._replace(better=order[pair.better], worse=order[pair.worse]) for pair in group.pairs]
    return replace(group, ranks=tuple(ranks), pairs=pairs)


def responses_of(row: Preference | Ranking) -> tuple[str, ...]:
    """The responses of a row of the data, in the order in which `pairs_of` counts them."""
    return (row.chosen, row.rejected) if isinstance(row, Preference) else row.responses


def ranks_of(row: Preference | Ranking) -> tuple[float, ...]:
    """The ranks of `responses_of` a row."""
    return (1.0, 2.0) if isinstance(row, Preference) else row.ranks


def pairs_of(row: Preference | Ranking, rating_margin: float) -> list[Pair]:
    """All pairs among the responses of a row. Each point between two ratings adds `rating_margin` to the margin."""
    if isinstance(row, Preference):
        return [Pair(0, 1, False, row.margin)]
    pairs = []
    for better, worse, tied in ranked_pairs(row.ranks):
        points = row.ratings[better] - row.ratings[worse] if row.ratings else 0.0
        pairs.append(Pair(better, worse, tied, rating_margin * points))
    return pairs


def padded_tokens(group: Group) -> int:
    """Tokens of the rows of a group, read in one pass without a shared beginning, padding included."""
    return len(group.rows) * max(map(len, group.rows))


def count_pairs(groups: Sequence[Group]) -> int:
    """Number of pairs in all groups together."""
    return sum(len(group.pairs) for group in groups)
