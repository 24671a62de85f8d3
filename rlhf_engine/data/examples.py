"""What a row of data becomes: a demonstration, a preference, a ranking or a thumb. (A prompt is a `Prompt`.)"""

from dataclasses import dataclass

from rlhf_engine.data.tokenization import Prompt


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the response to imitate. An empty prompt means plain language modelling."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True)
class Preference:
    """Two responses to a prompt, of which one was chosen."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0
    """By how much the chosen response should win, in units of the reward before it is normalised."""


@dataclass(frozen=True)
class Ranking:
    """Two or more responses to a prompt. `ranks[i]` is the rank of `responses[i]`: 1 is best, equal ranks are ties."""

    prompt: Prompt
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    ratings: tuple[float, ...] = ()
    """The scores from which the ranks were made (1 to 7, say), if there are any; their differences can be margins."""


@dataclass(frozen=True)
class Thumb:
    """One response to a prompt, which was called good or bad by itself."""

    prompt: Prompt
    completion: str
    desirable: bool
