"""Which rows are held out, and which rows each step reads. Everything follows from the seed alone."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

Row = TypeVar("Row")

SORTED_BATCHES = 8
"""Batches whose rows are sorted by length together: enough to save padding, few enough to keep the order random."""


def split_held_out(rows: list[Row], share: float, seed: int,
                   key: Callable[[Row], Any] | None = None) -> tuple[list[Row], list[Row]]:
    """Shuffle `rows` and split them into (training rows, held-out rows).

    If `share` is not 0 and there are two rows or more, each side gets at least one.

    Args:
        rows: the data.
        share: the part to hold out, in [0, 1).
        seed: of the shuffle.
        key: rows of equal key (the prompt, for example) stay on one side: a row is not held out if its twin is trained
            on. None: every row has a key of its own.
    """
    shuffled = random.Random(f"{seed} held out").sample(rows, len(rows))
    keys = [key(row) if key else i for i, row in enumerate(shuffled)]
    wanted = min(max(round(share * len(rows)), 1), len(rows) - 1) if share and len(rows) > 1 else 0
    sizes = Counter(keys)
    held_keys, count = set(), 0
    for each in list(sizes)[:-1]:  # at least one key is left to train on
        if count >= wanted:
            break
        held_keys.add(each)
        count += sizes[each]
    training = [row for row, each in zip(shuffled, keys) if each not in held_keys]
    held_out = [row for row, each in zip(shuffled, keys) if each in held_keys]
    return training, held_out


def step_count(rows: int, batch: int, epochs: float, steps: int) -> int:
    """Number of optimiser steps: `steps`, or if that is 0, as many as `epochs` passes over `rows` take; at least
    one."""
    return steps or max(1, round(epochs * rows / batch))


def batch_of(step: int, lengths: list[int], batch: int, seed: int) -> list[int]:
    """Row indices of the batch of `step` (from 1). It depends on the arguments alone, so a resumed run needs no state.

    Each epoch is a new shuffle. Within `SORTED_BATCHES` batches the rows are sorted by length, so that little is
    padded, and these batches come in random order. Rows that fill no batch are left out until the next epoch.

    Args:
        step: number of the step.
        lengths: tokens of each row.
        batch: rows per batch; with fewer rows than that, every batch has all of them.
        seed: of all shuffles.
    """
    batch = min(batch, len(lengths))
    per_epoch = max(1, len(lengths) // batch)
    epoch, index = divmod(step - 1, per_epoch)
    rng = random.Random(f"{seed} epoch {epoch}")
    order = rng.sample(range(len(lengths)), len(lengths))[:per_epoch * batch]
    batches = []
    for start in range(0, len(order), SORTED_BATCHES * batch):
        run = sorted(order[start:start + SORTED_BATCHES * batch], key=lambda i: lengths[i])
        parts = [run[i:i + batch] for i in range(0, len(run), batch)]
        batches += rng.sample(parts, len(parts))
    return batches[index]
