"""Says in plain English what the live reward likes: "about 50 words", "a last sentence with words like happy"."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

LEVEL = 0.15
"""A curve whose end comes this near to its peak, as a share of its height, says "more" or "less" and no number."""
WORDS = 3
"""Words that are named for a place."""


class Phrase(NamedTuple):
    """How a number is spoken of."""

    much: str
    little: str
    about: str = ""
    """With {} for the number, where a middle is liked; empty for numbers of which people do not know the value."""
    value: Callable[[float], float] = float
    """The number that people know, from the one that the features hold."""


PHRASES = {
    "length": Phrase("long answers", "short answers", "about {} words", math.exp),
    "sentences": Phrase("many sentences", "few sentences", "about {} sentences"),
    "sentence_length": Phrase("long sentences", "short sentences", "sentences of about {} words", math.exp),
    "variation": Phrase("long sentences next to short ones", "sentences of one length", "sentences that vary a little"),
    "growth": Phrase("sentences that grow longer", "sentences that grow shorter", "sentences that stay as long"),
    "first_sentence": Phrase("a long first sentence", "a short first sentence", "a first sentence of about {} words",
                             math.exp),
    "last_sentence": Phrase("a long last sentence", "a short last sentence", "a last sentence of about {} words",
                            math.exp),
    "questions": Phrase("questions", "no questions", "about {} questions"),
    "exclamations": Phrase("exclamation marks", "no exclamation marks", "about {} exclamation marks"),
    "speech": Phrase("much that somebody says", "nothing that somebody says", "a little that somebody says"),
    "late_speech": Phrase("speech near the end", "speech near the beginning", "speech all through"),
    "early_speech": Phrase("speech from the start", "speech late or never", "speech soon after the start"),
    "starts_with_speech": Phrase("a start with speech", "a start without speech"),
    "ends_with_question": Phrase("a question at the end", "no question at the end"),
    "ends_with_exclamation": Phrase("an exclamation mark at the end", "no exclamation mark at the end"),
    "ends_with_speech": Phrase("speech at the end", "no speech at the end"),
    "lines": Phrase("many line breaks", "no line breaks", "about {} line breaks"),
    "items": Phrase("lists", "no lists", "lists of about {} items"),
    "numbers": Phrase("numbers in digits", "no numbers in digits", "about {} numbers in digits"),
    "names": Phrase("many capitalised names", "few capitalised names", "some capitalised names"),
    "different_names": Phrase("many different names", "no names", "about {} different names"),
    "commas": Phrase("many commas", "few commas", "some commas"),
    "word_length": Phrase("long words", "short words", "words of about {} letters"),
    "long_words": Phrase("a very long word", "no long word", "no word above {} letters", math.exp),
    "repeated_words": Phrase("many repeated words", "few repeated words", "some repeated words"),
    "repeated_pairs": Phrase("phrases that come again", "no phrase that comes again", "some phrases that come again"),
    "repeated_starts": Phrase("sentences that begin alike", "sentences that begin differently",
                              "some sentences that begin alike"),
    "circle": Phrase("an end with the word of the start", "an end with another word than the start"),
    "echo": Phrase("a last sentence with words of the first", "a last sentence with other words than the first",
                   "a last sentence with some words of the first"),
    "ended": Phrase("answers that come to an end", "answers that are cut off"),
    "mentioned": Phrase("answers that take up what was asked", "answers that leave out what was asked",
                        "answers that take up a part of what was asked"),
    "mentions": Phrase("what was asked named often", "what was asked never named", "what was asked named a few times"),
    "early_mention": Phrase("what was asked named early", "what was asked named late or never",
                            "what was asked named after some words"),
    "mention_in_first": Phrase("a first sentence that names what was asked",
                               "a first sentence that does not name what was asked"),
    "mention_in_last": Phrase("a last sentence that names what was asked",
                              "a last sentence that does not name what was asked"),
    "copied": Phrase("phrases of the prompt", "no phrases of the prompt", "some phrases of the prompt"),
    "copied_run": Phrase("long quotations of the prompt", "no quotations of the prompt",
                         "short quotations of the prompt"),
    "nearness": Phrase("words close to what was asked", "words far from what was asked",
                       "words fairly close to what was asked"),
    "early_question": Phrase("a question early", "a question late or never", "a question after some words"),
    "early_exclamation": Phrase("an exclamation mark early", "an exclamation mark late or never",
                                "an exclamation mark after some words"),
    "late_questions": Phrase("questions in the second half", "questions in the first half"),
    "late_exclamations": Phrase("exclamation marks in the second half", "exclamation marks in the first half"),
    "middle_speech": Phrase("speech in the middle", "speech at the beginning and the end"),
    "speeches": Phrase("somebody who speaks often", "nobody who speaks", "about {} times that somebody speaks"),
    "second_sentence": Phrase("a long second sentence", "a short second sentence",
                              "a second sentence of about {} words", math.exp),
    "shortest_sentence": Phrase("no short sentence", "a very short sentence", "a shortest sentence of about {} words",
                                math.exp),
    "longest_sentence": Phrase("a very long sentence", "no long sentence", "a longest sentence of about {} words",
                               math.exp),
    "series": Phrase("a sentence with many commas", "no sentence with commas", "a sentence with about {} commas"),
    "short_words": Phrase("many short words", "few short words", "some short words"),
    "alliteration": Phrase("neighbouring words with the same first letter",
                           "neighbouring words with different first letters"),
    "rhymes": Phrase("sentences that rhyme", "sentences that do not rhyme"),
    "most_named": Phrase("one name again and again", "no name that comes again", "a name that comes about {} times"),
    "likelihood": Phrase("plain, likely text", "unusual text", "text that is neither plain nor unusual"),
}
"""By the name of the number."""
PLACES = {"words": "words like {}", "opening": "an opening with words like {}",
          "first": "a first sentence with words like {}", "last": "a last sentence with words like {}",
          "late": "words like {} late rather than early", "starts": "sentences that start with words like {}",
          "endings": "words that end in {}"}
"""By the name of the place; with {} for the words."""


def phrase_at(phrase: Phrase, knots: torch.Tensor, curve: torch.Tensor) -> str:
    """What is liked by a curve [K] over knots [K]: its highest point in words."""
    height = (curve.max() - curve.min()).item()
    near = curve >= curve.max() - LEVEL * height
    if near[-1]:
        return phrase.much
    if near[0] or not phrase.about:
        return phrase.little if near[0] or curve[0] > curve[-1] else phrase.much
    value = phrase.value(knots[curve.argmax()].item())
    return phrase.about.format(round(value) if value >= 1 else round(value, 1))


def phrase_with(place: str, words: list[str]) -> str:
    """What is liked in a place, by the words that add most there; "" where no word does."""
    return PLACES[place].format(", ".join(words[:WORDS])) if words else ""
