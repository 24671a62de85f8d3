"""The numbers of a tensor in a GGUF file, unpacked."""

from collections.abc import Iterable

import numpy as np

from rlhf_engine.errors import UserError
from rlhf_engine.gguf.header import Tensor, load_gguf

PLAIN: dict[str, type] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
"""Types that are no blocks -> how NumPy holds them. It has no bf16, so that is held as its bits."""


def read_raw(tensor: Tensor, model: str) -> tuple[np.ndarray, str]:
    """(the numbers, their format in the words of safetensors) of a tensor.

    F32, F16 and BF16 stay what they are, the last one as its bits. Blocks become F32, which holds them exactly.
    """
    with open(tensor.file, "rb") as file:
        file.seek(tensor.start)
        data = np.fromfile(file, dtype=np.uint8, count=tensor.size)
    if len(data) < tensor.size:
        raise UserError(f"{model}: {tensor.file.name} ends within the tensor {tensor.name}; download or copy the file "
                        "again")
    if tensor.kind in PLAIN:
        return data.view(PLAIN[tensor.kind]).reshape(tensor.shape), tensor.kind
    return unpack(data, tensor, model), "F32"


def read_numbers(tensor: Tensor, model: str) -> np.ndarray:
    """The numbers of a tensor as fp32."""
    return as_floats(*read_raw(tensor, model))


def as_floats(values: np.ndarray, form: str) -> np.ndarray:
    """Numbers as `read_raw` gives them, as fp32."""
    if form == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def unpack(data: np.ndarray, tensor: Tensor, model: str) -> np.ndarray:
    """Blocks of bytes as fp32, by the package `gguf`."""
    gguf = load_gguf(model)
    kind = gguf.GGMLQuantizationType[tensor.kind]
    rows = data.reshape(*tensor.shape[:-1], -1)
    return np.ascontiguousarray(gguf.dequantize(rows, kind), dtype=np.float32).reshape(tensor.shape)


def check_kinds(tensors: Iterable[Tensor], model: str) -> None:
    """Raises UserError for a tensor whose type the package `gguf` cannot unpack, before anything is written."""
    gguf = load_gguf(model)
    seen = set(PLAIN)
    for tensor in tensors:
        if tensor.kind in seen:
            continue
        seen.add(tensor.kind)
        kind = gguf.GGMLQuantizationType[tensor.kind]
        _, size = gguf.constants.GGML_QUANT_SIZES[kind]
        try:
            gguf.dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            raise UserError(f"{model}: the tensor {tensor.name} is of the type {tensor.kind}, which the package gguf "
                            "cannot unpack; update it (pip install -U gguf), or choose another quantisation such as "
                            "Q8_0") from None
