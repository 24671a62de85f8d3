"""Prompts, sampled responses, and what policy, reference and value say about every token of them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from rlhf_engine.data.tokenization import Prompt, encode_example
from rlhf_engine.errors import noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches, pass_price
from rlhf_engine.model.generation import text_of
from rlhf_engine.model.logprobs import Tokens, pad_right, read_tokens, response_positions


@dataclass
class Rollout:
    """Prompts, sampled responses and everything measured on them. B rows, R the longest response.

    `logprobs`, `ref_logprobs`, `values` and `mask` are [B, R] fp32 on the CPU, in nats per token, zero where masked.
    """

    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    """With the stop token, where the response ended."""
    responses: list[str]
    ended: torch.Tensor
    """[B] bool: the response ends with a stop token."""
    mask: torch.Tensor = field(repr=False)
    logprobs: torch.Tensor | None = field(default=None, repr=False)
    ref_logprobs: torch.Tensor | None = field(default=None, repr=False)
    values: torch.Tensor | None = field(default=None, repr=False)
    entropy: float = 0.0
    """Mean entropy of the policy, in nats per token."""

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def length(self, row: int) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt_ids[row]) + len(self.response_ids[row])

    def by_length(self, rows) -> list[int]:
        """`rows` in the order of their lengths, so that little is padded."""
        return sorted(rows, key=lambda i: (self.length(i), i))


def as_sampled(backbone: Backbone, prompt: Prompt, response: str, sampling: dict, max_tokens: int) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of a response that was sampled once and is a text now, as a rollout holds them: one that was cut off at
    the longest that its `sampling` allowed has no end token."""
    found = encode_example(backbone.tokenizer, prompt, response, backbone.stop_ids, max_tokens=max_tokens)
    cut = len(found.completion_ids) > sampling.get("max_new_tokens", len(found.completion_ids))
    return found.prompt_ids, found.completion_ids[:-1] if cut else found.completion_ids


def make_rollout(backbone: Backbone, prompts: list[Prompt], asked: list[list[int]], answers: list[list[int]]) -> Rollout:
    """Prompts, their token ids and the sampled responses, with nothing measured yet."""
    lengths = torch.tensor([len(answer) for answer in answers])
    mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).float()
    return Rollout(prompts, asked, answers, [text_of(backbone, ids) for ids in answers],
                   torch.tensor([ids[-1] in backbone.stop_ids for ids in answers]), mask)


@torch.no_grad()
def measure(backbone: Backbone, rollout: Rollout, value_role: str, *, temperature: float = 1.0, micro_batch: int = 0,
            on_microbatch: Callable[[], None] = noop) -> None:
    """Fill in log-probabilities under policy and reference, values and entropy, from training's own forward pass.

    Log-probabilities are recomputed rather than kept from sampling, so that the first ratio is 1. `value_role` is "value", an
    adapter of its own, or "policy", whose pass its head then shares.
    """
    rollout.logprobs, rollout.ref_logprobs, rollout.values = (torch.zeros_like(rollout.mask) for _ in range(3))
    entropy = 0.0
    for part in micro_batches(rollout.by_length(range(len(rollout))), micro_batch, rollout.length, pass_price(backbone.device)):
        batch = Batch(backbone, rollout, part)
        with backbone.use("policy"):
            tokens = batch.read(temperature, entropy=True)
            values = batch.values(tokens) if value_role == "policy" else None
        with backbone.use("reference"):
            ref_logprobs = batch.read(temperature).logprobs
        if values is None:
            with backbone.use("value"):
                values = batch.values()
        for grid, found in ((rollout.logprobs, tokens.logprobs), (rollout.ref_logprobs, ref_logprobs), (rollout.values, values)):
            grid[part, :max(batch.lengths)] = batch.grid(found).cpu()
        entropy += tokens.entropy.sum().item()
        on_microbatch()
    rollout.entropy = entropy / rollout.mask.sum().item()


class Batch:
    """A micro-batch of a rollout on the device: token rows, and where their response tokens stand."""

    def __init__(self, backbone: Backbone, rollout: Rollout, rows: list[int]):
        self.backbone, self.rows = backbone, rows
        self.lengths = [len(rollout.response_ids[i]) for i in rows]
        self.ids = pad_right([rollout.prompt_ids[i] + rollout.response_ids[i] for i in rows], backbone.pad_id, backbone.device)
        self.where = response_positions([len(rollout.prompt_ids[i]) for i in rows], self.lengths, self.ids.device)
        self.mask = self.trim(rollout.mask).bool()

    def read(self, temperature: float, *, entropy: bool = False) -> Tokens:
        return read_tokens(self.backbone, self.ids, *self.where, temperature, entropy=entropy)

    def values(self, tokens: Tokens | None = None) -> torch.Tensor:
        """[N]: the value of the state before each response token; from the policy's pass where it has a head of its own."""
        if tokens is not None:
            return self.backbone.heads["policy"](tokens.hidden)
        return self.backbone.heads["value"](self.backbone.hidden(self.ids)[self.where])

    def trim(self, grid: torch.Tensor) -> torch.Tensor:
        """These rows of a [B, R] tensor, cut to their own longest response, on the device."""
        return grid[self.rows, :max(self.lengths)].to(self.ids.device)

    def grid(self, tokens: torch.Tensor) -> torch.Tensor:
        """[N] response tokens -> [b, r], zero where there is none."""
        return torch.zeros(self.mask.shape, dtype=tokens.dtype, device=tokens.device).masked_scatter(self.mask, tokens)
