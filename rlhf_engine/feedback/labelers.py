"""Who votes: people, through the store; and scoring functions, our own and those of a file, which is named on the command line and
nowhere else."""

import dataclasses
import importlib.util
import math
import random
import re
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_engine.config import UserError
from rlhf_engine.encoding import Prompt
from rlhf_engine.events import Event
from rlhf_engine.feedback import Store
from rlhf_engine.models import first_line
from rlhf_engine.queries import BLIND

if TYPE_CHECKING:
    import torch

    from rlhf_engine.config import TeachConfig
    from rlhf_engine.queries import Query
    from rlhf_engine.rollout import Rollout
    from rlhf_engine.runs import Run


def is_function(spec: str) -> bool:
    """Whether SPEC reads FILE.py:FUNCTION (and is not the path of a run folder)."""
    file, _, name = spec.rpartition(":")
    return file.endswith(".py") and name.isidentifier()


def load_function(spec: str) -> Callable[[str, str], float]:
    """`FILE.py:FUNCTION`, a function(prompt, response) -> number. The file is run: never call this with a visitor's words.

    Raises UserError for a missing file or function and for a file that fails to run.
    """
    file, _, name = spec.rpartition(":")
    if not Path(file).is_file():
        raise UserError(f"{file}: there is no such file; give FILE.py:FUNCTION")
    found = importlib.util.spec_from_file_location(f"scoring_{Path(file).stem}", file)
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)  # dataclasses look their module up there
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file may raise
        raise UserError(f"{file}: fails to run ({type(error).__name__}: {first_line(error)})") from None
    if not callable(getattr(module, name, None)):
        raise UserError(f"{file}: defines no function {name}; give FILE.py:FUNCTION")
    return getattr(module, name)


HAPPY = frozenset("""happy happily joy joyful glad cheerful smile smiled smiling laugh laughed laughing love loved nice kind fun good great
    wonderful best proud excited hug hugged friend friends thank thanks enjoy enjoyed beautiful""".split())
SAD = frozenset("""sad sadly unhappy cry cried crying tears scared afraid hurt pain angry mad mean alone lonely lost sorry bad worried
    tired sick broke broken dark cold""".split())


def words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())


def sentiment(prompt: str, response: str) -> float:
    """Happy words less sad words, per word (of ten at least)."""
    found = words(response)
    return sum((word in HAPPY) - (word in SAD) for word in found) / max(len(found), 10)


def short(prompt: str, response: str) -> float:
    """The fewer words the better, down to ten; fewer than that are no answer."""
    count = len(words(response))
    return -count if count >= 10 else -1000 + count


def long(prompt: str, response: str) -> float:
    """The more words the better."""
    return len(words(response))


def dialogue(prompt: str, response: str) -> float:
    """Share of the words that stand between double quotes."""
    quoted = sum(len(words(part)) for part in re.findall(r'["“]([^"“”]*)["”]', response))
    return quoted / max(len(words(response)), 10)


def keyword(word: str) -> Callable[[str, str], float]:
    """Occurrences of a word, per word of the response (of ten at least)."""
    def keyword(prompt: str, response: str) -> float:
        found = words(response)
        return sum(w == word.lower() for w in found) / max(len(found), 10)
    return keyword


BUILT_IN = {function.__name__: function for function in (sentiment, short, long, dialogue)}


def find_function(spec: str) -> Callable[[str, str], float]:
    """The scoring function of a labeler: `sentiment`, `short`, `long`, `dialogue`, `keyword=WORD`, or FILE.py:FUNCTION, which is run.

    Raises UserError for anything else, and where the function fails on an empty response.
    """
    name, _, word = spec.partition("=")
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    if name == "keyword" and words(word) == [word.lower()]:
        return keyword(word)
    if not is_function(spec):
        raise UserError(f"--labeler is {spec!r}, but must be person, {', '.join(BUILT_IN)}, keyword=WORD, judge=MODEL, judge=MODEL@URL or "
                        "FILE.py:FUNCTION")
    return load_function(spec)


def prompt_text(prompt: Prompt) -> str:
    """What a scoring function is shown of a prompt: the text, of a conversation the user's last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def score_text(function: Callable[[str, str], float], prompt: Prompt, response: str) -> float:
    """One score. Raises UserError with prompt and response where the function fails or gives no finite number."""
    text = prompt_text(prompt)
    try:
        score = float(function(text, response))
    except Exception as error:
        raise UserError(f"{function.__name__} fails with {type(error).__name__} ({first_line(error)}) on prompt {text[:60]!r} "
                        f"and response {response[:60]!r}; mend the function") from None
    if not math.isfinite(score):
        raise UserError(f"{function.__name__} gives {score} on prompt {text[:60]!r} and response {response[:60]!r}; a score must be finite")
    return score


class AtOnce:
    """What labelers have in common that answer as soon as they are asked."""

    def __init__(self):
        self.waiting: list[Query] = []

    def wants(self, config: "TeachConfig", asked: int, step: int) -> int:
        if config.direct:
            return max(0, -(-(config.votes - asked) // (config.steps - step + 1)))
        return max(0, min(config.votes_per_step if asked else min(BLIND, config.votes_first), config.votes - asked))

    def ask(self, query: "Query") -> None:
        self.waiting.append(query)

    def unread(self) -> None:
        return None

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        self.waiting = []


class Simulated(AtOnce):
    """A scoring function that votes as a person would: of two responses the better one, or a tie; of more the best.

    With `noise`, that share of its votes is given to a response drawn at random.
    """

    def __init__(self, function: Callable[[str, str], float], *, noise: float = 0.0, seed: int = 0):
        super().__init__()
        self.function, self.noise, self.seed = function, noise, seed

    def score(self, prompt: Prompt, response: str) -> float:
        return score_text(self.function, prompt, response)

    def answers(self, only: list[str] | None = None) -> list[Event]:
        """The votes on all that was asked since: what was asked before a resumed step is asked, and answered, again."""
        asked, self.waiting = self.waiting, []
        return [self.vote(query) for query in asked]

    def vote(self, query: "Query") -> Event:
        rng = random.Random(f"{self.seed} vote {query.id}")
        scores = [self.score(query.prompt, response) for response in query.responses]
        if rng.random() < self.noise:
            scores = [0.0] * len(scores)
            scores[rng.randrange(len(scores))] = 1.0
        best = max(scores)
        if len(scores) == 2:
            kind, value = "comparison", "tie" if scores[0] == scores[1] else "left" if scores[0] == best else "right"
        else:
            kind, value = "ranking", tuple(1 if score == best else 2 for score in scores)
        return Event(f"{query.id} vote", kind, query.prompt, query.responses, value, run=query.run, checkpoint=query.checkpoint,
                     sampling=query.sampling, voter="simulated", scores=query.scores, step=query.step)


class Person:
    """People, through the queries of a run folder and the store: a page shows the ones and fills the other, whether this process lives
    or not.

    Four queries at most are open at a time, drawn from the policy as it is; those nobody has answered for a while make way for new ones.
    """

    OPEN, FRESH, LOOK = 4, 4, 0.5
    """Queries to have ready, the steps after which one is stale, and the seconds between two looks into the store."""
    score = None

    def __init__(self, run: "Run", store: Store):
        self.run, self.store = run, store
        self.seen = 0
        """Place in the store up to which events have been read."""
        self.open: dict[str, int] = {}
        """Queries that nobody has answered, and the steps at which they were asked."""
        self._news, self._looked = [], 0.0

    def wants(self, config: "TeachConfig", asked: int, step: int) -> int:
        self._look()
        return self.OPEN - sum(step - asked_at < self.FRESH for asked_at in self.open.values())

    def ask(self, query: "Query") -> None:
        """Ids are new even if a run that was wound back asks the same again: what people saw, they saw."""
        query = dataclasses.replace(query, id=f"{query.id}-{secrets.token_hex(3)}", run=self.run.id,
                                    checkpoint=f"{self.run.path.name} at step {query.step}")
        self.run.add_queries([dataclasses.asdict(query)])
        self.open[query.id] = query.step

    def unread(self) -> int:
        self._look()
        return sum(event.kind != "retract" for event in self._news)

    def answers(self, only: list[str] | None = None) -> list[Event]:
        self._look(now=True)
        if only is None:
            found = self._news
        else:
            known = {event.id: event for event in self._news}
            if missing := [name for name in only if name not in known]:
                raise UserError(f"{self.store.path} does not hold the event {missing[0]!r}, from which this run has learned; "
                                "resume it with the store that it was taught with")
            found = [known[name] for name in only]
        self.seen = max((event.seq for event in found), default=self.seen)
        self._news = [event for event in self._news if event.seq > self.seen]
        return found

    def _look(self, now: bool = False) -> None:
        """Read what has come into the store since."""
        if not now and time.monotonic() - self._looked < self.LOOK:
            return
        self._looked = time.monotonic()
        self._news = self.store.events(run=self.run.id, after=self.seen, retracted=True)
        for event in self._news:
            self.open.pop(event.sampling.get("query", ""), None)

    def state_dict(self) -> dict:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        self.seen, self.open, self._looked = state["seen"], {}, 0.0


class FunctionReward:
    """A scoring function as PPO takes a reward: `reward(rollout) -> scores [B]`."""

    def __init__(self, function: Callable[[str, str], float]):
        self.function = function

    def __call__(self, rollout: "Rollout") -> "torch.Tensor":
        import torch
        return torch.tensor([score_text(self.function, p, r) for p, r in zip(rollout.prompts, rollout.responses)])
