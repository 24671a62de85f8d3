"""A model as one GGUF file or as several parts (`NAME-00001-of-00003.gguf`), and the hash of its content."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_engine.errors import UserError
from rlhf_engine.gguf.header import DOWNLOAD, Header, Tensor, read_header

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
BLOCK = 1 << 22
"""Bytes that are hashed at a time."""


@dataclass(frozen=True)
class GgufModel:
    """What the headers of a model's files say together."""

    model: str
    """MODEL, by which messages name it."""
    files: list[Path]
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_model(path: Path, model: str) -> GgufModel:
    """The headers of a model, of all its parts. Raises UserError for a part that is missing or of another model."""
    files = part_files(path, model)
    headers = [read_header(file, model) for file in files]
    metadata, tensors = dict(headers[0].metadata), {}
    if len(files) == 1 and metadata.get("split.count", 1) > 1:
        raise UserError(f"{model}: is one part of {metadata['split.count']}, and its name does not say where the "
                        "others are; name the parts MODEL-00001-of-00002.gguf and so on")
    for number, (file, header) in enumerate(zip(files, headers)):
        check_part(header, number, len(files), file, model)
        if double := set(tensors) & set(header.tensors):
            raise UserError(f"{model}: two parts hold the tensor {min(double)}; {DOWNLOAD}")
        tensors |= header.tensors
    for key in SPLIT_KEYS:
        wanted = metadata.pop(key, None)
        if key == "split.tensors.count" and wanted not in (None, len(tensors)):
            raise UserError(f"{model}: its parts hold {len(tensors)} tensors in place of {wanted}; {DOWNLOAD}")
    return GgufModel(model, files, metadata, tensors)


def part_files(path: Path, model: str) -> list[Path]:
    """All files of the model that `path` is a part of, in order. Raises UserError for one that is missing."""
    found = PART.fullmatch(path.name)
    if not found or int(found[3]) < 2:
        return [path]
    files = []
    for number in range(1, int(found[3]) + 1):
        file = path.with_name(f"{found[1]}-{number:05d}-of-{found[3]}.gguf")
        if not file.is_file():
            raise UserError(f"{model}: its part {file.name} is missing; put all {int(found[3])} parts into one folder")
        files.append(file)
    return files


def check_part(header: Header, number: int, count: int, file: Path, model: str) -> None:
    """Raises UserError for a part that says it is another one than its name says."""
    said = header.metadata.get("split.no", 0), header.metadata.get("split.count", count)
    if count > 1 and said != (number, count):
        raise UserError(f"{model}: {file.name} says that it is part {said[0]} of {said[1]}, counted from 0; {DOWNLOAD}")


def content_hash(files: list[Path]) -> str:
    """SHA-256 of the content of a model's files. A file is read at about 1 GB/s."""
    digests = []
    for file in files:
        digest = hashlib.sha256()
        with open(file, "rb") as handle:
            while block := handle.read(BLOCK):
                digest.update(block)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
