"""Runs the clone's pmkvq-run and reads its JSON lines.

Neighbours: demo.py, figures.py and figures_smollm2.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "build" / "bin" / "pmkvq-run"
REASONER = ROOT / "test" / "models" / "reasoner"


class RunError(Exception):
    """pmkvq-run failed; it has said why on stderr."""


@dataclass(frozen=True)
class Output:
    """tokens: generated ids per prompt. summary: as pmkvq-run prints it."""

    tokens: list[list[int]]
    summary: dict

    def levels(self) -> str:
        """Page-heads per level, keys and values: "16: 3+3  8: 0+0 ..."."""
        key, value = self.summary["levels"]["key"], self.summary["levels"]["value"]
        return "  ".join(f"{bits}: {key[bits]}+{value[bits]}" for bits in ("16", "8", "4", "2"))


def command(model, *options: str) -> list[str]:
    return [str(TOOL), str(model), *options]


def shown(words: list[str]) -> str:
    """A command as one would type it in the clone; long values shortened."""
    words = [word.replace(str(ROOT) + "/", "") for word in words]
    words = [word if len(word) <= 60 else word[:50] + "..." for word in words]
    return " ".join(f"'{word}'" if " " in word else word for word in words)


def generate(model, *options: str) -> Output:
    """Runs with --output=jsonl. Raises RunError."""
    words = command(model, *options, "--output=jsonl")
    result = subprocess.run(words, stdout=subprocess.PIPE, encoding="utf-8")
    if result.returncode != 0:
        raise RunError(f"exit code {result.returncode}: {shown(words)}")
    *records, last = [json.loads(line) for line in result.stdout.splitlines()]
    return Output([record["tokens"] for record in records], last["summary"])


def read_programs(lines: int, count: int) -> list[dict]:
    """The reasoner's first programs of so many lines: prompt and answer as ids."""
    with open(REASONER / f"programs-{lines}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(count), file)]


def kib(size) -> str:
    """Bytes as KiB with thousands separators; "none" for no budget."""
    return f"{size / 1024:,.0f} KiB" if size else "none"


# A figure's name, what was measured, what is wanted, and whether that is met.
Row = tuple[str, str, str, bool]


def print_rows(rows: list[Row]) -> bool:
    """Prints measured beside wanted, a line each. True if all are met."""
    for name, measured, wanted, ok in rows:
        print(f"  {name:<20}{measured:>14}   {wanted:<22}{'met' if ok else 'MISSED'}", flush=True)
    return all(ok for *_, ok in rows)


def exit_with(main) -> None:
    """Runs main() -> exit code; a failed run ends with one line."""
    try:
        sys.exit(main())
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
