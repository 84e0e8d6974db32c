"""How much memory a run of pmkvq-run takes."""

import json
import os
import subprocess

import pytest

from pmkvq_run import ids, tool

# What a run takes beside weights and cache, docs/benchmark.md: the compiler, which stays
# loaded, its code, and buffers of a step.
CONSTANT = 256 << 20


@pytest.mark.parametrize("options", [(), ("--kv-budget=2000KiB",)])
def test_weights_and_cache_and_a_constant(reasoner, tmp_path, options):
    command = [tool(), reasoner, f"--prompt-tokens={ids(100 + i % 500 for i in range(700))}",
               "--max-tokens=20", "--output=jsonl", f"--code-cache={tmp_path}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    summary = json.loads(output.splitlines()[-1])["summary"]
    weights = sum(path.stat().st_size for path in reasoner.glob("*.safetensors"))
    assert weights < usage.ru_maxrss * 1024 <= weights + summary["kv_bytes_peak"] + CONSTANT
