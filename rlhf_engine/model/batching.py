"""Micro-batches: how the rows of one optimiser step are cut into forward passes that fit into memory.

Also a limit on the kernels that a CPU's libraries keep, which would take memory for every size of batch.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import torch

Row = TypeVar("Row")

RowLength = Callable[[int], int]
"""Number of tokens of a row, given by its index."""

CPU_PASS_OVERHEAD, GPU_PASS_OVERHEAD = 64, 1024
"""Cost of a further forward pass besides its tokens, in tokens. On a CPU it is Python's (measured); on a GPU it is the
launching of kernels (a guess)."""

KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Environment variables with the number of kernels that oneDNN keeps, and that its layer in PyTorch (ideep) keeps in
each thread."""
KERNELS_KEPT = 64
"""Kernels of a forward and a backward pass: about ten sizes of layers and adapters, twice (benchmarks/README.md)."""


def micro_batches(rows: list[Row], size: int, row_length: Callable[[Row], int] | None = None,
                  overhead: int = 0, tokens: int = 0) -> list[list[Row]]:
    """Cut `rows` into micro-batches of at most `size` rows; 0 sets no limit.

    Without `row_length` each but the last has `size` rows. With it the cuts are those with the least total cost, where
    a micro-batch costs its number of rows times its longest row (padding included), plus `overhead`.

    Args:
        rows: the rows, mostly as indices. With `row_length`, in ascending order of length.
        size: rows per micro-batch.
        row_length: tokens of a row.
        overhead: cost of a forward pass besides its tokens, in tokens (`pass_overhead`).
        tokens: most tokens of a micro-batch of several rows, padding included; 0 sets no limit. Needs `row_length`.
    """
    size = size or max(1, len(rows))
    if row_length is None:
        return [rows[i:i + size] for i in range(0, len(rows), size)]
    # best[n]: of the first n rows, the least cost, and the index at which the last micro-batch then begins.
    best = [(0, 0)]
    for end, row in enumerate(rows, 1):
        options = []
        longest = row_length(row)  # so far
        most = min(size, max(1, tokens // longest)) if tokens else size
        for start in range(max(0, end - most), end):
            options.append((best[start][0] + (end - start) * longest + overhead, start))
        best.append(min(options))
    pieces, end = [], len(rows)
    while end:
        start = best[end][1]
        pieces.append(rows[start:end])
        end = start
    return pieces[::-1]


def passes_within(rows: list[Row], size: int, row_length: Callable[[Row], int], tokens: int) -> list[list[Row]]:
    """Cut `rows`, in any order, into passes of at most `size` rows and, unless that is 0, `tokens` tokens.

    Padding counts. A pass has one row at least.
    """
    passes: list[list[Row]] = []
    longest = 0
    for row in rows:
        longest = max(longest, row_length(row))
        full = not passes or len(passes[-1]) == size or (tokens and (len(passes[-1]) + 1) * longest > tokens)
        if full:
            passes.append([])
            longest = row_length(row)
        passes[-1].append(row)
    return passes


def pass_overhead(device: torch.device) -> int:
    """Cost of one more forward pass on `device`, besides that of its tokens, in tokens."""
    return CPU_PASS_OVERHEAD if device.type == "cpu" else GPU_PASS_OVERHEAD


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on a CPU (whose allocator raises a plain
    RuntimeError)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return any(words in message for words in ("out of memory", "not enough memory", "allocate memory"))


def limit_kernel_caches() -> None:
    """Let a CPU's libraries keep 64 compiled kernels instead of 1024. A limit that the user has set stays.

    For bf16, oneDNN compiles a kernel for every size of a matrix product, of about 0.65 MB. In training nearly every
    batch has a number of tokens of its own, so hundreds of kernels would be kept that are never used again. Has an
    effect only before the first product in bf16.
    """
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(KERNELS_KEPT))
