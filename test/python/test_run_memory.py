"""How much memory a run of pmkvq-run takes."""

import json
import subprocess
import sys

import pytest

from pmkvq_run import ids, tool

# What a run takes beside weights and cache, docs/benchmark.md: the compiler, which stays
# loaded, its code, and buffers of a step.
CONSTANT = 256 << 20

# Runs its arguments, and says the most KiB that they took. Until it executes another program
# a child has its parent's memory, which counts: so the parent is small.
LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.parametrize("options", [(), ("--kv-budget=2000KiB",)])
def test_weights_and_cache_and_a_constant(reasoner, tmp_path, options):
    command = [tool(), reasoner, f"--prompt-tokens={ids(100 + i % 500 for i in range(700))}",
               "--max-tokens=20", "--output=jsonl", f"--code-cache={tmp_path}", *options]
    run = subprocess.run([sys.executable, "-c", LAUNCHER, *map(str, command)], stdout=subprocess.PIPE, check=True)
    *lines, most = run.stdout.splitlines()
    summary = json.loads(lines[-1])["summary"]
    weights = sum(path.stat().st_size for path in reasoner.glob("*.safetensors"))
    assert weights < int(most) * 1024 <= weights + summary["kv_bytes_peak"] + CONSTANT
