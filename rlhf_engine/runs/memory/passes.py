"""How many tokens a pass reads where the setting `micro_batch` leaves it open (0).

The activations of a forward and backward pass over long rows take most of a run's memory. A CPU has no error for too
much of it: the kernel kills the process. So the number is chosen before the first pass, by the memory estimate and by
what is free. Gradients are the same for every choice.
"""

from dataclasses import dataclass

from rlhf_engine.config import RunConfig
from rlhf_engine.runs.memory_estimate import Shape, estimate, longest_row, number_format
from rlhf_engine.stages import find_stage

FILL = 0.8
"""Share of the free memory that a run is estimated to take at most, because an estimate can be wrong by a fifth."""
WORTHWHILE = {"fp32": 512, "bf16": 1024, "nf4": 1024}
"""Tokens of a pass on a CPU beyond which it is hardly faster per token, in a model of 135 million parameters
(benchmarks/README.md). In fp32 a token takes three times as long, so the overhead of a pass weighs less."""
BLOCK = 3_538_944
"""Parameters of a block of that model. In smaller blocks a token takes less time, and the overhead stays."""


@dataclass(frozen=True)
class PassSize:
    """What a pass reads, and what the run then takes."""

    rows: int
    """Rows of the longest length in a pass; of shorter ones there are more."""
    longest: int
    """Tokens of the longest row."""
    tokens: int
    """Most tokens of a pass, padding included; 0 where a pass reads all rows of a step."""
    need: int
    """Bytes at the peak of the run, estimated."""
    free: int
    """Bytes that the run may take."""


def choose_pass_size(config: RunConfig, shape: Shape, *, device: str, free: int, tokens: int = 0,
                     example_tokens: int = 0) -> PassSize:
    """The largest passes that fit: the run takes at most `FILL` of what is free. A pass has one row of data at least.

    On a CPU they are no larger than pays (`worthwhile_tokens`). A `micro_batch` that is set stays as it is.

    Args:
        config: the settings.
        shape: of the model.
        device: cpu or cuda.
        free: bytes that the run may take in all, with what it holds already.
        tokens: of the longest row, as for `estimate`.
        example_tokens: of the largest row of the data, which is several token rows where responses are compared. 0
            takes those of the stage.
    """
    longest = longest_row(config, shape, tokens)
    example = example_tokens or find_stage(config.stage).memory.rows_per_example * longest

    def size_of(examples: int) -> PassSize:
        limit = examples * example
        need = estimate(config, shape, device=device, tokens=tokens, pass_tokens=limit).total
        whole = config.micro_batch or examples >= config.batch_size
        return PassSize(limit // longest, longest, 0 if whole else limit, need, free)

    if config.micro_batch:
        return size_of(config.micro_batch)
    most = config.batch_size
    if device == "cpu":
        most = min(most, max(1, worthwhile_tokens(shape, number_format(config, device)) // example))
    low, high = 1, most
    while low < high:  # the need grows with the number of rows
        middle = (low + high + 1) // 2
        fits = size_of(middle).need <= FILL * free
        low, high = (middle, high) if fits else (low, middle - 1)
    return size_of(low)


def worthwhile_tokens(shape: Shape, dtype: str) -> int:
    """Tokens of a pass on a CPU beyond which it is hardly faster per token."""
    return round(WORTHWHILE[dtype] * max(1.0, BLOCK * shape.layers / shape.blocks))
