"""Scoring functions, which give a response a number: built-in ones, and functions from a file.

A file is run when it is loaded, so only the command line may name one.
"""

import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError, first_line, kind_of
from rlhf_engine.files import expand_user

ScoringFunction = Callable[[str, str], float]
"""function(prompt, response) -> score; the higher the better."""
FEWEST_WORDS = 10
"""Shares of words are taken of at least so many, so that a response of one word is no extreme."""
LARGEST_SCORE = 1e30
"""Bound on the size of a score. Above it, a sum of squares in 32 bits is infinite."""
TOO_SHORT = -1000
"""What `short` gives a response of no words: less than any response that is long enough."""


def is_function(spec: str) -> bool:
    """Whether SPEC reads FILE.py:FUNCTION (and is not the path of a run folder)."""
    file, _, name = spec.rpartition(":")
    return file.endswith(".py") and name.isidentifier()


class SourceLoader(SourceFileLoader):
    """Runs a file as it is now, and writes no bytecode beside it: the folder is the user's.

    Python takes bytecode for current as long as a file has the size and the second of its last change.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_function(spec: str) -> ScoringFunction:
    """The function that `FILE.py:FUNCTION` names. The file is run: never call this with text that a visitor sent.

    Raises UserError for a missing file or function and for a file that fails to run.
    """
    file, _, name = spec.rpartition(":")
    file = expand_user(file)
    module_name = f"scoring_{Path(file).stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, file, loader=SourceLoader(module_name, file))
    if not Path(file).is_file() or module_spec is None or module_spec.loader is None:
        raise UserError(f"{file}: there is no such file; give FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses look their module up there
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise UserError(f"{file}: fails to run ({type(error).__name__}: {first_line(error)})") from None
    if not callable(getattr(module, name, None)):
        raise UserError(f"{file}: defines no function {name}; give FILE.py:FUNCTION")
    return getattr(module, name)


HAPPY = frozenset("""happy happily joy joyful glad cheerful smile smiled smiling laugh laughed laughing love loved nice
    kind fun good great wonderful best proud excited hug hugged friend friends thank thanks enjoy enjoyed
    beautiful""".split())
SAD = frozenset("""sad sadly unhappy cry cried crying tears scared afraid hurt pain angry mad mean alone lonely lost
    sorry bad worried tired sick broke broken dark cold""".split())


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())


def sentiment(prompt: str, response: str) -> float:
    """Happy words less sad words, per word (of ten at least)."""
    response_words = words(response)
    return sum((word in HAPPY) - (word in SAD) for word in response_words) / max(len(response_words), FEWEST_WORDS)


def short(prompt: str, response: str) -> float:
    """The fewer words the better, down to ten; fewer than that are no answer."""
    count = len(words(response))
    return -count if count >= FEWEST_WORDS else TOO_SHORT + count


def long(prompt: str, response: str) -> float:
    """The more words the better."""
    return len(words(response))


def dialogue(prompt: str, response: str) -> float:
    """Share of the words that stand between double quotes."""
    quoted = sum(len(words(part)) for part in re.findall(r'["“]([^"“”]*)["”]', response))
    return quoted / max(len(words(response)), FEWEST_WORDS)


def keyword(word: str) -> ScoringFunction:
    """A scoring function: occurrences of a word, per word of the response (of ten at least)."""
    def keyword(prompt: str, response: str) -> float:
        response_words = words(response)
        return response_words.count(word.lower()) / max(len(response_words), FEWEST_WORDS)
    return keyword


BUILT_IN = {function.__name__: function for function in (sentiment, short, long, dialogue)}


def built_in(spec: str) -> ScoringFunction | None:
    """The built-in scoring function that SPEC names; None for anything else."""
    name, _, word = spec.partition("=")
    if name == "keyword" and words(word) == [word.lower()]:
        return keyword(word)
    return BUILT_IN.get(spec)


def find_function(spec: str) -> ScoringFunction:
    """The scoring function that SPEC names.

    SPEC is `sentiment`, `short`, `long`, `dialogue`, `keyword=WORD`, or FILE.py:FUNCTION, which is run.
    Raises UserError for anything else.
    """
    if function := built_in(spec):
        return function
    if not is_function(spec):
        raise UserError(f"--labeler is {spec!r}, but must be person, {', '.join(BUILT_IN)}, random, keyword=WORD, "
                        "judge=MODEL, judge=MODEL@URL or FILE.py:FUNCTION")
    return load_function(spec)


def prompt_text(prompt: Prompt) -> str:
    """What a scoring function gets of a prompt: the text; of a conversation the user's last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def score_text(function: ScoringFunction, prompt: Prompt, response: str) -> float:
    """One score. Raises UserError with prompt and response where the function fails or gives no finite number."""
    text = prompt_text(prompt)
    where = f"on prompt {text[:60]!r} and response {response[:60]!r}"
    try:
        check_arguments(function)
        score = as_number(function(text, response))
    except (Exception, SystemExit) as error:  # a user's function may raise anything
        raise UserError(f"{name_of(function)} fails with {type(error).__name__} ({first_line(error)}) {where}; "
                        "correct the function") from None
    if not math.isfinite(score):
        raise UserError(f"{name_of(function)} gives {score} {where}; a score must be finite")
    if abs(score) > LARGEST_SCORE:
        raise UserError(f"{name_of(function)} gives {score:g} {where}; a score must be between -1e30 and 1e30")
    return score


def as_number(value) -> float:
    """A number of Python, or of a library such as numpy, as a float. Raises TypeError or ValueError for the rest."""
    if value is None:
        raise TypeError("it gives None: does each of its ways end in `return`?")
    if isinstance(value, str | bytes):
        raise ValueError(f"it gives {kind_of(value)} and not a number: {value[:40]!r}")
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()  # or Python complains that nobody waited for it
        raise TypeError("it is async, but is called without waiting: write `def` in place of `async def`")
    if isinstance(value, list | tuple | set | dict) or inspect.isgenerator(value):
        raise TypeError(f"it gives {kind_of(value)}, but it is called once for each response and gives one number")
    if getattr(value, "size", 0) == 1 and callable(getattr(value, "item", None)):
        return float(value.item())  # an array of numpy that holds one number
    return float(value)


def check_arguments(function: Callable) -> None:
    """Raises TypeError for a function that cannot be called with a prompt and a response, as TRL's reward functions."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are written in C have none
        return
    try:
        signature.bind("", "")
    except TypeError:
        raise TypeError(f"it takes {signature}, but is called with (prompt, response), two texts, and gives one "
                        "number") from None


def name_of(function: Callable) -> str:
    """What messages call a function: its name, or the class of an object that can be called."""
    return getattr(function, "__name__", type(function).__name__)
