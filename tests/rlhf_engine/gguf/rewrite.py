"""Writes GGUF files for tests: a fixture with other metadata or other tensors, or its bytes changed."""

from pathlib import Path

import gguf
import numpy as np

FILES = Path(__file__).resolve().parents[2] / "fixtures" / "gguf"


def rewrite(source: str, target: Path, *, keys: dict | None = None, tensors: dict | None = None) -> Path:
    """Write a fixture anew: `keys` are set, or left out where they are None; `tensors` likewise, as arrays in fp32 or as
    (bytes, type)."""
    reader = gguf.GGUFReader(FILES / f"{source}.gguf")
    keys, tensors = dict(keys or {}), dict(tensors or {})
    writer = gguf.GGUFWriter(target, keys.pop("general.architecture", reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if key not in keys:
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
        elif keys[key] is not None:
            add_key(writer, key, keys[key])
        keys.pop(key, None)
    for key, value in keys.items():
        add_key(writer, key, value)
    for tensor in reader.tensors:
        value = tensors.pop(tensor.name, (tensor.data, tensor.tensor_type))
        if value is not None:
            add_tensor(writer, tensor.name, value)
    for name, value in tensors.items():
        add_tensor(writer, name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def add_key(writer: gguf.GGUFWriter, key: str, value) -> None:
    kind = gguf.GGUFValueType.get_type(value)
    writer.add_key_value(key, value, kind, gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None)


def add_tensor(writer: gguf.GGUFWriter, name: str, value) -> None:
    if isinstance(value, tuple):
        writer.add_tensor(name, value[0], raw_dtype=value[1])
    else:
        writer.add_tensor(name, np.asarray(value, np.float32))


def numbers(source: str, name: str) -> np.ndarray:
    """A tensor of a fixture, by gguf's own reader."""
    tensor = next(tensor for tensor in gguf.GGUFReader(FILES / f"{source}.gguf").tensors if tensor.name == name)
    return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
