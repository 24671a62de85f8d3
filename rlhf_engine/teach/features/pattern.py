"""Patterns in a response as numbers: where its signs and its speech stand, its extreme sentences, and its sounds.

They came with the third version of the features. As those of `shape`, each is known after each word.
"""

import math
from collections import Counter

from rlhf_engine.teach.features.shape import FEW, PRONOUNS, SOON
from rlhf_engine.teach.features.text_words import Place

SHORT = 3
"""Letters of a short word, at most; and letters at the end of two words that rhyme."""


class Pattern:
    """Reads the places of a response one by one; `numbers()` are the numbers so far."""

    def __init__(self) -> None:
        self.words = self.short = self.alike = self.speeches = self.commas = self.series = 0
        self.lengths: list[int] = []
        """Words of each sentence."""
        self.ends: list[str] = []
        """The last word of each sentence so far."""
        self.rhymes = 0
        """Sentences before the newest that end like the one before them."""
        self.totals: dict[str, list[int]] = {sign: [0] for sign in ("?", "!", "speech")}
        """How many of each there are in the first words, for each number of words."""
        self.early: dict[str, float] = {"?": 0.0, "!": 0.0}
        """1 if the sign comes at once, and less the later; 0 if it has not come."""
        self.names: Counter[str] = Counter()
        self.letter = ""
        """The first letter of the word before."""
        self.speaking = False
        self.sentence = -1

    def add(self, place: Place) -> None:
        """Take in the next word or sign."""
        kind = place.kind
        self.speeches += bool(kind.quotes) and place.speech and not self.speaking
        if kind.quotes:
            self.speaking = place.speech and not self.speaking
        if kind.end in self.early:
            self.totals[kind.end][-1] += 1
            self.early[kind.end] = self.early[kind.end] or math.exp(-self.words / SOON)
        if "," in kind.text:
            self.commas += 1
            self.series = max(self.series, self.commas)
        if kind.spells:
            self._add_word(place)

    def _add_word(self, place: Place) -> None:
        text = place.kind.text
        fresh = place.sentence != self.sentence
        if fresh:
            self.rhymes += self._rhymes()
            self.sentence, self.commas = place.sentence, 0
            self.lengths.append(0)
            self.ends.append(text)
        self.words += 1
        self.lengths[-1] += 1
        self.ends[-1] = text
        self.short += len(text) <= SHORT
        self.alike += text[0] == self.letter
        self.letter = text[0]
        if place.kind.capital and not fresh and text not in PRONOUNS:
            self.names[text] += 1
        for sign, totals in self.totals.items():
            totals.append(totals[-1] + (sign == "speech" and place.speech))

    def _rhymes(self) -> bool:
        """Whether the newest sentence ends like the one before, with another word."""
        one, other = ([""] * 2 + self.ends)[-2:]
        return one != other and len(one) >= SHORT and one[-SHORT + 1:] == other[-SHORT + 1:]

    def values(self) -> list[float]:
        """The numbers so far, in the order of `NAMES`."""
        return list(self.numbers().values())

    def numbers(self) -> dict[str, float]:
        """The numbers so far, by their names."""
        lengths, words = self.lengths or [0], max(self.words, FEW)
        outer = self._between("speech", 0, 1 / 3) + self._between("speech", 2 / 3, 1)
        return {"early_question": self.early["?"], "early_exclamation": self.early["!"],
                "late_questions": self._late("?"), "late_exclamations": self._late("!"),
                "middle_speech": (self._between("speech", 1 / 3, 2 / 3) - outer) / words,
                "speeches": float(self.speeches),
                "second_sentence": math.log(max((lengths + [0])[1], 1)),
                "shortest_sentence": math.log(max(min(lengths), 1)),
                "longest_sentence": math.log(max(max(lengths), 1)),
                "series": float(self.series), "short_words": self.short / words,
                "alliteration": self.alike / words,
                "rhymes": (self.rhymes + self._rhymes()) / max(len(lengths), 3),
                "most_named": float(max(self.names.values(), default=0))}

    def _between(self, sign: str, start: float, stop: float) -> int:
        """How many of a sign stand between two shares of the words so far."""
        totals = self.totals[sign]
        first = totals[round(start * self.words)] if start else 0
        return totals[round(stop * self.words)] - first

    def _late(self, sign: str) -> float:
        """How many more of a sign stand in the second half than in the first."""
        return float(self._between(sign, 0.5, 1) - self._between(sign, 0, 0.5))


NAMES = tuple(Pattern().numbers())
"""The names of the numbers, in their order."""
