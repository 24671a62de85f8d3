"""Rows that begin alike, read together: what they share once, and behind it what each goes on with.

K responses to one prompt become one packed row, `prompt r1 r2 ... rK`, in which a response has the positions that follow the prompt's
and sees the prompt and itself alone. Each hidden state, and each gradient through it, is that of a row of its own. How many rows are
packed into one follows from arithmetic (`bundled`), and whether a model computes the same in this way is measured on the model
itself (`supports_packing`): one with windows shorter than the rows, with state of its own, or without a use for such masks reads every row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import pad_right

LONGEST = 4096
"""Positions of a packed row, at most: its mask has the square of that."""
WORTHWHILE = 0.9
"""A row joins others if that takes less than this share of what it takes alone."""
UNEVEN = 1.25
"""Packed rows longer than this times the shortest are read in another pass, so that little is padded."""
EXACT, ROUNDED = 1e-4, 0.03
"""Relative error of a hidden state that fp32 explains, and that bf16 and 4-bit arithmetic do."""


@dataclass
class PackedBatch:
    """One forward pass over some of the rows: `backbone.hidden(ids, **options)` [B, T, d] has their states."""

    ids: torch.Tensor
    options: dict
    places: list[int]
    """Which rows these are."""
    owners: list[int]
    """In which row of `ids` each of them stands."""
    columns: list[list[int]]
    """And at which columns its tokens do."""

    def at(self, columns: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Index vectors (rows, columns) of `ids` for some columns of each row, one after the other."""
        pairs = [(owner, column) for owner, some in zip(self.owners, columns) for column in some]
        return torch.tensor(pairs, dtype=torch.long, device=self.ids.device).view(-1, 2).unbind(1)

    def last(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, T, d] -> [N, d]: the state at the last token of each row, in the order of `places`."""
        return hidden[self.at([columns[-1:] for columns in self.columns])]


def last_states(backbone: Backbone, rows: list[list[int]]) -> torch.Tensor:
    """The last hidden state [N, d] of each token row under the role in use; what rows have in common is read once where that is faster."""
    places, states = [], []
    for part in packed_passes(backbone, rows):
        states.append(part.last(backbone.hidden(part.ids, **part.options)))
        places += part.places
    return torch.cat(states)[torch.tensor(places).argsort().to(backbone.device)]


def packed_passes(backbone: Backbone, rows: list[list[int]]) -> Iterator[PackedBatch]:
    """The forward passes that read all the rows: one for those that stand alone, others for packed ones of about equal lengths."""
    found = bundles(backbone, rows)
    alone = sorted(places[0] for places in found if len(places) == 1)
    if alone:
        ids = pad_right([rows[i] for i in alone], backbone.pad_id, backbone.device)
        yield PackedBatch(ids, {}, alone, list(range(len(alone))), [list(range(len(rows[i]))) for i in alone])
    batch: list[list[int]] = []
    for places in [places for places in found if len(places) > 1]:
        if batch and packed_length(rows, places) > UNEVEN * packed_length(rows, batch[0]):
            yield pack(backbone, rows, batch)
            batch = []
        batch.append(places)
    if batch:
        yield pack(backbone, rows, batch)


def bundles(backbone: Backbone, rows: list[list[int]]) -> list[list[int]]:
    """Places of the rows that are read together, short bundles first; each alone where the base cannot do it."""
    found = group_by_prefix(rows, backbone.hidden_size)
    together = [i for places in found if len(places) > 1 for i in places]
    if together and not supports_packing(backbone, max(len(rows[i]) for i in together)):
        found = [[i] for i in range(len(rows))]
    return sorted(found, key=lambda places: (packed_length(rows, places), places))


def reading_order(backbone: Backbone, rows: list[list[int]]) -> list[int]:
    """All places, short rows first, and next to each other those that are read together: to be cut into micro-batches."""
    return [i for places in bundles(backbone, rows) for i in places]


def group_by_prefix(rows: list[list[int]], width: int) -> list[list[int]]:
    """Places of the rows that are cheaper to read together, in a model of hidden size `width`.

    In multiply-adds of a layer over 2 d, about 6 d for each token (12 d^2 weights) and 1 for each pair of positions, of which a kernel
    for causal rows skips half and one with a mask none. Rows join in alphabetical order, where those that begin alike are neighbours.
    """
    def cost(length: int, packed: bool) -> float:
        return 6 * width * length + length ** 2 / (1 if packed else 2)

    found: list[list[int]] = []
    common = total = spent = 0
    for i in sorted(range(len(rows)), key=lambda i: rows[i]):
        alone = cost(len(rows[i]), False)
        if found:
            both, tokens = min(common, shared_tokens(rows[found[-1][-1]], rows[i])), total + len(rows[i])
            joined = tokens - len(found[-1]) * both
            if joined <= LONGEST and cost(joined, True) < spent + WORTHWHILE * alone:
                found[-1].append(i)
                common, total, spent = both, tokens, cost(joined, True)
                continue
        found.append([i])
        common, total, spent = len(rows[i]), len(rows[i]), alone
    return found


def shared_tokens(one: list[int], other: list[int]) -> int:
    """Tokens with which both begin, less than either has: every row keeps a token of its own."""
    most = min(len(one), len(other)) - 1
    return next((i for i in range(most) if one[i] != other[i]), most)


def common_tokens(rows: list[list[int]], places: list[int]) -> int:
    """Tokens with which all of the rows begin."""
    return min((shared_tokens(rows[places[0]], rows[i]) for i in places[1:]), default=0)


def packed_length(rows: list[list[int]], places: list[int]) -> int:
    return sum(len(rows[i]) for i in places) - (len(places) - 1) * common_tokens(rows, places)


def pack(backbone: Backbone, rows: list[list[int]], batch: list[list[int]]) -> PackedBatch:
    """One pass over bundles of rows, each packed into one row: what they share, then the rest of each."""
    packed, positions, parts, owners, columns = [], [], [], [], []
    for owner, places in enumerate(batch):
        common = common_tokens(rows, places)
        packed.append(rows[places[0]][:common])
        positions.append(list(range(common)))
        parts.append([0] * common)
        for part, i in enumerate(places, 1):
            start = len(packed[-1])
            packed[-1] = packed[-1] + rows[i][common:]
            positions[-1] += range(common, len(rows[i]))
            parts[-1] += [part] * (len(rows[i]) - common)
            owners.append(owner)
            columns.append([*range(common), *range(start, len(packed[-1]))])
    ids, positions, parts = (pad_right(x, pad, backbone.device) for x, pad in ((packed, backbone.pad_id), (positions, 0), (parts, -1)))
    seen = (parts[:, None] == 0) | (parts[:, None] == parts[:, :, None])
    dtype = backbone.base.get_input_embeddings().weight.dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=ids.device).masked_fill_(~seen.tril_(), torch.finfo(dtype).min)
    return PackedBatch(ids, {"position_ids": positions, "attention_mask": mask[:, None]}, [i for places in batch for i in places], owners, columns)


@torch.no_grad()
def supports_packing(backbone: Backbone, length: int) -> bool:
    """Whether packed rows of up to `length` tokens each have the states of separate ones, measured once for every doubling of `length`:
    an attention window, or positions that are scaled from some length on, show only beyond it."""
    top = min(max(64, 1 << (length - 1).bit_length()), backbone.longest)
    known = backbone.base.__dict__.setdefault("can_share", {})
    if top not in known:
        known[top] = agrees(backbone, top)
    return known[top]


def agrees(backbone: Backbone, length: int) -> bool:
    """Whether two rows of `length` random tokens with a common half have the same states packed and apart, at the first token behind
    what they share (which a window that counts columns would keep from the prompt) and at the last."""
    ids = torch.randint(backbone.vocabulary, (3, length), generator=torch.Generator().manual_seed(0)).tolist()
    half = length // 2
    rows = [ids[0][:half] + more[half:] for more in ids[1:]]
    apart = backbone.hidden(pad_right(rows, backbone.pad_id, backbone.device))[:, [half, -1]].flatten(0, 1).float()
    try:
        part = pack(backbone, rows, [[0, 1]])
        packed = backbone.hidden(part.ids, **part.options)[part.at([[columns[half], columns[-1]] for columns in part.columns])].float()
    except Exception:  # whatever a model makes of positions and masks that it has no use for
        return False
    allowed = EXACT if backbone.dtype == "fp32" else ROUNDED
    return bool(((packed - apart).norm(dim=-1) <= allowed * apart.norm(dim=-1)).all())
