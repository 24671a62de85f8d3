"""What stands between a model's last hidden states and its logits. It is read off the model itself when it is loaded.

Most models end in `W h + b`. Some scale that (Cohere, Granite, Falcon-H1, MiniCPM3), some cap it softly (Gemma 2 and
later), each by a setting with a name of its own; `logits_scaling` divides in Granite and multiplies in HyperCLOVA X.
So no setting is read here. The model runs once with chosen numbers in place of what its output layer gives, and the
logits show what becomes of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rlhf_engine.errors import UserError

LITTLE, MUCH, RANGE = 2.0**-10, 2.0**20, 100.0
"""Numbers put in place of the output layer's: one that no cap touches, one that every cap cuts, and the largest of the
others."""
PROBED_TOKENS = 8
"""Tokens of the text that the model reads meanwhile."""


@dataclass(frozen=True)
class LogitTransform:
    """logits = cap * tanh(scale * x / cap) (Bello et al. 2016), or scale * x without a cap, where x = W h + b."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs x [..., V] of the output layer, in any dtype -> logits [..., V] in fp32."""
        x = x.float() * self.scale
        return x if self.cap is None else self.cap * torch.tanh(x / self.cap)

    def apply_(self, x: torch.Tensor, temperature: float) -> torch.Tensor | None:
        """Replace x [..., V], in fp32, by its logits over `temperature`.

        Returns 1 - tanh^2 [..., V], by which the cap flattens the gradient; None without a cap.
        """
        if self.cap is None:
            if self.scale != temperature:
                x.mul_(self.scale / temperature)
            return None
        x.mul_(self.scale / self.cap).tanh_()
        flatness = 1 - x.square()
        x.mul_(self.cap / temperature)
        return flatness


@torch.no_grad()
def read_logit_transform(base: Any, hidden: Callable[[torch.Tensor], torch.Tensor], name: str) -> LogitTransform:
    """Measure the transform of a model's logits, and compare it with the model at every position and every token.

    Args:
        base: a causal language model of transformers.
        hidden: maps ids [1, T] to the last hidden states [1, T, d].
        name: of the model, for the message.

    Raises UserError for a model whose logits are anything else: with a projection or a norm before the output layer,
    or a mask over the vocabulary after it. Also for one whose states are NaN or infinite, though its weights are not:
    they are too large for the format.
    """
    refusal = UserError(f"{name}: its logits are more than one output layer on its last hidden states, scaled or "
                        "soft-capped, so their log-probabilities cannot be computed piece by piece; choose another "
                        "model")
    output = base.get_output_embeddings()
    if output is None:
        raise refusal
    device, vocabulary = output.weight.device, output.out_features
    ids = torch.arange(PROBED_TOKENS, device=device)[None] % vocabulary
    probe = torch.linspace(-RANGE, RANGE, PROBED_TOKENS * vocabulary, device=device).view(1, PROBED_TOKENS, vocabulary)
    probe[:, 0], probe[:, 1] = LITTLE, MUCH
    inputs, logits = run_with_outputs(base, output, ids, probe)
    try:
        states = hidden(ids)
    except (TypeError, AttributeError):  # where `get_decoder()` is no decoder (ModernBERT)
        raise refusal from None
    if len(inputs) != 1 or inputs[0].shape != states.shape or logits.shape != probe.shape:
        raise refusal
    if not states.isfinite().all():
        raise UserError(f"{name}: its hidden states are NaN or infinite in {states.dtype} already on a short text; "
                        "load it in another format (--dtype), or choose another model")
    scale = logits[0, 0].median().item() / LITTLE
    most = logits[0, 1].median().item()
    has_cap = abs(most - scale * MUCH) > 1e-3 * abs(most)
    transform = LogitTransform(scale, most if has_cap else None)
    ratio, proportional = multiple_of(inputs[0], states)
    fits = torch.allclose(transform(probe), logits.float(), rtol=1e-3, atol=0)
    if not proportional or not fits or (ratio != 1 and output.bias is not None):
        raise refusal
    return LogitTransform(transform.scale * ratio, transform.cap)


def run_with_outputs(base: Any, output: nn.Module, ids: torch.Tensor,
                     values: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Run `base` on `ids` with `values` [1, T, V] in place of what its output layer `output` gives.

    Returns:
        (what went into the output layer, at each call; the model's logits).
    """
    inputs = []

    def replace(module: nn.Module, arguments: tuple, result: torch.Tensor) -> torch.Tensor:
        inputs.append(arguments[0])
        return values.clone()  # what follows may write into it

    handle = output.register_forward_hook(replace)
    try:
        return inputs, base(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()


def multiple_of(x: torch.Tensor, reference: torch.Tensor) -> tuple[float, bool]:
    """(r, whether x is r times `reference`). MiniCPM3 divides the states before the output layer.

    The rounding of 16 bits counts as no difference.
    """
    x, reference = x.float(), reference.float()
    ratio = ((x * reference).sum() / reference.square().sum()).item()
    ratio = 1.0 if abs(ratio - 1) < 1e-3 else ratio
    return ratio, bool((x - ratio * reference).norm() <= 1e-2 * x.norm())
