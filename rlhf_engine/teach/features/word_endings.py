"""How many words of a response end in "-ed", "-ly", "-ing": what a word is for, in languages that show it by its end.

A labeler who likes adverbs likes hundreds of words, of which forty votes show a few. The ending is one feature.
"""

from collections import defaultdict

import torch

from rlhf_engine.teach.features.place_words import PlaceWords, Words

LETTERS = (2, 3)
"""Letters of an ending."""
REST = 2
"""Letters, at least, that a word has before its ending."""
DIFFERENT = 4
"""Different words of the anchors, at least, that have an ending in common."""
FEWEST_WORDS = 20
"""A response counts as if it had so many words at least."""
MOST = 64
"""Endings, at most: the commonest."""


class WordEndings(PlaceWords):
    """Features [N, D] of the endings of words, one for each of `endings`: shares of the words of a response."""

    def __init__(self) -> None:
        super().__init__("endings")
        self.endings: list[str] = []
        self._columns: dict[str, list[int]] = {}
        """The columns that count for a word, by its text."""

    @property
    def width(self) -> int:
        return len(self.endings)

    def choose_endings(self, responses: list[list[str]]) -> None:
        """Choose the endings from the words of the anchors."""
        count: dict[str, int] = defaultdict(int)
        different: dict[str, set[str]] = defaultdict(set)
        for response in responses:
            for word in response:
                for ending in endings_of(word):
                    count[ending] += 1
                    different[ending].add(word)
        kept = [ending for ending in count if len(different[ending]) >= DIFFERENT]
        self.endings = sorted(sorted(kept, key=lambda ending: (-count[ending], ending))[:MOST])
        self._columns = {}

    def read(self, words: Words) -> torch.Tensor:
        return self._counts(words).sum(0) / max(sum(map(bool, words.texts)), FEWEST_WORDS)

    def trace(self, words: Words, weights: torch.Tensor) -> torch.Tensor:
        scaled = weights / self.size
        spelled = torch.tensor([float(bool(text)) for text in words.texts]).cumsum(0)[:, None]
        sums = (self._counts(words) @ scaled.T).cumsum(0)
        return sums / spelled.clamp(min=FEWEST_WORDS) - scaled @ self.centre.expand(scaled.shape[1])

    def weights_of_endings(self, weights: torch.Tensor) -> torch.Tensor:
        """[D]: what a word with each ending adds."""
        return (weights / self.size).expand(self.width)

    def state_dict(self) -> dict:
        return {"endings": self.endings, "centre": self.centre, "size": self.size}

    def load_state_dict(self, state: dict) -> None:
        self.endings, self.centre, self.size = list(state["endings"]), state["centre"], state["size"]
        self._columns = {}

    # -- inside --------------------------------------------------------------------------------------------------------

    def _counts(self, words: Words) -> torch.Tensor:
        """[W, D]: 1 where a word has an ending."""
        found = torch.zeros(len(words.texts), self.width)
        for row, text in zip(found, words.texts):
            if text not in self._columns:
                own = set(endings_of(text))
                self._columns[text] = [number for number, ending in enumerate(self.endings) if ending in own]
            row[self._columns[text]] = 1.0
        return found


def endings_of(word: str) -> list[str]:
    """The endings that a word has."""
    if not word.isalpha():
        return []
    return [word[-letters:] for letters in LETTERS if len(word) >= letters + REST]
