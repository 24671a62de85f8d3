"""Batched sampling with a KV cache. Rows that have ended leave the batch; nothing but temperature shapes the
distribution unless asked, because what is sampled must be what is scored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from rlhf_engine.data.tokenization import Prompt, encode_prompt
from rlhf_engine.errors import UserError, noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.cpu_decoder import cpu_decoder

COMPACT = 0.75
"""Share of rows still going below which the others leave the batch."""


@dataclass(frozen=True)
class Sampling:
    """How to draw. For training leave top_k at 0 and top_p at 1: the log-probabilities are those of the full softmax."""

    max_new_tokens: int = 128
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_k: int = 0
    top_p: float = 1.0


def prompt_room(backbone: Backbone, max_new_tokens: int, max_tokens: int | None = None) -> int:
    """Tokens left for a prompt, of `max_tokens` and of what the base takes. Raises UserError if there is none."""
    longest = min(max_tokens or backbone.longest, backbone.longest)
    if longest <= max_new_tokens:
        raise UserError(f"--max-new-tokens is {max_new_tokens}, which leaves no room for a prompt in {longest} tokens; lower it")
    return longest - max_new_tokens


def pad_left(rows: list[list[int]], pad: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows -> ids [B, T] and mask [B, T], padded on the left so that all rows end together."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row):] = torch.tensor(row)
        mask[i, width - len(row):] = 1
    return ids.to(device), mask.to(device)


def probabilities(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """[B, V] logits -> [B, V] fp32 probabilities after temperature, top-k and top-p."""
    logits = logits.float()
    if sampling.temperature != 1:
        logits = logits / max(sampling.temperature, 1e-6)
    if sampling.top_k:
        floor = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(dim=-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits.softmax(-1)


def draw(probabilities: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """One token [B] from each row of probabilities [B, V], by the inverse of the cumulative distribution.

    One random number a row, drawn on the CPU: cheap, and a row's fate does not hang on the size of the vocabulary.
    """
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    chance = torch.rand(len(probabilities), 1, generator=generator).to(total.device, non_blocking=True) * total
    # Rounding must not reach the total itself, beyond which there is no token.
    chance = torch.minimum(chance, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, chance, right=True)[:, 0]


class CachedDecoder:
    """The model's own forward pass with transformers' cache, under the role in use at each call; the interface of `CpuDecoder`."""

    def __init__(self, base):
        self.base, self.cache = base, DynamicCache(config=base.config)
        self.hidden: torch.Tensor | None = None
        self.padded = False

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        new = torch.zeros_like(ids, dtype=torch.bool) if hidden is None else hidden
        self.hidden = new if self.hidden is None else torch.cat([self.hidden, new], dim=1)
        if hidden is not None:
            self.padded = bool(self.hidden.any())
        mask = (~self.hidden).long() if self.padded else None
        return self.base(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True,
                         logits_to_keep=1).logits[:, 0]

    def keep(self, rows: torch.Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.hidden = self.hidden[rows]
        self.padded = bool(self.hidden.any())


@torch.no_grad()
def decode(backbone: Backbone, prompts: list[list[int]], sampling: Sampling, generator: torch.Generator | None = None
           ) -> Iterator[list[tuple[int, int]]]:
    """Yield after each step the (row, token) pairs drawn, stop tokens included; ends when every row has ended.

    The role in use at each step draws (with a `CpuDecoder`, as it was at the first), so a consumer that interleaves other work must
    choose roles in scopes that close before it asks for the next step. Equal prompts are read once. `generator` lives on the CPU.
    """
    longest = max(map(len, prompts)) + sampling.max_new_tokens
    if longest > backbone.longest:
        raise ValueError(f"prompt and response may take {longest} tokens, the model knows {backbone.longest} positions")
    unique = {tuple(prompt): i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    ids, mask = pad_left([list(prompt) for prompt in unique], backbone.pad_id, backbone.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    decoder = cpu_decoder(backbone.base, len(unique), longest) or CachedDecoder(backbone.base)
    logits = decoder(ids, positions, mask == 0)
    if len(unique) < len(prompts):
        which = torch.tensor([unique[tuple(prompt)] for prompt in prompts], device=backbone.device)
        decoder.keep(which)
        logits, ids, positions = logits[which], ids[which], positions[which]
    stops, rows = torch.tensor(backbone.stop_ids), torch.arange(len(prompts))
    # Which rows go on is kept on the CPU: a GPU is waited for once a token, for the token.
    live, newest = torch.ones(len(prompts), dtype=torch.bool), ids[:, -1]
    for step in range(sampling.max_new_tokens):
        if step:
            logits = decoder(newest[:, None], positions)
        going = None if live.all() else live.nonzero()[:, 0].to(backbone.device)
        logits = logits if going is None else logits[going]
        tokens = logits.argmax(-1) if sampling.temperature == 0 else draw(probabilities(logits, sampling), generator)
        drawn = tokens.cpu()
        yield list(zip(rows[live].tolist(), drawn.tolist()))
        newest = tokens if going is None else newest.index_copy(0, going, tokens)
        live[live.clone()] = ~torch.isin(drawn, stops)
        if not live.any() or step + 1 == sampling.max_new_tokens:
            return
        positions = positions[:, -1:] + 1
        if live.sum() <= COMPACT * len(live):  # until then a row that has ended costs less than moving the cache
            going = live.nonzero()[:, 0].to(backbone.device)
            decoder.keep(going)
            rows, newest, positions, live = rows[live], newest[going], positions[going], live[live]


def sample(backbone: Backbone, prompts: list[list[int]], sampling: Sampling, generator: torch.Generator | None = None,
           *, batch: int = 0, on_microbatch: Callable[[], None] = noop) -> list[list[int]]:
    """One response per prompt under the role in use: token ids with the stop token, or without one if it did not end.

    `batch` bounds the rows decoded together (0: all). Prompts go by length, so that little is padded. `on_microbatch` is called
    after every token.
    """
    responses: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    size = batch or len(prompts)
    for start in range(0, len(order), size):
        chunk = order[start:start + size]
        for drawn in decode(backbone, [prompts[i] for i in chunk], sampling, generator):
            for row, token in drawn:
                responses[chunk[row]].append(token)
            on_microbatch()
    return responses


def answer(backbone: Backbone, prompts: list[Prompt], role: str | None = None, sampling: Sampling | None = None, *,
           seed: int = 0) -> list[str]:
    """The texts that `role` (None: the bare base) answers to prompts: encode, sample, decode in one call."""
    rows = [encode_prompt(backbone.tokenizer, prompt).ids for prompt in prompts]
    with backbone.use(role):
        responses = sample(backbone, rows, sampling or Sampling(), torch.Generator().manual_seed(seed))
    return [text_of(backbone, ids) for ids in responses]


def stream(backbone: Backbone, prompt: list[int], sampling: Sampling, generator: torch.Generator | None = None) -> Iterator[str]:
    """Pieces of text of one response as they come; a piece is held back while it is half of a character."""
    ids, shown = [], ""
    for drawn in decode(backbone, [prompt], sampling, generator):
        ids.append(drawn[0][1])
        text = text_of(backbone, ids)
        if len(text) > len(shown) and not text.endswith("\ufffd"):
            yield text[len(shown):]
            shown = text
    text = text_of(backbone, ids)
    if len(text) > len(shown):
        yield text[len(shown):]


def text_of(backbone: Backbone, ids: list[int]) -> str:
    """The text of a response, without special tokens."""
    return backbone.tokenizer.decode(ids, skip_special_tokens=True)
