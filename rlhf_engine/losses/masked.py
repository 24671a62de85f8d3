"""Statistics over masked tensors, and the checks that guard against silent broadcasting.

Every function computes in fp32, whatever it is given: bf16 keeps 8 bits, and a KL is a small difference of large
numbers. Values where the mask is zero, NaN included, change neither a result nor a gradient.
"""

import torch


def check_shapes(*tensors: torch.Tensor) -> None:
    """Raises ValueError unless all tensors have the same shape.

    A tensor [B] beside one of [B, 1] or [B, T] would be broadcast silently, to a wrong but plausible number.
    """
    if len({tuple(tensor.shape) for tensor in tensors}) > 1:
        raise ValueError(f"shapes must be equal, got {[list(tensor.shape) for tensor in tensors]}")


def check_prefixes(mask: torch.Tensor) -> None:
    """Raises ValueError unless each row of the mask [B, T] is ones followed by zeros."""
    if (mask[:, 1:].bool() & ~mask[:, :-1].bool()).any():
        raise ValueError("every mask row must be ones followed by zeros: one response, padded on the right")


def zero_masked(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`x` in fp32, with zeros where the mask is zero.

    Args:
        x: [...], any dtype.
        mask: the same shape, bool or 0/1.
    """
    check_shapes(x, mask)
    # Not a product: NaN * 0 is NaN, in the backward pass too.
    return torch.where(mask.bool(), x.float(), 0.0)


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `x` [...] where the mask [...] is one: a scalar, NaN if that is nowhere."""
    return zero_masked(x, mask).sum() / mask.bool().sum()


def masked_var(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Biased variance (divided by n) of `x` [...] where the mask [...] is one: a scalar, NaN if that is nowhere."""
    x = zero_masked(x, mask)
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(x: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True) -> torch.Tensor:
    """`x` scaled to variance 1 where the mask is one, and 0 elsewhere.

    (x - mean) * rsqrt(var + 1e-8) with the biased variance, as in the code of Ziegler et al. 2019.

    Args:
        x: [...].
        mask: the same shape.
        shift_mean: False adds the mean back. Advantages are centred, rewards are only scaled.

    Raises ValueError if the mask has fewer than two ones.
    """
    if mask.bool().sum() < 2:
        raise ValueError("whitening needs at least two unmasked entries")
    x, mean = zero_masked(x, mask), masked_mean(x, mask)
    white = (x - mean) * torch.rsqrt(masked_var(x, mask) + 1e-8)
    return zero_masked(white if shift_mean else white + mean, mask)
