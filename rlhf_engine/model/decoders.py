"""Decoders that run the model itself, token by token: with transformers' cache, or reading the rows anew each time.

Models differ in what their caches can do: count positions with padding on the left, keep a state that is no list of
keys and values, give up rows. No table of architectures says so here. A decoder is tried on the model itself before
it is used, and one that misses the logits of a plain forward pass is not used. Reading the rows anew always works.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import DynamicCache

from rlhf_engine.model.batching import out_of_memory

if TYPE_CHECKING:
    from rlhf_engine.model.backbone import Backbone

EXACT, ROUNDED = 1e-3, 0.05
"""Relative error of logits that fp32 explains at every token, and that bf16 and 4-bit arithmetic explain at most
tokens (a mixture of experts may send a token elsewhere because of its rounding)."""
PROMPT_LENGTHS, FURTHER_TOKENS = (4, 9, 6), 3
"""Tokens of the prompts that a decoder is tried on, and tokens that follow each."""


class Decoder(Protocol):
    """A forward pass with a cache, for rows that grow token by token."""

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, V] after the next tokens `ids` [B, T] at `positions` [B, T]. `hidden` [B, T] is true at
        padding."""
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows (an index vector, which may repeat rows) and drop the others."""
        ...


class CachedDecoder:
    """A `Decoder`: the model's own forward pass with transformers' cache, under the role in use at each call.

    Args:
        base: the model.
        pass_positions: whether the model is told the positions of its tokens. Some models take none and count them
            from the mask.
        pass_mask: whether it is told of padding after the prompt, too. A recurrent state has no padding in it, and some
            models take the mask for one of the new token alone.
    """

    def __init__(self, base: Any, *, pass_positions: bool = True, pass_mask: bool = True):
        self.base = base
        self.pass_positions = pass_positions
        self.pass_mask = pass_mask
        self.cache: Any = DynamicCache(config=base.config)
        self.cache_name = cache_argument(base)
        self.hidden: torch.Tensor | None = None
        """[B, T so far]: true at padding."""
        self.padded = False

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        new = torch.zeros_like(ids, dtype=torch.bool) if hidden is None else hidden
        self.hidden = new if self.hidden is None else torch.cat([self.hidden, new], dim=1)
        if hidden is not None:
            self.padded = bool(self.hidden.any())
        mask = (~self.hidden).long() if self.padded and (self.pass_mask or hidden is not None) else None
        options = {self.cache_name: self.cache, "attention_mask": mask}
        if self.pass_positions:
            options["position_ids"] = positions
        output = self.base(input_ids=ids, use_cache=True, logits_to_keep=1, **options)
        return output.logits[:, -1]

    def keep(self, rows: torch.Tensor) -> None:
        # Every kind of layer can put its rows into another order; only those of plain attention have a method that
        # selects rows. To reorder by fewer or by repeated rows is the same.
        self.cache.reorder_cache(rows)
        if self.hidden is not None:
            self.hidden = self.hidden[rows]
            self.padded = bool(self.hidden.any())


def cache_argument(base: Any) -> str:
    """The name under which a model takes its cache: recurrent ones have another than the rest."""
    names = inspect.signature(base.forward).parameters
    return "cache" if "cache" in names and "past_key_values" not in names else "past_key_values"


class RereadingDecoder:
    """A `Decoder` without a cache: every call reads the whole rows, by the forward pass of training.

    It is right for every model that can be trained, and slow: the work grows with the square of the length.
    """

    def __init__(self, backbone: "Backbone"):
        self.backbone = backbone
        self.rows: list[list[int]] = []

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        self.rows = self.rows or [[] for _ in ids]
        padding = torch.zeros_like(ids, dtype=torch.bool) if hidden is None else hidden
        for row, tokens, skipped in zip(self.rows, ids.tolist(), padding.tolist()):
            row += [token for token, skip in zip(tokens, skipped) if not skip]
        width = max(map(len, self.rows))
        padded = [row + [self.backbone.pad_id] * (width - len(row)) for row in self.rows]
        states = self.backbone.hidden(torch.tensor(padded, device=ids.device))
        last = torch.tensor([len(row) - 1 for row in self.rows], device=ids.device)
        return self.backbone.head(states[torch.arange(len(last), device=ids.device), last])

    def keep(self, rows: torch.Tensor) -> None:
        self.rows = [list(self.rows[row]) for row in rows.tolist()]


# -- which one a model is decoded by -----------------------------------------------------------------------------------

MakeDecoder = Callable[["Backbone"], Decoder]
CANDIDATES: tuple[MakeDecoder, ...] = (
    lambda backbone: CachedDecoder(backbone.base),
    lambda backbone: CachedDecoder(backbone.base, pass_positions=False),
    lambda backbone: CachedDecoder(backbone.base, pass_positions=False, pass_mask=False),
)
CHOICES: WeakKeyDictionary[nn.Module, MakeDecoder] = WeakKeyDictionary()
"""What makes the decoder of a base, once its decoders were tried."""


def model_decoder(backbone: "Backbone") -> Decoder:
    """A new decoder that runs the model under the role in use. The first call on a base tries which one is right."""
    if backbone.base not in CHOICES:
        with backbone.use(None):
            fitting = (make for make in CANDIDATES if is_right(make, backbone))
            CHOICES[backbone.base] = next(fitting, RereadingDecoder)
    return CHOICES[backbone.base](backbone)


@torch.no_grad()
def is_right(make: MakeDecoder, backbone: "Backbone") -> bool:
    """Whether a decoder gives the logits of plain forward passes, on padded rows of which one leaves and one is
    doubled on the way. False for a model that cannot be called like this."""
    rows = sample_rows(backbone)
    width = max(PROMPT_LENGTHS)
    lengths = torch.tensor(PROMPT_LENGTHS, device=backbone.device)
    padded = [[backbone.pad_id] * (width - length) + row[:length] for row, length in zip(rows, PROMPT_LENGTHS)]
    ids = torch.tensor(padded, device=backbone.device)
    places = torch.arange(width, device=backbone.device) - width + lengths[:, None]
    kept = [0, 2, 2]
    try:
        decoder = make(backbone)
        found = [decoder(ids, places.clamp(min=0), places < 0)]
        decoder.keep(torch.tensor(kept, device=backbone.device))
        for step in range(FURTHER_TOKENS - 1):
            newest = torch.tensor([[rows[i][PROMPT_LENGTHS[i] + step]] for i in kept], device=backbone.device)
            found.append(decoder(newest, places[kept, -1:] + 1 + step))
    except Exception as error:  # whatever a model makes of caches, positions or masks that it has no use for
        if out_of_memory(error):
            raise
        return False
    if not has_known_layers(decoder):
        return False
    expected = expected_logits(backbone, rows)
    truth = [expected[:, 0], *[expected[kept, step] for step in range(1, FURTHER_TOKENS)]]
    return agree(torch.cat(found), torch.cat(truth), backbone.dtype)


def sample_rows(backbone: "Backbone") -> list[list[int]]:
    """Random tokens for a trial of decoders. The padding token is one of them: it may well be a token of a text."""
    generator = torch.Generator().manual_seed(0)
    length = max(PROMPT_LENGTHS) + FURTHER_TOKENS
    rows = torch.randint(backbone.known_tokens, (len(PROMPT_LENGTHS), length), generator=generator).tolist()
    rows[2][1] = backbone.pad_id
    return [row[:prompt + FURTHER_TOKENS] for row, prompt in zip(rows, PROMPT_LENGTHS)]


def expected_logits(backbone: "Backbone", rows: list[list[int]]) -> torch.Tensor:
    """Logits [rows, further tokens, V] after each prompt and after the tokens that follow, from the forward pass of
    training."""
    width = max(map(len, rows))
    padded = torch.tensor([row + [backbone.pad_id] * (width - len(row)) for row in rows], device=backbone.device)
    logits = backbone.head(backbone.hidden(padded))
    return torch.stack([logits[i, length - 1:length - 1 + FURTHER_TOKENS] for i, length in enumerate(PROMPT_LENGTHS)])


def has_known_layers(decoder: Decoder) -> bool:
    """Whether all layers of a decoder's cache are transformers' own kinds.

    A model may bring a kind of its own, with a state that shows only in longer texts than those of the trial.
    """
    cache = getattr(decoder, "cache", None)
    return all(type(layer).__module__ == DynamicCache.__module__ for layer in getattr(cache, "layers", []))


def agree(ours: torch.Tensor, theirs: torch.Tensor, dtype: str) -> bool:
    """Whether vectors [..., d] are equal, as far as arithmetic in this format lets one say."""
    errors = ((ours.float() - theirs.float()).norm(dim=-1) / theirs.float().norm(dim=-1).clamp(min=1e-9)).flatten()
    if dtype in ("fp32", "torch.float32"):
        return bool((errors <= EXACT).all())
    return bool(errors.nan_to_num(torch.inf).median() <= ROUNDED)
