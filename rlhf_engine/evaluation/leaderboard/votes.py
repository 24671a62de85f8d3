"""Votes on checkpoints, out of feedback events: which checkpoints stood side by side, and the rank that each got."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.feedback.events import Event, without_retracted
from rlhf_engine.feedback.exchange import read_events
from rlhf_engine.feedback.store import Store
from rlhf_engine.spelling import closest

STORE_FILE = "feedback.sqlite"
"""The store of a workspace."""
STORE_SUFFIXES = (".sqlite", ".sqlite3", ".db")
SHORTEST_LIST = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class Vote:
    """One judgement of two checkpoints or more on one prompt."""

    checkpoints: tuple[str, ...]
    """Which checkpoint wrote each response."""
    ranks: tuple[int, ...]
    """Of each response, 1 is best. If all are equal they tie. Other equal ranks say nothing: who names the best of four
    has not compared the rest."""
    prompt: str
    """As JSON, so that equal prompts are equal texts."""
    voter: str
    shown: tuple[int, ...] = ()
    """Order on the screen, as indices into `checkpoints`; () if unknown."""
    time: float = 0.0

    @property
    def is_tie(self) -> bool:
        return len(set(self.ranks)) == 1

    def answers(self) -> list[tuple[int, int, float]]:
        """(index, other index, 1 the one is better, 0 the other, .5 a tie) for every two responses that it compares."""
        pairs = []
        for i, j in combinations(range(len(self.ranks)), 2):
            if self.checkpoints[i] == self.checkpoints[j] or (self.ranks[i] == self.ranks[j] and not self.is_tie):
                continue
            difference = self.ranks[j] - self.ranks[i]
            pairs.append((i, j, 0.5 if not difference else float(difference > 0)))
        return pairs


class Choice(NamedTuple):
    """Which events count."""

    blind: bool = False
    """Only those whose voter did not see the checkpoints."""
    run: str = ""
    """Only those of one run; "" is all."""
    voter: str = ""
    """Only those of one voter; "" is all."""


# -- reading -----------------------------------------------------------------------------------------------------------

def load_events(source: str | Path) -> list[Event]:
    """The events of a store, a workspace or an exported file, each id once, without those that were taken back.

    Nothing is made or changed. Raises UserError for what cannot be read, and for one id with two contents.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / STORE_FILE).is_file():
            raise UserError(f"{path} is a folder without {STORE_FILE}, so it is no workspace: name the workspace, its "
                            f"{STORE_FILE}, or an exported .jsonl or .parquet file")
        path = path / STORE_FILE
    if path.suffix.lower() in STORE_SUFFIXES:
        return load_store(path)
    if not path.exists():
        raise UserError(f"there is no {path}: name a workspace, its {STORE_FILE}, or an exported .jsonl or .parquet "
                        "file of votes")
    events: dict[str, Event] = {}
    for number, event in enumerate(read_events(path), 1):
        if not events.setdefault(event.id, event).same_as(event):
            raise UserError(f"{path}, row {number}: the id {event.id[:60]!r} stands twice, with two contents: "
                            "give each vote an id of its own")
    return without_retracted(events.values())


def load_store(path: Path) -> list[Event]:
    """The live events of a store. Unlike `Store` itself, this makes no file where there is none."""
    if not path.is_file() or not os.path.getsize(path):
        raise UserError(f"{path} holds no votes: check the name, or vote first")
    return Store(path).events()


def choose_events(events: Iterable[Event], choice: Choice) -> list[Event]:
    """The events that count. Raises UserError for a run or a voter that none of them has."""
    events = list(events)
    for field in ("run", "voter"):
        wanted = getattr(choice, field)
        if not wanted:
            continue
        names = sorted({getattr(event, field) for event in events} - {""})
        if wanted not in names:
            raise UserError(f"no event has the {field} {short_repr(wanted)}; {known_names(field, wanted, names)}")
        events = [event for event in events if getattr(event, field) == wanted]
    return [event for event in events if event.blind or not choice.blind]


def known_names(field: str, wanted: str, names: list[str]) -> str:
    """The names that there are, for a message: the closest one, or the first few."""
    if not names:
        return f"none has a {field} at all: leave --{field} out"
    guess = closest(wanted, names)
    if guess:
        return f"did you mean {short_repr(guess)}?"
    listed = ", ".join(short_repr(name) for name in names[:SHORTEST_LIST])
    return f"there are {listed}{' and others' if len(names) > SHORTEST_LIST else ''}"


# -- votes -------------------------------------------------------------------------------------------------------------

def votes_of(events: Iterable[Event]) -> tuple[list[Vote], list[str]]:
    """(the votes in the order of their time, lines about what was left out).

    A comparison or a ranking is a vote where it names the checkpoint of each response, and not one and the same.
    """
    votes, unnamed, same = [], 0, 0
    for event in sorted(events, key=lambda event: event.time):  # stable: without times the order stays
        if not event.ranks:
            continue
        if not event.checkpoints or not all(event.checkpoints):
            unnamed += 1
        elif len(set(event.checkpoints)) == 1:
            same += 1
        else:
            votes.append(Vote(event.checkpoints, event.ranks, prompt_key(event.prompt), event.voter, event.shown,
                              event.time))
    notes = []
    if unnamed:
        notes.append(f"{count_of(unnamed, 'vote')} left out: the event does not name the checkpoint of each response, "
                     "as votes on the queries of a run do not")
    if same:
        notes.append(f"{count_of(same, 'vote')} left out: all responses are of one checkpoint")
    return votes, notes


def prompt_key(prompt: Prompt) -> str:
    """A prompt as a text: equal prompts give equal texts, whatever the order of the keys of their turns."""
    return json.dumps(prompt, sort_keys=True)


def count_of(number: int, noun: str) -> str:
    """ "1 vote", "1,200 votes"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
