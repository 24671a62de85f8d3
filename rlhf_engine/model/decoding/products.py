"""Matrix products for decoding on a CPU: thin batches times large weights.

oneDNN, which comes with PyTorch, reads a weight faster in a layout of its own. To bring a weight into this layout is to
pack it. benchmarks/README.md has the measurements.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch

PACK_ROWS = 16
"""Rows of the batch that a weight is packed for. oneDNN takes other batches, too."""
EXACT, ROUNDED = 1e-4, 0.02
"""Relative error of a product that fp32 and bf16 explain."""


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this PyTorch multiplies packed weights of this format on this CPU. It is tried on a small product.

    The operators are PyTorch's own, made for its compiler, and other builds of PyTorch may lack them.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 32, generator=generator).to(dtype)
    x = torch.randn(3, 32, generator=generator).to(dtype)
    try:
        found = multiply_packed(x, pack(weight), None).float()
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    expected = x.float() @ weight.float().T
    tolerance = EXACT if dtype == torch.float32 else ROUNDED
    return bool((found - expected).norm() <= tolerance * expected.norm())


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A weight [out, in] in oneDNN's layout. Only `multiply_packed` can read it."""
    operators: Any = torch.ops.mkldnn
    return operators._reorder_linear_weight(weight.contiguous(), PACK_ROWS)


def multiply_packed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`x @ weight.T + bias`: x [N, in] and a packed weight -> [N, out]."""
    operators: Any = torch.ops.mkldnn
    return operators._linear_pointwise(x, weight, bias, "none", [], "")


@dataclass(frozen=True)
class Product:
    """`x @ weight + bias`. Make one with `make_product`."""

    weight: torch.Tensor
    """Packed, or as [in, out], which thin batches multiply faster than [out, in]."""
    bias: torch.Tensor | None
    packed: bool

    def __call__(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        """[N, in] -> [N, out], added to `onto` [N, out] if that is given. A new tensor."""
        if self.packed:
            out = multiply_packed(x, self.weight, self.bias)
            return out if onto is None else out.add_(onto)
        if self.bias is not None:
            onto = self.bias if onto is None else onto + self.bias
        return x @ self.weight if onto is None else torch.addmm(onto, x, self.weight)

    @property
    def bytes(self) -> int:
        """Memory of the weight."""
        return self.weight.numel() * self.weight.element_size()


def make_product(weight: torch.Tensor, bias: torch.Tensor | None, *, packed: bool = True) -> Product:
    """The product with a weight [out, in] and a bias [out], packed where that is possible."""
    if packed and can_pack(weight.dtype):
        return Product(pack(weight), bias, True)
    return Product(weight.T.contiguous(), bias, False)


@dataclass(frozen=True)
class Linear:
    """A linear layer with the role in use: `x @ weight + bias + (x @ low) @ up`."""

    product: Product
    low: torch.Tensor | None = None
    """[in, ranks]: the first matrices of LoRA, side by side. None if the weight holds the role already, or if there is
    no role."""
    up: torch.Tensor | None = None
    """[ranks, out]: the second ones, scaled, each in the columns of its own layer; zero elsewhere."""

    def __call__(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        """[N, in] -> [N, out], added to `onto` [N, out] if that is given."""
        if self.low is None or self.up is None:
            return self.product(x, onto)
        out = self.product(x).addmm_(x @ self.low, self.up)
        return out if onto is None else out.add_(onto)

    def pack(self) -> "Linear":
        """The same layer with a packed weight, where that is possible."""
        product = self.product
        if product.packed or not can_pack(product.weight.dtype):
            return self
        return replace(self, product=make_product(product.weight.T, product.bias))
