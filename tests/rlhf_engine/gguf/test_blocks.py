"""Quantised tensors: blocks of each type become the numbers that the format's own formula gives, in fp32."""

import struct

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from rlhf_engine.gguf.header import Tensor
from rlhf_engine.gguf.numbers import PLAIN, read_numbers, read_raw
from rlhf_engine.runs.resolve import resolve_model
from tests.rlhf_engine.gguf.rewrite import rewrite

TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ2_XXS", "TQ1_0", "TQ2_0", "MXFP4"]


def blocks(kind: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random bytes of blocks; halves of 16 bits that are no numbers, which scales must not be, are taken out."""
    block, size = gguf.constants.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    random = np.random.RandomState(seed)
    data = random.randint(0, 256, (rows, columns // block, size)).astype(np.uint8)
    if kind == "MXFP4":
        data[..., 0] = random.randint(120, 130, data.shape[:-1])
        return data.reshape(rows, -1)
    for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,)}.get(kind, (0, 2)):
        data[..., at:at + 2] = np.float16(random.uniform(0.001, 0.01, data.shape[:-1])).view(np.uint8).reshape(*data.shape[:-1], 2)
    return data.reshape(rows, -1)


def tensor_of(data: np.ndarray, kind: str, shape: tuple, path) -> Tensor:
    path.write_bytes(b"12345" + data.tobytes())
    return Tensor("x", shape, kind, path, 5, data.nbytes)


@pytest.mark.parametrize("kind", TYPES)
def test_a_model_of_blocks_has_the_numbers_of_gguf(tmp_path, kind):
    """The embedding and one weight of a wider model, in each type; the shape of the rest is of no matter here."""
    block, _ = gguf.constants.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    data = blocks(kind, 6, 2 * block)
    tensor = tensor_of(data, kind, (3, 2, 2 * block), tmp_path / "x")
    wanted = gguf.dequantize(data, gguf.GGMLQuantizationType[kind]).reshape(3, 2, 2 * block)
    values, form = read_raw(tensor, "x")
    assert form == "F32" and np.array_equal(values, wanted) and np.isfinite(values).all() and values.std() > 0


def test_q4_0_and_q4_k_by_hand(tmp_path):
    """Q4_0: a scale, 16 bytes whose low halves come first, 8 subtracted. Q4_K: eight groups of 32, each with a scale and a
    minimum of 6 bits, which are packed into 12 bytes."""
    half = struct.pack("<e", 0.5)
    data = np.frombuffer(half + bytes(range(0, 256, 16)), np.uint8)
    wanted = [-4.0] * 16 + [0.5 * (number - 8) for number in range(16)]
    assert read_numbers(tensor_of(data, "Q4_0", (1, 32), tmp_path / "a"), "x").tolist() == [wanted]
    scales, least = [3, 10, 17, 60, 33, 1, 20, 63], [1, 2, 3, 4, 40, 50, 60, 63]
    packed = [scales[n] | (scales[n + 4] >> 4) << 6 for n in range(4)] + [least[n] | (least[n + 4] >> 4) << 6 for n in range(4)]
    packed += [(scales[n + 4] & 15) | (least[n + 4] & 15) << 4 for n in range(4)]
    numbers = np.random.RandomState(0).randint(0, 16, (8, 32))
    halves = b"".join(bytes(int(low) | int(high) << 4 for low, high in zip(numbers[n], numbers[n + 1])) for n in range(0, 8, 2))
    data = np.frombuffer(half + struct.pack("<e", 0.25) + bytes(packed) + halves, np.uint8)
    wanted = np.concatenate([0.5 * scales[n] * numbers[n] - 0.25 * least[n] for n in range(8)])
    assert np.array_equal(read_numbers(tensor_of(data, "Q4_K", (1, 256), tmp_path / "b"), "x")[0], wanted.astype(np.float32))


@pytest.mark.parametrize("kind", sorted(PLAIN))
def test_plain_types_keep_their_bits(tmp_path, kind):
    numbers = np.array([[1.0, -2.5], [65504.0, 2.0 ** -14]], np.float32)
    bits = {"F32": numbers, "F16": numbers.astype(np.float16), "BF16": (numbers.view(np.uint32) >> 16).astype(np.uint16)}[kind]
    tensor = tensor_of(bits, kind, (2, 2), tmp_path / "x")
    values, form = read_raw(tensor, "x")
    assert form == kind and values.tobytes() == bits.tobytes()
    assert np.allclose(read_numbers(tensor, "x"), numbers, rtol=1 / 128)


def test_quantised_weights_are_written_whole_and_the_file_ends_where_it_should(tmp_path):
    """Q4_0 by gguf's own quantisation, in a file, through the conversion."""
    random = np.random.RandomState(1)
    rows = random.standard_normal((64, 32)).astype(np.float32)
    packed = gguf.quantize(rows, gguf.GGMLQuantizationType.Q4_0)
    folder = resolve_model(str(rewrite("qwen2", tmp_path / "x.gguf", tensors={"blk.1.ffn_up.weight": (packed, gguf.GGMLQuantizationType.Q4_0)})))
    stored = load_file(folder / "model.safetensors")
    assert np.array_equal(stored["model.layers.1.mlp.up_proj.weight"], gguf.dequantize(packed, gguf.GGMLQuantizationType.Q4_0))
    assert np.abs(stored["model.layers.1.mlp.up_proj.weight"] - rows).max() < 0.5
