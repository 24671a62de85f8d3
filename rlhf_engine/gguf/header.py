"""The header of a GGUF file: its metadata, and where its tensors lie. Nothing of the tensors is read.

Format: 4 bytes `GGUF`, the version, the number of tensors and of metadata keys; the metadata; name, shape, type and
offset of each tensor; then their numbers, aligned. All numbers are little-endian. Source: docs/gguf.md of ggml.
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from rlhf_engine.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Type of a metadata value -> how `struct` reads it."""
FLOAT32, TEXT, ARRAY = 6, 8, 9
"""Other types of metadata values."""
ALIGNMENT = 32
"""Bytes to which tensors are aligned, unless `general.alignment` says otherwise."""
LONGEST_SHAPE, LONGEST_NAME = 4, 256
DOWNLOAD = "download or copy the file again"


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: where it lies, and how its numbers are packed."""

    name: str
    shape: tuple[int, ...]
    """As torch writes it: the last dimension is contiguous."""
    kind: str
    """Its type in the words of ggml, such as F16 or Q4_K."""
    file: Path
    start: int
    """Bytes from the start of the file."""
    size: int
    """Bytes."""

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What the header of one file says."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_header(path: Path, model: str) -> Header:
    """The header of a file. Raises UserError for one that is no GGUF file, is cut short, or is of another version."""
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise UserError(f"{model}: {path.name} is empty; {DOWNLOAD}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return HeaderReader(data, path, model).read()
    except OSError as error:
        raise UserError(f"{model}: {path.name} cannot be read ({error.strerror or error}); check the path, and "
                        "whether you may read it") from None


class HeaderReader:
    """Reads a header from the bytes of a file, from front to back. Every length is compared with what is there."""

    def __init__(self, data: mmap.mmap, path: Path, model: str):
        self.data, self.path, self.model = data, path, model
        self.position = 0

    def read(self) -> Header:
        """The header. Raises UserError."""
        if self.data[:4] != MAGIC:
            raise UserError(f"{self.model}: {self.path.name} does not begin as a GGUF file does; {DOWNLOAD}")
        self.position = 4
        try:
            self.check_version(self.number("<I"))
            tensors, keys = self.number("<Q"), self.number("<Q")
            metadata = self.read_metadata(keys)
            rows = self.read_rows(tensors)
        except (struct.error, UnicodeDecodeError, OverflowError):
            raise self.broken() from None
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise UserError(f"{self.model}: general.alignment is {alignment!r}, but must be a power of two; {DOWNLOAD}")
        start = -(-self.position // alignment) * alignment
        return Header(metadata, {row[0]: self.tensor(*row, start) for row in rows})

    def broken(self) -> UserError:
        """The error for a file that ends too early, or whose lengths make no sense."""
        return UserError(f"{self.model}: {self.path.name} is cut short or broken ({len(self.data):,} bytes); "
                         f"{DOWNLOAD}")

    def check_version(self, version: int) -> None:
        """Raises UserError for a version that is not read here, and for a file with the bytes in the other order."""
        if version & 0xFFFF == 0:
            raise UserError(f"{self.model}: {self.path.name} is big-endian, and only little-endian GGUF files are "
                            "read; convert the model again on a usual machine")
        if version not in VERSIONS:
            raise UserError(f"{self.model}: {self.path.name} is of GGUF version {version}, and versions 2 and 3 are "
                            "read; convert the model again with a newer or older llama.cpp")

    # -- parts -------------------------------------------------------------------------------------------------------

    def number(self, form: str) -> Any:
        value, = struct.unpack_from(form, self.data, self.position)
        self.position += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.number("<Q")
        end = self.position + length
        if end > len(self.data):
            raise self.broken()
        text = self.data[self.position:end].decode("utf-8")
        self.position = end
        return text

    def name(self) -> str:
        """A name of a key or a tensor, which messages may show. Raises UserError for one that nobody would give."""
        name = self.text()
        if not name.isprintable() or not 1 <= len(name) <= LONGEST_NAME:
            raise self.broken()
        return name

    def read_metadata(self, count: int) -> dict[str, Any]:
        if count > len(self.data):
            raise self.broken()
        metadata: dict[str, Any] = {}
        for _ in range(count):
            key = self.name()
            if key in metadata:
                raise UserError(f"{self.model}: {self.path.name} says {key} twice; {DOWNLOAD}")
            metadata[key] = self.value(self.number("<I"), key)
        return metadata

    def value(self, kind: int, key: str) -> Any:
        if kind == FLOAT32:
            return shortest(self.number("<f"))
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise UserError(f"{self.model}: {self.path.name} holds {key} as a value of the unknown type {kind}; "
                            f"{DOWNLOAD}")
        part, count = self.number("<I"), self.number("<Q")
        if count > len(self.data):
            raise self.broken()
        if part == TEXT:
            return [self.text() for _ in range(count)]
        if part not in NUMBERS:
            raise UserError(f"{self.model}: {self.path.name} holds {key} as a list of the unknown type {part}; "
                            f"{DOWNLOAD}")
        form = f"<{count}{NUMBERS[part][1]}"
        values = list(struct.unpack_from(form, self.data, self.position))
        self.position += struct.calcsize(form)
        return [shortest(value) for value in values] if part == FLOAT32 else values

    def read_rows(self, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
        """(name, shape, number of the type, offset) of each tensor."""
        if count > len(self.data):
            raise self.broken()
        rows = []
        for _ in range(count):
            name, dimensions = self.name(), self.number("<I")
            if not 1 <= dimensions <= LONGEST_SHAPE:
                raise self.broken()
            shape = tuple(self.number("<Q") for _ in range(dimensions))[::-1]
            rows.append((name, shape, self.number("<I"), self.number("<Q")))
        names = [name for name, *_ in rows]
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{self.model}: {self.path.name} holds the tensor {double} twice; {DOWNLOAD}")
        return rows

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int, start: int) -> Tensor:
        """A tensor whose numbers are all in the file. Raises UserError."""
        word, block, bytes_of_block = packing(kind, name, self.model)
        if 0 in shape or shape[-1] % block:
            raise UserError(f"{self.model}: the tensor {name} has the shape {list(shape)}, which does not fit its type "
                            f"{word}; {DOWNLOAD}")
        size = prod(shape) // block * bytes_of_block
        if start + offset + size > len(self.data):
            raise self.broken()
        return Tensor(name, shape, word, self.path, start + offset, size)


def packing(kind: int, name: str, model: str) -> tuple[str, int, int]:
    """(name of a type, numbers in a block, bytes of a block). Raises UserError for a type that `gguf` does not know."""
    constants = load_gguf(model).constants
    try:
        known = constants.GGMLQuantizationType(kind)
    except ValueError:
        raise UserError(f"{model}: the tensor {name} is of the type {kind}, which the package gguf does not know; "
                        "update it (pip install -U gguf), or choose another quantisation such as Q8_0") from None
    return known.name, *constants.GGML_QUANT_SIZES[known]


def load_gguf(model: str) -> Any:
    """The package `gguf`. Raises UserError if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError(f"{model}: to read GGUF files, install the package gguf: pip install gguf") from None
    return gguf


def shortest(value: float) -> float:
    """A number of 32 bits as it was meant: 1e-05 in place of 9.999999747378752e-06. The 32 bits are the same."""
    short = float(f"{value:.9g}")
    for digits in range(1, 9):
        rounded = float(f"{value:.{digits}g}")
        if struct.pack("<f", rounded) == struct.pack("<f", value):
            return rounded
    return short
