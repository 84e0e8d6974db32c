"""Bytes of a cache over time, and which page is at which level.

The same sizes and the same order of lowering as in the runtime (Geometry.h,
Schedule.h), so that baselines have the bytes, the pages and the moments that
pmkvq has. Neighbours: baselines.py (formats), torch_cache.py (what is at a
level), evaluate.py.

Levels are arrays [pages, sequences, layers, heads] of whole page-heads; a part (keys
or values) at level b is at max(b, its floor), but for APART: keys at 4, values at 2.
Levels below 2 are not the product's: they are there to be measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

PAGE_TOKENS = 128
LADDER = (16, 8, 4, 2)
# What keys_last has between 4 and 2 bits.
APART = 3
# Three values a code, five codes a byte.
TERNARY = 1.6
# A page-head that is not there any more, parameters and all.
DROPPED = 0
# Abi.h: what a page-head has in the page table.
_ENTRY_BYTES = 72


class BudgetError(Exception):
    """A budget that a sequence cannot keep to; names the bytes missing."""


@dataclass(frozen=True)
class Geometry:
    """A model's cache. sink: tokens that stay in bf16 for ever."""

    layers: int
    kv_heads: int
    head_dim: int
    sink: int = 1

    @property
    def page_heads(self) -> int:
        return self.layers * self.kv_heads

    def pages(self, tokens: int) -> int:
        """Full windows that have become pages once so many tokens are cached."""
        return max(0, -(-(tokens - self.sink - PAGE_TOKENS) // PAGE_TOKENS))

    def part_bytes(self, bits: float) -> int:
        """Codes of one part of a page-head."""
        return math.ceil(PAGE_TOKENS * self.head_dim * bits / 8)

    def fixed_bytes(self, tokens: int) -> int:
        """Sink, whole window and page table of one sequence of so many tokens."""
        area = 2 * (self.sink + PAGE_TOKENS) * self.head_dim * 2
        return self.page_heads * (area + self.pages(tokens) * _ENTRY_BYTES)

    def bf16_bytes(self, tokens: int) -> int:
        """The tokens alone, nothing else counted."""
        return tokens * self.page_heads * self.head_dim * 4


@dataclass(frozen=True)
class Limits:
    """What a schedule has to keep to.

    schedule: "none" (every page is written at its floor), "page", "keys_last" or "layer".
    floor: lowest bits of keys and of values.
    slot_bytes: parameters of a page-head, the same at every level.
    budget: bytes of all sequences together; None without one. drop: pages that are at
    the floor are dropped where that is not enough (not under "layer").
    """

    schedule: str
    floor: tuple[float, float]
    slot_bytes: int
    budget: int | None = None
    drop: bool = False

    @property
    def steps(self) -> tuple[float, ...]:
        """Levels from the highest to the lowest, of the schedules by pages."""
        lowest = min(self.floor)
        ladder = (16, 8, 4, APART, 2) if self.schedule == "keys_last" else LADDER
        return (*(level for level in ladder if level > lowest), lowest, *((DROPPED,) if self.drop else ()))

    def times(self, sequences: int) -> Limits:
        """Of so many sequences that share so many budgets."""
        return replace(self, budget=self.budget * sequences if self.budget else None)


def part_levels(levels, part: int, floor: tuple[float, float]):
    """Bits of keys (part 0) or values (1) of page-heads at these levels."""
    bits = np.maximum(np.where(levels == APART, (4, 2)[part], levels), floor[part])
    return np.where(levels == DROPPED, 0, bits)


class Plan:
    """Levels of `sequences` equally long sequences that grow in step.

    Args:
        tokens: cached tokens of each at the end; page tables are as large from the start.

    Raises:
        BudgetError: the sequences cannot reach their end in the budget.
    """

    def __init__(self, geometry: Geometry, limits: Limits, sequences: int, tokens: int):
        self._geometry, self._limits, self._sequences = geometry, limits, sequences
        self._fixed = sequences * geometry.fixed_bytes(tokens)
        self._start = min(limits.floor) if limits.schedule == "none" else LADDER[0]
        self.levels = np.empty((0, sequences, geometry.layers, geometry.kv_heads))
        self._check(tokens)

    @property
    def _shares(self) -> bool:
        """Whether values fall to 1 bit as pmkvq's do, two page-heads in a block."""
        return self._limits.floor == (2, 1) and not self._limits.drop and self._geometry.page_heads % 2 == 0

    def _check(self, tokens: int) -> None:
        if self._limits.budget is None:
            return
        page_heads = self._geometry.pages(tokens) * self._sequences * self._geometry.page_heads
        least = self._fixed + page_heads * self._page_bytes(DROPPED if self._limits.drop else min(self._limits.floor))
        if self._shares and page_heads:
            least += self._sequences * self._geometry.page_heads * (self._page_bytes(2) - self._page_bytes(1))
        if least > self._limits.budget:
            key, value = self._limits.floor
            raise BudgetError(
                f"{least - self._limits.budget} bytes are missing: {self._sequences} sequences to their end take at "
                f"least {least} bytes with keys at {key} and values at {value} bits, the budget is "
                f"{self._limits.budget}")

    def _page_bytes(self, level: float) -> int:
        """Parameters and codes of a page-head."""
        if level == DROPPED:
            return 0
        return self._limits.slot_bytes + sum(
            self._geometry.part_bytes(float(part_levels(level, part, self._limits.floor))) for part in (0, 1))

    def _sum(self, levels: np.ndarray) -> int:
        found, counts = np.unique(levels, return_counts=True)
        return sum(int(count) * self._page_bytes(float(level)) for level, count in zip(found, counts))

    @property
    def bytes(self) -> int:
        return self._fixed + self._sum(self.levels)

    def bits(self) -> float:
        """Bits an element of pages, parameters included; 16 without pages."""
        elements = self.levels.size * 2 * PAGE_TOKENS * self._geometry.head_dim
        return 8 * self._sum(self.levels) / elements if elements else 16.0

    def add_page(self) -> None:
        """A full window of every sequence becomes a page; pages fall as far as it takes."""
        shape = (1, *self.levels.shape[1:])
        if self._limits.schedule == "layer" and len(self.levels):
            new = np.broadcast_to(self.levels[-1:], shape)
        else:
            new = np.full(shape, float(self._start))
        self.levels = np.concatenate([self.levels, new])
        if self._limits.budget is None:
            return
        if self._limits.schedule == "layer":
            self._lower_layers()
        elif self._limits.schedule != "none":
            self._lower_pages()

    def _lower_pages(self) -> None:
        """Highest level first, then the oldest page, then sequence, layer, head."""
        flat, steps = self.levels.reshape(-1), self._limits.steps
        for level, below in zip(steps, steps[1:]):
            excess = self.bytes - self._limits.budget
            if excess <= 0:
                return
            saved = self._page_bytes(level) - self._page_bytes(below)
            falling = np.flatnonzero(flat == level)
            count = -(-excess // saved) if saved else len(falling)
            if below == 1 and self._shares:
                # Two share a block, and the newest page is not yet among them.
                falling = falling[falling < flat.size - self.levels[0].size]
                count += count % 2
            # A step of a part that is at its floor saves nothing, and hides nothing.
            flat[falling[:count]] = below

    def _lower_layers(self) -> None:
        """All pages of a layer fall together while the layer exceeds its equal share."""
        geometry = self._geometry
        share = self._limits.budget // geometry.layers - self._fixed // geometry.layers
        for layer in range(geometry.layers):
            pages = self.levels[:, :, layer]
            while pages.size and self._sum(pages) > share and pages.max() > min(self._limits.floor):
                pages[...] = pages.max() // 2


def by_importance(before: np.ndarray, planned: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """As many page-heads at each level below 2 as planned, but the least important in place of the oldest.

    Args:
        before: [older pages, sequences, layers, heads], what this gave before the newest pages.
        planned: [pages, 1, layers, heads], a Plan's.
        importance: [pages, sequences, layers, heads]; the lowest fall first.

    Returns:
        Levels in the shape of importance, none above what it was before.
    """
    planned = np.broadcast_to(planned, importance.shape)
    if not planned.size or planned.min() >= 2:
        return planned.copy()
    # All are at 2 before any is below.
    levels = np.full(importance.shape, 2.0)
    levels[:len(before)] = np.minimum(before, 2)
    for level in sorted({*planned[planned < 2]}, reverse=True):
        for sequence in range(levels.shape[1]):
            own = levels[:, sequence].copy()
            falling = (planned[:, sequence] <= level).sum() - (own <= level).sum()
            order = np.argsort(np.where(own > level, importance[:, sequence], np.inf), axis=None, kind="stable")
            own.reshape(-1)[order[:max(0, falling)]] = level
            levels[:, sequence] = own
    return levels


def over_time(geometry: Geometry, limits: Limits, sequences: int, tokens: int) -> tuple[list[list[int]], float]:
    """[cached tokens of each sequence, bytes of all] at the start and after each new page; bits at the end."""
    plan = Plan(geometry, limits, sequences, tokens)
    points = [[0, plan.bytes]]
    for page in range(geometry.pages(tokens)):
        plan.add_page()
        points.append([geometry.sink + PAGE_TOKENS * (page + 1) + 1, plan.bytes])
    return points, plan.bits()


def budget_for_bits(geometry: Geometry, tokens: int, bits: float) -> int:
    """Bytes that give one sequence's pages so many bits an element at its end, parameters included."""
    elements = geometry.pages(tokens) * geometry.page_heads * 2 * PAGE_TOKENS * geometry.head_dim
    return geometry.fixed_bytes(tokens) + int(elements * bits // 8)
