"""Writes a safetensors file of bf16 tensors, one tensor in memory at a time.

The published package wants all tensors at once, and numpy has no bf16.
Neighbours: gguf_import.py feeds it.
"""

from __future__ import annotations

import json
import math

import numpy as np


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Rounds to nearest, ties to even.

    Args:
        values: any shape, float32, finite and within the range of bf16.

    Returns:
        The same shape, the bits as uint16.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_bf16(path, shapes: dict[str, tuple[int, ...]], values) -> None:
    """Writes `path`.

    Args:
        path: the file to make.
        shapes: name to shape, in the order of the file.
        values: called with a name, returns that tensor, float32.

    Raises:
        OSError: the file cannot be written.
    """
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, shape in shapes.items():
            bits = to_bf16(values(name))
            assert bits.shape == tuple(shape)
            file.write(bits.astype("<u2", copy=False).tobytes())
