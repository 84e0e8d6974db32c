"""How far apart two sets of logits over the same tokens are.

Neighbours: figures_smollm2.py, evaluate.py; tools/pmkvq-run/Logits.cpp writes the files.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass

import numpy as np

from pmkvq.errors import FileError

# Positions whose distributions are in memory at a time, in double precision.
_ROWS = 50


@dataclass(frozen=True)
class Divergence:
    """kl: mean Kullback-Leibler divergence in nats a position. same_top: share of
    positions at which both have the same most likely token. positions: how many."""

    kl: float
    same_top: float
    positions: int


def read_logits(path, prompt: int = 0) -> np.ndarray:
    """The logits of one prompt in a file of pmkvq-run --logits, mapped.

    Returns:
        [positions, vocab], float32.

    Raises:
        FileError: the file has no such tensor of float32.
        OSError: it cannot be read.
    """
    name = f"logits.{prompt}"
    with open(path, "rb") as file:
        length = min(int.from_bytes(file.read(8), "little"), os.path.getsize(path))
        try:
            entry = json.loads(file.read(length))[name]
            shape, (begin, end), dtype = tuple(entry["shape"]), entry["data_offsets"], entry["dtype"]
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(path, name, problem="not a file of pmkvq-run --logits") from error
    if dtype != "F32" or end - begin != 4 * math.prod(shape):
        raise FileError(path, name, f"{shape} of F32", f"{end - begin} bytes of {dtype}")
    return np.memmap(path, np.dtype("<f4"), "r", 8 + length + begin, shape)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """[positions, vocab] of any type to the same shape in double precision."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def divergences(expected: np.ndarray, actual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL(expected || actual) in nats and equal top tokens, position by position; of equal logits the first id wins.

    Args:
        expected, actual: [positions, vocab] logits of the same shape.

    Returns:
        [positions] double, [positions] bool.
    """
    assert expected.shape == actual.shape
    kl, same = np.empty(len(expected)), np.empty(len(expected), bool)
    for at in range(0, len(expected), _ROWS):
        here = slice(at, at + _ROWS)
        p, q = log_probabilities(expected[here]), log_probabilities(actual[here])
        kl[here] = (np.exp(p) * (p - q)).sum(axis=1)
        same[here] = expected[here].argmax(axis=1) == actual[here].argmax(axis=1)
    return kl, same


def diverge(expected: np.ndarray, actual: np.ndarray) -> Divergence:
    """The means of `divergences`."""
    kl, same = divergences(expected, actual)
    return Divergence(float(kl.mean()), float(same.mean()), len(expected))
