"""Reads a model's folder: its config, its tensors, and what identifies it.

Neighbours: gguf_import.py makes such folders; lib/Import/Safetensors.cpp and
lib/Import/Calibration.cpp read them and compute the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmkvq.errors import FileError

_TYPES = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
# Bytes at either end of a tensor that its model's fingerprint holds.
_ENDS = 4096


@dataclass(frozen=True)
class Tensor:
    """dtype: as safetensors names it. data: its bytes, mapped."""

    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray

    def float32(self) -> np.ndarray:
        """The elements, a copy."""
        raw = self.data.view(_TYPES[self.dtype]).reshape(self.shape)
        if self.dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)


class Checkpoint:
    """config: config.json. tensors: by name, sorted. Raises FileError."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = read_json(self.folder / "config.json")
        index = self.folder / "model.safetensors.index.json"
        names = ["model.safetensors"]
        if index.exists():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(x, str) for x in shards.values()):
                raise FileError(index, "weight_map", "names of tensors and files", shards)
            names = sorted(set(shards.values()))
        tensors = {}
        for name in names:
            tensors.update(_read_file(self.folder / name))
        self.tensors: dict[str, Tensor] = dict(sorted(tensors.items()))

    def size(self, field: str, default: int | None = None) -> int:
        """A positive number of config.json. Raises FileError."""
        value = self.config.get(field)
        value = default if value is None else value
        if type(value) is not int or value < 1:
            raise FileError(self.folder / "config.json", field, "a whole number of at least 1", value)
        return value

    def fingerprint(self) -> str:
        """SHA-256 over names, types, shapes and both ends of all tensors: fast, and other
        weights have another one."""
        digest = hashlib.sha256()
        for name, tensor in self.tensors.items():
            shape = "[" + ", ".join(map(str, tensor.shape)) + "]"
            digest.update(f"{name}\n{tensor.dtype}\n{shape}\n".encode())
            digest.update(tensor.data[:_ENDS].tobytes())
            digest.update(tensor.data[-_ENDS:].tobytes())
        return "sha256:" + digest.hexdigest()


def read_json(path) -> dict:
    """Raises FileError."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except OSError as error:
        raise FileError(path, "file", problem=error.strerror) from None
    except ValueError as error:
        raise FileError(path, "file", problem=f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise FileError(path, "file", "a JSON object", type(value).__name__)
    return value


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileError(path, "file", problem="missing")
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise FileError(path, "header", f"at most {size - 8} bytes", length)
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise FileError(path, "header", problem=f"not JSON: {error}") from None
    data = np.memmap(path, np.uint8, "r", 8 + length) if size > 8 + length else np.zeros(0, np.uint8)
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry, data) for name, entry in header.items()}


def _tensor(path, name: str, entry: dict, data: np.ndarray) -> Tensor:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end <= len(data):
            raise FileError(path, f"tensor {name}", f"offsets within {len(data)} bytes", f"{begin} to {end}")
        if dtype not in _TYPES:
            raise FileError(path, f"tensor {name}", " or ".join(_TYPES), dtype)
        if end - begin != math.prod(shape) * _TYPES[dtype].itemsize:
            raise FileError(path, f"tensor {name}", f"{shape} of {dtype}", f"{end - begin} bytes")
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(path, f"tensor {name}", problem=f"damaged: {error}") from None
    return Tensor(dtype, shape, data[begin:end])
