"""Log-probabilities of tokens without ever holding [batch, time, vocabulary] at once."""

from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from rlhf_engine.backbone import Backbone

CHUNK = 1024  # positions whose logits exist at a time: 1024 x 152k x 4 bytes = 0.6 GB for the largest vocabularies


def pad_right(rows: list[list[int]], pad: int, device) -> torch.Tensor:
    """Token rows -> ids [B, T], padded on the right, where a causal model cannot look."""
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows], dtype=torch.long, device=device)


def response_positions(prompts: list[int], responses: list[int], device) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of the hidden states that predict each response token: the position before it.

    `prompts` and `responses` are lengths; the result is two index vectors [N], N = sum(responses).
    """
    rows = torch.cat([torch.full((r,), i) for i, r in enumerate(responses)])
    columns = torch.cat([torch.arange(p - 1, p - 1 + r) for p, r in zip(prompts, responses)])
    return rows.to(device), columns.to(device)


@dataclass
class Tokens:
    """What one forward pass says about N tokens, in fp32."""

    logprobs: torch.Tensor
    """[N], nats per token."""
    entropy: torch.Tensor | None
    """[N], nats per token, of the whole distribution at that place; None unless it was asked for."""
    hidden: torch.Tensor
    """[N, d] in the base's dtype: the state from which each token is predicted."""


def read_tokens(backbone: Backbone, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, temperature: float = 1.0,
                *, entropy: bool = False) -> Tokens:
    """Log-probabilities (and entropies) of the tokens that follow (rows, columns) in `ids` [B, T], under the role in use.

    Logits are divided by `temperature`, as in sampling. Chunks are recomputed in the backward pass, so memory is one
    chunk's logits, forward and backward.
    """
    targets = ids[rows, columns + 1]
    if not backbone.head_is_linear:
        out = backbone.base(input_ids=ids, use_cache=False, output_hidden_states=True)
        return Tokens(*_read(out.logits[rows, columns], targets, temperature, entropy), out.hidden_states[-1][rows, columns])
    hidden = backbone.hidden(ids)[rows, columns]
    pieces = [checkpoint(_chunk, backbone, h, t, temperature, entropy, use_reentrant=False)
              if torch.is_grad_enabled() and len(hidden) > CHUNK else _chunk(backbone, h, t, temperature, entropy)
              for h, t in zip(hidden.split(CHUNK), targets.split(CHUNK))]
    return Tokens(torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces]) if entropy else None, hidden)


def token_logprobs(backbone: Backbone, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor,
                   temperature: float = 1.0) -> torch.Tensor:
    """The log-probabilities of `read_tokens`, [N]."""
    return read_tokens(backbone, ids, rows, columns, temperature).logprobs


def _chunk(backbone: Backbone, hidden: torch.Tensor, targets: torch.Tensor, temperature: float, entropy: bool):
    return _read(backbone.head(hidden), targets, temperature, entropy)


def _read(logits: torch.Tensor, targets: torch.Tensor, temperature: float, entropy: bool):
    """[N, V] logits -> log-probability of each row's target, and entropy of each row or None, in fp32."""
    logprobs = (logits.float() / temperature).log_softmax(-1)
    chosen = logprobs.gather(-1, targets[:, None])[:, 0]
    return chosen, -(logprobs.exp() * logprobs).sum(-1) if entropy else None
