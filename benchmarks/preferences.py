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


# -- what no bag of words can say --------------------------------------------------------------------------------------

ASKING = frozenset("""a about an bedtime can could do for from hear i in is it like make me of on one please short some
    something story tale talk tell that the there this to up want where with would write you your""".split())
HAPPY = frozenset("""happy happily glad smile smiled smiles smiling laugh laughed laughing joy proud love loved fun hug
    hugged hugs cheer cheered excited thankful best""".split())


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])[\"\u201d']?\s+|\n+", text.strip()) if words(part)]


def things(prompt: str) -> list[str]:
    """The words that a prompt asks for."""
    return [word for word in words(prompt) if word not in ASKING]


def names(text: str, wanted: str) -> bool:
    return any(word in (wanted, f"{wanted}s") for word in words(text))


def takes_up(prompt: str, response: str) -> float:
    """Share of the sentences that name the last thing that the prompt asks for."""
    found, thing = sentences(response), things(prompt)[-1:]
    return sum(names(part, each) for part in found for each in thing) / max(len(found), 3)


def names_thing(prompt: str, response: str) -> float:
    """Whether all that the prompt asks for comes: yes or no."""
    return float(all(names(response, thing) for thing in things(prompt)))


def names_noun(prompt: str, response: str) -> float:
    """Whether the last thing that the prompt asks for comes, such as the puppy of "a shiny puppy": yes or no."""
    return float(any(names(response, thing) for thing in things(prompt)[-1:]))


def happy_last_sentence(prompt: str, response: str) -> float:
    last = sentences(response)[-1:]
    return sum(word in HAPPY for part in last for word in words(part))


def near_fifty_words(prompt: str, response: str) -> float:
    return -abs(len(words(response)) - 50)


def starts_with_dialogue(prompt: str, response: str) -> float:
    """How early somebody speaks."""
    before, quote, _ = response.replace("\u201c", '"').partition('"')
    return -len(words(before)) if quote else -100


def ends_with_speech(prompt: str, response: str) -> float:
    return float(response.rstrip().endswith(('"', "\u201d")))


def varied_sentences(prompt: str, response: str) -> float:
    found = sentence_lengths(response)
    mean = sum(found) / max(len(found), 1)
    return (sum((each - mean) ** 2 for each in found) / len(found)) ** 0.5 if len(found) > 1 else 0


def few_repeats(prompt: str, response: str) -> float:
    """Share of different words among the first forty, of forty at least."""
    return len(set(words(response)[:40])) / 40


def seven_words_a_sentence(prompt: str, response: str) -> float:
    found = sentence_lengths(response)
    return -abs(sum(found) / len(found) - 7) if found else -100


BEYOND_WORDS = (takes_up, happy_last_sentence, near_fifty_words, starts_with_dialogue, ends_with_speech,
                varied_sentences, few_repeats, seven_words_a_sentence)
"""With 40 votes of four on the bundled model, a taught policy can win most comparisons in each of these."""
YES_OR_NO = (names_thing,)
"""Most stories of the bundled model have what is asked for here, so most votes and most comparisons are ties."""
