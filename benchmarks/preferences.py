"""Preferences of simulated people, for `--labeler benchmarks/preferences.py:NAME`. The engine has never seen them.

The bundled model meets eight of them in every other story, and two (`weather`, `numbers`) in about one story of ten.
"""

import re

ANIMALS = frozenset("""dog dogs puppy cat cats kitten bird birds fish rabbit bunny bear bears frog duck
    ducks mouse horse cow pig sheep lion tiger monkey elephant fox owl squirrel bee butterfly ant turtle chicken
    animal animals""".split())
FAMILY = frozenset("""mom mommy mother dad daddy father mama papa brother sister grandma grandpa parents
    family baby aunt uncle""".split())
COLOURS = frozenset("""red blue green yellow pink purple orange brown black white grey gray golden colour
    color colors colorful""".split())
NEGATIONS = frozenset("no not never nothing nobody none nor cannot without".split())
WEATHER = frozenset("""rain rained raining rainy snow snowy wind windy storm cloud clouds cloudy sunny
    sunshine thunder weather""".split())
NUMBERS = frozenset("two three four five six seven eight nine ten hundred many few both".split())


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def sentence_lengths(text: str) -> list[int]:
    return [len(found) for part in re.split(r"[.!?]+", text) if (found := words(part))]


def share(text: str, wanted) -> float:
    """Share of the words that are wanted, of twenty words at least."""
    found = words(text)
    return sum(map(wanted, found)) / max(len(found), 20)


def animals(prompt: str, response: str) -> float:
    return share(response, ANIMALS.__contains__)


def family(prompt: str, response: str) -> float:
    return share(response, FAMILY.__contains__)


def colours(prompt: str, response: str) -> float:
    return share(response, COLOURS.__contains__)


def negations(prompt: str, response: str) -> float:
    return share(response, lambda word: word in NEGATIONS or word.endswith("n't"))


def exclamations(prompt: str, response: str) -> float:
    return response.count("!") / max(len(words(response)), 20)


def commas(prompt: str, response: str) -> float:
    return response.count(",") / max(len(words(response)), 20)


def short_sentences(prompt: str, response: str) -> float:
    found = sentence_lengths(response)
    return -sum(found) / len(found) if sum(found) >= 20 else -100


def long_sentences(prompt: str, response: str) -> float:
    found = sentence_lengths(response)
    return sum(found) / len(found) if found else 0


def weather(prompt: str, response: str) -> float:
    return share(response, WEATHER.__contains__)


def numbers(prompt: str, response: str) -> float:
    return share(response, NUMBERS.__contains__)


COMMON = (animals, family, negations, exclamations, commas, short_sentences, long_sentences, colours)
RARE = (weather, numbers)
