"""What script/figures prints: long runs, measured against their targets.

    python -m pmkvq.figures reasoner|schedules|smollm2|llamacpp

Exit code 1 if a figure misses its target. Neighbours: runner.py,
figures_smollm2.py, figures_llamacpp.py.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

from pmkvq.figures_llamacpp import llamacpp_figures
from pmkvq.figures_smollm2 import smollm2_figures
from pmkvq.runner import (REASONER, ROOT, Output, command, exit_with, generate, kib, print_rows,
                          read_programs, shown)

_LINES, _PROGRAMS, _SECONDS = 256, 16, 300


@dataclass(frozen=True)
class Target:
    """A run of the reasoner and the least it must reach.

    kib: budget a sequence in KiB; None: bf16.
    right: share of tokens. exact: programs without a wrong token.
    """

    name: str
    kib: int | None
    right: float
    exact: int


_TARGETS = (
    Target("bf16", None, 0.97, 15),
    Target("default schedule, 3,500 KiB a sequence", 3500, 0.995, 14),
    Target("default schedule, 4,400 KiB a sequence", 4400, 0.999, 15),
)


def score(found: list[list[int]], answers: list[list[int]]) -> tuple[float, int]:
    """Share of the answers' tokens that are right at their place, and exact programs."""
    right = sum(a == b for tokens, answer in zip(found, answers, strict=True)
                for a, b in zip(tokens, answer))
    exact = sum(tokens == answer for tokens, answer in zip(found, answers))
    return right / sum(map(len, answers)), exact


def batch() -> tuple[list[str], list[list[int]]]:
    """Options that run the first programs of 256 lines in one batch, and their answers."""
    programs = read_programs(_LINES, _PROGRAMS)
    answers = [program["answer"] for program in programs]
    prompts = ROOT / "build" / "figures" / f"prompts-{_LINES}-{_PROGRAMS}.jsonl"
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text("".join(json.dumps({"prompt": p["prompt"]}) + "\n" for p in programs))
    return [f"--prompts={prompts}", f"--max-tokens={len(answers[0])}"], answers


def reasoner() -> bool:
    """The first programs of 256 lines in one batch, greedy. True if every target is met."""
    shared, answers = batch()
    met = True
    for target in _TARGETS:
        options = list(shared)
        if target.kib:
            options.append(f"--kv-budget={target.kib * _PROGRAMS}KiB")
        print(f"\n{target.name}\n  $ {shown(command(REASONER, *options))}", flush=True)
        begin = time.monotonic()
        output = generate(REASONER, *options)
        met &= report(target, output, answers, time.monotonic() - begin)
    return met


def report(target: Target, output: Output, answers: list[list[int]], seconds: float) -> bool:
    """Prints measured against wanted, a line each. True if all are met."""
    right, exact = score(output.tokens, answers)
    summary = output.summary
    peak = summary["kv_bytes_peak"]
    rows = [
        ("tokens right", f"{100 * right:.2f} %", f"at least {100 * target.right:g} %", right >= target.right),
        ("programs exact", f"{exact} of {len(answers)}", f"at least {target.exact}", exact >= target.exact),
        ("seconds", f"{seconds:.0f}", f"at most {_SECONDS}", seconds <= _SECONDS),
    ]
    if target.kib:
        budget = target.kib * 1024 * _PROGRAMS
        rows.insert(2, ("cache bytes, peak", kib(peak), f"at most {kib(budget)}", peak <= budget))
    met = print_rows(rows)
    print(f"  {'cache bytes in bf16':<20}{kib(summary['kv_bytes_bf16']):>14}")
    print(f"  {'tokens/s':<20}{summary['tokens_per_second']:>14.1f}")
    print(f"  {'prefill tokens/s':<20}{summary['prefill_tokens_per_second']:>14.1f}")
    print(f"  pages per level (keys+values)  {output.levels()}", flush=True)
    return met


# Schemes side by side: name and options.
_SCHEDULES = (
    ("the paper's format, layer, 3,500 KiB a sequence",
     ("--key-format=paper", "--value-format=paper", "--schedule=layer", f"--kv-budget={3500 * _PROGRAMS}KiB")),
    ("default formats, layer, 3,500 KiB a sequence", ("--schedule=layer", f"--kv-budget={3500 * _PROGRAMS}KiB")),
    ("default formats, page, 3,500 KiB a sequence", ("--schedule=page", f"--kv-budget={3500 * _PROGRAMS}KiB")),
    ("default formats, keys_last, 3,500 KiB a sequence", (f"--kv-budget={3500 * _PROGRAMS}KiB",)),
    ("default formats, fixed 4 bits", ("--schedule=none", "--floor=4")),
    ("default formats, fixed 2 bits", ("--schedule=none", "--floor=2")),
)


def schedules() -> bool:
    """Schedules and the paper's scheme, one table. Nothing is held against a target."""
    shared, answers = batch()
    print(f"{'scheme':<50}{'tokens right':>14}{'exact':>10}{'KiB a sequence':>16}{'tokens/s':>10}", flush=True)
    for name, options in _SCHEDULES:
        output = generate(REASONER, *shared, *options)
        right, exact = score(output.tokens, answers)
        peak = output.summary["kv_bytes_peak"] / 1024 / _PROGRAMS
        print(f"{name:<50}{100 * right:>12.2f} %{exact:>5} of {_PROGRAMS}{peak:>16,.0f}"
              f"{output.summary['tokens_per_second']:>10.0f}", flush=True)
    return True


_FIGURES = {"reasoner": reasoner, "schedules": schedules, "smollm2": smollm2_figures,
            "llamacpp": llamacpp_figures}


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in _FIGURES:
        print(f"usage: script/figures {'|'.join(_FIGURES)}", file=sys.stderr)
        return 2
    return 0 if _FIGURES[sys.argv[1]]() else 1


if __name__ == "__main__":
    exit_with(main)
