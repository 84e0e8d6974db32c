"""Which layer gets which bits: the integer program over true bytes, solved by HiGHS.

The compiler solves the same program exactly (--pmkvq-allocate-bits,
include/pmkvq/Allocation/Levels.h). Bytes are counted as the runtime counts them
(cache_plan.py). Neighbours: calibration_file.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pmkvq import cache_plan, quantize
from pmkvq.cache_plan import LADDER


class Infeasible(ValueError):
    """The budget does not hold the lowest levels; says how many bytes are missing."""


@dataclass(frozen=True)
class Geometry(cache_plan.Geometry):
    """Sizes of caches. formats: of keys and values."""

    formats: tuple[quantize.Format, quantize.Format] = (quantize.Format(quantize.PER_CHANNEL),
                                                        quantize.Format(quantize.PER_TOKEN))

    def block_bytes(self) -> int:
        """Codes of a part at 2 bits: what a pool hands out."""
        return self.part_bytes(LADDER[-1])

    def slot_bytes(self) -> int:
        """Parameters of a page of one kv head."""
        return sum(form.parameter_bytes(self.head_dim) for form in self.formats)

    def other_bytes(self, tokens: list[int]) -> int:
        """What does not depend on levels: fixed areas, page tables, parameters."""
        parameters = self.slot_bytes() * self.page_heads * sum(map(self.pages, tokens))
        return self.fixed_bytes(max(tokens)) * len(tokens) + parameters

    def blocks(self, budget: int, tokens: list[int]) -> int:
        """Blocks that one page of every layer may take, keys and values of one kv head.

        Args:
            budget: bytes of all caches. tokens: what each sequence has cached at its end.

        Raises:
            Infeasible
        """
        pages = sum(map(self.pages, tokens))
        most = self.layers * 16
        left = budget - self.other_bytes(tokens)
        one = pages * self.kv_heads * self.block_bytes()
        lowest = 2 * self.layers
        if left < lowest * one:
            raise Infeasible(f"a budget of {budget:,} bytes: {lowest * one - left:,} bytes are missing "
                             f"with everything at 2 bits")
        return most if one == 0 else min(most, left // one)


def allocate(losses: np.ndarray, blocks: int, lowest=2, highest=16) -> np.ndarray:
    """The levels of least loss of which one page of every layer takes at most `blocks`.

    Args:
        losses: [layers, 2, 4], what keys and values lose at 16, 8, 4, 2 bits.
        lowest, highest: bits; numbers or [layers, 2].

    Returns:
        [layers, 2], bits.

    Raises:
        Infeasible
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag, csr_array

    losses = np.asarray(losses, np.float64)
    parts, bits = losses.shape[0] * 2, np.array(LADDER)
    low, high = (np.broadcast_to(x, losses.shape[:2]).reshape(parts, 1) for x in (lowest, highest))
    if (low // 2).sum() > blocks:
        raise Infeasible(f"a page of every layer takes at least {(low // 2).sum()} blocks at the lowest "
                         f"levels, the budget holds {blocks}")
    allowed = (bits >= low) & (bits <= high)
    costs = np.tile(bits // 2, parts).astype(float)
    one = LinearConstraint(block_diag([np.ones((1, 4))] * parts), 1, 1)
    budget = LinearConstraint(csr_array(costs[None]), -np.inf, blocks)
    # Of several best answers the one with fewest blocks: far below any gap that matters.
    scale = max(losses.max(), 1e-300)
    result = milp(losses.reshape(-1) / scale + 1e-13 * costs, integrality=np.ones(4 * parts),
                  bounds=Bounds(0, allowed.reshape(-1).astype(float)), constraints=[one, budget],
                  options={"mip_rel_gap": 0})
    assert result.success, result.message
    return bits[result.x.reshape(parts, 4).argmax(1)].reshape(losses.shape[:2])


def losses_at(losses: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """[layers, 2]: each part's loss at its level."""
    index = np.searchsorted(-np.array(LADDER), -np.asarray(levels))
    return np.take_along_axis(np.asarray(losses), index[..., None], 2)[..., 0]


def loss_of(losses: np.ndarray, levels: np.ndarray) -> float:
    """Sum of the losses at these levels."""
    return float(losses_at(losses, levels).sum())
