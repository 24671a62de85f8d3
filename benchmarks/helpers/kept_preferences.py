"""Preferences beyond words that nothing was tuned on: they tell whether the live reward was built for the kind.

For `--labeler benchmarks/helpers/kept_preferences.py:NAME`.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.preferences import names, sentence_lengths, sentences, things, words

SAD = frozenset("sad cry cried crying tears lost alone scared afraid hurt angry sorry worried".split())


def three_sentences(prompt: str, response: str) -> float:
    return -abs(len(sentence_lengths(response)) - 3)


def ends_with_question(prompt: str, response: str) -> float:
    return float(response.rstrip().rstrip('"\u201d').endswith("?"))


def asks_twice(prompt: str, response: str) -> float:
    return -abs(response.count("?") - 2)


def no_word_twice(prompt: str, response: str) -> float:
    found = words(response)
    return len(set(found)) / max(len(found), 20)


def short_last_sentence(prompt: str, response: str) -> float:
    return -(sentence_lengths(response) or [100])[-1]


def short_first_sentence(prompt: str, response: str) -> float:
    return -(sentence_lengths(response) or [100])[0]


def name_in_first_sentence(prompt: str, response: str) -> float:
    first = (sentences(response) or [""])[0]
    return float(bool(re.search(r"(?<=[a-z,] )[A-Z][a-z]+", first)))


def later_dialogue(prompt: str, response: str) -> float:
    half = len(response) // 2
    return response[half:].count('"') - response[:half].count('"')


def one_exclamation(prompt: str, response: str) -> float:
    return -abs(response.count("!") - 1)


def thing_in_last_sentence(prompt: str, response: str) -> float:
    return float(any(names((sentences(response) or [""])[-1], thing) for thing in things(prompt)[-1:]))


def thing_early(prompt: str, response: str) -> float:
    """How early the thing comes."""
    found = words(response)
    for thing in things(prompt)[-1:]:
        for number, word in enumerate(found):
            if names(word, thing):
                return -number
    return -100


def long_words(prompt: str, response: str) -> float:
    found = words(response)
    return sum(map(len, found)) / max(len(found), 10)


def alternating_lengths(prompt: str, response: str) -> float:
    found = sentence_lengths(response)
    return sum(abs(a - b) for a, b in zip(found, found[1:])) / max(len(found) - 1, 2)


def begins_one_day(prompt: str, response: str) -> float:
    return float("one day" in " ".join(words(response)[:4]))


def sad_first_sentence(prompt: str, response: str) -> float:
    return sum(word in SAD for word in words((sentences(response) or [""])[0]))


def happy_after_sad(prompt: str, response: str) -> float:
    found, happy = words(response), frozenset("happy glad smiled laughed hugged fun proud loved".split())
    half = len(found) // 2
    return sum(word in happy for word in found[half:]) + sum(word in SAD for word in found[:half])


def same_starts(prompt: str, response: str) -> float:
    starts = [words(part)[0] for part in sentences(response)]
    return len(starts) - len(set(starts))


def ends_as_it_began(prompt: str, response: str) -> float:
    """How many of the words of the first sentence the last one has again."""
    found = sentences(response)
    return len(set(words(found[0])) & set(words(found[-1]))) / 5 if len(found) > 1 else 0


KEPT = (three_sentences, ends_with_question, asks_twice, no_word_twice, short_last_sentence, short_first_sentence,
        name_in_first_sentence, later_dialogue, one_exclamation, thing_in_last_sentence, thing_early, long_words,
        alternating_lengths, begins_one_day, sad_first_sentence, happy_after_sad, same_starts, ends_as_it_began)
