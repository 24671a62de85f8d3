"""Log-probabilities of tokens without ever holding [batch, time, vocabulary], forward or backward.

The output layer is frozen and each position stands alone, so all that a backward pass needs of the logits is a vector per position:
the gradient of its log-probability with respect to its hidden state. It is made in the forward pass, chunk by chunk, where the
logits were.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from rlhf_engine.data.tokenization import Encoded
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logit_transform import LogitTransform


def chunk_size(device: torch.device, vocabulary: int) -> int:
    """Positions whose logits exist at a time: 16 MB in fp32 on a CPU, elsewhere half a gigabyte."""
    return max(64, (1 << 22 if device.type == "cpu" else 1 << 27) // vocabulary)


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

    Logits are divided by `temperature`, as in sampling.
    """
    targets = ids[rows, columns + 1]
    hidden, head = backbone.hidden(ids)[rows, columns], backbone.base.get_output_embeddings()
    size = chunk_size(hidden.device, backbone.vocabulary)
    if type(head) is nn.Linear:
        logprobs, entropies = FrozenHead.apply(hidden, head.weight, head.bias, backbone.shaping, targets, temperature, size, entropy)
        return Tokens(logprobs, entropies if entropy else None, hidden)
    # An output layer with an adapter of its own has gradients, too.
    pieces = [checkpoint(lambda h, t: _read(backbone.head(h), t, temperature, entropy), h, t, use_reentrant=False)
              for h, t in zip(hidden.split(size), targets.split(size))]
    return Tokens(torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces]) if entropy else None, hidden)


def token_logprobs(backbone: Backbone, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor,
                   temperature: float = 1.0) -> torch.Tensor:
    """The log-probabilities of `read_tokens`, [N]."""
    return read_tokens(backbone, ids, rows, columns, temperature).logprobs


def nll(backbone: Backbone, rows: list[Encoded]) -> torch.Tensor:
    """Summed negative log-likelihood of the rows' completions given their prompts under the role in use, in nats."""
    ids = pad_right([row.ids for row in rows], backbone.pad_id, backbone.device)
    where = response_positions([len(r.prompt_ids) for r in rows], [len(r.completion_ids) for r in rows], ids.device)
    return -token_logprobs(backbone, ids, *where).sum()


CACHED = 1 << 18
"""Numbers of the softmax worked on at a time on a CPU: 1 MB in fp32, which a core's own cache holds."""


def cached(device: torch.device) -> int:
    """Numbers of the softmax worked on at a time; elsewhere 64 MB, so that a slice is not a row and its few operations not all overhead."""
    return CACHED if device.type == "cpu" else 1 << 24


def slices(count: int, size: int) -> Iterator[slice]:
    """0..count in slices of `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class FrozenHead(torch.autograd.Function):
    """hidden [N, d] -> log-probabilities [N] of `targets` [N] and entropies [N] (zeros unless asked for), in fp32.

    With x = W h + b, z the shaped x over T, p = softmax(z), and of the shaping s the scale and f = 1 - tanh^2 of its cap (1 without one):
    d log p_t / dh = s (f_t W_t - (f p) W) / T and dH / dh = -s (f p (log p + H)) W / T.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, shaping: LogitTransform, targets, temperature, size, entropy):
        logprobs, entropies = (torch.zeros(len(hidden), device=hidden.device) for _ in range(2))
        grads = [torch.empty_like(hidden) if ctx.needs_input_grad[0] and wanted else None for wanted in (True, entropy)]
        to_entropy = None
        for part in slices(len(hidden), size):
            logits = F.linear(hidden[part], weight, bias)
            chosen = weight[targets[part]] if grads[0] is not None else None
            if grads[1] is not None and to_entropy is None:
                to_entropy = torch.empty_like(logits)
            for rows in slices(len(logits), max(1, cached(logits.device) // logits.shape[1])):
                at = slice(part.start + rows.start, part.start + rows.stop)
                z = logits[rows].float()
                flat = shaping.shape_(z, temperature)
                logp = z.log_softmax(-1)
                logprobs[at] = logp.gather(-1, targets[at, None])[:, 0]
                p = logp.exp()
                if entropy:
                    entropies[at] = -torch.linalg.vecdot(p, logp)
                if grads[0] is None:
                    continue
                if flat is not None:
                    chosen[rows] *= flat.gather(-1, targets[at, None])
                    p.mul_(flat)
                logits[rows] = p  # their room is used again
                if to_entropy is not None:
                    to_entropy[rows] = logp.add_(entropies[at, None]).mul_(p)
            if grads[0] is not None:
                grads[0][part] = chosen.sub_(logits @ weight).mul_(shaping.scale / temperature)
            if grads[1] is not None:
                grads[1][part] = (to_entropy[:len(logits)] @ weight).mul_(-shaping.scale / temperature)
            del logits  # before the next chunk's are made
        ctx.save_for_backward(*grads)
        return logprobs, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_logprobs, of_entropies):
        to_logprobs, to_entropies = ctx.saved_tensors
        grad = of_logprobs[:, None] * to_logprobs
        if to_entropies is not None:
            grad = grad + of_entropies[:, None] * to_entropies
        return grad.to(to_logprobs.dtype), None, None, None, None, None, None, None


def _read(logits: torch.Tensor, targets: torch.Tensor, temperature: float, entropy: bool):
    """[N, V] logits -> log-probability of each row's target, and entropy of each row or None, in fp32."""
    logprobs = (logits.float() / temperature).log_softmax(-1)
    chosen = logprobs.gather(-1, targets[:, None])[:, 0]
    return chosen, -(logprobs.exp() * logprobs).sum(-1) if entropy else None
