"""Log-probabilities of tokens, without ever holding logits of [batch, time, vocabulary], forward or backward.

The output layer is frozen and each position stands alone. So all that a backward pass needs of the logits is one vector
per position: the gradient of its log-probability with respect to its hidden state. The forward pass makes it, chunk by
chunk, while it has the logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from rlhf_engine.data.tokenization import Encoded
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logit_transform import LogitTransform

CPU_CHUNK, GPU_CHUNK = 1 << 22, 1 << 27
"""Logits that exist at a time: 16 MB in fp32 on a CPU, half a gigabyte on a GPU."""
CPU_SLICE, GPU_SLICE = 1 << 18, 1 << 24
"""Numbers of the softmax that are worked on at a time: 1 MB in fp32 on a CPU, which fits into a core's own cache; 64
MB on a GPU, so that a slice has many rows and its few operations are not all overhead."""


# -- token rows and positions ------------------------------------------------------------------------------------------

def pad_right(rows: list[list[int]], pad: int, device: torch.device | str) -> torch.Tensor:
    """Token rows as ids [B, T], padded on the right, where a causal model cannot look."""
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows], dtype=torch.long, device=device)


def response_positions(prompt_lengths: list[int], response_lengths: list[int],
                       device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of the hidden state that predicts each response token: the position before it.

    Args:
        prompt_lengths: tokens of each prompt.
        response_lengths: tokens of each response.
        device: of the result.

    Returns:
        Two index vectors [N], where N is the sum of the response lengths.
    """
    rows = [torch.full((length,), row) for row, length in enumerate(response_lengths)]
    columns = [torch.arange(start - 1, start - 1 + length)
               for start, length in zip(prompt_lengths, response_lengths)]
    return torch.cat(rows).to(device), torch.cat(columns).to(device)


# -- reading tokens ----------------------------------------------------------------------------------------------------

@dataclass
class TokenReadings:
    """What one forward pass says about N tokens, in fp32."""

    logprobs: torch.Tensor
    """[N], nats per token."""
    entropy: torch.Tensor | None
    """[N], entropy of the whole distribution at each token, in nats; None unless it was asked for."""
    hidden: torch.Tensor
    """[N, d] in the base's dtype: the hidden state from which each token is predicted."""

    def total_entropy(self) -> torch.Tensor:
        """Sum of the entropies: a scalar. Raises ValueError if they were not asked for."""
        if self.entropy is None:
            raise ValueError("the entropies were not asked for")
        return self.entropy.sum()


def read_tokens(backbone: Backbone, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor,
                temperature: float = 1.0, *, entropy: bool = False) -> TokenReadings:
    """Log-probabilities (and entropies) of the tokens that follow given positions, under the role in use.

    Args:
        backbone: the model.
        ids: [B, T], padded on the right.
        rows: [N], index vector.
        columns: [N], index vector; (rows, columns) are the positions before the tokens.
        temperature: divides the logits, as in sampling.
        entropy: whether to compute entropies.
    """
    return read_states(backbone, backbone.hidden(ids)[rows, columns], ids[rows, columns + 1], temperature,
                       entropy=entropy)


def read_states(backbone: Backbone, hidden: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0, *,
                entropy: bool = False) -> TokenReadings:
    """Log-probabilities (and entropies) of the tokens `targets` [N] under the hidden states [N, d] before them."""
    output = backbone.base.get_output_embeddings()
    size = chunk_size(hidden.device, backbone.vocabulary)
    if type(output) is nn.Linear:
        logprobs, entropies = FrozenHead.apply(hidden, output.weight, output.bias, backbone.logit_transform, targets,
                                               temperature, size, entropy)
        return TokenReadings(logprobs, entropies if entropy else None, hidden)

    # An output layer with an adapter of its own has gradients too, so autograd computes them, chunk by chunk.
    def read(hidden_chunk: torch.Tensor, target_chunk: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return read_logits(backbone.head(hidden_chunk), target_chunk, temperature, entropy)

    pieces = [checkpoint(read, hidden_chunk, target_chunk, use_reentrant=False)
              for hidden_chunk, target_chunk in zip(hidden.split(size), targets.split(size))]
    logprobs = torch.cat([piece[0] for piece in pieces])
    entropies = torch.cat([piece[1] for piece in pieces]) if entropy else None
    return TokenReadings(logprobs, entropies, hidden)


def token_logprobs(backbone: Backbone, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor,
                   temperature: float = 1.0) -> torch.Tensor:
    """The log-probabilities [N] of `read_tokens`."""
    return read_tokens(backbone, ids, rows, columns, temperature).logprobs


def nll(backbone: Backbone, rows: list[Encoded]) -> torch.Tensor:
    """Summed negative log-likelihood of the rows' completions given their prompts, under the role in use: a scalar."""
    ids = pad_right([row.ids for row in rows], backbone.pad_id, backbone.device)
    positions = response_positions([len(row.prompt_ids) for row in rows], [len(row.completion_ids) for row in rows],
                                   ids.device)
    return -token_logprobs(backbone, ids, *positions).sum()


def read_logits(logits: torch.Tensor, targets: torch.Tensor, temperature: float,
                entropy: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability of each target [N] under logits [N, V], and the entropy [N] or None, in fp32."""
    logprobs = (logits.float() / temperature).log_softmax(-1)
    chosen = logprobs.gather(-1, targets[:, None])[:, 0]
    return chosen, -(logprobs.exp() * logprobs).sum(-1) if entropy else None


# -- the frozen output layer -------------------------------------------------------------------------------------------

def chunk_size(device: torch.device, vocabulary: int) -> int:
    """Number of positions whose logits exist at a time."""
    return max(64, (CPU_CHUNK if device.type == "cpu" else GPU_CHUNK) // vocabulary)


def slice_size(device: torch.device) -> int:
    """Numbers of the softmax that are worked on at a time."""
    return CPU_SLICE if device.type == "cpu" else GPU_SLICE


def slices(count: int, size: int) -> Iterator[slice]:
    """The range from 0 to `count` in slices of `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class FrozenHead(torch.autograd.Function):
    """Log-probabilities and entropies from hidden states, through an output layer that is not trained.

    hidden [N, d] -> log-probabilities [N] of `targets` [N], and entropies [N] (zeros unless asked for), in fp32.

    With x = W h + b, T the temperature, z the transformed x over T, p = softmax(z), H the entropy, s the scale of the
    transform and f = 1 - tanh^2 of its cap (1 without one):
    d log p_t / dh = s (f_t W_t - (f p) W) / T and dH / dh = -s (f p (log p + H)) W / T.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None,
                transform: LogitTransform, targets: torch.Tensor, temperature: float, size: int,
                entropy: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """`size` is the number of positions whose logits exist at a time."""
        logprobs = torch.zeros(len(hidden), device=hidden.device)
        entropies = torch.zeros(len(hidden), device=hidden.device)
        learns = ctx.needs_input_grad[0]
        grad_logprobs = torch.empty_like(hidden) if learns else None
        grad_entropies = torch.empty_like(hidden) if learns and entropy else None
        to_entropy = None  # [size, V]: p (log p + H), by which the entropy falls with the logits; one buffer
        for part in slices(len(hidden), size):
            logits = F.linear(hidden[part], weight, bias)
            chosen = weight[targets[part]] if learns else None
            if grad_entropies is not None and to_entropy is None:
                to_entropy = torch.empty_like(logits)
            for rows in slices(len(logits), max(1, slice_size(logits.device) // logits.shape[1])):
                where = slice(part.start + rows.start, part.start + rows.stop)
                z = logits[rows].float()
                flatness = transform.apply_(z, temperature)
                logp = z.log_softmax(-1)
                logprobs[where] = logp.gather(-1, targets[where, None])[:, 0]
                p = logp.exp()
                if entropy:
                    entropies[where] = -torch.linalg.vecdot(p, logp)
                if chosen is None:
                    continue
                if flatness is not None:
                    chosen[rows] *= flatness.gather(-1, targets[where, None])
                    p.mul_(flatness)
                logits[rows] = p  # their memory is used again
                if to_entropy is not None:
                    to_entropy[rows] = logp.add_(entropies[where, None]).mul_(p)
            if grad_logprobs is not None and chosen is not None:
                grad_logprobs[part] = chosen.sub_(logits @ weight).mul_(transform.scale / temperature)
            if grad_entropies is not None and to_entropy is not None:
                grad_entropies[part] = (to_entropy[:len(logits)] @ weight).mul_(-transform.scale / temperature)
            del logits  # before the next chunk's are made
        ctx.save_for_backward(grad_logprobs, grad_entropies)
        return logprobs, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_logprobs: torch.Tensor, of_entropies: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient with respect to `hidden`, from those with respect to the two results."""
        grad_logprobs, grad_entropies = ctx.saved_tensors
        grad = of_logprobs[:, None] * grad_logprobs
        if grad_entropies is not None:
            grad = grad + of_entropies[:, None] * grad_entropies
        return grad.to(grad_logprobs.dtype), None, None, None, None, None, None, None
