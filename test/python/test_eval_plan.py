"""Bytes and levels as `pmkvq eval` plans them, beside pmkvq-run's."""

import json

import numpy as np
import pytest

from pmkvq.cache_plan import APART, BudgetError, Geometry, Limits, Plan, budget_for_bits, over_time
from pmkvq.eval_methods import parse_method
from pmkvq_run import generate, programs, run, write_prompts

SMALL = Geometry(layers=1, kv_heads=1, head_dim=64)
REASONER = Geometry(layers=6, kv_heads=2, head_dim=128)


@pytest.mark.parametrize("tokens, pages", [(0, 0), (129, 0), (130, 1), (257, 1), (258, 2)])
def test_a_page_is_made_when_the_next_token_comes(tokens, pages):
    assert SMALL.pages(tokens) == pages


def test_bytes_of_a_page_and_of_what_is_fixed():
    limits = Limits("none", (4, 2), slot_bytes=768)
    plan = Plan(SMALL, limits, 1, 300)
    # A sink and a window in bf16, keys and values; two entries of 72 bytes.
    assert plan.bytes == 2 * 129 * 64 * 2 + 2 * 72
    plan.add_page()
    assert plan.bytes == 2 * 129 * 64 * 2 + 2 * 72 + 768 + 128 * 64 * 6 // 8
    assert plan.bits() == (768 * 8 + 128 * 64 * 6) / (2 * 128 * 64)


STEPS = {"page": {16: 8, 8: 4, 4: 2}, "keys_last": {16: 8, 8: 4, 4: APART, APART: 2}}


def slow_page_plan(levels, bytes_of, budget, lowest, below):
    """The schedule's definition, one step at a time."""
    while sum(map(bytes_of, levels)) > budget:
        highest = max(levels)
        assert highest > lowest
        levels[levels.index(highest)] = below[highest]
    return levels


@pytest.mark.parametrize("schedule, floor",
                         [("page", (2, 2)), ("page", (4, 2)), ("page", (2, 8)), ("keys_last", (2, 2))])
@pytest.mark.parametrize("bits", [2.5, 3.5, 6.0, 9.0])
def test_pages_fall_as_the_definition_says(schedule, floor, bits):
    geometry, slot = Geometry(layers=2, kv_heads=2, head_dim=64), 768
    tokens = 129 + 9 * 128
    budget = 2 * budget_for_bits(geometry, tokens, bits)
    limits = Limits(schedule, floor, slot, budget)
    try:
        plan = Plan(geometry, limits, 2, tokens)
    except BudgetError:
        assert (2 * 768 * 8 / (2 * 128 * 64) + sum(floor)) / 2 > bits - 1
        return
    levels, fixed = [], plan.bytes

    def bytes_of(level):
        key, value = (4, 2) if level == APART else (level, level)
        return slot + 128 * 64 * (max(key, floor[0]) + max(value, floor[1])) // 8

    for _ in range(geometry.pages(tokens)):
        plan.add_page()
        levels = slow_page_plan(levels + [16] * 8, bytes_of, budget - fixed, min(floor), STEPS[schedule])
        assert plan.levels.reshape(-1).tolist() == levels
        assert plan.bytes == fixed + sum(map(bytes_of, levels)) <= budget


def test_a_layer_falls_as_one():
    tokens = 129 + 6 * 128
    limits = Limits("layer", (2, 2), 1024, budget_for_bits(REASONER, tokens, 3))
    plan = Plan(REASONER, limits, 1, tokens)
    seen = set()
    for _ in range(6):
        plan.add_page()
        assert len(np.unique(plan.levels)) == 1 and plan.bytes <= limits.budget
        seen.add(int(plan.levels.max()))
    assert seen == {16, 8, 4, 2} - ({16} - seen)


def test_a_budget_below_the_floor_names_the_bytes():
    least = Plan(SMALL, Limits("page", (2, 2), 768, 10**9), 1, 300)
    for _ in range(2):
        least.add_page()
    floor = 2 * 129 * 64 * 2 + 2 * (72 + 768 + 128 * 64 * 4 // 8)
    Plan(SMALL, Limits("page", (2, 2), 768, floor), 1, 300)
    with pytest.raises(BudgetError, match=f"^1 bytes are missing: .* at least {floor} bytes .* budget is {floor - 1}"):
        Plan(SMALL, Limits("page", (2, 2), 768, floor - 1), 1, 300)


@pytest.mark.parametrize("name, tight", [("pmkvq:2.75bits", True), ("pmkvq:k4v2", False), ("pmkvq+layer:3bits", False),
                                         ("pmkvq+keys_last:2.6bits", True), ("pmkvq+floor=k4v2:1500KiB", True),
                                         ("pmkvq+floor=k2v1:2bits", True), ("pmkvq+page+floor=k2v1:1.95bits", True),
                                         ("pmkvq+floor=k2v1+value=per_token_symmetric:1.85bits", True)])
def test_the_plan_is_that_of_pmkvq_run(reasoner, tmp_path, name, tight):
    """Peak bytes and levels at the end, of a run of two equally long programs."""
    chosen = programs(64)[:2]
    assert len({len(program["prompt"]) for program in chosen}) == 1
    prompts, count = write_prompts(tmp_path / "p.jsonl", [program["prompt"] for program in chosen]), 150
    method, tokens = parse_method(name), len(chosen[0]["prompt"]) + count - 1
    summary = generate(reasoner, f"--prompts={prompts}", f"--max-tokens={count}", "--threads=1",
                       *method.product_options(2)).summary
    limits = method.limits(REASONER, method.product_slot_bytes(128), tokens).times(2)
    points, _ = over_time(REASONER, limits, 2, tokens)
    assert summary["kv_bytes_peak"] == max(used for _, used in points)
    assert not tight or summary["kv_bytes_peak"] > 0.98 * limits.budget


def test_the_least_budget_is_that_of_pmkvq_run(reasoner, tmp_path):
    prompts = write_prompts(tmp_path / "p.jsonl", [programs(64)[0]["prompt"]])
    tokens = len(programs(64)[0]["prompt"]) + 200 - 1
    with pytest.raises(BudgetError) as refused:
        Plan(REASONER, Limits("page", (2, 2), 1024, 1000), 1, tokens)
    result = run(reasoner, f"--prompts={prompts}", "--max-tokens=200", "--kv-budget=1000", "--explain")
    assert result.returncode == 1
    missing = json.loads(str(refused.value).split()[0])
    assert f" {missing} bytes are missing" in result.stderr
