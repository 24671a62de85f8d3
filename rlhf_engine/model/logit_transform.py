"""What stands between a model's last hidden states and its logits, read off the model itself when it is loaded.

Most models end in `W h + b`. Some scale that (Cohere, Granite, Falcon-H1, MiniCPM3), some cap it softly (Gemma 2 and later), each by a
setting with a name of its own; `logits_scaling` divides in Granite and multiplies in HyperCLOVA X. So no setting is read here: the model
runs once with chosen numbers in the place of what its output layer gives, and what becomes of them tells.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from rlhf_engine.errors import UserError

LITTLE, MUCH, RANGE = 2.0**-10, 2.0**20, 100.0
"""Numbers put in the place of the output layer's: one that no cap touches, one that every cap cuts, and the reach of the others."""


@dataclass(frozen=True)
class LogitTransform:
    """logits = cap * tanh(scale * x / cap) (Bello et al. 2016), or scale * x without a cap, where x = W h + b is the output layer's."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., V] in any dtype -> logits [..., V] in fp32."""
        x = x.float() * self.scale
        return x if self.cap is None else self.cap * torch.tanh(x / self.cap)

    def shape_(self, x: torch.Tensor, temperature: float) -> torch.Tensor | None:
        """The same in the place of x [..., V], in fp32, and over `temperature`. Returns 1 - tanh^2 [..., V], by which the cap flattens the
        gradient; None without a cap."""
        if self.cap is None:
            if self.scale != temperature:
                x.mul_(self.scale / temperature)
            return None
        x.mul_(self.scale / self.cap).tanh_()
        flat = 1 - x.square()
        x.mul_(self.cap / temperature)
        return flat


@torch.no_grad()
def read_shaping(base: nn.Module, hidden: Callable[[torch.Tensor], torch.Tensor], name: str) -> LogitTransform:
    """The shaping of a model's logits, measured and then held against the model's own in every position and every token.

    `hidden` maps ids [1, T] to the last hidden states [1, T, d]. Raises UserError for a model whose logits are anything else: a projection
    or a norm before the output layer, a mask over the vocabulary after it.
    """
    refusal = UserError(f"{name}: its logits are more than one output layer on its last hidden states, scaled or soft-capped, so their "
                        "log-probabilities cannot be computed piece by piece; choose another model")
    head = base.get_output_embeddings()
    if head is None:
        raise refusal
    device, vocabulary, read = head.weight.device, head.out_features, []
    ids = torch.arange(8, device=device)[None] % vocabulary
    probe = torch.linspace(-RANGE, RANGE, 8 * vocabulary, device=device).view(1, 8, vocabulary)
    probe[:, 0], probe[:, 1] = LITTLE, MUCH

    def swap(module, inputs, output):
        read.append(inputs[0])
        return probe.clone()  # what follows may write into it

    handle = head.register_forward_hook(swap)
    try:
        logits = base(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    try:
        states = hidden(ids)
    except (TypeError, AttributeError):  # where `get_decoder()` is no decoder (ModernBERT)
        raise refusal from None
    if len(read) != 1 or read[0].shape != states.shape or logits.shape != probe.shape:
        raise refusal
    scale, most = logits[0, 0].median().item() / LITTLE, logits[0, 1].median().item()
    shaping = LogitTransform(scale, None if abs(most - scale * MUCH) <= 1e-3 * abs(most) else most)
    ratio, same = multiple(read[0], states)
    if not same or not torch.allclose(shaping(probe), logits.float(), rtol=1e-3, atol=0) or ratio != 1 and head.bias is not None:
        raise refusal
    return LogitTransform(shaping.scale * ratio, shaping.cap)


def multiple(x: torch.Tensor, of: torch.Tensor) -> tuple[float, bool]:
    """(r, whether x is r times `of`): MiniCPM3 divides the states before the output layer. Rounding of 16 bits counts as none."""
    x, of = x.float(), of.float()
    ratio = ((x * of).sum() / of.square().sum()).item()
    ratio = 1.0 if abs(ratio - 1) < 1e-3 else ratio
    return ratio, bool((x - ratio * of).norm() <= 1e-2 * x.norm())
