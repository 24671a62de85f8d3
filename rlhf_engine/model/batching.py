"""Micro-batches: how the rows of one optimiser step are cut into forward passes."""

from collections.abc import Callable

import torch

Length = Callable[[int], int]
"""Tokens of a row, by its number."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory, on a GPU or on the CPU (whose allocator raises a plain RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error).lower() for words in ("out of memory", "not enough memory", "allocate memory"))


def micro_batches(rows: list[int], size: int, length: Length | None = None, price: int = 0) -> list[list[int]]:
    """`rows` in pieces of `size`; 0 is one piece. With the `length` of each row in tokens, in whose order they come, pieces of at most that
    size, cut where the least is computed: every piece costs its rows times its longest, padding included, and `price` tokens for the pass.
    """
    size = size or max(1, len(rows))
    if length is None:
        return [rows[i:i + size] for i in range(0, len(rows), size)]
    best = [(0, 0)]  # of the first rows: the least cost, and where the last piece then begins
    for end, row in enumerate(rows, 1):
        best.append(min((best[start][0] + (end - start) * length(row) + price, start) for start in range(max(0, end - size), end)))
    pieces, end = [], len(rows)
    while end:
        pieces.append(rows[best[end][1]:end])
        end = best[end][1]
    return pieces[::-1]


def pass_price(device: torch.device) -> int:
    """What one more pass costs beside its tokens, in tokens: Python on a CPU, launches of kernels on a GPU (not measured)."""
    return 64 if device.type == "cpu" else 1024
