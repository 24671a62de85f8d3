"""How a response takes up its prompt: which of the prompt's own words come, how early, how often, and where.

The prompt's own words are those that tell it from other prompts and that responses do not hold anyway: a word counts by
its rarity among the prompts, times its rarity among the responses of the anchors. The rest of a prompt ("tell me a
story", the words of a chat template) counts nothing. Each number is known after each word of the response.
"""

import math
from collections import Counter
from collections.abc import Callable

import torch

from rlhf_engine.teach.features.text_words import Place

LEAST = 0.15
"""Words that count less than this are left out."""
LATE = 40
"""Words after which a mention is as late as one that never comes."""
STEM = 3
"""Letters, at least, that two forms of a word begin with, and at most, in which they end differently."""


class PromptWords:
    """The rarity of words, from the anchors."""

    def __init__(self) -> None:
        self.rows = 0
        self.in_prompts: Counter[str] = Counter()
        self.in_responses: Counter[str] = Counter()

    def add(self, prompt: set[str], response: set[str]) -> None:
        """Count the different words of a prompt of the anchors, and of its response."""
        self.rows += 1
        self.in_prompts.update(prompt)
        self.in_responses.update(response)

    def weight(self, word: str) -> float:
        """How much a word says about what its prompt asks for, from 0 to 1."""
        scale = math.log(self.rows + 1)
        rare = [1 - math.log(counts[word] + 1) / scale for counts in (self.in_prompts, self.in_responses)]
        return rare[0] * rare[1]

    def state_dict(self) -> dict:
        return {"rows": self.rows, "prompts": list(self.in_prompts.items()),
                "responses": list(self.in_responses.items())}

    def load_state_dict(self, state: dict) -> None:
        self.rows = state["rows"]
        self.in_prompts = Counter({word: count for word, count in state["prompts"]})
        self.in_responses = Counter({word: count for word, count in state["responses"]})


def alike(word: str, other: str) -> bool:
    """Whether two words are the same, or forms of one ("dog" and "dogs")."""
    if word == other:
        return True
    short, long = sorted((word, other), key=len)
    return len(short) >= STEM and len(long) - len(short) <= STEM and long.startswith(short)


class Relation:
    """Reads the words of a response one by one against the words of its prompt (`own`, with their weights).

    `values()` are the numbers so far, in the order of `NAMES`.
    """

    NAMES = ("mentioned", "mentions", "early_mention", "mention_in_first", "mention_in_last", "copied", "copied_run")

    def __init__(self, own: dict[str, float], prompt: list[str], matches: Callable[[str, str], bool] = alike):
        self.own, self.matches = own, matches
        self.total = sum(own.values())
        self.pairs = set(zip(prompt, prompt[1:]))
        self.count = self.copied = self.hits = 0
        self.run = self.longest_run = 0
        self.found: dict[str, tuple[int, int]] = {}
        """For each of the prompt's words that has come: after how many words first, and in which sentence last."""
        self.first: set[str] = set()
        self.sentence = 0
        self.before = ""
        self.cache: dict[str, list[str]] = {}

    def add(self, place: Place) -> None:
        """Take in the next word or sign."""
        if not place.kind.spells:
            return
        text = place.kind.text
        self.sentence = place.sentence
        if text not in self.cache:
            self.cache[text] = [word for word in self.own if self.matches(text, word)]
        for word in self.cache[text]:
            first, _ = self.found.get(word, (self.count, 0))
            self.found[word] = (first, place.sentence)
            if place.sentence == 0:
                self.first.add(word)
        self.hits += bool(self.cache[text])
        self.run = self.run + 1 if (self.before, text) in self.pairs else 0
        self.longest_run = max(self.longest_run, self.run)
        self.copied += self.run > 0
        self.count += 1
        self.before = text

    def values(self) -> list[float]:
        """The numbers so far. Shares are of the weight of all of the prompt's own words; 0 where it has none."""
        total = self.total or 1.0
        mentioned = early = last = 0.0
        for word, (first, sentence) in self.found.items():
            mentioned += self.own[word]
            early += self.own[word] * max(0.0, 1 - first / LATE)
            last += self.own[word] * (sentence == self.sentence)
        first_sentence = sum(self.own[word] for word in self.first)
        return [mentioned / total, math.log1p(self.hits), early / total, first_sentence / total, last / total,
                self.copied / max(self.count, 10), math.log1p(self.longest_run)]


def closest(words: torch.Tensor, own: torch.Tensor, weights: torch.Tensor, width: float) -> torch.Tensor:
    """[W]: how near the response has come so far to each of the prompt's words, on average.

    words [W, d] and own [P, d] are directions; the nearness is the kernel of the soft words.
    """
    nearness = torch.exp((words @ own.T - 1) / width).cummax(0).values
    return nearness @ weights / weights.sum()
