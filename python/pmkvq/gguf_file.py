"""Reads a GGUF file: metadata and tensors, every size checked before it is used.

The `gguf` package knows the quantized formats, and this module leaves their
decoding to it; its reader, though, trusts every count in the file and would
loop for years over a damaged one, so the container is parsed here.
Neighbours: gguf_import.py and gguf_tokenizer.py use what is read.

Layout (little-endian, versions 2 and 3):

    magic "GGUF", u32 version, u64 tensors, u64 entries,
    entries:  string key, u32 type, value
    tensors:  string name, u32 rank, u64 dims[rank], u32 type, u64 offset
    padding to the alignment, then the data that the offsets point into
    (a string is a u64 length and its bytes)
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from dataclasses import dataclass

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from pmkvq.errors import FileError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_RANK = 4
_MAX_ELEMENTS = 1 << 40

_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4",
    6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}
_STRING, _ARRAY = 8, 9

# Bytes that the shortest entry and the shortest tensor record take; they bound
# the counts in the header.
_MIN_ENTRY, _MIN_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8


@dataclass(frozen=True)
class Tensor:
    """A tensor of a GGUF file.

    shape: outermost dimension first (the file lists it last).
    offset: bytes from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    bytes: int


class GGUFFile:
    """An open GGUF file.

    Raises:
        FileError: the file cannot be read or is not well-formed.
    """

    def __init__(self, path):
        self.path = str(path)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == 0:
                    raise FileError(self.path, "file", "a GGUF file", "0 bytes")
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise FileError(self.path, "file", problem=error.strerror) from None
        self._cursor = _Cursor(self.path, self._data)
        self.metadata: dict[str, object] = {}
        self.tensors: dict[str, Tensor] = {}
        self._parse()

    def values(self, tensor: Tensor) -> np.ndarray:
        """The tensor decoded. Shapes: tensor.shape, float32."""
        raw = np.frombuffer(self._data, np.uint8, tensor.bytes, tensor.offset)
        block, block_bytes = GGML_QUANT_SIZES[tensor.type]
        rows = raw.reshape(*tensor.shape[:-1], tensor.shape[-1] // block * block_bytes)
        try:
            values = dequantize(_native(rows, tensor.type), tensor.type)
        except NotImplementedError:
            raise FileError(self.path, f"tensor {tensor.name}", "a type the gguf package decodes",
                            tensor.type.name) from None
        return np.asarray(values, np.float32)

    def _parse(self):
        cursor = self._cursor
        magic = cursor.take(4, "magic")
        if magic != _MAGIC:
            raise FileError(self.path, "magic", repr(_MAGIC), repr(magic))
        version = cursor.scalar("<u4", "version")
        if version not in _VERSIONS:
            raise FileError(self.path, "version", "2 or 3", version)
        tensors = cursor.scalar("<u8", "tensor count")
        entries = cursor.scalar("<u8", "entry count")
        cursor.check_count(tensors, _MIN_TENSOR, "tensor count")
        cursor.check_count(entries, _MIN_ENTRY, "entry count")
        for _ in range(entries):
            self._parse_entry()
        records = [self._parse_tensor() for _ in range(tensors)]
        start = self._align(cursor.at)
        for name, shape, kind, offset in records:
            self._add_tensor(name, shape, kind, offset, start)
        self._check_overlaps()

    def _parse_entry(self):
        cursor = self._cursor
        key = cursor.string("key of an entry")
        if key in self.metadata:
            raise FileError(self.path, key, problem="the key occurs twice")
        self.metadata[key] = cursor.value(cursor.scalar("<u4", key), key)

    def _parse_tensor(self):
        cursor = self._cursor
        name = cursor.string("name of a tensor")
        field = f"tensor {name}"
        rank = cursor.scalar("<u4", field)
        if not 1 <= rank <= _MAX_RANK:
            raise FileError(self.path, field, f"rank 1 to {_MAX_RANK}", rank)
        shape = tuple(cursor.scalar("<u8", field) for _ in range(rank))[::-1]
        kind = cursor.scalar("<u4", field)
        return name, shape, kind, cursor.scalar("<u8", field)

    def _align(self, offset: int) -> int:
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            raise FileError(self.path, "general.alignment", "a power of two", alignment)
        return -(-offset // alignment) * alignment

    def _add_tensor(self, name, shape, kind, offset, start):
        field = f"tensor {name}"
        if name in self.tensors:
            raise FileError(self.path, field, problem="the name occurs twice")
        try:
            kind = GGMLQuantizationType(kind)
        except ValueError:
            raise FileError(self.path, field, "a known type", kind) from None
        elements = math.prod(shape)
        if not 0 < elements <= _MAX_ELEMENTS:
            raise FileError(self.path, field, f"1 to {_MAX_ELEMENTS} elements", elements)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise FileError(self.path, field, f"rows of a multiple of {block} elements", shape[-1])
        size = elements // block * block_bytes
        begin = start + offset
        if begin + size > len(self._data):
            raise FileError(self.path, field, f"data up to byte {begin + size}",
                            f"a file of {len(self._data)} bytes")
        self.tensors[name] = Tensor(name, shape, kind, begin, size)

    def _check_overlaps(self):
        end, before = 0, ""
        for tensor in sorted(self.tensors.values(), key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                raise FileError(self.path, f"tensor {tensor.name}",
                                f"data from byte {end} on, where tensor {before} ends", tensor.offset)
            end, before = tensor.offset + tensor.bytes, tensor.name


def _native(rows: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Unquantized rows as their own element type; `dequantize` wants that."""
    if kind == GGMLQuantizationType.F32:
        return rows.view("<f4")
    if kind == GGMLQuantizationType.F16:
        return rows.view("<f2")
    return rows


class _Cursor:
    """A read position; every step forward is checked against the file's end."""

    def __init__(self, path, data):
        self.path, self._data, self.at = path, data, 0

    def take(self, size: int, field: str) -> bytes:
        left = len(self._data) - self.at
        if size > left:
            raise FileError(self.path, field, f"{size} bytes at byte {self.at}",
                            f"{left}: the file is truncated or damaged")
        self.at += size
        return self._data[self.at - size : self.at]

    def check_count(self, count: int, each: int, field: str):
        left = len(self._data) - self.at
        if count > left // each:
            raise FileError(self.path, field, f"at most {left // each} (the rest of the file)", count)

    def scalar(self, dtype: str, field: str):
        dtype = np.dtype(dtype)
        return np.frombuffer(self.take(dtype.itemsize, field), dtype)[0].item()

    def string(self, field: str) -> str:
        (size,) = struct.unpack("<Q", self.take(8, field))
        raw = self.take(size, field)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(self.path, field, "UTF-8", f"byte {raw[error.start]:#x}") from None

    def value(self, kind: int, field: str):
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind], field)
        if kind == _STRING:
            return self.string(field)
        if kind == _ARRAY:
            return self._array(field)
        raise FileError(self.path, field, "a value type of 0 to 12", kind)

    def _array(self, field: str) -> list:
        kind = self.scalar("<u4", field)
        count = self.scalar("<u8", field)
        if kind in _SCALARS:
            dtype = np.dtype(_SCALARS[kind])
            self.check_count(count, dtype.itemsize, field)
            return np.frombuffer(self.take(count * dtype.itemsize, field), dtype).tolist()
        if kind == _STRING:
            self.check_count(count, 8, field)
            return [self.string(field) for _ in range(count)]
        # Nothing that pmkvq reads nests arrays.
        raise FileError(self.path, field, "an array of scalars or strings", f"element type {kind}")
