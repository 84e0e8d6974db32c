"""The integer program in Python: the answers of test/data/allocation.json, which the compiler's must be too."""

import json
from pathlib import Path

import numpy as np
import pytest

from pmkvq import allocation

CASES = json.loads((Path(__file__).resolve().parents[1] / "data" / "allocation.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES)
def test_the_best_of_all_combinations_is_found(case):
    levels = allocation.allocate(case["losses"], case["blocks"])
    assert levels.tolist() == case["levels"]
    assert (levels // 2).sum() <= case["blocks"]


def test_a_layer_that_is_kept_stays():
    losses = np.array([[[0, 1, 4, 9], [0, 1, 2, 3]]] * 2, float)
    levels = allocation.allocate(losses, 12, lowest=[[8, 2], [2, 2]], highest=[[8, 2], [16, 16]])
    assert levels.tolist() == [[8, 2], [8, 4]]


def test_equal_losses_take_the_fewest_blocks():
    assert allocation.allocate(np.zeros((3, 2, 4)), 48).tolist() == [[2, 2]] * 3


def test_too_few_blocks_are_refused_with_both_numbers():
    with pytest.raises(allocation.Infeasible, match="at least 4 blocks .* holds 3"):
        allocation.allocate(np.zeros((2, 2, 4)), 3)


def test_bytes_are_the_runtimes():
    # 3,074 tokens of the reasoner are 24 pages in 12 heads; a block is 4 KiB.
    geometry = allocation.Geometry(layers=6, kv_heads=2, head_dim=128)
    lowest = geometry.other_bytes([3074]) + 24 * 12 * 2 * 4096
    assert geometry.blocks(lowest, [3074]) == 12
    assert geometry.blocks(lowest + 24 * 2 * 4096, [3074]) == 13
    with pytest.raises(allocation.Infeasible, match="1 bytes are missing"):
        geometry.blocks(lowest - 1, [3074])


def test_without_pages_all_may_be_at_16():
    assert allocation.Geometry(2, 1, 64).blocks(10**9, [100]) == 32


def test_a_loss_is_summed_at_the_levels():
    losses = np.array([[[0, 1, 4, 9], [0, 10, 20, 30]]], float)
    assert allocation.loss_of(losses, np.array([[4, 8]])) == 14
