"""A rollout: prompts, sampled responses, and what policy, reference and value function say about each token of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from rlhf_engine.data.tokenization import Prompt, encode_example
from rlhf_engine.errors import noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches, pass_overhead
from rlhf_engine.model.generation import text_of
from rlhf_engine.model.logprobs import TokenReadings, pad_right, read_tokens, response_positions


@dataclass
class Rollout:
    """Prompts, sampled responses and all that was measured on them: B rows, R tokens in the longest response.

    `measure` fills in `logprobs`, `ref_logprobs`, `values` (each [B, R], fp32, on the CPU, 0 where the mask is 0) and
    `entropy`. Before that they do not exist.
    """

    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    """Token ids of each response, with the stop token if it ended."""
    responses: list[str]
    """The same as texts, without special tokens."""
    ended: torch.Tensor
    """[B] bool: whether a response ends with a stop token."""
    mask: torch.Tensor = field(repr=False)
    """[B, R] fp32: 1 where a response has a token, 0 behind it."""
    logprobs: torch.Tensor = field(init=False, repr=False)
    """Log-probabilities under the policy, in nats per token."""
    ref_logprobs: torch.Tensor = field(init=False, repr=False)
    """The same under the reference."""
    values: torch.Tensor = field(init=False, repr=False)
    """Value of the state before each token, in normalised reward."""
    entropy: float = field(init=False, default=0.0)
    """Mean entropy of the policy, in nats per token."""

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def row_length(self, row: int) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt_ids[row]) + len(self.response_ids[row])

    def by_length(self, rows: Iterable[int]) -> list[int]:
        """`rows` in ascending order of length, so that little is padded."""
        return sorted(rows, key=lambda row: (self.row_length(row), row))

    def kl(self) -> torch.Tensor:
        """[B]: the estimate log(policy / reference) of the KL to the reference, in nats per sequence."""
        return ((self.logprobs - self.ref_logprobs) * self.mask).sum(1)


def make_rollout(backbone: Backbone, prompts: list[Prompt], prompt_ids: list[list[int]],
                 response_ids: list[list[int]]) -> Rollout:
    """A rollout of prompts and responses on which nothing is measured yet."""
    lengths = torch.tensor([len(ids) for ids in response_ids])
    mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).float()
    ended = torch.tensor([ids[-1] in backbone.stop_ids for ids in response_ids])
    return Rollout(prompts, prompt_ids, response_ids, [text_of(backbone, ids) for ids in response_ids], ended, mask)


def as_sampled(backbone: Backbone, prompt: Prompt, response: str, sampling: dict,
               max_tokens: int) -> tuple[list[int], list[int]]:
    """Token ids (prompt, response) of a response that was sampled earlier and is stored as text, as a rollout has them.

    A response has no end token if it was cut off, that is if it fills the `max_new_tokens` of its `sampling` settings.
    """
    row = encode_example(backbone.tokenizer, prompt, response, backbone.stop_ids, max_tokens=max_tokens)
    response_ids = row.completion_ids
    if len(response_ids) > sampling.get("max_new_tokens", len(response_ids)):
        response_ids = response_ids[:-1]
    return row.prompt_ids, response_ids


@torch.no_grad()
def measure(backbone: Backbone, rollout: Rollout, value_role: str, *, temperature: float = 1.0, micro_batch: int = 0,
            pass_tokens: int = 0, on_microbatch: Callable[[], None] = noop) -> None:
    """Fill in log-probabilities under policy and reference, values, and the policy's entropy.

    They come from the forward pass of training, not from sampling: so the probability ratio of the first update is 1.

    Args:
        backbone: has the roles `policy`, `value` if it is used, and `reference` (or the bare base instead).
        rollout: is filled in.
        value_role: "value", an adapter of its own; "policy", whose forward pass the value head then shares; or "" for
            values that no network gives: they stay 0.
        temperature: divides the logits of policy and reference, as in sampling.
        micro_batch: rows per forward pass; 0 is all.
        pass_tokens: most tokens of a forward pass, padding included; 0 sets no limit.
        on_microbatch: called after each micro-batch.
    """
    rollout.logprobs = torch.zeros_like(rollout.mask)
    rollout.ref_logprobs = torch.zeros_like(rollout.mask)
    rollout.values = torch.zeros_like(rollout.mask)
    entropy = 0.0
    rows = rollout.by_length(range(len(rollout)))
    for part in micro_batches(rows, micro_batch, rollout.row_length, pass_overhead(backbone.device), pass_tokens):
        batch = Batch(backbone, rollout, part)
        with backbone.use("policy"):
            tokens = batch.read(temperature, entropy=True)
            values = batch.values(tokens) if value_role == "policy" else None
        with backbone.use("reference"):
            ref_logprobs = batch.read(temperature).logprobs
        if value_role == "value":
            with backbone.use("value"):
                values = batch.values()
        batch.store(tokens.logprobs, rollout.logprobs)
        batch.store(ref_logprobs, rollout.ref_logprobs)
        if values is not None:
            batch.store(values, rollout.values)
        entropy += tokens.total_entropy().item()
        on_microbatch()
    rollout.entropy = entropy / rollout.mask.sum().item()


class Batch:
    """A micro-batch of a rollout on the device: b rows with N response tokens in all, r in the longest response."""

    def __init__(self, backbone: Backbone, rollout: Rollout, rows: list[int]):
        self.backbone = backbone
        self.rows = rows
        """Indices of its rows in the rollout."""
        prompts = [rollout.prompt_ids[i] for i in rows]
        responses = [rollout.response_ids[i] for i in rows]
        lengths = [len(ids) for ids in responses]
        self.width = max(lengths)
        self.ids = pad_right([p + r for p, r in zip(prompts, responses)], backbone.pad_id, backbone.device)
        self.positions = response_positions([len(ids) for ids in prompts], lengths, self.ids.device)
        """Row and column of the hidden state that predicts each response token: two index vectors [N]."""
        self.mask = self.trim(rollout.mask).bool()

    def read(self, temperature: float, *, entropy: bool = False) -> TokenReadings:
        """Log-probabilities (and entropies) of the response tokens under the role in use."""
        return read_tokens(self.backbone, self.ids, *self.positions, temperature, entropy=entropy)

    def values(self, tokens: TokenReadings | None = None) -> torch.Tensor:
        """[N]: the value of the state before each response token.

        With `tokens`, the policy's own forward pass, by the policy's head. Else by a forward pass under the role in
        use, which must be `value`.
        """
        if tokens is not None:
            return self.backbone.heads["policy"](tokens.hidden)
        return self.backbone.heads["value"](self.backbone.hidden(self.ids)[self.positions])

    def trim(self, grid: torch.Tensor) -> torch.Tensor:
        """These rows of a tensor [B, R], cut to [b, r] and moved to the device."""
        return grid[self.rows, :self.width].to(self.ids.device)

    def grid(self, tokens: torch.Tensor) -> torch.Tensor:
        """Response tokens [N] as [b, r], 0 where there is no token."""
        grid = torch.zeros(self.mask.shape, dtype=tokens.dtype, device=tokens.device)
        return grid.masked_scatter(self.mask, tokens)

    def store(self, tokens: torch.Tensor, grid: torch.Tensor) -> None:
        """Write response tokens [N] into these rows of a tensor [B, R] on the CPU."""
        grid[self.rows, :self.width] = self.grid(tokens).cpu()
