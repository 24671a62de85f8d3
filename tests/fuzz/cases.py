"""Draws a case by its number and seed, runs it, and says what it broke."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.calls import Pages
from tests.fuzz.runner import PATIENCE, Outcome, problems, quiet_main, snapshot
from tests.fuzz.targets import TARGETS

API = 15
"""How often a call of the API is drawn, beside the numbers in `TARGETS`."""


@dataclass
class Result:
    """One case: what was spoiled, and what came of it."""

    number: int
    target: str
    mutation: str
    command: list[str]
    outcome: Outcome
    problems: list[str]

    def as_dict(self) -> dict:
        """For a line of JSON, without what is long."""
        answer = asdict(self)
        answer["outcome"] = {"code": self.outcome.code, "seconds": round(self.outcome.seconds, 2), "stderr": self.outcome.stderr[-400:], "interrupted": self.outcome.interrupted}
        return answer


class Fuzzer:
    """Runs cases on good inputs. `only` are the targets to draw from; none means all."""

    def __init__(self, inputs: Path, seed: int, only: tuple[str, ...] = (), patience: float = PATIENCE):
        self.inputs, self.seed, self.patience = inputs, seed, patience
        weights = {name: weight for name, (_, weight) in TARGETS.items()} | {"api": API}
        self.weights = {name: weight for name, weight in weights.items() if not only or name in only}
        self.pages: Pages | None = None

    def case(self, number: int) -> Result:
        """The case of a number. Equal seeds and numbers give equal cases."""
        rng = random.Random(f"{self.seed} {number}")
        target = rng.choices(list(self.weights), list(self.weights.values()))[0]
        if target == "api":
            return self.call(number, rng)
        with copy_of(self.inputs) as folder:
            command, mutation = TARGETS[target][0](rng, folder)
            before = snapshot(folder)
            outcome = quiet_main(command, folder, self.patience)
            return Result(number, target, mutation, command, outcome, problems(outcome, folder, before))

    def call(self, number: int, rng: random.Random) -> Result:
        """A call of the page's API."""
        self.pages = self.pages or Pages(self.inputs)
        name, arguments, outcome, wrong = self.pages.call(rng, self.patience)
        return Result(number, "api", f"{name}{arguments!r}"[:2000], [], outcome, wrong)

    def close(self) -> None:
        """Remove what the calls of the API have needed."""
        if self.pages:
            self.pages.close()
            self.pages = None


@contextmanager
def copy_of(inputs: Path) -> Iterator[Path]:
    """A copy of the good inputs, which a case may spoil. It is two folders deep, so that `..` stays inside."""
    outside = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        folder = outside / "home" / "work"
        shutil.copytree(inputs, folder, symlinks=True)
        yield folder
    finally:
        for place, folders, _ in os.walk(outside):
            for name in folders:
                if not (Path(place) / name).is_symlink():
                    os.chmod(Path(place) / name, 0o755)
        shutil.rmtree(outside, ignore_errors=True)
