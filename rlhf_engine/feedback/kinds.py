"""The kinds of feedback: what each of them may say, and what follows from it.

There is one class a kind, and `KINDS` lists them. A kind says nothing about the reward by itself: how probable an
answer is, given the scores of the responses, stands in `teach/likelihood.py`.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

from rlhf_engine.errors import UserError
from rlhf_engine.feedback.checks import MAX_NAME, MAX_TEXT, is_whole, text_errors

if TYPE_CHECKING:
    from rlhf_engine.feedback.events import Event

COMPARISONS = ("left", "right", "tie", "both_bad")
THUMBS = ("up", "down")
SCORES = range(1, 8)
"""The scores that a response may get; 7 is best."""
MOST_RESPONSES = 16


class FeedbackKind:
    """The rules of one kind of feedback. Here are those of a kind that judges one response and prefers nothing."""

    name = ""
    fewest, most = 1, 1
    """How many responses an event of this kind judges."""
    words: tuple[str, ...] = ()
    """What an annotation of this kind begins with, as in `up:2` or `score:2:5`."""
    syntax = ""
    """How such annotations are written, for messages."""

    def parse(self, word: str, text: str) -> Any:
        """The value of an event, from an annotation that reads `word:POSITION:text`. Raises UserError."""
        raise NotImplementedError(f"the kind {self.name} is not written as an annotation")

    def value_errors(self, event: "Event") -> Iterator[str]:
        """What is wrong with the value of an event. Only the first error counts."""
        raise NotImplementedError(f"the kind {self.name} does not check its values")

    def ranks(self, event: "Event") -> tuple[int, ...]:
        """The rank of each response, 1 is best; () of a kind that ranks nothing."""
        return ()

    def texts(self, event: "Event") -> tuple[str, ...]:
        """All texts that the event says something about: the responses, and what the person wrote."""
        return event.responses

    def preferences(self, event: "Event") -> list[tuple[str, str]]:
        """(better text, worse text) for every two texts of which one is put above the other."""
        return ordered_pairs(event.responses, self.ranks(event))

    def thumbs(self, event: "Event") -> list[tuple[str, bool]]:
        """(text, whether the thumb is up) for every response that is called good or bad by itself."""
        return []

    def demonstration(self, event: "Event") -> str | None:
        """An answer that a person wrote."""
        return None

    def rating(self, event: "Event") -> int | None:
        """A score from 1 to 7 of the response."""
        return None

    def verdicts(self, event: "Event") -> list[float]:
        """How good each response is, from -1 (bad) to 1 (good)."""
        raise NotImplementedError(f"the kind {self.name} gives no verdicts")

    def canonical(self, event: "Event") -> tuple[list[int], Any]:
        """(order of the texts, value), such that events which say the same about texts in this order have equal values.

        Events with equal values and equally many texts can be fitted side by side.
        """
        return list(range(len(self.texts(event)))), event.value


class RankingKind(FeedbackKind):
    """What comparisons and rankings share: an order of the responses."""

    fewest, most = 2, MOST_RESPONSES

    def verdicts(self, event: "Event") -> list[float]:
        """1 for the best rank, -1 for the worst. Responses that are all equal get 0."""
        ranks = self.ranks(event)
        best, worst = min(ranks), max(ranks)
        if best == worst:
            return [0.0] * len(ranks)
        return [1 - 2 * (rank - best) / (worst - best) for rank in ranks]

    def canonical(self, event: "Event") -> tuple[list[int], Any]:
        ranks = self.ranks(event)
        if len(set(ranks)) < 2:
            return super().canonical(event)
        order = sorted(range(len(ranks)), key=lambda i: ranks[i])
        return order, self.value_of_sorted(tuple(sorted(ranks)))

    def value_of_sorted(self, ranks: tuple[int, ...]) -> Any:
        """The value of an event with these ranks, which ascend."""
        raise NotImplementedError


class Comparison(RankingKind):
    """Which of two responses is better, or that they are equal; ties may be of more than two responses."""

    name = "comparison"

    def value_errors(self, event: "Event") -> Iterator[str]:
        if event.value not in COMPARISONS:
            yield f"a comparison is one of {', '.join(COMPARISONS)}, not {str(event.value)[:60]!r}"
        if event.value in ("left", "right") and len(event.responses) != 2:
            yield f"{event.value} names one of 2 responses, but there are {len(event.responses)}; send a ranking"

    def ranks(self, event: "Event") -> tuple[int, ...]:
        if event.value == "left":
            return 1, 2
        if event.value == "right":
            return 2, 1
        return (1,) * len(event.responses)

    def thumbs(self, event: "Event") -> list[tuple[str, bool]]:
        """Responses that are both bad are one thumb down each."""
        return [(text, False) for text in event.responses] if event.value == "both_bad" else []

    def verdicts(self, event: "Event") -> list[float]:
        return [-1.0] * len(event.responses) if event.value == "both_bad" else super().verdicts(event)

    def value_of_sorted(self, ranks: tuple[int, ...]) -> str:
        return "left"


class Ranking(RankingKind):
    """The rank of each response. The best of four is the partial ranking 1, 2, 2, 2."""

    name = "ranking"

    def value_errors(self, event: "Event") -> Iterator[str]:
        ranks, count = event.value, len(event.responses)
        if not isinstance(ranks, tuple) or len(ranks) != count:
            yield f"a ranking needs a list of {count} ranks, one for each response"
        elif not all(is_whole(rank) and 1 <= rank <= count for rank in ranks) or 1 not in ranks:
            yield f"ranks are whole numbers from 1 (best) to {count}, and one response at least has rank 1"

    def ranks(self, event: "Event") -> tuple[int, ...]:
        return event.value if isinstance(event.value, tuple) else ()

    def value_of_sorted(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        return ranks


class Thumb(FeedbackKind):
    """One response is good or bad: up or down."""

    name = "thumb"
    words = THUMBS
    syntax = "up:POSITION, down:POSITION"

    def parse(self, word: str, text: str) -> str:
        if text:
            raise UserError(f"{word} takes a position and nothing else, as in {word}:1")
        return word

    def value_errors(self, event: "Event") -> Iterator[str]:
        if event.value not in THUMBS:
            yield f"a thumb is {' or '.join(THUMBS)}, not {str(event.value)[:60]!r}"

    def thumbs(self, event: "Event") -> list[tuple[str, bool]]:
        return [(text, event.value == "up") for text in event.responses]

    def verdicts(self, event: "Event") -> list[float]:
        return [1.0 if event.value == "up" else -1.0]


class Score(FeedbackKind):
    """How good one response is, from 1 to 7."""

    name = "score"
    words = ("score",)
    syntax = f"score:POSITION:{SCORES[0]} to {SCORES[-1]}"

    def parse(self, word: str, text: str) -> int:
        if text not in map(str, SCORES):
            raise UserError(f"the score is {text[:60]!r}, but must be {SCORES[0]} to {SCORES[-1]}")
        return int(text)

    def value_errors(self, event: "Event") -> Iterator[str]:
        if not is_whole(event.value) or event.value not in SCORES:
            yield f"a score is a whole number from {SCORES[0]} to {SCORES[-1]}, not {str(event.value)[:60]!r}"

    def rating(self, event: "Event") -> int | None:
        return event.value if isinstance(event.value, int) else None

    def verdicts(self, event: "Event") -> list[float]:
        middle, reach = (SCORES[0] + SCORES[-1]) / 2, (SCORES[-1] - SCORES[0]) / 2
        return [(score - middle) / reach for score in [self.rating(event)] if score is not None]


class Edit(FeedbackKind):
    """A person's own better answer in place of one response: a demonstration, and a preference for it."""

    name = "edit"
    words = ("edit",)
    syntax = "edit:POSITION:TEXT"

    def parse(self, word: str, text: str) -> str:
        return text

    def value_errors(self, event: "Event") -> Iterator[str]:
        yield from text_errors("the edit", event.value, MAX_TEXT)
        if not str(event.value).strip() or event.value == event.responses[0]:
            yield "the edit is empty or what was shown; write a better answer"

    def texts(self, event: "Event") -> tuple[str, ...]:
        return *event.responses, str(event.value)

    def preferences(self, event: "Event") -> list[tuple[str, str]]:
        return ordered_pairs((str(event.value), *event.responses), (1, 2))

    def demonstration(self, event: "Event") -> str | None:
        return str(event.value)

    def verdicts(self, event: "Event") -> list[float]:
        """A response that somebody wrote a better one for is bad."""
        return [-1.0] * len(event.responses)

    def canonical(self, event: "Event") -> tuple[list[int], Any]:
        """All edits say the same: the last text is better."""
        return list(range(len(self.texts(event)))), ""


class Retract(FeedbackKind):
    """Takes another event back. It judges no response, and has no prompt."""

    name = "retract"
    fewest, most = 0, 0

    def value_errors(self, event: "Event") -> Iterator[str]:
        yield from text_errors("the id to take back", event.value, MAX_NAME)


ALL_KINDS = (Comparison(), Ranking(), Thumb(), Score(), Edit(), Retract())
KINDS: dict[str, FeedbackKind] = {kind.name: kind for kind in ALL_KINDS}
"""All kinds of feedback, by the name that an event has in its field `kind`."""


def ordered_pairs(texts: Sequence[str], ranks: Sequence[int]) -> list[tuple[str, str]]:
    """(better text, worse text) for every two different texts with different ranks."""
    pairs = []
    for (better, high), (worse, low) in permutations(zip(texts, ranks), 2):
        if high < low and better != worse:
            pairs.append((better, worse))
    return pairs
