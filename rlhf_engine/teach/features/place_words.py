"""Soft words of one place of a response: opening, first and last sentence, starts of sentences; and what comes late.

A place holds the sum of its words' similarities to the landmarks that are common there, less what a word of the anchors
has on average, over the number of its words. A place with few words counts as if it had `FEWEST`: one word is no
sentence. Everything is known after each word, as if the response ended there.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

OPENING = 3
"""Words and signs of the opening."""
FEWEST = {"opening": OPENING, "first": 6, "last": 6, "late": 20, "starts": 3}
"""The places, and the number of words below which a place counts as if it had so many."""
LANDMARKS = 256
"""Landmarks of a place, at most."""
SMALLEST, USUAL = 1e-3, 0.1
"""A sum that varies less than `SMALLEST` on the anchors is treated as if it varied by `USUAL`, and is not enlarged."""
SMALLEST_GROUP = 0.5
"""Nor is a group of which hardly any sum varies: all anchors may begin with the same word."""


class Words(NamedTuple):
    """One response: W words and signs."""

    similarities: list[torch.Tensor]
    """For each depth, those to L landmarks: [W, L], on the CPU."""
    sentences: torch.Tensor
    """[W]: the number of the sentence of each, ascending."""
    texts: list[str]
    """Those that are words, in lower case; "" for signs."""


class PlaceWords:
    """Features [N, D] of one place: `choose` and `scale` once, then `read` and `normalise`, or `trace`.

    They are centred and of size 1, as those of `WordFeatures`.
    """

    def __init__(self, place: str):
        self.place = place
        self.landmarks = torch.zeros(0, dtype=torch.long)
        """[l]: which of the landmarks are compared with here."""
        self.usual: list[torch.Tensor] = []
        """For each depth: the mean similarity [l] of a word of the anchors."""
        self.centre, self.size = torch.zeros(()), torch.ones(())

    @property
    def width(self) -> int:
        """D."""
        return len(self.usual) * len(self.landmarks)

    def choose(self, sentences: list[torch.Tensor], found: list[torch.Tensor], usual: list[torch.Tensor]) -> None:
        """Choose the landmarks that are common here, from responses whose words stand in `sentences` [W] each.

        `found` says for each response which landmark each of its words is (-1: none), `usual` for each depth the mean
        similarity [L] of all words.
        """
        counts = torch.zeros(usual[0].shape[0])
        for numbers, which in zip(sentences, found):
            here = which[self._inside(numbers) > 0]
            counts += torch.bincount(here[here >= 0], minlength=len(counts))
        order = counts.argsort(descending=True, stable=True)
        self.landmarks = order[:min(LANDMARKS, int((counts > 0).sum()))].sort().values
        self.usual = [each[self.landmarks] for each in usual]

    def scale(self, raw: torch.Tensor, evened: float) -> torch.Tensor:
        """Learn from the sums [N, D] of responses what is usual; returns their features.

        They are divided by their spread to the power `evened`.
        """
        self.centre = raw.mean(0)
        if not raw.shape[1]:
            return raw
        spread = raw.std(0, correction=0)
        spread = torch.where(spread < SMALLEST, torch.full_like(spread, USUAL), spread)
        scaled = (raw - self.centre) / spread**evened
        self.size = spread**evened * scaled.square().sum(1).mean().sqrt().clamp(min=SMALLEST_GROUP)
        return self.normalise(raw)

    def read(self, words: Words) -> torch.Tensor:
        """[D]: the sums of one response, before `normalise`."""
        factors = self._factors(words.sentences)
        return torch.cat([factors @ (similarity[:, self.landmarks] - usual)
                          for similarity, usual in zip(words.similarities, self.usual)])

    def normalise(self, raw: torch.Tensor) -> torch.Tensor:
        """[N, D]: the features, from sums [N, D]."""
        return (raw - self.centre) / self.size

    def trace(self, words: Words, weights: torch.Tensor) -> torch.Tensor:
        """[W, M]: the features times weights [M, D] after each word, as if the response ended there."""
        scaled = weights / self.size
        values = torch.zeros(len(words.sentences), len(weights))
        for similarity, usual, share in zip(words.similarities, self.usual, scaled.chunk(2, dim=1)):
            values += (similarity[:, self.landmarks] - usual) @ share.T
        return self._pool(values, words.sentences) - scaled @ self.centre.expand(scaled.shape[1])

    def word_weights(self, weights: torch.Tensor, similarities: list[torch.Tensor]) -> torch.Tensor:
        """[L, M]: what each of the L landmarks adds in this place; `similarities` [L, L] of each depth."""
        scaled = weights / self.size
        total = torch.zeros(similarities[0].shape[0], len(weights))
        for similarity, usual, share in zip(similarities, self.usual, scaled.chunk(2, dim=1)):
            total += (similarity[:, self.landmarks] - usual) @ share.T
        return total

    def state_dict(self) -> dict:
        return {"landmarks": self.landmarks, "usual": self.usual, "centre": self.centre, "size": self.size}

    def load_state_dict(self, state: dict) -> None:
        self.landmarks, self.usual = state["landmarks"], list(state["usual"])
        self.centre, self.size = state["centre"], state["size"]

    # -- inside --------------------------------------------------------------------------------------------------------

    def _inside(self, sentences: torch.Tensor) -> torch.Tensor:
        """[W]: 1 for the words of this place."""
        if self.place == "opening":
            return (torch.arange(len(sentences)) < OPENING).float()
        if self.place == "first":
            return (sentences == 0).float()
        if self.place == "last":
            return (sentences == sentences[-1:]).float()
        if self.place == "starts":
            return F.pad(sentences.diff(), (1, 0), value=1).clamp(max=1)[:len(sentences)].float()
        return torch.ones(len(sentences))

    def _factors(self, sentences: torch.Tensor) -> torch.Tensor:
        """[W]: what each word counts in the whole response."""
        inside = self._inside(sentences)
        if self.place == "late":
            inside = 2 * (torch.arange(len(sentences)) + 0.5) / max(len(sentences), 1) - 1
        return inside / max(float(self._inside(sentences).sum()), FEWEST[self.place])

    def _pool(self, values: torch.Tensor, sentences: torch.Tensor) -> torch.Tensor:
        """[W, M]: the sums of `values` [W, M], as `_factors` weighs them, of each beginning of the response."""
        if self.place == "late":
            number = torch.arange(1, len(sentences) + 1)[:, None]
            moment = ((number - 0.5) * values).cumsum(0)
            return (2 * moment / number - values.cumsum(0)) / number.clamp(min=FEWEST["late"])
        if self.place == "last":
            return self._pool_last(values, sentences)
        inside = self._inside(sentences)[:, None]
        return (inside * values).cumsum(0) / inside.cumsum(0).clamp(min=FEWEST[self.place])

    def _pool_last(self, values: torch.Tensor, sentences: torch.Tensor) -> torch.Tensor:
        """The sum over the sentence of each word so far."""
        sums = values.cumsum(0)
        first = torch.searchsorted(sentences.contiguous(), sentences.contiguous())  # where the sentence begins
        before = torch.cat([torch.zeros(1, values.shape[1]), sums])[first]
        count = (torch.arange(1, len(sentences) + 1) - first)[:, None]
        return (sums - before) / count.clamp(min=FEWEST["last"])
