"""How likely a model finds texts: the summed log-probability of each, in one or several windows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rlhf_engine.data.examples import Demonstration
from rlhf_engine.data.tokenization import encode_example
from rlhf_engine.errors import NotFinite, noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import passes_within
from rlhf_engine.model.logprobs import chunk_size, slices
from rlhf_engine.model.prefix_packing import packed_passes, reading_order

Window = tuple[list[int], list[int]]
"""Token ids that are given, of which there is at least one, and those that are charged."""
CPU_PASS, GPU_PASS = 4096, 65536
"""Tokens of a forward pass, at most, padding included."""
ROWS = 64
"""Rows of a forward pass, at most."""


@dataclass(frozen=True)
class Score:
    """What a model says about the tokens that are charged."""

    logprob: float
    """Their summed log-probability, in nats."""
    greedy: bool
    """Whether each of them is the most likely token at its place."""


# -- from texts to token rows ------------------------------------------------------------------------------------------

def encode_text(backbone: Backbone, text: Demonstration) -> Window:
    """(what is given, what is charged) of a text: all its tokens are charged, the end token is not.

    The first token of a plain text is charged, too. It is predicted from what the tokenizer puts in front of a text;
    where that is nothing, from the BOS, and without one from the end token. Of a demonstration the prompt is given.
    Raises UserError for a tokenizer that has neither BOS nor end token.
    """
    row = encode_example(backbone.tokenizer, text.prompt, text.completion, backbone.stop_ids)
    return row.prompt_ids, row.completion_ids[:-1]


def cut_windows(given: list[int], charged: list[int], size: int) -> list[Window]:
    """A row in windows of at most `size` tokens, in which each token is charged exactly once.

    A row that fits is one window. Else the first window is the beginning of the row. Each further one charges the next
    half of a window, given the first token of the row and as many of the tokens before as there is room for. So a token
    beyond the first window sees at least half a window, less two tokens, before it.
    """
    row = given + charged
    if len(row) <= size:
        return [(given, charged)]
    windows: list[Window] = []
    place = len(given)
    while place < len(row):
        if place < size and not windows:
            end = size
            windows.append((given, row[place:end]))
        else:
            end = min(place + size // 2, len(row))
            before = row[max(1, place - (size - 1 - (end - place))):place]
            windows.append((row[:1] + before, row[place:end]))
        place = end
    return windows


# -- reading token rows ------------------------------------------------------------------------------------------------

@torch.no_grad()
def score_windows(backbone: Backbone, windows: Sequence[Window],
                  on_microbatch: Callable[[], None] = noop) -> list[Score]:
    """What the role in use says about each window. Equal windows are read once; what begins alike is read together.

    The last token of a window is predicted and never read, so a window may have one token more than the model has
    positions.
    """
    unique = list(dict.fromkeys((tuple(given), tuple(charged)) for given, charged in windows if charged))
    rows = [list(given + charged[:-1]) for given, charged in unique]
    most = CPU_PASS if backbone.device.type == "cpu" else GPU_PASS
    scores: dict[tuple, Score] = {}
    for part in passes_within(reading_order(backbone, rows), ROWS, lambda i: len(rows[i]), most):
        for packed in packed_passes(backbone, [rows[i] for i in part]):
            read = [unique[part[i]] for i in packed.indices]
            before = [columns[len(given) - 1:] for (given, _), columns in zip(read, packed.columns)]
            states = backbone.hidden(packed.ids, **packed.options)[packed.at(before)]
            targets = torch.tensor([token for _, charged in read for token in charged], dtype=torch.long)
            logprobs, greedy = score_tokens(backbone, states, targets.to(states.device))
            lengths = [len(charged) for _, charged in read]
            for window, values, hits in zip(read, logprobs.split(lengths), greedy.split(lengths)):
                scores[window] = Score(values.sum().item(), bool(hits.all()))
            on_microbatch()
    nothing = Score(0.0, True)
    return [scores[tuple(given), tuple(charged)] if charged else nothing for given, charged in windows]


def score_tokens(backbone: Backbone, states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability [N] of each target, in fp64, and whether it is the most likely token [N].

    States [N, d] are those before the targets [N]. Not more logits exist at a time than in training.
    """
    logprobs = torch.empty(len(targets), dtype=torch.float64)
    greedy = torch.empty(len(targets), dtype=torch.bool)
    for part in slices(len(targets), chunk_size(states.device, backbone.vocabulary)):
        logits = backbone.head(states[part]).float()
        chosen = logits.gather(-1, targets[part, None])[:, 0]
        logprobs[part] = (chosen - logits.logsumexp(-1)).double().cpu()
        greedy[part] = (logits.argmax(-1) == targets[part]).cpu()
    return logprobs, greedy


def score_rows(backbone: Backbone, role: str | None, rows: Sequence[Window], size: int, name: str,
               on_microbatch: Callable[[], None] = noop) -> list[float]:
    """The summed log-probability of the charged tokens of each row under a role (None: the bare base), in nats.

    Rows of more than `size` tokens are cut (`cut_windows`). Raises NotFinite, which calls the role `name`, if a sum is
    NaN or infinite.
    """
    pieces = [(number, window) for number, row in enumerate(rows) for window in cut_windows(*row, size)]
    with backbone.use(role):
        scores = score_windows(backbone, [window for _, window in pieces], on_microbatch)
    sums = [0.0] * len(rows)
    for (number, _), score in zip(pieces, scores):
        sums[number] += score.logprob
    broken = next((value for value in sums if not math.isfinite(value)), None)
    if broken is not None:
        raise NotFinite(f"the log-probability of a text under {name} is {broken}; take an earlier checkpoint or "
                        "another adapter, or load the base with --dtype fp32")
    return sums
