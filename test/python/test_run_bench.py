"""pmkvq-run --bench: tables, and what is refused."""

import csv
import io

import pytest
from pmkvq_run import run

COLUMNS = ("device,kv_heads,q_heads,head_dim,batch,context,levels,key_format,value_format,us,spread,bytes,read_us,"
           "ratio,rms_rel_err,max_rel_err,peer,peer_us").split(",")
MODEL_COLUMNS = ("device,model,threads,batch,context,levels,kv_bits,key_format,value_format,tokens,us,spread,bytes,"
                 "read_us,ratio,rms_rel_err,max_rel_err,flush_us,lower_us").split(",")


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
        # Queries and weights are integers of 15 bits.
        assert float(row["rms_rel_err"]) < 3e-4
        assert row["peer"] == ""


def test_pages_fall_while_attention_reads_them_on_a_gpu_alone():
    refuses("--lower=0", words=["--lower", "at least 1"])
    refuses("--lower=16", "--device=cpu", words=["--lower", "on a GPU only", "got 'cpu'"])
    refuses("--lower=16", words=["--lower", "on a GPU only"], PMKVQ_CUDA_LIBRARY="/nowhere/libcuda.so")
    result = run("--bench=requantize", "--lower=2", "--levels=8")
    assert result.returncode == 1 and "--bench=attention" in result.stderr


@pytest.mark.slow
def test_requantizing_on_the_cpu_is_a_table():
    result = run("--bench=requantize", "--device=cpu", "--kv-heads=2", "--q-heads=2", "--head-dim=64",
                 "--context=512", "--levels=16,8,4", "--output=csv")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(rows[0]) == COLUMNS
    # Codes of both parts before they fall: 2 heads x 512 tokens x 64 dims.
    assert [int(row["bytes"]) for row in rows] == [2 * 2 * 512 * 64 * bits // 8 for bits in (16, 8, 4)]
    for row in rows:
        assert float(row["us"]) > 0 and float(row["read_us"]) > 0 and row["peer"] == ""


def test_a_level_without_a_lower_one_is_named():
    result = run("--bench=requantize", "--device=cpu", "--context=128", "--levels=2")
    assert result.returncode == 1
    assert "16, 8 or 4" in result.stderr and "got 2" in result.stderr


@pytest.mark.slow
def test_steps_of_a_model_are_a_table(reasoner):
    """Threads, batches, contexts, levels and budgets are swept; the errors are attention's."""
    result = run(reasoner, "--bench=decode", "--context=140,300", "--batch=2", "--levels=16", "--kv-bits=3.0",
                 "--threads=1", "--output=csv")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(rows[0]) == MODEL_COLUMNS
    assert [(row["batch"], row["context"], row["levels"], row["kv_bits"]) for row in rows] == [
        ("2", context, levels, bits) for context in ("140", "300") for levels, bits in (("16", ""), ("", "3.0"))]
    weights = sum(path.stat().st_size for path in reasoner.glob("*.safetensors"))
    for row in rows:
        assert row["model"] == reasoner.name and row["tokens"] == row["batch"]
        assert float(row["us"]) > 0 and float(row["read_us"]) > 0 and float(row["flush_us"] or row["lower_us"]) > 0
        assert bool(row["lower_us"]) == bool(row["kv_bits"])
        assert 0 < float(row["rms_rel_err"]) < float(row["max_rel_err"]) < 1e-3
        assert weights * 0.9 < int(row["bytes"]) < weights * 1.5
    # More tokens at more bits are more bytes.
    size = [int(row["bytes"]) for row in rows]
    assert size[0] < size[2] and size[3] < size[2]


@pytest.mark.slow
def test_prefill_of_a_model_is_a_table(reasoner):
    result = run(reasoner, "--bench=prefill", "--context=300", "--batch=2", "--levels=4", "--output=csv")
    assert result.returncode == 0, result.stderr
    row, = csv.DictReader(io.StringIO(result.stdout))
    assert list(row) == MODEL_COLUMNS
    assert row["tokens"] == "1024" and float(row["us"]) > 0 and float(row["read_us"]) > 0
    assert float(row["max_rel_err"]) < 1e-3 and row["flush_us"] == row["lower_us"] == ""


@pytest.mark.slow
def test_a_context_beyond_the_model_is_named(reasoner):
    result = run(reasoner, "--bench=decode", "--context=140,100000", "--levels=16")
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 2, "the other line is measured"
    assert "100000" in result.stderr and "1 of 2 settings failed" in result.stderr


@pytest.mark.parametrize("arguments, words", [
    (("--bench=decode",), ("one MODEL", "got 0")),
    (("model/", "--bench=append"), ("no MODEL", "model/")),
    (("model/", "--bench=decode", "--kv-heads=8"), ("--kv-heads", "and a MODEL")),
    (("model/", "--bench=decode", "--device=cuda"), ("--device", "cpu or auto")),
    (("model/", "--bench=decode", "--levels=mixed:2=1/4=1"), ("--levels", "k4v2", "mixed:2=1/4=1")),
    (("model/", "--bench=decode", "--kv-bits=3,x"), ("--kv-bits", "3,x")),
    (("model/", "--bench=decode", "--threads=1,2000"), ("--threads", "1024")),
    (("model/", "--bench=decode", "--context=ragged:1-2"), ("--context", "whole numbers")),
    (("--bench=attention", "--kv-bits=4"), ("--kv-bits",)),
    (("/nonexistent-model", "--bench=decode"), ("/nonexistent-model",))])
def test_bad_benchmarks_of_models_are_named(arguments, words):
    result = run(*arguments)
    assert result.returncode == 1 and result.stdout == ""
    for word in words:
        assert word in result.stderr.splitlines()[-1], result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["generic", "avx2", "avx512"])
def test_a_named_cpu_runs_or_is_missing(cpu):
    result = run("--bench=attention", "--device=cpu", f"--cpu={cpu}", "--context=256", "--levels=2", "--output=csv")
    if result.returncode:
        assert f"CPU {cpu}: this machine has no " in result.stderr
    else:
        assert [row["device"] for row in csv.DictReader(io.StringIO(result.stdout))] == ["cpu"]


@pytest.mark.slow
def test_few_tokens_and_many_queries_run():
    """A context of one token has fixed areas of 129: its inputs must not fill the memory."""
    result = run("--bench=attention", "--device=cpu", "--kv-heads=8", "--q-heads=72", "--context=1,128", "--levels=2")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    for line, megabytes in zip(lines[1:], ("0.004096", "0.073728")):
        assert "72/8x128" in line and megabytes in line


def test_what_no_machine_holds_is_refused():
    result = run("--bench=attention", "--device=cpu", "--levels=2", "--head-dim=128", "--context=67108864",
                 "--batch=2048", "--kv-heads=1", "--q-heads=1")
    assert result.returncode == 1
    assert "GiB of memory" in result.stderr and "fewer sequences" in result.stderr


def test_cuda_without_a_driver_says_what_to_do():
    refuses("--device=cuda", words=["--device=cuda", "no CUDA driver", "/nonexistent.so", "--device=cpu"],
            PMKVQ_CUDA_LIBRARY="/nonexistent.so")


@pytest.mark.parametrize("option, word", [
    ("--levels=3", "mixed:2=192/4=48/8=16"), ("--levels=", "levels"), ("--context=0", "ragged:100-32768"),
    ("--context=ragged:9-5", "ragged:100-32768"), ("--kv-heads=x", "--kv-heads"), ("--batch=0", "--batch"),
    ("--q-heads=30", "multiple of 8"), ("--head-dim=72", "head_dim"), ("--key-format=paper", "per_token"),
    ("--key-format=per_token_symmetric", "per_token_symmetric of values alone"),
        ("--value-format=paper", "of values, per_token_symmetric"),
    ("--output=jsonl", "csv"), ("--device=tpu", "--device"), ("--max-tokens=2", "--max-tokens"),
    ("model/", "MODEL"), ("--kv-bits=4", "--kv-bits"),
    ("--levels=mixed:2=6/2=3", "once"), ("--levels=mixed:16=1/2=1", "16 before 2"),
    ("--levels=mixed:2=1/k4v8=1/k8v4=1", "k4v8 before k8v4"),
    ("--context=" + ",".join(["128"] * 10001), "10000")])
def test_bad_options_are_named(option, word):
    refuses(option, words=[word])


def test_too_many_blocks_are_named_with_their_bound():
    result = run("--bench=attention", "--device=cpu", "--levels=2", "--context=67108864", "--batch=65536")
    assert result.returncode == 1
    for words in ("at most 4294967295 blocks", "549755813888", "fewer sequences"):
        assert words in result.stderr


def test_options_of_the_bench_need_it():
    result = run("model/", "--levels=4", "--prompt-tokens=1", "--max-tokens=1")
    assert result.returncode == 1
    assert "--bench=attention" in result.stderr


def test_models_run_on_the_cpu_only():
    result = run("model/", "--device=cuda", "--prompt-tokens=1", "--max-tokens=1")
    assert result.returncode == 1
    assert "--device" in result.stderr and "GPU" in result.stderr


def test_a_cache_on_a_gpu_needs_one(reasoner):
    result = run(reasoner, "--cache-device=cuda", "--prompt-tokens=1", "--max-tokens=1",
                 PMKVQ_CUDA_LIBRARY="/nonexistent.so")
    assert result.returncode == 1
    for words in ("--cache-device=cuda: no CUDA driver", "/nonexistent.so", "--cache-device=cpu"):
        assert words in result.stderr


@pytest.mark.parametrize("options, word", [
    (("--cache-device=gpu",), "cpu or cuda"), (("--cache-device=cuda", "--explain"), "--explain runs nothing"),
    (("--cache-device=cuda", "--emit=asm"), "--emit runs nothing")])
def test_bad_places_of_a_cache_are_named(options, word):
    result = run("model/", *options, "--prompt-tokens=1", "--max-tokens=1")
    assert result.returncode == 1
    assert "--cache-device" in result.stderr and word in result.stderr
