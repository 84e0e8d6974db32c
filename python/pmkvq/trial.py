"""pmkvq's default formats as fake quantization, and what could come below 2 bits.

Down to 2 bits it computes what quantize.py and the compiled cache do; the rest is not
in the product and is here to be measured (docs/below-two-bits.md). Neighbours:
baselines.py (other schemes), eval_methods.py (options), torch_cache.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmkvq.baselines import KEY, VALUE, Scheme, library, like, rotate, to_bf16, to_half
from pmkvq.cache_plan import PAGE_TOKENS, TERNARY

WIDTHS = (8, 4, 2, TERNARY, 1)
FEEDBACK = ("channels", "full")
PARAMETERS = ("half", "byte", "scale", "scale_byte")
_CLIP = 0.8
# What is added to the diagonal of queries' second moments, as a part of its mean.
_DAMPING = 0.1
# Bytes of a group's parameters: of keys, of values.
_GROUP_BYTES = {"half": (4, 4), "byte": (3, 2), "scale": (4, 2), "scale_byte": (3, 1)}
# Where the two values of 1 bit lie, and the outer two of three, as parts of a group's range apart. A group of
# 64 to 128 normal values has a range of 4.7 to 5.2 deviations; Max (1960) has 2 x 0.798 and 2 x 1.224.
_SPREAD = {1: 0.32, TERNARY: 0.49}


def _half_below(x):
    """The largest fp16 that is not above; of numbers that are normal in fp16."""
    half = to_half(x)
    return library(x).where(half > x, to_half(x - abs(x) / 2048), half)


def _byte_range(x):
    """The next of 16 sizes an octave, which a byte counts over 16 octaves; 0 stays."""
    xp = library(x)
    safe = xp.clip(x, 2.0**-8, 2.0**8)
    return xp.where(x > 0, 2 ** (xp.ceil(16 * xp.log2(safe)) / 16), xp.zeros_like(x))


def feedback_factor(moments):
    """What the error of one stored element changes in those after it, [..., head_dim, head_dim].

    The upper Cholesky factor U of the inverse of the moments in the rotated basis: an error e of element i is
    made good, as far as it can be, by -e U[i, j] / U[i, i] in every j > i. So a rounding goes where queries
    are small (GPTQ, arXiv 2210.17323, with tokens in place of a weight's rows and queries in place of inputs).

    Args:
        moments: sums of products of queries, [..., head_dim, head_dim], or of squares, [..., head_dim], in the
            model's basis.
    """
    xp, size = library(moments), moments.shape[-1]
    if moments.shape[-2:] != (size, size):
        moments = moments[..., None] * like(np.eye(size), moments)
    rotated = rotate(xp.swapaxes(rotate(moments), -1, -2))
    mean = xp.diagonal(rotated, 0, -2, -1).mean(-1)[..., None, None]
    # Of queries that are all 0 every error is as good as another.
    damped = rotated + like(np.eye(size), moments) * xp.where(mean > 0, mean * _DAMPING, mean + 1)
    return xp.swapaxes(xp.linalg.cholesky(xp.linalg.inv(damped)), -1, -2)


@dataclass(frozen=True)
class Trial(Scheme):
    """Keys per channel, values per token, both rotated; 8 bits first, lower levels by shifts.

    parameters: "half", a minimum and a range in fp16 a group, as pmkvq has them; "byte", the same with
    ranges, and minima of values, in a byte; "scale" and "scale_byte", of values the largest magnitude
    alone, in an fp16 or a byte (keys as in "half" and "byte"). pages: 2: every second page takes the
    parameters of keys from the page before it, and is cut off where it exceeds them. exact: 1 bit is taken
    from the values, with their own mean and mean distance to it. mean: a page's values get their mean back
    at 2 bits and less, an fp16 a channel. feedback: codes of keys at 4 and 2 bits are not the nearest: the
    error of each head dim is fed back into those after it, by the queries seen so far; "channels": by the
    mean square of each of their channels, "full": by all products of two. calibration: a file whose squares
    of channels are taken in place of those seen. Pages fall as if they came from 8 bits at once: what was
    rounded at 4 is not kept.
    """

    parameters: str = "half"
    pages: int = 1
    exact: bool = False
    mean: bool = False
    feedback: str | None = None
    calibration: str | None = None

    def decode(self, x, part, bits, first=None, moments=None):
        """moments: with feedback, of keys: as of feedback_factor(), of the heads of x."""
        if bits == 16:
            return x
        stored = to_bf16(rotate(x))
        if bits == 1 and self.exact:
            decoded = self._signs(stored, (-2, -1)[part])
        else:
            source = to_bf16(rotate(first)) if self.pages == 2 and part == KEY and first is not None else stored
            minimum, extent = self._parameters(source, part)
            codes = self._encode(stored, minimum, extent)
            if moments is None or bits < 2:
                decoded = minimum + extent * self._grid(codes, bits)
            else:
                decoded = self._fall(codes, minimum, extent, bits, feedback_factor(moments))
        if self.mean and part == VALUE and bits <= 2:
            decoded = decoded + to_half((stored - decoded).mean(-2)[..., None, :])
        return rotate(decoded)

    def _fall(self, codes, minimum, extent, bits, factor):
        """Codes at 8 bits, level by level, each with feedback from what the one before stood for."""
        decoded = minimum + extent * codes / 255
        for level, first, step in ((4, 0.0, 1 / 15), (2, (1 - _CLIP) / 2, _CLIP / 3)):
            if level < bits:
                break
            decoded = self._feed_back(decoded, minimum + extent * first, extent * step, 2**level - 1, factor)
        return decoded

    @staticmethod
    def _feed_back(x, lowest, step, highest: int, factor):
        """Nearest of lowest + step * (0 .. highest), one head dim after the other."""
        xp = library(x)
        targets, found = x * 1.0, []
        lowest, step = lowest + 0 * x, step + 0 * x
        safe = xp.where(step > 0, step, xp.ones_like(step))
        for i in range(x.shape[-1]):
            here = targets[..., i]
            code = xp.clip(xp.round((here - lowest[..., i]) / safe[..., i]), 0, highest)
            value = lowest[..., i] + step[..., i] * code
            found.append(value)
            error = (here - value) / factor[..., i, i][..., None]
            targets[..., i + 1:] -= error[..., None] * factor[..., i, i + 1:][..., None, :]
        return xp.stack(found, -1)

    def _parameters(self, x, part: int):
        """Minimum and range of every group, as they are stored."""
        xp = library(x)
        axis = (-2, -1)[part]
        low, high = xp.amin(x, axis=axis, keepdims=True), xp.amax(x, axis=axis, keepdims=True)
        if part == VALUE and self.heads > 1:
            low, high = self._over_heads(low, "amin"), self._over_heads(high, "amax")
        in_bytes = self.parameters in ("byte", "scale_byte")
        if part == VALUE and self.parameters in ("scale", "scale_byte"):
            largest = xp.where(high > -low, high, -low)
            extent = 2 * (_byte_range(largest) if in_bytes else -_half_below(-largest))
            return -extent / 2, extent
        if part == VALUE and in_bytes:
            low, high = xp.clip(low, None, 0), xp.clip(high, 0, None)
            extent = _byte_range(high - low)
            safe = xp.where(extent > 0, extent, xp.ones_like(extent))
            return -extent * xp.ceil(-low / safe * 255) / 255, extent
        minimum = _half_below(low)
        extent = high - minimum
        return minimum, _byte_range(extent) if in_bytes else -_half_below(-extent)

    def _over_heads(self, x, extreme: str):
        """The extreme of neighbouring heads, [..., heads, tokens, 1]."""
        grouped = x.reshape(*x.shape[:-3], -1, self.heads, *x.shape[-2:])
        xp = library(x)
        shared = getattr(xp, extreme)(grouped, axis=-3, keepdims=True)
        return xp.broadcast_to(shared, grouped.shape).reshape(x.shape)

    @staticmethod
    def _encode(x, minimum, extent):
        """Codes at 8 bits, as whole numbers."""
        xp = library(x)
        safe = xp.where(extent > 0, extent, xp.ones_like(extent))
        codes = xp.clip(xp.round((x - minimum) * 255 / safe), 0, 255)
        return xp.where(extent > 0, codes, xp.zeros_like(codes))

    def _grid(self, codes, bits):
        """What 8-bit codes are at `bits` bits, from 0 to 1."""
        if bits == 8:
            return codes / 255
        if bits == TERNARY:
            third = library(codes).clip((codes - 127.5) / 255 / (_SPREAD[TERNARY] / 2), -1, 1)
            return 0.5 + _SPREAD[TERNARY] / 2 * library(codes).round(third)
        four = (codes + 8) // 17
        if bits == 4:
            return four / 15
        two = four // 4
        if bits == 2:
            return (1 - _CLIP) / 2 + _CLIP / 3 * two
        return 0.5 + _SPREAD[1] * (two // 2 - 0.5)

    @staticmethod
    def _signs(x, axis: int):
        """Two values a group, a mean distance below and above its mean."""
        xp = library(x)
        mean = to_half(xp.mean(x, axis=axis, keepdims=True))
        distance = to_half(xp.mean(abs(x - mean), axis=axis, keepdims=True))
        return xp.where(x < mean, mean - distance, mean + distance)

    def parameter_bytes(self, head_dim, part):
        groups = (head_dim, PAGE_TOKENS)[part]
        sharing = self.pages if part == KEY else self.heads
        mean = 2 * head_dim if self.mean and part == VALUE else 0
        return -(-groups * _GROUP_BYTES[self.parameters][part] // sharing) + mean
