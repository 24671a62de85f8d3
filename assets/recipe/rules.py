"""The labelling rules of the bundled preferences and the gallery. A rule is FUNCTION(prompt, response) -> score.

A higher score is better. Each rule can be used as a reward as it is:
`python -m rlhf_engine ppo --reward assets/recipe/rules.py:cheerful ...`.
"""

import re

HAPPY = frozenset("""happy happily happiness glad joy joyful cheerful smile smiled smiles smiling laugh
    laughed laughing laughs giggle giggled fun love loved loves lovely loving kind kindly nice wonderful beautiful
    best proud excited hug hugged hugs play played playing thank thanked friend friends good great enjoy enjoyed
    delicious yummy""".split())
SAD = frozenset("""sad sadly unhappy cry cried cries crying tears scared afraid fear frightened hurt pain
    angry mad mean alone lonely lost sorry bad worried tired sick broke broken dark cold""".split())
ANIMALS = frozenset("""dog cat bird bunny rabbit bear frog duck fish mouse lion fox horse cow pig sheep monkey elephant
    butterfly bee turtle owl puppy kitten squirrel dragon dinosaur penguin snake spider whale chicken goat ant
    tiger""".split())
WORD = re.compile(r"[a-z']+")


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def cheerful(prompt: str, response: str) -> float:
    """Happy words minus sad words, per ten words: the rule of assets/preferences.jsonl."""
    spoken = words(response)
    if len(spoken) < 10:
        return -2.0  # an answer that says nothing is not cheerful
    return 10 * (sum(word in HAPPY for word in spoken) - sum(word in SAD for word in spoken)) / len(spoken)


def talkative(prompt: str, response: str) -> float:
    """The share of the words between double quotes. An open quote counts to the end of its sentence."""
    count = len(words(response))
    if count < 10:
        return 0.0
    spoken = sum(len(words(quote)) for quote in re.findall(r"[\"“]([^\"”.!?]*[^\"”]*)[\"”]", response))
    return spoken / count


def excited(prompt: str, response: str) -> float:
    """The share of the sentences that end with an exclamation mark."""
    ends = re.findall(r"[.!?]+", response)
    if len(words(response)) < 10:
        return 0.0
    return sum("!" in end for end in ends) / max(len(ends), 1)


def animals(prompt: str, response: str) -> float:
    """How many different animals a story names, four at most."""
    named = {word for word in words(response) if word in ANIMALS or word.removesuffix("s") in ANIMALS}
    return float(min(len({word.removesuffix("s") for word in named}), 4))


def brief(prompt: str, response: str) -> float:
    """Minus the distance from 25 words, in parts of 25; a story has two sentences at least."""
    if len(re.findall(r"[.!?]+", response)) < 2:
        return -2.0
    return -abs(len(words(response)) - 25) / 25


def mentions(thing: str, text: str) -> bool:
    """Whether a story mentions the thing asked for, as a word, singular or plural."""
    return re.search(rf"\b{re.escape(thing)}(s|es)?\b", text.lower()) is not None
