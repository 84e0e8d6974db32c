"""How much a layer's keys or values matter, and the scales that suit its keys.

The paper's measure (PM-KVQ, equation 5): the gradient of the loss times the error
of a level, element by element, in absolute value. Neighbours: quantize.py (the
error), calibrate.py (who feeds samples).
"""

from __future__ import annotations

import numpy as np

from pmkvq import quantize


def measure(x: np.ndarray, gradient: np.ndarray, form: quantize.Format, clip: float,
            levels: tuple[int, ...]) -> np.ndarray:
    """mean |G * (X - Q_b(X))| over the tokens that are in pages.

    Args:
        x, gradient: [heads, tokens, dim], float32; keys after RoPE, or values. clip: at 2 bits.
        levels: in bits.

    Returns:
        [levels]. Double precision.

    Raises:
        quantize.NotRepresentable
    """
    pages, weight = quantize.split_pages(x), quantize.split_pages(gradient)
    stored = quantize.round_bf16(form.rotate(pages))
    minimum, extent = form.parameters(stored)
    codes = quantize.encode(stored, minimum, extent)

    def mean(bits):
        seen = quantize.decode(quantize.lower(codes, bits), minimum, extent, bits, clip)
        error = weight * (pages - form.rotate(seen))
        return float(np.abs(error, out=error).sum()) / error.size

    return np.array([mean(bits) for bits in levels])


# ---------------------------------------------------------------------------
# Key scales
# ---------------------------------------------------------------------------

# The paper's grid: 1 - n / 20.
ALPHAS = tuple(1 - n / 20 for n in range(20))
# Scales lie within 2 ** -13 and 2 ** 13; the paper's bounds are 1e-4 and 1e4.
MOST_EXPONENT = 13


def tie_rope_pairs(maxima: np.ndarray) -> np.ndarray:
    """Channels i and i + dim / 2 turn together: both get the larger. [..., dim]."""
    half = maxima.shape[-1] // 2
    larger = np.maximum(maxima[..., :half], maxima[..., half:])
    return np.concatenate((larger, larger), -1)


def exponents(maxima: np.ndarray, alpha: float) -> np.ndarray:
    """Each key channel is divided by 2 to the power of this, each query channel multiplied.

    The paper's scale, maximum ** alpha, as the nearest power of two: weights that are
    scaled so keep all their bits, whatever their type.

    Args:
        maxima: [kv_heads, dim], the largest magnitude of each channel.

    Returns:
        As maxima, int64.
    """
    with np.errstate(divide="ignore"):
        wanted = alpha * np.log2(tie_rope_pairs(maxima).astype(np.float64))
    return np.rint(np.clip(wanted, -MOST_EXPONENT, MOST_EXPONENT)).astype(np.int64)


def scales(powers: np.ndarray) -> np.ndarray:
    """2 ** powers, float32."""
    return np.exp2(powers).astype(np.float32)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The last queries' attention over all tokens before them.

    Args:
        q: [kv_heads, group, queries, dim]. k, v: [kv_heads, tokens, dim].

    Returns:
        As q.
    """
    scores = q @ k[:, None].swapaxes(-1, -2) / np.float32(np.sqrt(q.shape[-1]))
    tokens, queries = k.shape[1], q.shape[2]
    seen = np.arange(tokens)[None] <= np.arange(tokens - queries, tokens)[:, None]
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v[:, None]


def alpha_errors(q: np.ndarray, k: np.ndarray, v: np.ndarray, maxima: np.ndarray, form: quantize.Format,
                 clip: float, bits: int = 2) -> np.ndarray:
    """Mean squared error of the attention output for every alpha, and without scales last.

    Args:
        q, k, v: as attention takes them. maxima: [kv_heads, dim]. form, clip: of keys.

    Returns:
        [len(ALPHAS) + 1], double precision.
    """
    exact = attention(q, k, v)

    def error(powers):
        scale = scales(powers)
        seen = quantize.cached(k / scale[:, None], form, bits, clip)
        found = attention(q * scale[:, None, None], seen, v)
        return float(((found - exact) ** 2).mean(dtype=np.float64))

    return np.array([error(exponents(maxima, alpha)) for alpha in ALPHAS] + [error(np.zeros_like(maxima))])


# ---------------------------------------------------------------------------
# How far back heads look
# ---------------------------------------------------------------------------

# The runtime's table (Abi.h): pages that are older count as the last.
MOST_AGES = 64
# Below every square that matters: a page that nothing looks at has one, too.
_LEAST_SQUARE = 1e-9


def page_shares(squares: np.ndarray, queries: np.ndarray, pages: int) -> np.ndarray:
    """How much of what a layer loses lies in one page, by kv head and age.

    An error in a token's key or value weighs as the square of its attention, so pages' squares say who bears
    what. By age they fall about as a power, whose exponent differs by a lot: some heads look at the last page,
    some at all alike. Powers are fitted, head by head.

    Args:
        squares: [kv_heads, ages], sums over queries that had a page of this age, the newest page first.
        queries: [ages], how many these were. pages: of the text whose losses are shared, at its end.

    Returns:
        [kv_heads, ages that occurred]: such that on average over the text's tokens the shares of all pages that
        there are by then add up to 1.
    """
    ages = np.arange(1, int(np.count_nonzero(queries)) + 1)
    if not len(ages):
        return np.ones((len(squares), 1))
    sizes = np.log(squares[:, :len(ages)] / queries[:len(ages)] + _LEAST_SQUARE)
    weights = queries[:len(ages)] / queries[:len(ages)].sum()
    away = np.log(ages) - weights @ np.log(ages)
    spread = weights @ away**2
    slopes = (sizes * away) @ weights / spread if spread > 0 else np.zeros(len(sizes))
    # No head looks at old pages more than at new ones, further back than samples show.
    fitted = np.exp((sizes @ weights)[:, None] + np.minimum(slopes, 0)[:, None] * away)
    # Over the text's tokens, a page of age i is there for all but the first i pages.
    there = np.maximum(0, pages + 1 - ages) / (pages + 1) if pages else (ages == 1).astype(float)
    return fitted / (fitted * there).sum()
