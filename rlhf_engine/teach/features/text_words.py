"""What the words and signs of a response are to a reader: letters, ends of sentences, speech, line breaks, items.

A word is what `Splitter` makes of the tokens. What one is depends on its tokens alone, so it is found out once.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from rlhf_engine.teach.word_features import Splitter, Word

ENDS = {".": ".", "!": "!", "?": "?", "…": ".", "。": ".", "！": "!", "？": "?", "।": ".", "؟": "?", "．": "."}
"""Signs that end a sentence, and which of three kinds they are."""
OPENING, CLOSING, EITHER = "“„«「『", "”»」』", '"'
"""Quotation marks that begin speech, that end it, and that do either."""
BULLETS = frozenset("-*•–·+")


class Kind(NamedTuple):
    """What one word or sign is."""

    text: str
    """In lower case, without spaces around it; "" for a line break and for the end of the response."""
    spells: bool
    """Whether it is a word: it has a letter or a digit."""
    capital: bool
    digits: bool
    end: str
    """".", "!" or "?" if it ends a sentence, else ""."""
    quotes: str
    """For each quotation mark in it: "(" opens, ")" closes, "|" does either."""
    breaks: int
    """Line breaks in it."""
    stop: bool
    """Whether it is the end of the response."""


class Place(NamedTuple):
    """Where in its response a word stands, known from what comes before it."""

    kind: Kind
    sentence: int
    """Number of its sentence. A sign that follows the end of a sentence still belongs to that."""
    speech: bool
    """Whether it stands between quotation marks."""
    new_line: bool
    """Whether it is the first on its line."""


class Reader(Protocol):
    """Reads the places of a response one by one, and knows some numbers of it after each."""

    def add(self, place: Place) -> None:
        """Take in the next word or sign."""
        ...

    def values(self) -> list[float]:
        """The numbers so far."""
        ...


def trace(reader: Reader, places: Iterable[Place]) -> list[list[float]]:
    """[W, numbers]: what a reader knows of a response after each of its words and signs."""
    rows = []
    for place in places:
        reader.add(place)
        rows.append(reader.values())
    return rows


class TextWords:
    """Tells for the words of a response what they are, and in which sentence they stand."""

    def __init__(self, tokenizer, stop_ids, splitter: Splitter):
        self.tokenizer, self.stop_ids, self.splitter = tokenizer, frozenset(stop_ids), splitter
        self.kinds: dict[Word, Kind] = {}

    def kind(self, word: Word) -> Kind:
        """What a word is."""
        if word not in self.kinds:
            self.kinds[word] = self._read_kind(word)
        return self.kinds[word]

    def places(self, tokens: list[int]) -> Iterator[Place]:
        """The words of a response with their places."""
        sentence, words, over, speech, new_line, number = 0, 0, False, False, True, False
        for word in self.splitter.words(tokens):
            kind = self.kind(word)
            if kind.spells:
                if over and words:
                    sentence, words = sentence + 1, 0
                over, words = False, words + 1
            opened = speech
            for quote in kind.quotes:
                speech = quote == "(" or (quote == "|" and not speech)
                if quote != ")" and speech and over and words:  # an opening quote begins the next sentence
                    sentence, words, over = sentence + 1, 0, False
            yield Place(kind, sentence, speech or opened, new_line)
            if (kind.end and not (kind.end == "." and number)) or kind.breaks:
                over = True
            number = new_line and kind.digits  # "1." begins an item of a list, and ends no sentence
            new_line = kind.breaks > 0 or (new_line and not kind.text)

    def _read_kind(self, word: Word) -> Kind:
        if len(word) == 1 and word[0] in self.stop_ids:
            return Kind("", False, False, False, "", "", 0, True)
        raw = self.tokenizer.decode(list(word))
        text = raw.strip()
        spells = any(map(str.isalnum, text))
        ends = [ENDS[sign] for sign in text if sign in ENDS]
        quotes = ""
        for sign in text:
            quotes += "(" if sign in OPENING else ")" if sign in CLOSING else "|" if sign in EITHER else ""
        return Kind(text.lower(), spells, text[:1].isupper(), spells and text.isdigit(),
                    ends[-1] if ends and not spells else "", quotes, raw.count("\n"), False)
