"""What the loop, the worker and a notebook need of a trainer, whatever it is made of."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from rlhf_engine.config import RunConfig
from rlhf_engine.model.backbone import Backbone


class AnyTrainer(Protocol):
    """An iterator over training steps. `base.Trainer` is one with an optimiser; `teach` has a learner instead."""

    step: int
    samples: list[dict]
    """Texts of the last step, for samples.jsonl."""
    events: list[dict]
    """The last step's lines for the journal, each with a key `event`."""
    data_notes: list[str]
    """What was noticed when the data was read and tokenised."""
    on_microbatch: Callable[[], None]
    """Called between micro-batches."""
    on_news: Callable[[], None]
    """Called where `events` and `samples` hold something that need not wait for the end of the first step. Whoever
    writes them down empties both lists."""

    @property
    def backbone(self) -> Backbone: ...

    @property
    def config(self) -> RunConfig: ...

    @property
    def total_steps(self) -> int: ...

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that its checkpoints hold."""
        ...

    @property
    def tunable(self) -> tuple[str, ...]:
        """The settings that may change between two steps."""
        ...

    @property
    def peak_lr(self) -> float: ...

    def __iter__(self) -> Iterator[dict]: ...

    def __next__(self) -> dict:
        """Do one step; returns its metrics."""
        ...

    def blocked_reason(self) -> str:
        """What the next step has to wait for; empty if it need not wait."""
        ...

    def change(self, name: str, value: float) -> float:
        """Change a setting from the next step on; returns the old value. Raises UserError."""
        ...

    def check(self, changes: dict[str, float]) -> None:
        """Raises UserError if these changes cannot be made, one after the other; makes none of them."""
        ...

    def replay_journal(self, journal: list[dict]) -> None:
        """Take note of what the journal says about the steps that a resumed run repeats."""
        ...

    def report(self) -> dict:
        """What to write into report.json when the run is over."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        ...

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        ...
