"""The formats of pages, vectorized: what the compiled cache stores and reads back.

Keys per channel (128 tokens of a page share a minimum and a range), values per
token, both after a Walsh-Hadamard rotation; 8 bits first, lower levels by shifts, those
of keys with feedback where squares of queries are known.
include/pmkvq/Reference/Quantize.h is the specification, and both are held against
the same numbers in their tests. Neighbours: sensitivity.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pmkvq.safetensors_file import to_bf16

PAGE = 128
SINK = 1
LEVELS = (8, 4, 2)
# Values have one more.
PART_LEVELS = (LEVELS, (*LEVELS, 1))
# How far the two values at 1 bit lie apart, as a part of the range.
_SPREAD = 0.32
DEFAULT_CLIP = 0.8
# What is added to squares of queries, as a part of their mean.
_DAMPING = 0.1
# The axis, of [page, token, dim], whose elements share parameters.
PER_CHANNEL, PER_TOKEN = -2, -1


class NotRepresentable(ValueError):
    """A value is not finite, or a minimum or range lies outside fp16."""


@dataclass(frozen=True)
class Format:
    """How one part of a page is stored. axis: PER_CHANNEL or PER_TOKEN.

    symmetric: a range in a byte that lies evenly around 0, without a minimum.
    """

    axis: int
    hadamard: bool = True
    symmetric: bool = False

    @classmethod
    def parse(cls, text: str) -> "Format":
        """As pmkvq-run --key-format takes it, "per_token+plain", or as str() gives it. Raises ValueError."""
        name, *rotation = text.strip("<>").replace(", ", "+").split("+")
        if name not in _NAMES or rotation not in ([], ["hadamard"], ["plain"]):
            raise ValueError("expected per_channel, per_token or per_token_symmetric, +hadamard or +plain "
                             f"(calibration knows no other format, and finds clips itself), got '{text}'")
        axis, symmetric = _NAMES[name]
        return cls(axis, rotation != ["plain"], symmetric)

    def __str__(self) -> str:
        name = next(name for name, form in _NAMES.items() if form == (self.axis, self.symmetric))
        return f"<{name}, {'hadamard' if self.hadamard else 'plain'}>"

    def rotate(self, x: np.ndarray) -> np.ndarray:
        """Vectors as they are stored, and back. [..., dim]."""
        return rotate(x) if self.hadamard else x

    def parameter_bytes(self, dim: int) -> int:
        """Bytes of the parameters of a page of one head."""
        groups = dim if self.axis == PER_CHANNEL else PAGE
        return groups * (1 if self.symmetric else 4)

    def parameters(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As parameters()."""
        return symmetric_parameters(x, self.axis) if self.symmetric else parameters(x, self.axis)


_NAMES = {"per_channel": (PER_CHANNEL, False), "per_token": (PER_TOKEN, False),
          "per_token_symmetric": (PER_TOKEN, True)}


def round_bf16(x: np.ndarray) -> np.ndarray:
    """Rounds float32 to bf16, ties to even; the result is float32."""
    return (to_bf16(x).astype(np.uint32) << 16).view(np.float32)


@lru_cache
def _hadamard(size: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix / np.sqrt(size)).astype(np.float32)


def rotate(x: np.ndarray) -> np.ndarray:
    """The normalized Walsh-Hadamard transform of vectors, its own inverse.

    Args:
        x: [..., dim], float32. Where dim is no power of two, blocks of the largest
            power of two that divides it are transformed.
    """
    dim = x.shape[-1]
    block = dim & -dim
    y = np.ascontiguousarray(x, np.float32).reshape(-1, block)
    return (y @ _hadamard(block)).reshape(x.shape)


def count_pages(tokens: int) -> int:
    """Pages of a sequence with so many tokens cached; the newest 128 are in the window."""
    return max(0, -(-(tokens - SINK - PAGE) // PAGE))


def split_pages(x: np.ndarray) -> np.ndarray:
    """The tokens that are in pages: [..., tokens, dim] to [..., pages, 128, dim]."""
    pages = count_pages(x.shape[-2])
    body = x[..., SINK:SINK + pages * PAGE, :]
    return body.reshape(*x.shape[:-2], pages, PAGE, x.shape[-1])


def _half(x: np.ndarray, toward: float) -> np.ndarray:
    """float32 to the next fp16 in the direction of `toward`, as float32."""
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    wrong = half.astype(np.float32) < x if toward > 0 else half.astype(np.float32) > x
    return np.where(wrong, np.nextafter(half, np.float16(toward)), half).astype(np.float32)


def parameters(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and range of every group, as float32 that fp16 holds.

    Args:
        x: [..., 128, dim], float32 that bf16 holds.

    Raises:
        NotRepresentable
    """
    minimum = _half(x.min(axis, keepdims=True) + np.float32(0), -np.inf)
    extent = _half(x.max(axis, keepdims=True) - minimum, np.inf)
    if not (np.isfinite(minimum).all() and np.isfinite(extent).all()):
        raise NotRepresentable("a value is not finite, or a minimum or range lies outside fp16")
    return minimum, extent


def symmetric_parameters(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranges evenly around 0, rounded up to what a byte holds (E5M3), and minus their halves.

    Args:
        x: [..., 128, dim], float32 that bf16 holds.

    Raises:
        NotRepresentable
    """
    extent = _half(2 * np.abs(x).max(axis, keepdims=True), np.inf).astype(np.float16)
    extent = ((extent.view(np.uint16) + 127) // 128 * 128).astype(np.uint16).view(np.float16).astype(np.float32)
    if not np.isfinite(extent).all():
        raise NotRepresentable("a value is not finite, or a range lies above 61440")
    return 0 - extent / 2, extent


def encode(x: np.ndarray, minimum: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Codes at 8 bits: every operation in float32, rounded by itself."""
    scaled = (x - minimum) * np.float32(255)
    code = np.rint(scaled / np.where(extent == 0, np.float32(1), extent))
    return np.where(extent == 0, 0, np.clip(code, 0, 255)).astype(np.uint8)


def lower(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes at 8 bits to codes at 8, 4, 2 or 1."""
    if bits == 8:
        return codes
    four = ((241 * (codes.astype(np.uint16) + 8)) >> 12).astype(np.uint8)
    return four >> {4: 0, 2: 2, 1: 3}[bits]


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of finite float32, rounded once.

    The product is exact in float64, and its sum with c rounds to the same float32 as the exact sum unless it
    looks like a tie, or is below float32's normal numbers.
    """
    product, c = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    total = np.asarray(product + c)
    tie = total.view(np.uint64) & ((1 << 29) - 1) == 1 << 28
    doubtful = np.flatnonzero(tie | (np.abs(total) < 2.0**-126))
    if len(doubtful):
        product, c = (np.broadcast_to(x, total.shape).flat[doubtful] for x in (product, c))
        total.flat[doubtful] = _sum_to_odd(product, c)
    return total.astype(np.float32)


def _sum_to_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b of float64; where it is not exact its last bit is 1, so that no further rounding takes it for a tie."""
    total = a + b
    # What the sum lacks (Knuth's TwoSum).
    part = total - a
    rest = (a - (total - part)) + (b - part)
    even = total.view(np.uint64) & 1 == 0
    return np.where((rest != 0) & even, np.nextafter(total, np.copysign(np.inf, rest)), total)


def feedback_factor(squares: np.ndarray) -> np.ndarray:
    """By how much what a head dim (column) loses changes those after it (rows): unit lower triangular, float32.

    L of L D L^T = R diag(1 / (s + damping)) R, R the rotation: pmkvq/Target/KeyFeedback.h, in the same order of
    operations.

    Args:
        squares: mean squares s of a kv head's queries before rotation, [dim], float32.
    """
    dim, squares = len(squares), squares.astype(np.float64)
    mean = np.add.accumulate(squares)[-1] / dim
    weights = mean / (squares + _DAMPING * mean) if mean > 0 else np.ones(dim)
    block = dim & -dim
    sums = np.zeros((dim // block, block))
    for sign, weight in zip(np.sign(_hadamard(block)), weights.reshape(-1, block).T):
        sums += sign * weight[:, None]
    rest, index = np.zeros((dim, dim)), np.arange(block)
    for first in range(0, dim, block):
        # The element at (i, j) of a block depends on i xor j alone.
        rest[first:first + block, first:first + block] = sums[first // block][index ^ index[:, None]] / block
    factor = np.eye(dim, dtype=np.float32)
    for i in range(dim - 1):
        ratio = rest[i + 1:, i] / rest[i, i]
        factor[i + 1:, i] = ratio
        rest[i + 1:, i + 1:] -= ratio[:, None] * rest[i, i + 1:]
    return factor


def feedback_factors(squares: np.ndarray) -> np.ndarray:
    """feedback_factor() of every kv head: [heads, dim] to [heads, dim, dim]."""
    return np.stack([feedback_factor(head.astype(np.float32)) for head in squares])


def _grid(bits: int, clip: float) -> tuple[np.float32, np.float32]:
    """Where a level's values begin in a group's range, and how far apart they are, as parts of it."""
    if bits == 2:
        return np.float32((1 - clip) / 2), np.float32(clip / 3)
    return np.float32(0), np.float32(1 / ((1 << bits) - 1))


def lower_with_feedback(codes: np.ndarray, extent: np.ndarray, bits: int, factor: np.ndarray,
                        clip: float = DEFAULT_CLIP) -> np.ndarray:
    """Codes of keys at 8 bits to codes at 8, 4 or 2; what a head dim loses is fed back into those after it.

    Args:
        codes: [..., 128, dim]. extent: their ranges, as parameters() gives them. factor: as feedback_factor()
            gives it, [dim, dim].
    """
    for level in (4, 2):
        if bits <= level:
            codes = _feed_back(codes, extent, level, factor, clip)
    return codes


def _feed_back(codes: np.ndarray, extent: np.ndarray, bits: int, factor: np.ndarray, clip: float) -> np.ndarray:
    """One step, from twice the bits: every operation in float32, rounded by itself."""
    extent = np.broadcast_to(extent, codes.shape)
    # A code of 4 bits stands for what 17 times it stands for at 8.
    exact = codes.astype(np.float32) * np.float32(17 if bits == 2 else 1)
    targets = extent * _grid(8, clip)[1] * exact
    first, part = _grid(bits, clip)
    lowest, step = extent * first, extent * part
    inverse = np.where(extent == 0, np.float32(0), np.float32(1) / np.where(extent == 0, np.float32(1), step))
    result = np.empty_like(codes)
    for i in range(codes.shape[-1]):
        code = np.clip(np.rint((targets[..., i] - lowest[..., i]) * inverse[..., i]), 0, (1 << bits) - 1)
        error = targets[..., i] - fma(step[..., i], code, lowest[..., i])
        targets[..., i + 1:] = fma(-factor[i + 1:, i], error[..., None], targets[..., i + 1:])
        result[..., i] = code
    return result


def decode(codes: np.ndarray, minimum: np.ndarray, extent: np.ndarray, bits: int,
           clip: float = DEFAULT_CLIP) -> np.ndarray:
    """What codes stand for, float32."""
    width = clip if bits == 2 else _SPREAD if bits == 1 else 1
    grid = (1 - width) / 2 + width * np.arange(1 << bits) / ((1 << bits) - 1)
    return minimum + extent * grid.astype(np.float32)[codes]


def quantized(x: np.ndarray, form: Format, bits: int, clip: float = DEFAULT_CLIP,
              factors: np.ndarray | None = None) -> np.ndarray:
    """What attention sees of pages at `bits` bits, in the model's own basis.

    Args:
        x: [..., 128, dim], float32. bits: 16, 8, 4 or 2, of values also 1. factors: of keys that fall with feedback, one for
            each of the first axis, as feedback_factor() gives them.

    Raises:
        NotRepresentable
    """
    stored = round_bf16(form.rotate(x))
    if bits < 16:
        minimum, extent = form.parameters(stored)
        codes = encode(stored, minimum, extent)
        if factors is None:
            codes = lower(codes, bits)
        else:
            codes = np.stack([lower_with_feedback(*head, clip) for head in
                              zip(codes, extent, [bits] * len(codes), factors)])
        stored = decode(codes, minimum, extent, bits, clip)
    return form.rotate(stored)


def cached(x: np.ndarray, form: Format, bits: int, clip: float = DEFAULT_CLIP,
           factors: np.ndarray | None = None) -> np.ndarray:
    """Keys or values as the cache gives them back: pages at `bits`, sink and window exact.

    Args:
        x: [heads, tokens, dim], float32. factors: of keys that fall with feedback, [heads, dim, dim].

    Raises:
        NotRepresentable
    """
    result = x.copy()
    pages = quantized(split_pages(x), form, bits, clip, factors)
    count = pages.shape[-3] * PAGE
    result[:, SINK:SINK + count] = pages.reshape(x.shape[0], count, x.shape[-1])
    return result
