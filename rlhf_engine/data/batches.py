"""Which rows are held out, and which rows each step reads. Everything follows from a seed."""

import random
from collections import Counter
from collections.abc import Callable


def split_held_out(rows: list, share: float, seed: int, key: Callable | None = None) -> tuple[list, list]:
    """(training rows, held-out rows), a seeded shuffle; at least one of each when both are asked for.

    Rows of equal `key` (the prompt, say) stay on one side, for a row is not held out whose twin is trained on.
    """
    shuffled = random.Random(f"{seed} held out").sample(rows, len(rows))
    keys = [key(row) if key else i for i, row in enumerate(shuffled)]
    count = min(max(round(share * len(rows)), 1), len(rows) - 1) if share and len(rows) > 1 else 0
    sizes, held, taken = Counter(keys), set(), 0
    for k in list(sizes)[:-1]:  # one key at least is left to train on
        if taken >= count:
            break
        held.add(k)
        taken += sizes[k]
    return [row for row, k in zip(shuffled, keys) if k not in held], [row for row, k in zip(shuffled, keys) if k in held]


def step_count(rows: int, batch: int, epochs: float, steps: int) -> int:
    """Optimiser steps: as told, or enough for so many passes; one at least."""
    return steps or max(1, round(epochs * rows / batch))


def batch_of(step: int, lengths: list[int], batch: int, seed: int) -> list[int]:
    """Row indices of the `step`-th batch (from 1). A function of its arguments alone, so resuming needs no sampler state.

    Each epoch is a new shuffle; within runs of eight batches rows are sorted by length, so that little is padded, and
    the batches of a run go in random order.
    """
    batch = min(batch, len(lengths))
    per_epoch = max(1, len(lengths) // batch)
    epoch, place = divmod(step - 1, per_epoch)
    rng = random.Random(f"{seed} epoch {epoch}")
    order = rng.sample(range(len(lengths)), len(lengths))
    batches = []
    for start in range(0, per_epoch * batch, 8 * batch):
        run = sorted(order[start:min(start + 8 * batch, per_epoch * batch)], key=lambda i: lengths[i])
        parts = [run[i:i + batch] for i in range(0, len(run), batch)]
        batches += rng.sample(parts, len(parts))
    return batches[place]
