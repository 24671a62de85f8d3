"""Batched sampling with a KV cache. Rows that have ended leave the batch.

Unless asked, nothing but the temperature shapes the distribution: what is sampled must be what is scored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from rlhf_engine.data.tokenization import Prompt, encode_prompt
from rlhf_engine.errors import NotFinite, UserError, noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.cpu_decoder import cpu_decoder
from rlhf_engine.model.decoders import Decoder, model_decoder
from rlhf_engine.model.decoding.weights import forget_if_short

COMPACT = 0.75
"""Share of unfinished rows below which the finished ones leave the batch. Until then one that has ended costs less than
moving the cache."""
NUCLEUS = 512
"""Most likely tokens among which the tokens of top-p are looked for first."""
HALF_CHARACTER = "\ufffd"
"""What a tokenizer writes in place of a character whose tokens have not all come yet."""


@dataclass(frozen=True)
class Sampling:
    """How to sample. For training leave top_k and top_p alone: log-probabilities are those of the full softmax."""

    max_new_tokens: int = 128
    """Longest response in tokens."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Sample from this many of the most likely tokens; 0 from all."""
    top_p: float = 1.0
    """Sample from the fewest tokens whose probabilities sum to this."""


def prompt_room(backbone: Backbone, max_new_tokens: int, max_tokens: int | None = None) -> int:
    """Tokens that are left for a prompt, given the longest response and the longest row.

    `max_tokens` None is what the base takes. Raises UserError if nothing is left.
    """
    longest = min(max_tokens or backbone.longest, backbone.longest)
    if longest <= max_new_tokens:
        raise UserError(f"--max-new-tokens is {max_new_tokens}, which leaves no room for a prompt in {longest} tokens; "
                        "lower it")
    return longest - max_new_tokens


def seeded_generator(seed: int) -> torch.Generator:
    """A random generator on the CPU. What goes beyond 64 bits, such as twice a large seed, is cut off."""
    return torch.Generator().manual_seed(seed % 2**64)


# -- one step ----------------------------------------------------------------------------------------------------------

def pad_left(rows: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token rows as ids [B, T] and mask [B, T], padded on the left so that all rows end together."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row):] = torch.tensor(row)
        mask[i, width - len(row):] = 1
    return ids.to(device), mask.to(device)


def probabilities(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits [B, V] -> probabilities [B, V] in fp32, after temperature, top-k and top-p."""
    logits = logits.float()
    if sampling.temperature != 1:
        logits = logits / max(sampling.temperature, 1e-6)
    if sampling.top_k:
        floor = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if sampling.top_p < 1:
        logits = logits.masked_fill(~nucleus(logits.softmax(-1), sampling.top_p), -torch.inf)
    return logits.softmax(-1)


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """[B, V]: true at the fewest tokens of each row whose probabilities sum to `top_p` (Holtzman et al. 2020).

    Most often these are a few hundred, which are found ten times faster than a large vocabulary is sorted.
    """
    ordered, order = probabilities.topk(min(NUCLEUS, probabilities.shape[-1]))
    if (ordered.sum(-1) < top_p).any():
        ordered, order = probabilities.sort(dim=-1, descending=True)
    within = ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter(-1, order, within)


def draw(probabilities: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """One token [B] from each row of probabilities [B, V], by the inverse of the cumulative distribution.

    It takes one random number per row, drawn on the CPU. That is cheap, and the token does not depend on the size of
    the vocabulary.
    """
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    chance = torch.rand(len(probabilities), 1, generator=generator).to(total.device, non_blocking=True) * total
    # Rounding must not reach the total itself, beyond which there is no token.
    chance = torch.minimum(chance, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, chance, right=True)[:, 0]


def choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> torch.Tensor:
    """One token [B] from each row of logits [B, V]; V, which is no token, from a row that holds NaN or an infinity.

    Whoever reads the tokens on the CPU looks for V there. So a GPU need not be waited for once more.
    """
    vocabulary = logits.shape[-1]
    if sampling.temperature:
        # The sums of such a row are NaN, and no sum is greater than NaN: the search goes beyond the last token.
        return draw(probabilities(logits, sampling), generator).clamp(max=vocabulary)
    tokens = logits.argmax(-1)  # NaN counts as the largest
    highest = logits.gather(-1, tokens[:, None])[:, 0]
    return torch.where(highest.isfinite(), tokens, vocabulary)


# -- whole responses ---------------------------------------------------------------------------------------------------

@torch.no_grad()
def decode(backbone: Backbone, prompts: list[list[int]], sampling: Sampling,
           generator: torch.Generator | None = None) -> Iterator[list[tuple[int, int]]]:
    """Sample a response to each prompt. Yields after each step the (row, token) pairs drawn, stop tokens included.

    It ends when every row has ended. Each step uses the role in use at that moment (a `CpuDecoder` the role as it was
    at the first step). So a caller that does other work between two steps must choose roles in scopes that close
    before it asks for the next step. Equal prompts are read once. `generator` lives on the CPU. Raises NotFinite where
    the model gives logits that are no numbers.
    """
    longest = max(map(len, prompts)) + sampling.max_new_tokens
    if longest > backbone.longest:
        raise ValueError(f"prompt and response may take {longest} tokens, the model knows {backbone.longest} positions")
    try:
        yield from decode_rows(backbone, prompts, longest, sampling, generator)
    finally:
        forget_if_short(backbone.base)


def decode_rows(backbone: Backbone, prompts: list[list[int]], longest: int, sampling: Sampling,
                generator: torch.Generator | None) -> Iterator[list[tuple[int, int]]]:
    """The steps of `decode`, for rows of up to `longest` tokens."""
    decoder, logits, newest, positions = prefill(backbone, prompts, longest)
    stops, rows = torch.tensor(backbone.stop_ids), torch.arange(len(prompts))
    # Which rows go on is kept on the CPU, so that a GPU is waited for only once per token, for the token.
    live = torch.ones(len(prompts), dtype=torch.bool)
    for step in range(sampling.max_new_tokens):
        if step:
            logits = decoder(newest[:, None], positions)
        going = None if live.all() else live.nonzero()[:, 0].to(backbone.device)
        logits = logits if going is None else logits[going]
        tokens = choose(logits, sampling, generator)
        drawn = tokens.cpu()
        if (drawn >= logits.shape[-1]).any():
            raise NotFinite("the model's logits are NaN or infinite, so no token can be chosen; take an earlier "
                            "checkpoint or another adapter, or load the base with --dtype fp32")
        yield list(zip(rows[live].tolist(), drawn.tolist()))
        newest = tokens if going is None else newest.index_copy(0, going, tokens)
        live[live.clone()] = ~torch.isin(drawn, stops)
        if not live.any() or step + 1 == sampling.max_new_tokens:
            return
        positions = positions[:, -1:] + 1
        if live.sum() <= COMPACT * len(live):
            going = live.nonzero()[:, 0].to(backbone.device)
            decoder.keep(going)
            rows, newest, positions, live = rows[live], newest[going], positions[going], live[live]


def prefill(backbone: Backbone, prompts: list[list[int]],
            longest: int) -> tuple[Decoder, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read B prompts into a decoder for rows of up to `longest` tokens. Equal prompts are read once.

    Returns:
        (decoder, logits [B, V] after the prompts, their last tokens [B], their positions [B, T]).
    """
    unique = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    ids, mask = pad_left([list(prompt) for prompt in unique], backbone.pad_id, backbone.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    decoder = cpu_decoder(backbone.base, len(unique), longest) or model_decoder(backbone)
    logits = decoder(ids, positions, mask == 0)
    if len(unique) < len(prompts):
        which = torch.tensor([unique[tuple(prompt)] for prompt in prompts], device=backbone.device)
        decoder.keep(which)
        logits, ids, positions = logits[which], ids[which], positions[which]
    return decoder, logits, ids[:, -1], positions


def sample(backbone: Backbone, prompts: list[list[int]], sampling: Sampling, generator: torch.Generator | None = None,
           *, batch: int = 0, on_microbatch: Callable[[], None] = noop) -> list[list[int]]:
    """One response per prompt under the role in use: token ids with the stop token, or without one if it did not end.

    Args:
        backbone: the model.
        prompts: token ids. They are read in order of length, so that little is padded.
        sampling: how to sample.
        generator: on the CPU; None is torch's own.
        batch: rows that are decoded together; 0 is all.
        on_microbatch: called after every token.
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
    """The texts that `role` (None: the bare base) answers to prompts: encode, sample and decode in one call."""
    rows = [encode_prompt(backbone.tokenizer, prompt).ids for prompt in prompts]
    with backbone.use(role):
        responses = sample(backbone, rows, sampling or Sampling(), seeded_generator(seed))
    return [text_of(backbone, ids) for ids in responses]


def stream(backbone: Backbone, prompt: list[int], sampling: Sampling,
           generator: torch.Generator | None = None) -> Iterator[str]:
    """Pieces of text of one response as they come. A piece waits while its last character is incomplete."""
    ids: list[int] = []
    shown = ""
    for drawn in decode(backbone, [prompt], sampling, generator):
        ids.append(drawn[0][1])
        text = text_of(backbone, ids)
        if len(text) > len(shown) and not text.endswith(HALF_CHARACTER):
            yield text[len(shown):]
            shown = text
    text = text_of(backbone, ids)
    if len(text) > len(shown):
        yield text[len(shown):]


def text_of(backbone: Backbone, ids: list[int]) -> str:
    """The text of a response, without special tokens."""
    return backbone.tokenizer.decode(ids, skip_special_tokens=True)
