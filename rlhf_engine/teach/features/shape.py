"""The shape of a response as numbers: its length, its sentences, its signs, what it repeats, how it begins and ends.

Each number is known after each word, as if the response ended there. So a token can be paid for what it changes.
"""

import math
from collections.abc import Iterable

from rlhf_engine.teach.features.text_words import BULLETS, Place

FEW = 10
"""A share is of so many words at least. One comma in two words is no sign of anything."""
HALF = 0.5


class Shape:
    """Reads the places of a response one by one; `values()` are the numbers so far, in the order of `NAMES`."""

    NAMES = ("length", "sentences", "sentence_length", "variation", "first_sentence", "last_sentence", "questions",
             "exclamations", "speech", "late_speech", "starts_with_speech", "ends_with_question",
             "ends_with_exclamation", "ends_with_speech", "lines", "items", "numbers", "names", "commas", "word_length",
             "long_words", "repeated_words", "repeated_pairs", "repeated_starts", "circle", "ended")

    def __init__(self) -> None:
        self.words = self.letters = self.longest = self.commas = self.capitals = self.digits = 0
        self.lines = self.items = self.repeats = self.pairs = 0
        self.questions = self.exclamations = 0
        self.lengths: list[int] = []
        """Words of each sentence."""
        self.speech: list[bool] = []
        """Of each word: whether somebody says it."""
        self.seen: set[str] = set()
        self.seen_pairs: set[tuple[str, str]] = set()
        self.starts: list[str] = []
        """The first word of each sentence."""
        self.first_words: set[str] = set()
        self.last_words: list[str] = []
        """Words of the first and of the newest sentence."""
        self.before = ""
        self.begins_with_speech = self.stop = False
        self.last_end = self.last_sign = ""
        self.sentence = -1

    def add(self, place: Place) -> None:
        """Take in the next word or sign."""
        kind = place.kind
        self.stop = kind.stop
        self.lines += kind.breaks
        self.commas += "," in kind.text or "，" in kind.text or "、" in kind.text
        if place.new_line and kind.text in BULLETS:
            self.items += 1
        if kind.quotes and not self.words:
            self.begins_with_speech = True
        if kind.end:
            self.questions += kind.end == "?"
            self.exclamations += kind.end == "!"
        if kind.spells:
            self._add_word(place)
        elif kind.text:
            self.last_end = kind.end or self.last_end
            self.last_sign = kind.quotes or kind.end or self.last_sign

    def _add_word(self, place: Place) -> None:
        kind, text = place.kind, place.kind.text
        fresh = place.sentence != self.sentence
        if fresh:
            self.sentence = place.sentence
            self.lengths.append(0)
            self.starts.append(text)
            self.last_words = []
        self.words += 1
        self.lengths[-1] += 1
        self.letters += len(text)
        self.longest = max(self.longest, len(text))
        self.capitals += kind.capital and not fresh
        self.digits += kind.digits
        self.items += place.new_line and kind.digits
        self.repeats += text in self.seen
        self.seen.add(text)
        pair = (self.before, text)
        self.pairs += pair in self.seen_pairs
        self.seen_pairs.add(pair)
        self.before = text
        self.speech.append(place.speech)
        self.last_words.append(text)
        if len(self.lengths) == 1:
            self.first_words.add(text)
        self.last_end = self.last_sign = ""

    def values(self) -> list[float]:
        """The numbers so far."""
        words, count = max(self.words, FEW), len(self.lengths)
        total = sum(self.lengths)
        steps = sum(abs(a - b) for a, b in zip(self.lengths, self.lengths[1:]))
        half = len(self.speech) // 2
        late = sum(self.speech[half:]) - sum(self.speech[:half])
        return [
            math.log(max(self.words, 1)), float(count), math.log(max(total / max(count, 1), 1)),
            steps / max(count - 1, 1) / max(total / max(count, 1), 3),
            math.log(max(self.lengths[0] if count else 1, 1)), math.log(max(self.lengths[-1] if count else 1, 1)),
            float(self.questions), float(self.exclamations), sum(self.speech) / words, late / words,
            float(self.begins_with_speech), float(self.last_end == "?"), float(self.last_end == "!"),
            float(bool(self.last_sign) and self.last_sign in "()|"), float(self.lines), float(self.items),
            float(self.digits), self.capitals / words, self.commas / words, self.letters / words,
            math.log(max(self.longest, 1)), self.repeats / words, self.pairs / words,
            (count - len(set(self.starts))) / max(count, 3),
            float(count > 1 and bool(self.starts) and self.before == self.starts[0]), float(self.stop)]


def trace(places: Iterable[Place]) -> list[list[float]]:
    """[W, len(Shape.NAMES)]: the numbers of a response after each of its words and signs."""
    shape, rows = Shape(), []
    for place in places:
        shape.add(place)
        rows.append(shape.values())
    return rows
