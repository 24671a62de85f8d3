"""Which conversions are going on in this process, and how far they are, for whoever waits for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Progress:
    """One conversion, which this process does or waits for."""

    model: str
    """MODEL, as it was given."""
    folder: Path
    """The folder that is being filled."""
    total: int
    """Bytes that the weights will take, at most."""

    @property
    def done(self) -> int:
        """Bytes of weights that are written."""
        try:
            return min((self.folder / WEIGHTS_FILE).stat().st_size, self.total)
        except OSError:  # nothing is written yet, or the folder has just got its final name
            return 0


CONVERSIONS: list[Progress] = []
"""Those that are going on, the oldest first."""
WATCHERS: list[Callable[[], None]] = []
"""Called when a conversion has begun or ended, in the thread that converts."""


@contextmanager
def announce(progress: Progress) -> Iterator[None]:
    """While this lasts, a conversion is one of `CONVERSIONS`."""
    CONVERSIONS.append(progress)
    try:
        tell_watchers()
        yield
    finally:
        CONVERSIONS.remove(progress)
        tell_watchers()


def tell_watchers() -> None:
    """Call all watchers."""
    for watch in WATCHERS:
        watch()


def progress_of(model: str) -> Progress | None:
    """The conversion of a MODEL; None if there is none."""
    return next((each for each in CONVERSIONS if each.model == model), None)
