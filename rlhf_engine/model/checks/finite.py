"""Finds weights that are NaN or infinite: of a base, of an adapter on disk, and of a role in memory.

One such weight makes all that a model says NaN, sooner or later. So a file that holds one is refused by name when it is
loaded, and a run stops before it writes one.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open

from rlhf_engine.errors import NotFinite, UserError

PROBED_TOKENS = 8
"""Tokens of the row that a role reads before it is written."""


class HasRoles(Protocol):
    """The part of a backbone that is needed here."""

    heads: dict[str, Any]

    @property
    def device(self) -> torch.device: ...

    @property
    def vocabulary(self) -> int: ...

    def named_parameters(self, role: str) -> Mapping[str, torch.Tensor]:
        """The parameters of a role, adapter and head."""
        ...

    def use(self, role: str | None) -> AbstractContextManager:
        """Run everything inside under a role."""
        ...

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states of token rows."""
        ...

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of last hidden states."""
        ...


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers of a tensor are finite.

    It takes their minimum and maximum, which NaN passes through. On a CPU that reads 5 GB/s, 20 times as much as
    `isfinite().all()`.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.itemsize == 1:  # formats of 8 bits have no minimum
        tensor = tensor.float()
    low, high = torch.aminmax(tensor.detach())
    return bool(low.isfinite() & high.isfinite())


def first_bad(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, or None."""
    return next((name for name, tensor in tensors.items() if not is_finite(tensor)), None)


def kind_of_bad(tensor: torch.Tensor) -> str:
    """What a tensor that is not finite holds, in words."""
    return "NaN" if tensor.isnan().any() else "an infinity"


def check_file(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Raises UserError, with the name of the tensor, if the weights of a PEFT folder or of its head are not finite."""
    if name := first_bad(weights):
        raise UserError(f"{folder}: its weight {name} is not finite (it holds {kind_of_bad(weights[name])}): it was "
                        "spoiled while it was trained or copied; name an earlier checkpoint or another adapter")


@torch.no_grad()
def check_role(backbone: HasRoles, role: str) -> None:
    """Raises NotFinite if a weight of a role is not finite, adapter or head, or what it says of a short row.

    Weights that are finite, but huge, say NaN.
    """
    parameters = backbone.named_parameters(role)
    if name := first_bad(parameters):
        raise NotFinite(f"the weight {name} of the {role} has become {kind_of_bad(parameters[name])}")
    ids = torch.arange(PROBED_TOKENS, device=backbone.device)[None] % backbone.vocabulary
    with backbone.use(role):
        hidden = backbone.hidden(ids)
        said = {"logits": backbone.head(hidden[:, -1:])}
        if role in backbone.heads:
            said["scores"] = backbone.heads[role](hidden)
    if name := first_bad(said):
        raise NotFinite(f"the weights of the {role} have become so large that its {name} are no numbers")


def check_base(base: Any, folder: Path, model: str, *, quantised: bool) -> None:
    """Raises UserError, with the name of the tensor, if the weights of a base are not finite.

    Args:
        base: the loaded model.
        folder: its files.
        model: its name, for the message.
        quantised: it was quantised while it was loaded, which may hide a NaN. Then its files are read once more.
    """
    bad = first_bad_of_files(folder) if quantised else first_bad(dict(base.named_parameters()))
    if bad:
        raise UserError(f"{model}: its weight {bad} is not finite (it holds NaN or an infinity); download or convert "
                        "the model anew, or choose another one")


def first_bad_of_files(folder: Path) -> str | None:
    """The name of the first tensor in the safetensors files of a folder that is not finite, or None."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 the file is no dictionary
                if not is_finite(tensors.get_tensor(name)):
                    return name
    return None
