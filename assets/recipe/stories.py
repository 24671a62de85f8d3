"""Read TinyStories from the Hub or from local files, clean them by rule, and vary the names in them.

The recipe sees the same rows either way: `--data roneneldan/TinyStories` streams the public set, a local
`train.jsonl.gz` with a `text` column is read as it is. Nothing here is imported by the engine.
"""

import hashlib
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import datasets

NAMED = re.compile(r"\b(girl|boy|woman|man) (?:named|called) ([A-Z][a-z]+)\b")
GENDER = {"girl": "she", "woman": "she", "boy": "he", "man": "he"}
# UTF-8 that was read as Latin-1. A rule that restored the case of a row has made "Ã" a small letter.
MOJIBAKE = {"Ã©": "é", "ã©": "é", "â€™": "'", "â€œ": '"', "â€": '"', "Â": ""}
TYPOGRAPHY = str.maketrans({"«": '"', "»": '"', "“": '"', "”": '"', "’": "'", "‘": "'", "…": "..."})


@dataclass(frozen=True)
class Story:
    text: str
    source: str | None = None


def clean_story(text: str) -> str | None:
    """Return the story with what is clearly broken repaired; None for a story that cannot be repaired.

    The rules come from a look at all 23,273 rows of the two local files:

    * Paragraphs are parted by one newline in some rows and by two in others. The validation split has two, so all
      rows get two. A space before the newline stays: the validation split has it in 4 of 10 stories.
    * 56 rows have double spaces, 9 have a sentence that begins right behind a full stop, 1 has a line of "=".
    * 1 row has mojibake, 1 has «quotation marks» that no other row has.
    * 85 rows break off in the middle of a sentence and 50 have a quotation mark that is never closed. They are
      dropped: a model that learns from them learns to stop anywhere.
    """
    for broken, right in MOJIBAKE.items():
        text = text.replace(broken, right)
    text = text.translate(TYPOGRAPHY).replace("\r\n", "\n")
    text = re.sub(r"\n=+(?=\n)", "", text)
    text = re.sub(r" {2,}", " ", text)
    text = re.sub(r"\n[ \n]*", "\n\n", text)
    text = re.sub(r"(?<=\w\w)([.!?])(?=[A-Z][a-z])", r"\1 ", text).strip()
    whole = text.endswith((".", "!", "?", '"', "'")) and text.count('"') % 2 == 0
    return text if whole else None


def read_rows(source: str, split: str = "train", limit: int | None = None) -> list[Story]:
    """Rows as they are, of a local json/jsonl(.gz) file or of a Hub data set with a `text` column."""
    if Path(source).exists():
        rows = datasets.load_dataset("json", data_files=source, split="train")
    else:
        rows = datasets.load_dataset(source, split=split if limit is None else f"{split}[:{limit}]")
    texts = rows["text"][:limit]
    sources = rows["source"][:limit] if "source" in rows.column_names else [None] * len(texts)
    stories = [Story(text.strip(), origin) for text, origin in zip(texts, sources)]
    return [story for story in stories if story.text]


def read_clean_rows(source: str, limit: int | None = None) -> list[Story]:
    """Rows for training: each cleaned, those that are broken left out."""
    cleaned = [(clean_story(story.text), story.source) for story in read_rows(source, limit=limit)]
    return [Story(text, origin) for text, origin in cleaned if text]


def letters_of(text: str) -> str:
    """The letters alone: two stories with the same letters are copies of each other."""
    return re.sub(r"[^a-z]", "", text.lower())


def without_copies(stories: list[Story], forbidden: list[Story]) -> list[Story]:
    """The stories that are no copy of a forbidden one."""
    known = {letters_of(story.text) for story in forbidden}
    return [story for story in stories if letters_of(story.text) not in known]


def fingerprint(name: str, stories: list[Story]) -> dict:
    """What a model card says about a file, and what a resumed run compares: rows, characters, a hash of all texts."""
    digest = hashlib.sha256("\0".join(story.text for story in stories).encode())
    return {"name": Path(name).name if Path(name).exists() else name, "rows": len(stories),
            "characters": sum(len(story.text) for story in stories), "sha256": digest.hexdigest()}


def choose_held_out(stories: list[Story], count: int) -> list[Story]:
    """The `count` stories whose hash is lowest: the choice stays the same when other rows come or go."""
    return sorted(stories, key=lambda story: hashlib.sha256(story.text.encode()).digest())[:count]


class NameSwap:
    """Swaps the names of a story for other names of the same pronoun, drawn by how often they occur.

    A few million characters are read many times in training; a story that never repeats to the letter is
    memorised later. Only names that the corpus itself introduces ("a girl named Lily") are touched.
    """

    def __init__(self, stories: list[str], at_least: int = 5):
        counts = {"she": Counter(), "he": Counter()}
        for story in stories:
            for noun, name in NAMED.findall(story):
                counts[GENDER[noun]][name] += 1
        self.pools = {}
        for pronoun, other in (("she", "he"), ("he", "she")):
            # A name that both pronouns use often (Sam, Alex) stays out, so that pronouns keep agreeing.
            pool = {n: c for n, c in counts[pronoun].items() if c >= at_least and counts[other][n] * 5 <= c}
            self.pools[pronoun] = (list(pool), list(pool.values()))
        self.pronoun = {name: pronoun for pronoun, (names, _) in self.pools.items() for name in names}
        self.pattern = re.compile(r"\b(" + "|".join(sorted(self.pronoun)) + r")\b") if self.pronoun else None

    def __call__(self, story: str, rng: random.Random) -> str:
        if self.pattern is None:
            return story
        found = dict.fromkeys(self.pattern.findall(story))
        mapping, taken = {}, set(found)
        for name in found:
            names, weights = self.pools[self.pronoun[name]]
            new = rng.choices(names, weights)[0]
            mapping[name] = name if new in taken else new
            taken.add(mapping[name])
        return self.pattern.sub(lambda match: mapping[match[0]], story)
