"""Rows that begin alike are read together: the shared beginning once, and behind it the rest of each.

K responses to one prompt become one packed row, `prompt r1 r2 ... rK`. In it a response has the positions that follow
the prompt's, and attends to the prompt and itself alone. Each hidden state, and each gradient through it, is that of a
row of its own. Which rows are packed follows from arithmetic (`group_by_prefix`). Whether a model computes the same in
this way is measured on the model itself (`supports_packing`): models with attention windows shorter than the rows,
with recurrent state, or that ignore such masks read every row alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import TokenReadings, pad_right, read_states

MAX_PACKED_LENGTH = 4096
"""Positions of a packed row, at most: its mask has the square of that."""
WORTHWHILE = 0.9
"""A row joins others if that costs less than this share of what it costs alone."""
UNEVEN = 1.25
"""Packed rows longer than this times the shortest one are read in another pass, so that little is padded."""
EXACT, ROUNDED = 1e-4, 0.03
"""Relative error of a hidden state that fp32 explains, and that bf16 and 4-bit arithmetic explain."""
VERDICTS: WeakKeyDictionary[nn.Module, dict[int, bool]] = WeakKeyDictionary()
"""For each base: whether packed rows of up to so many tokens have the states of separate ones, where that was
measured."""


@dataclass
class PackedBatch:
    """One forward pass over some of the rows. `backbone.hidden(ids, **options)` [B, T, d] has their hidden states."""

    ids: torch.Tensor
    options: dict[str, torch.Tensor]
    """Positions and mask, for packed rows."""
    indices: list[int]
    """Which rows these are."""
    owners: list[int]
    """For each of them, the row of `ids` that holds it."""
    columns: list[list[int]]
    """For each of them, the columns of `ids` that hold its tokens."""

    def at(self, columns: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Index vectors (rows, columns) into `ids` for some columns of each row, one row after the other."""
        owners = [owner for owner, some in zip(self.owners, columns) for _ in some]
        flat = [column for some in columns for column in some]
        pairs = torch.tensor([owners, flat], dtype=torch.long, device=self.ids.device)
        return pairs[0], pairs[1]

    def last(self, hidden: torch.Tensor) -> torch.Tensor:
        """The state at the last token of each row: hidden [B, T, d] -> [N, d], in the order of `indices`."""
        return hidden[self.at([columns[-1:] for columns in self.columns])]


# -- reading rows ------------------------------------------------------------------------------------------------------

def last_states(backbone: Backbone, rows: list[list[int]]) -> torch.Tensor:
    """The last hidden state [N, d] of each token row under the role in use. Shared beginnings are read once if that
    pays."""
    indices: list[int] = []
    states = []
    for batch in packed_passes(backbone, rows):
        states.append(batch.last(backbone.hidden(batch.ids, **batch.options)))
        indices += batch.indices
    return torch.cat(states)[torch.tensor(indices).argsort().to(backbone.device)]


def read_responses(backbone: Backbone, rows: list[tuple[list[int], list[int]]], temperature: float = 1.0, *,
                   entropy: bool = False) -> TokenReadings:
    """What the role in use says about the tokens of responses. Answers to one prompt share its reading if that pays.

    Args:
        backbone: the model.
        rows: token ids of prompt and response. Each has at least one token.
        temperature: divides the logits, as in sampling.
        entropy: whether to compute entropies.

    Returns:
        The readings of the N response tokens, row after row in the order of `rows`.
    """
    order: list[int] = []
    states, targets = [], []
    for batch in packed_passes(backbone, [prompt + response for prompt, response in rows]):
        before = [columns[len(rows[i][0]) - 1:-1] for i, columns in zip(batch.indices, batch.columns)]
        states.append(backbone.hidden(batch.ids, **batch.options)[batch.at(before)])
        targets += [token for i in batch.indices for token in rows[i][1]]
        order += batch.indices
    readings = read_states(backbone, torch.cat(states), torch.tensor(targets, device=backbone.device), temperature,
                           entropy=entropy)
    places = _places(order, [len(response) for _, response in rows]).to(backbone.device)
    return TokenReadings(readings.logprobs[places], None if readings.entropy is None else readings.entropy[places],
                         readings.hidden[places])


def read_sums(backbone: Backbone, rows: list[tuple[list[int], list[int]]], temperature: float = 1.0) -> torch.Tensor:
    """[N]: the log-probability of each response under the role in use, in nats per sequence. Arguments as in
    `read_responses`."""
    logprobs = read_responses(backbone, rows, temperature).logprobs
    lengths = torch.tensor([len(response) for _, response in rows], device=logprobs.device)
    owners = torch.arange(len(rows), device=logprobs.device).repeat_interleave(lengths)
    return torch.zeros(len(rows), device=logprobs.device).index_add(0, owners, logprobs)


def _places(order: list[int], lengths: list[int]) -> torch.Tensor:
    """Where the tokens of rows 0, 1, ... are, if the rows stand one after the other in `order`: an index vector [N]."""
    starts, end = {}, 0
    for i in order:
        starts[i] = end
        end += lengths[i]
    return torch.cat([torch.arange(starts[i], starts[i] + length) for i, length in enumerate(lengths)])


def packed_passes(backbone: Backbone, rows: list[list[int]]) -> Iterator[PackedBatch]:
    """The forward passes that read all rows: one for those that stand alone, others for packed ones of similar
    length."""
    all_bundles = bundles(backbone, rows)
    alone = sorted(bundle[0] for bundle in all_bundles if len(bundle) == 1)
    if alone:
        ids = pad_right([rows[i] for i in alone], backbone.pad_id, backbone.device)
        yield PackedBatch(ids, {}, alone, list(range(len(alone))), [list(range(len(rows[i]))) for i in alone])
    batch: list[list[int]] = []
    for bundle in all_bundles:
        if len(bundle) == 1:
            continue
        if batch and packed_length(rows, bundle) > UNEVEN * packed_length(rows, batch[0]):
            yield pack(backbone, rows, batch)
            batch = []
        batch.append(bundle)
    if batch:
        yield pack(backbone, rows, batch)


def reading_order(backbone: Backbone, rows: list[list[int]]) -> list[int]:
    """Indices of all rows, short ones first and those that are read together side by side: to be cut into
    micro-batches."""
    return [i for bundle in bundles(backbone, rows) for i in bundle]


# -- which rows are read together --------------------------------------------------------------------------------------

def bundles(backbone: Backbone, rows: list[list[int]]) -> list[list[int]]:
    """Lists of indices of the rows that are read together, short ones first. Each stands alone if the base cannot
    pack."""
    groups = group_by_prefix(rows, backbone.hidden_size)
    longest = max((len(rows[i]) for group in groups if len(group) > 1 for i in group), default=0)
    if longest and not supports_packing(backbone, longest):
        groups = [[i] for i in range(len(rows))]
    return sorted(groups, key=lambda group: (packed_length(rows, group), group))


def group_by_prefix(rows: list[list[int]], width: int) -> list[list[int]]:
    """Indices of the rows that are cheaper to read together, in a model of hidden size `width`.

    The cost is counted in multiply-adds of a layer over 2 d. A token costs about 6 d (12 d^2 weights), a pair of
    positions 1; a kernel for causal rows skips half of the pairs, one with a mask none. Rows join in alphabetical
    order, in which rows that begin alike are neighbours.
    """
    def cost(length: int, packed: bool) -> float:
        return 6 * width * length + length ** 2 / (1 if packed else 2)

    groups: list[list[int]] = []
    # Of the last group: tokens in common, tokens of all rows, cost of reading it.
    common, total, spent = 0, 0, 0.0
    for i in sorted(range(len(rows)), key=lambda i: rows[i]):
        alone = cost(len(rows[i]), False)
        if groups:
            group = groups[-1]
            shared, tokens = min(common, shared_tokens(rows[group[-1]], rows[i])), total + len(rows[i])
            joined = tokens - len(group) * shared
            if joined <= MAX_PACKED_LENGTH and cost(joined, True) < spent + WORTHWHILE * alone:
                group.append(i)
                common, total, spent = shared, tokens, cost(joined, True)
                continue
        groups.append([i])
        common, total, spent = len(rows[i]), len(rows[i]), alone
    return groups


def shared_tokens(one: list[int], other: list[int]) -> int:
    """Tokens with which both rows begin. It is less than either has: every row keeps a token of its own."""
    most = min(len(one), len(other)) - 1
    return next((i for i in range(most) if one[i] != other[i]), most)


def common_tokens(rows: list[list[int]], bundle: list[int]) -> int:
    """Tokens with which all rows of a bundle begin."""
    return min((shared_tokens(rows[bundle[0]], rows[i]) for i in bundle[1:]), default=0)


def packed_length(rows: list[list[int]], bundle: list[int]) -> int:
    """Tokens of a bundle packed into one row."""
    return sum(len(rows[i]) for i in bundle) - (len(bundle) - 1) * common_tokens(rows, bundle)


def pack(backbone: Backbone, rows: list[list[int]], batch: list[list[int]]) -> PackedBatch:
    """One pass over bundles of rows, each packed into one row: the shared beginning, then the rest of each."""
    packed, positions, parts = [], [], []
    owners: list[int] = []
    columns: list[list[int]] = []
    for owner, bundle in enumerate(batch):
        common = common_tokens(rows, bundle)
        row = rows[bundle[0]][:common]
        row_positions = list(range(common))
        row_parts = [0] * common  # 0 is the shared beginning, 1, 2, ... are the rests, -1 is padding
        for part, i in enumerate(bundle, 1):
            rest = rows[i][common:]
            start = len(row)
            row = row + rest
            row_positions += range(common, len(rows[i]))
            row_parts += [part] * len(rest)
            owners.append(owner)
            columns.append([*range(common), *range(start, len(row))])
        packed.append(row)
        positions.append(row_positions)
        parts.append(row_parts)
    options = {"position_ids": pad_right(positions, 0, backbone.device),
               "attention_mask": packed_mask(backbone, pad_right(parts, -1, backbone.device))}
    indices = [i for bundle in batch for i in bundle]
    return PackedBatch(pad_right(packed, backbone.pad_id, backbone.device), options, indices, owners, columns)


def packed_mask(backbone: Backbone, parts: torch.Tensor) -> torch.Tensor:
    """The mask [B, 1, T, T] to add to attention scores, from the part [B, T] that each token belongs to.

    A token attends to what stands before it in the shared beginning (part 0) and in its own part.
    """
    visible = (parts[:, None] == 0) | (parts[:, None] == parts[:, :, None])
    dtype = backbone.base.get_input_embeddings().weight.dtype
    mask = torch.zeros(visible.shape, dtype=dtype, device=parts.device)
    return mask.masked_fill_(~visible.tril_(), torch.finfo(dtype).min)[:, None]


# -- whether a model can do it -----------------------------------------------------------------------------------------

@torch.no_grad()
def supports_packing(backbone: Backbone, length: int) -> bool:
    """Whether packed rows of up to `length` tokens each have the states of separate ones.

    It is measured once for every doubling of `length`: an attention window, or positions that are scaled from some
    length on, show only beyond it.
    """
    top = min(max(64, 1 << (length - 1).bit_length()), backbone.longest)
    verdicts = VERDICTS.setdefault(backbone.base, {})
    if top not in verdicts:
        verdicts[top] = agrees(backbone, top)
    return verdicts[top]


def agrees(backbone: Backbone, length: int) -> bool:
    """Whether two rows of `length` random tokens with a common half have the same states packed and apart.

    They are compared at the first token behind the common half (from which a window that counts columns would hide the
    prompt) and at the last.
    """
    ids = torch.randint(backbone.vocabulary, (3, length), generator=torch.Generator().manual_seed(0)).tolist()
    half = length // 2
    rows = [ids[0][:half] + rest[half:] for rest in ids[1:]]
    apart = backbone.hidden(pad_right(rows, backbone.pad_id, backbone.device))[:, [half, -1]].flatten(0, 1).float()
    try:
        batch = pack(backbone, rows, [[0, 1]])
        states: Any = backbone.hidden(batch.ids, **batch.options)
        packed = states[batch.at([[columns[half], columns[-1]] for columns in batch.columns])].float()
    except Exception:  # whatever a model makes of positions and masks that it has no use for
        return False
    allowed = EXACT if backbone.dtype == "fp32" else ROUNDED
    return bool(((packed - apart).norm(dim=-1) <= allowed * apart.norm(dim=-1)).all())
