"""Schemes that pmkvq is compared with, as fake quantization: a page in, its decoded values out.

Every function takes numpy arrays or torch tensors and gives the same kind back; the
arithmetic is written in what both have in common, so that tests need no torch. A page
is [..., 128 tokens, head_dim] in float32, its values rounded to bf16. Sources: PM-KVQ
(arXiv 2505.18610), KIVI (2402.02750), TurboQuant (2504.19874). Neighbours:
cache_plan.py (levels), torch_cache.py (a model's cache), eval_methods.py (names).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from pmkvq.cache_plan import PAGE_TOKENS

# Widths that a baseline may have at a fixed width.
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8)

KEY, VALUE = 0, 1


def library(x):
    """numpy or torch, whichever x is of."""
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch


def to_half(x):
    """Rounded to fp16 and back."""
    if isinstance(x, np.ndarray):
        return x.astype(np.float16).astype(np.float32)
    return x.half().float()


def to_bf16(x):
    """Rounded to bf16 and back, ties to even; x is finite."""
    if not isinstance(x, np.ndarray):
        return x.bfloat16().float()
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def like(values: np.ndarray, x):
    """values as the kind that x is."""
    if isinstance(x, np.ndarray):
        return values
    import torch

    return torch.from_numpy(values).to(x.device)


def round_to_grid(x, bits: int, axis: int, group: int):
    """Asymmetric and uniform, nearest of 2^bits values from a group's minimum to its maximum.

    Scale and minimum are fp16, as KIVI's are.

    Args:
        x: [..., tokens, head_dim].
        axis: -1: a group is neighbours of one token; -2: of one channel.
        group: how many; a divisor of that axis' size.
    """
    xp = library(x)
    if axis == -2:
        x = xp.swapaxes(x, -1, -2)
    groups = x.reshape(*x.shape[:-1], x.shape[-1] // group, group)
    low = xp.amin(groups, axis=-1, keepdims=True)
    scale = to_half((xp.amax(groups, axis=-1, keepdims=True) - low) / (2**bits - 1))
    low = to_half(low)
    # A group of equal values, or of a range below fp16's: code 0 whatever the scale.
    safe = xp.where(scale > 0, scale, xp.ones_like(scale))
    codes = xp.clip(xp.round((groups - low) / safe), 0, 2**bits - 1)
    decoded = (low + scale * codes).reshape(x.shape)
    return xp.swapaxes(decoded, -1, -2) if axis == -2 else decoded


@dataclass(frozen=True)
class Scheme:
    """What all baselines say of themselves.

    sink: tokens that stay at 16 bits for ever. slides: a value leaves the window as soon
    as 128 newer ones are there, instead of with its page. heads: heads of a layer whose
    values share parameters. shared_bytes: tables that all pages use, once a cache.
    """

    sink: int = 1
    slides: bool = False
    heads: int = 1

    def decode(self, x, part: int, bits: int, first=None):
        """A page of keys (part 0) or values (1) after a round trip through codes of `bits` bits; 16: bf16.

        first: the page before it, of every second page.
        """
        raise NotImplementedError

    def parameter_bytes(self, head_dim: int, part: int) -> int:
        """Bytes of a page-head's parameters of one part."""
        raise NotImplementedError

    def shared_bytes(self, head_dim: int) -> int:
        del head_dim
        return 0

    def store(self, x):
        """What sink and window hold of new tokens: bf16."""
        return x


@dataclass(frozen=True)
class RoundToNearest(Scheme):
    """Keys and values per token, one group a head: the paper's base quantizer at a fixed width."""

    def decode(self, x, part, bits, first=None):
        del first
        return x if bits == 16 else round_to_grid(x, bits, -1, x.shape[-1])

    def parameter_bytes(self, head_dim, part):
        return PAGE_TOKENS * 4


@dataclass(frozen=True)
class Kivi(Scheme):
    """Keys per channel, values per token, groups of `group`; residual window, no sink."""

    sink: int = 0
    slides: bool = True
    group: int = 32

    def decode(self, x, part, bits, first=None):
        del first
        if bits == 16:
            return x
        axis = -2 if part == KEY else -1
        return round_to_grid(x, bits, axis, min(self.group, x.shape[axis]))

    def parameter_bytes(self, head_dim, part):
        axis = PAGE_TOKENS if part == KEY else head_dim
        return PAGE_TOKENS * head_dim // min(self.group, axis) * 4


@dataclass(frozen=True)
class Paper(Scheme):
    """PM-KVQ: per token, 16-bit codes from the start, lowered by right shifts, scales by bf16 products."""

    def decode(self, x, part, bits, first=None):
        del first
        codes, scale, low = self.quantize(x)
        at = 16
        while at > bits:
            at //= 2
            # Equals the paper's product and shift: an odd divisor has no ties.
            codes = (codes + 2 ** (at - 1)) // (2**at + 1)
            scale = to_bf16(scale * (2**at + 1))
        decoded = to_bf16(to_bf16(codes * 1.0) * scale)
        return to_bf16(decoded + low)

    @staticmethod
    def quantize(x):
        """Codes at 16 bits (whole numbers), scale and minimum; bf16 where that code has bf16."""
        xp = library(x)
        low, high = xp.amin(x, axis=-1, keepdims=True), xp.amax(x, axis=-1, keepdims=True)
        floor = float(to_bf16(np.array([1e-5], np.float32))[0])
        scale = xp.clip(to_bf16(to_bf16(high - low) / 65535), floor, None)
        codes = xp.clip(xp.round((x - low) / scale), 0, 65535)
        return codes, scale, low

    def parameter_bytes(self, head_dim, part):
        return PAGE_TOKENS * 4

    def store(self, x):
        return self.decode(x, KEY, 16)


@dataclass(frozen=True)
class TurboQuant(Scheme):
    """A token's fp16 norm, random signs and Hadamard, and the best code book of a normal distribution.

    correct: decoded directions get length 1 again.
    """

    correct: bool = False
    seed: int = 0

    def decode(self, x, part, bits, first=None):
        del first
        if bits == 16:
            return x
        xp = library(x)
        head_dim = x.shape[-1]
        signs = like(random_signs(head_dim, self.seed + part), x)
        norm = xp.sqrt((x * x).sum(-1)[..., None])
        safe = xp.where(norm > 0, norm, xp.ones_like(norm))
        rotated = rotate(x / safe * signs) * math.sqrt(head_dim)
        levels, edges = code_book(bits)
        decoded = like(levels, x)[xp.searchsorted(like(edges, x), rotated)] / math.sqrt(head_dim)
        if self.correct:
            decoded = decoded / xp.sqrt((decoded * decoded).sum(-1)[..., None])
        return rotate(decoded) * signs * to_half(norm)

    def parameter_bytes(self, head_dim, part):
        return PAGE_TOKENS * 2

    def shared_bytes(self, head_dim):
        # Signs of keys and of values, a bit each; a code book is constants of the code.
        return 2 * head_dim // 8


@functools.cache
def random_signs(head_dim: int, seed: int) -> np.ndarray:
    """[head_dim] of +1 and -1."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), head_dim)


def rotate(x):
    """Normalized Walsh-Hadamard transform of the last axis, its own inverse.

    Where the size is no power of two, of blocks of the largest that divides it.
    """
    size = x.shape[-1]
    block = size & -size
    result, width = x, 1
    while width < block:
        pairs = result.reshape(*x.shape[:-1], size // (2 * width), 2, width)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        result = library(x).stack((a + b, a - b), -2).reshape(x.shape)
        width *= 2
    return result / math.sqrt(block)


@functools.cache
def code_book(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's and Max's quantizer of N(0, 1): levels in rising order, and the edges between them, float32."""
    from statistics import NormalDist

    normal, count = NormalDist(), 2**bits
    # The density of levels that is best for many of them, p^(1/3); each is then its cell's mean.
    levels = np.array([math.sqrt(3) * normal.inv_cdf((i + 0.5) / count) for i in range(count)])
    for _ in range(500):
        edges = (levels[1:] + levels[:-1]) / 2
        density = np.array([0.0, *map(normal.pdf, edges), 0.0])
        mass = np.diff([0.0, *map(normal.cdf, edges), 1.0])
        levels = (density[:-1] - density[1:]) / mass
    return levels.astype(np.float32), ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
