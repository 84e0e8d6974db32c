"""pmkvq-run --bench=attention: tables, and what is refused."""

import csv
import io

import pytest
from pmkvq_run import run

COLUMNS = ("device,kv_heads,q_heads,head_dim,batch,context,levels,key_format,value_format,us,spread,bytes,read_us,"
           "ratio,rms_rel_err,max_rel_err,peer,peer_us").split(",")


def refuses(*arguments, words, **environment):
    result = run("--bench=attention", *arguments, **environment)
    assert result.returncode == 1
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("pmkvq-run: error: ")
    for word in words:
        assert word in line


@pytest.mark.slow
def test_cpu_sweep_is_a_table():
    result = run("--bench=attention", "--device=cpu", "--kv-heads=1", "--q-heads=2", "--head-dim=64",
                 "--context=ragged:50-300", "--batch=3", "--levels=4,k16v2,mixed:2=1/8=1", "--output=csv")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(rows[0]) == COLUMNS
    assert [row["levels"] for row in rows] == ["4", "k16v2", "mixed:2=1/8=1"]
    for row in rows:
        assert row["device"] == "cpu" and row["context"] == "ragged:50-300"
        assert float(row["us"]) > 0 and float(row["read_us"]) > 0
        # f32 arithmetic over decoded values: a few hundred roundings at most.
        assert float(row["rms_rel_err"]) < 1e-5
        assert row["peer"] == ""


def test_cuda_without_a_driver_says_what_to_do():
    refuses("--device=cuda", words=["--device=cuda", "no CUDA driver", "/nonexistent.so", "--device=cpu"],
            PMKVQ_CUDA_LIBRARY="/nonexistent.so")


@pytest.mark.parametrize("option, word", [
    ("--levels=3", "mixed:2=192/4=48/8=16"), ("--levels=", "levels"), ("--context=0", "ragged:100-32768"),
    ("--context=ragged:9-5", "ragged:100-32768"), ("--kv-heads=x", "--kv-heads"), ("--batch=0", "--batch"),
    ("--q-heads=30", "multiple of 8"), ("--head-dim=80", "head_dim"), ("--key-format=paper", "per_token"),
    ("--output=jsonl", "csv"), ("--device=tpu", "--device"), ("--max-tokens=2", "--max-tokens"),
    ("model/", "MODEL"), ("--kv-bits=4", "--kv-bits")])
def test_bad_options_are_named(option, word):
    refuses(option, words=[word])


def test_options_of_the_bench_need_it():
    result = run("model/", "--levels=4", "--prompt-tokens=1", "--max-tokens=1")
    assert result.returncode == 1
    assert "--bench=attention" in result.stderr


def test_models_run_on_the_cpu_only():
    result = run("model/", "--device=cuda", "--prompt-tokens=1", "--max-tokens=1")
    assert result.returncode == 1
    assert "--device" in result.stderr and "GPU" in result.stderr
