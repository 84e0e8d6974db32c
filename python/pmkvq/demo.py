"""What script/demo shows after building. Neighbours: runner.py, smollm2.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pmkvq import smollm2
from pmkvq.runner import REASONER, RunError, command, exit_with, generate, kib, read_programs, shown

# A page of text and a question about it: long enough for a cache to matter.
_QUESTION = Path(__file__).with_name("story.txt").read_text(encoding="utf-8")


def reasoner() -> bool:
    """A 64-line program with a bf16 cache and with all pages at 2 bits. True if both are right."""
    (program,) = read_programs(64, 1)
    prompt, answer = program["prompt"], program["answer"]
    print(f"\n1. A reasoner program of 64 lines: {len(prompt)} tokens in, {len(answer)} out, and one")
    print("   wrong value early spoils those that follow.\n")
    print(f"   {'cache':<11}{'answer':<9}{'tokens/s':>9}{'bytes':>12}{'budget':>12}"
          "   pages per level (keys+values)")
    right = True
    for name, options in (("bf16", ()), ("2.25 bits", ("--kv-bits=2.25",))):
        output = generate(REASONER, "--prompt-tokens=" + ",".join(map(str, prompt)),
                          f"--max-tokens={len(answer)}", *options)
        exact, summary = output.tokens == [answer], output.summary
        right &= exact
        print(f"   {name:<11}{'right' if exact else 'WRONG':<9}{summary['tokens_per_second']:>9.0f}"
              f"{kib(summary['kv_bytes_peak']):>12}{kib(summary['kv_budget_bytes']):>12}   {output.levels()}")
    return right


def smollm() -> None:
    """Streams an answer of SmolLM2-135M-Instruct. Raises RunError."""
    print("\n2. Text with SmolLM2-135M-Instruct (Q4_1) under a budget of 3 bits an element.\n")
    words = command(smollm2.fetch(), f"--prompt={_QUESTION}", "--max-tokens=250", "--kv-bits=3")
    print(f"   $ {shown(words)}\n", flush=True)
    code = subprocess.run(words).returncode
    if code != 0:
        raise RunError(f"exit code {code}: {shown(words)}")


def main() -> int:
    right = reasoner()
    smollm()
    print("\nTry next:")
    print("  build/bin/pmkvq-run test/models/reasoner --prompts=test/models/reasoner/programs-16.jsonl \\")
    print("    --max-tokens=112 --kv-bits=2.25 --output=jsonl --dump-stages=build/stages")
    print("and read build/stages: attention over the cache on its way from pmkvq ops to vector code.")
    if not right:
        print("error: the reasoner's answer is wrong", file=sys.stderr)
    return 0 if right else 1


if __name__ == "__main__":
    exit_with(main)
