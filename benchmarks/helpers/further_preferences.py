"""Preferences of further kinds: patterns, endings of words, mixtures, and what never comes.

The third version of the live reward's features was built with these in view; those of `kept_preferences` were not
looked at. For `--labeler benchmarks/helpers/further_preferences.py:NAME`.
"""

import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.preferences import HAPPY, names, sentence_lengths, sentences, share, things, words

NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+")
PRONOUNS = frozenset("he she they it we i you".split())
FOOD = frozenset("cake bread apple apples soup cookie cookies milk honey food lunch dinner eat ate pie".split())


def mentions(prompt: str, response: str) -> int:
    """How often the last thing that the prompt asks for is named."""
    wanted = [form for thing in things(prompt)[-1:] for form in (thing, f"{thing}s")]
    return sum(word in wanted for word in words(response))


def thing_just_once(prompt: str, response: str) -> float:
    return -abs(mentions(prompt, response) - 1)


def thing_in_speech(prompt: str, response: str) -> float:
    said = " ".join(re.findall('["\u201c]([^"\u201d]*)["\u201d]', response))
    return float(any(names(said, thing) for thing in things(prompt)[-1:]))


def thing_after_first_sentence(prompt: str, response: str) -> float:
    found = sentences(response)
    return float(mentions(prompt, response) > 0 and not any(names(found[0], thing) for thing in things(prompt)[-1:]))


def early_question(prompt: str, response: str) -> float:
    before, sign, _ = response.partition("?")
    return -len(words(before)) if sign else -100


def exclaims_early(prompt: str, response: str) -> float:
    half = len(response) // 2
    return response[:half].count("!") - response[half:].count("!")


def name_in_last_sentence(prompt: str, response: str) -> float:
    return float(bool(NAME.search((sentences(response) or [""])[-1])))


def short_second_sentence(prompt: str, response: str) -> float:
    found = sentence_lengths(response)
    return -found[1] if len(found) > 1 else -40


def speech_in_middle(prompt: str, response: str) -> float:
    third = len(response) // 3
    quotes = [part.count('"') for part in (response[:third], response[third:2 * third], response[2 * third:])]
    return quotes[1] - quotes[0] - quotes[2]


def starts_with_pronouns(prompt: str, response: str) -> float:
    """Share of the sentences that start with a pronoun."""
    found = sentences(response)
    return sum(words(part)[0] in PRONOUNS for part in found) / max(len(found), 3)


def alliteration(prompt: str, response: str) -> float:
    found = words(response)
    return sum(one[0] == other[0] for one, other in zip(found, found[1:])) / max(len(found), 20)


def short_words(prompt: str, response: str) -> float:
    return share(response, lambda word: len(word) <= 3)


def adverbs(prompt: str, response: str) -> float:
    return share(response, lambda word: word.endswith("ly") and len(word) > 4)


def past_tense(prompt: str, response: str) -> float:
    return share(response, lambda word: word.endswith("ed") and len(word) > 3)


def short_with_speech(prompt: str, response: str) -> float:
    return 2.0 * ('"' in response) - len(words(response)) / 30


def short_happy_end(prompt: str, response: str) -> float:
    last = words((sentences(response) or [""])[-1])
    return sum(word in HAPPY for word in last) - len(last) / 10


def no_name_twice(prompt: str, response: str) -> float:
    return -sum(count - 1 for count in Counter(NAME.findall(response)).values())


def food(prompt: str, response: str) -> float:
    """Yes or no, and mostly no: many votes are ties."""
    return float(any(word in FOOD for word in words(response)))


FURTHER = (thing_just_once, thing_in_speech, thing_after_first_sentence, early_question, exclaims_early,
           name_in_last_sentence, short_second_sentence, speech_in_middle, starts_with_pronouns, alliteration,
           short_words, adverbs, past_tense, short_with_speech, short_happy_end, no_name_twice, food)
