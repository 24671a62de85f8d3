"""Read TinyStories from the Hub or from local files, and vary the names in them.

The recipe sees the same rows either way: `--data roneneldan/TinyStories` streams the public set, a local
`train.jsonl.gz` with a `text` column is read as it is. Nothing here is imported by the engine.
"""

import random
import re
from collections import Counter
from pathlib import Path

import datasets

NAMED = re.compile(r"\b(girl|boy|woman|man) (?:named|called) ([A-Z][a-z]+)\b")
GENDER = {"girl": "she", "woman": "she", "boy": "he", "man": "he"}


def read_stories(source: str, split: str = "train", limit: int | None = None, sources: list[str] | None = None) -> list[str]:
    """Story texts from a local json/jsonl(.gz) file or a Hub data set with a `text` column; with `sources`, those whose
    `source` is one of them."""
    if Path(source).exists():
        rows = datasets.load_dataset("json", data_files=source, split="train")
    else:
        rows = datasets.load_dataset(source, split=split if limit is None else f"{split}[:{limit}]")
    if sources is not None:
        rows = rows.filter(lambda row: row["source"] in sources)
    texts = (text.strip() for text in rows["text"][:limit])
    return [text for text in texts if text]


class NameSwap:
    """Swaps the names of a story for other names of the same pronoun, drawn by how often they occur.

    Eight million characters are read a dozen times in training; a story that never repeats to the letter is
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
