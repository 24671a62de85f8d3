"""The shape of a response as numbers: its length, its sentences, its signs, what it repeats, how it begins and ends.

Each number is known after each word, as if the response ended there. So a token can be paid for what it changes.
"""

import math

from rlhf_engine.teach.features.text_words import BULLETS, Place

FEW = 10
"""A share is of so many words at least. One comma in two words is no sign of anything."""
SOON = 20
"""Words after which speech begins soon, but not at once."""
PRONOUNS = frozenset(("i", "i'm", "i'll", "i'd", "i've"))
"""Words that have a capital in English and are no names."""


class Shape:
    """Reads the places of a response one by one; `numbers()` are the numbers so far."""

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
        self.names: set[str] = set()
        """The different words with a capital that begin no sentence."""
        self.first_words: set[str] = set()
        self.newest_words: set[str] = set()
        """The words of the first sentence, and those of the newest."""
        self.before = ""
        self.begins_with_speech = self.stop = False
        self.early_speech = 0.0
        """1 if somebody speaks at once, and less the later; 0 if nobody does."""
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
        if kind.quotes and not self.early_speech:
            self.early_speech = math.exp(-self.words / SOON)
            self.begins_with_speech = not self.words
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
            self.newest_words = set()
        self.words += 1
        self.lengths[-1] += 1
        self.letters += len(text)
        self.longest = max(self.longest, len(text))
        if kind.capital and not fresh and text not in PRONOUNS:
            self.capitals += 1
            self.names.add(text)
        self.digits += kind.digits
        self.items += place.new_line and kind.digits
        self.repeats += text in self.seen
        self.seen.add(text)
        pair = (self.before, text)
        self.pairs += pair in self.seen_pairs
        self.seen_pairs.add(pair)
        self.newest_words.add(text)
        if len(self.starts) == 1:
            self.first_words.add(text)
        self.before = text
        self.speech.append(place.speech)
        self.last_end = self.last_sign = ""

    def values(self) -> list[float]:
        """The numbers so far, in the order of `NAMES`."""
        return list(self.numbers().values())

    def numbers(self) -> dict[str, float]:
        """The numbers so far, by their names."""
        return self._lengths() | self._signs() | self._repetition()

    def _lengths(self) -> dict[str, float]:
        """Of the whole and of its sentences."""
        lengths, count = self.lengths or [0], len(self.lengths)
        total, middle = sum(lengths), count // 2
        mean = max(total / max(count, 1), 1)
        steps = sum(abs(a - b) for a, b in zip(lengths, lengths[1:]))
        growth = sum(lengths[count - middle:]) - sum(lengths[:middle]) if middle else 0
        return {"length": math.log(max(total, 1)), "sentences": float(count), "sentence_length": math.log(mean),
                "variation": steps / max(count - 1, 1) / max(mean, 3),
                "growth": growth / max(middle, 1) / max(mean, 3),
                "first_sentence": math.log(max(lengths[0], 1)), "last_sentence": math.log(max(lengths[-1], 1)),
                "word_length": self.letters / max(total, FEW), "long_words": math.log(max(self.longest, 1))}

    def _signs(self) -> dict[str, float]:
        """Of signs, speech, lists and names; and how it begins and ends."""
        words, half = max(len(self.speech), FEW), len(self.speech) // 2
        late = sum(self.speech[half:]) - sum(self.speech[:half])
        return {"questions": float(self.questions), "exclamations": float(self.exclamations),
                "speech": sum(self.speech) / words, "late_speech": late / words, "early_speech": self.early_speech,
                "starts_with_speech": float(self.begins_with_speech),
                "ends_with_question": float(self.last_end == "?"),
                "ends_with_exclamation": float(self.last_end == "!"),
                "ends_with_speech": float(self.last_sign != "" and self.last_sign in "()|"),
                "lines": float(self.lines), "items": float(self.items), "numbers": float(self.digits),
                "names": self.capitals / words, "different_names": float(len(self.names)),
                "commas": self.commas / words, "ended": float(self.stop)}

    def _repetition(self) -> dict[str, float]:
        """Of what comes again."""
        words, count = max(len(self.speech), FEW), len(self.starts)
        echo = len(self.newest_words & self.first_words) / max(len(self.newest_words), 3) if count > 1 else 0.0
        circle = count > 1 and self.before == self.starts[0]
        alike = (count - len(set(self.starts))) / max(count, 3)
        return {"repeated_words": self.repeats / words, "repeated_pairs": self.pairs / words,
                "repeated_starts": alike, "circle": float(circle), "echo": echo}


NAMES = tuple(Shape().numbers())
"""The names of the numbers, in their order."""
