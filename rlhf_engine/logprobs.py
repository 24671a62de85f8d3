"""Log-probabilities of tokens without ever holding [batch, time, vocabulary] at once."""

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


def token_logprobs(backbone: Backbone, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor,
                   temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy, both [N] fp32 in nats per token, of the tokens that follow (rows, columns) in `ids` [B, T].

    Under the role in use. Logits are divided by `temperature`, as in sampling. Chunks are recomputed in the backward
    pass, so memory is one chunk's logits, forward and backward.
    """
    targets = ids[rows, columns + 1]
    if not backbone.head_is_linear:
        logits = backbone.base(input_ids=ids, use_cache=False).logits[rows, columns]
        return _read(logits, targets, temperature)
    hidden = backbone.hidden(ids)[rows, columns]
    pieces = [checkpoint(_chunk, backbone, h, t, temperature, use_reentrant=False)
              if torch.is_grad_enabled() and len(hidden) > CHUNK else _chunk(backbone, h, t, temperature)
              for h, t in zip(hidden.split(CHUNK), targets.split(CHUNK))]
    return torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces])


def _chunk(backbone: Backbone, hidden: torch.Tensor, targets: torch.Tensor, temperature: float):
    return _read(backbone.head(hidden), targets, temperature)


def _read(logits: torch.Tensor, targets: torch.Tensor, temperature: float):
    """[N, V] logits -> log-probability and (gradient-free) entropy of each row, in fp32."""
    logprobs = (logits.float() / temperature).log_softmax(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], entropy
