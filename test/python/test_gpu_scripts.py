"""script/run-gpu on a folder as script/pack-gpu makes it, with a tool that prints a table."""

import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from pmkvq_run import tool

ROOT = Path(__file__).resolve().parents[2]
HEADER = ("device,kv_heads,q_heads,head_dim,batch,context,levels,key_format,value_format,us,spread,bytes,read_us,"
          "ratio,rms_rel_err,max_rel_err,peer,peer_us")

TOOL = f"""#!/bin/sh
case "$*" in *refused*) echo "$@" >>"$CALLS"; echo "pmkvq-run: error: --levels" >&2; exit 1 ;; esac
echo "cuda: NVIDIA Test, 132 multiprocessors, compiling for sm_90a" >&2
echo "$@" >>"$CALLS"
case "$*" in *fail*) echo "pmkvq-run: error: it fails" >&2; exit 1 ;; esac
echo "{HEADER}"
echo "cuda,8,32,128,8,32768,2,per_channel+hadamard,per_token+hadamard,39.000,0.500,151000000,34.000,1.1471,8e-05,3e-04,xqa,37.00"
echo "cuda+dependent,8,32,128,8,32768,2,per_channel+hadamard,per_token+hadamard,37.500,0.400,151000000,34.000,1.1029,8e-05,3e-04,xqa,37.00"
"""

PEER = """#!/bin/sh
echo "$@" >>"$CALLS"
echo "READ,8x32768,lv2q,G4,151.0 MB"
echo "K,8x32768,lv2q,G4,w8k2-m0 ring only,30.00 us,x (partial)"
echo "K,8x32768,lv2q,G4,w8k2-m6 no loads,20.00 us,x"
echo "K,8x32768,lv2q,G4,w8k2-tag,38.78 us,x"
echo "K,8x32768,lv2q,G4,w8k2-tag-pdl,37.01 us,x"
"""


def pack(folder, **tools):
    """An archive of scripts in place of tools."""
    with tarfile.open(folder / "tools.tar.xz", "w:xz") as archive:
        for name, text in tools.items():
            entry = tarfile.TarInfo(name.replace("_", "-"))
            entry.size, entry.mode = len(text.encode()), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture
def packed(tmp_path):
    folder = tmp_path / "gpu"
    folder.mkdir()
    for script in ("run-gpu", "gpu-shapes"):
        shutil.copy(ROOT / "script" / script, folder)
    pack(folder, pmkvq_run=TOOL)
    return folder


def run(folder, *arguments):
    calls = folder.parent / "calls"
    result = subprocess.run([folder / "run-gpu", *arguments], capture_output=True, encoding="utf-8", timeout=60,
                            env={**os.environ, "CALLS": str(calls), "OUT": str(folder.parent / "out")})
    return result, calls.read_text().splitlines() if calls.exists() else []


def test_one_table_with_card_bandwidth_and_peer(packed):
    (packed / "peer.bin.xz").write_bytes(lzma.compress(PEER.encode()))
    result, calls = run(packed, "--batch=8", "--levels=2")
    assert result.returncode == 0, result.stderr
    assert calls == ["--bench=attention --device=cuda --output=csv --batch=8 --levels=2",
                     "w8k2 8x32768 2q,4q,8q,16q,m2q 40 0 4"]
    lines = result.stdout.splitlines()
    assert "NVIDIA Test" in lines[0] and "4.44 TB/s" in lines[0]
    assert len(lines) == 4
    assert lines[2].split()[:1] == ["cuda"] and "38.78" in lines[2] and "37.00 xqa" in lines[2]
    assert lines[3].split()[:1] == ["cuda+dependent"] and "37.01" in lines[3]
    table = (packed.parent / "out" / "attention.csv").read_text().splitlines()
    assert table[0] == HEADER and len(table) == 3


def test_shapes_come_from_the_file(packed):
    (packed / "gpu-shapes").write_text("# comment\nquick: --batch=1\n\n--batch=2 --levels=4\n")
    result, calls = run(packed)
    assert result.returncode == 0
    assert [call.split("csv ")[1] for call in calls[:2]] == ["--batch=1", "--batch=2 --levels=4"]
    # Writing comes last, in tables of its own.
    assert [call.split()[1] for call in calls[2:]] == ["--bench=requantize", "--bench=append",
                                                               "--bench=attention"]
    assert len((packed.parent / "out" / "attention.csv").read_text().splitlines()) == 5
    (packed.parent / "calls").unlink()
    _, calls = run(packed, "--quick")
    assert [call.split("csv ")[1] for call in calls] == ["--batch=1"]


def test_a_sweep_that_fails_does_not_stop_the_rest(packed):
    (packed / "gpu-shapes").write_text("--levels=fail\n--levels=4\n--levels=refused\n")
    result, calls = run(packed)
    assert result.returncode == 1
    assert len([call for call in calls if "attention" in call and "--lower" not in call]) == 3
    assert "it fails" in result.stderr
    assert "NVIDIA Test" in result.stdout


def test_nothing_measured_is_an_error(packed):
    result, _ = run(packed, "--levels=fail")
    assert result.returncode == 1
    assert "nothing was measured" in result.stderr


TESTS = """#!/bin/sh
echo "GPU=$PMKVQ_REQUIRE_GPU $GTEST_SHARD_INDEX/$GTEST_TOTAL_SHARDS $@" >>"$CALLS"
[ $GTEST_SHARD_INDEX != 1 ] || { echo "[  FAILED  ]"; exit 1; }
echo "[  PASSED  ] $GTEST_SHARD_INDEX"
"""


def test_tests_run_where_a_gpu_must_be(packed, monkeypatch):
    pack(packed, pmkvq_run=TOOL, pmkvq_attention_tests=TESTS)
    # A process for two cores each.
    (packed.parent / "nproc").write_text("#!/bin/sh\necho 6\n")
    (packed.parent / "nproc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{packed.parent}:{os.environ['PATH']}")
    result, calls = run(packed, "--tests", "--gtest_filter=Cuda*")
    assert result.returncode == 1
    assert sorted(calls) == [f"GPU=1 {shard}/3 --gtest_filter=Cuda*" for shard in range(3)]
    log = (packed.parent / "out" / "log.txt").read_text()
    assert "FAILED" in log and "PASSED  ] 2" in log
    assert result.stdout == log


PREFILL = """#!/bin/sh
case "$*" in *prefill*) ;; *) exit 1 ;; esac
echo "HEADER"
echo "cuda,8,32,128,1,32768,4,per_channel+hadamard,per_token+hadamard,1800.000,2.0,1,,,8e-05,3e-04,,,620.0"
"""


def test_prefill_beside_torch(packed):
    pack(packed, pmkvq_run=PREFILL)
    fake = packed / "torch-attention"
    fake.write_text("#!/bin/sh\necho matmul,1500.0,775\necho flash,3150.0,350\n")
    fake.chmod(0o755)
    result, _ = run(packed, "--torch")
    assert result.returncode == 0, result.stderr
    # A backend that torch lacks is a dash.
    assert result.stdout.splitlines()[-1].split() == ["4", "1800.0", "620.0", "0.800", "-", "1.750"]
    fake.write_text("#!/bin/sh\nexit 1\n")
    result, _ = run(packed, "--torch")
    assert result.returncode == 1 and "PyTorch was not measured" in result.stderr


SANITIZER = """#!/bin/sh
echo "$@" >>"$CALLS"
case "$*" in
  *memcheck*QueriesPast*|*memcheck*BlockPast*) echo "========= Invalid __global__ read of size 16 bytes"; exit 99 ;;
  *racecheck*Planted*) [ -n "$BLIND" ] || { echo "========= Error: Race reported between"; exit 99; } ;;
  *synccheck*) [ -z "$SLOW" ] || exec sleep 60 ;;
esac
echo "[       OK ] Attention/Sanitized.OneThreadBlock/4 (7 ms)"
"""


@pytest.fixture
def sanitized(packed, monkeypatch):
    pack(packed, pmkvq_run=TOOL, pmkvq_attention_tests="#!/bin/sh\n")
    tool = packed.parent / "compute-sanitizer"
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    monkeypatch.setenv("COMPUTE_SANITIZER", str(tool))
    return packed


def test_a_clean_sanitizer_has_seen_what_was_planted(sanitized):
    result, calls = run(sanitized, "--sanitize")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(calls) == 12
    assert all("sees the planted" in line for line in lines[:3])
    assert all("1 tests clean" in line for line in lines[3:])
    assert calls[11].startswith("--tool racecheck") and calls[11].endswith("--gtest_filter=*Sanitized.OneThreadBlock/*")


def test_a_sanitizer_that_is_blind_or_hangs_fails(sanitized, monkeypatch):
    monkeypatch.setenv("BLIND", "1")
    monkeypatch.setenv("SLOW", "1")
    monkeypatch.setenv("SANITIZE_SECONDS", "1")
    result, _ = run(sanitized, "--sanitize")
    assert result.returncode == 1
    assert "does NOT see the planted RaceInSharedMemory" in result.stdout
    assert "synccheck: no end within 1 s" in result.stdout


def test_no_sanitizer_is_an_error_that_says_what_to_do(sanitized, monkeypatch):
    monkeypatch.setenv("COMPUTE_SANITIZER", "/nonexistent")
    result, _ = run(sanitized, "--sanitize")
    assert result.returncode == 1
    assert "COMPUTE_SANITIZER" in result.stderr


def test_a_folder_without_tests_says_who_makes_it(packed):
    result, _ = run(packed, "--tests")
    assert result.returncode == 1
    assert "tools.tar.xz lacks pmkvq-attention-tests" in result.stderr and "script/pack-gpu" in result.stderr
    (packed / "tools.tar.xz").unlink()
    result, _ = run(packed)
    assert result.returncode == 1
    assert "tools.tar.xz is missing" in result.stderr and "script/pack-gpu" in result.stderr


def test_python_unpacks_where_there_is_no_xz(packed, monkeypatch):
    tools = packed.parent / "bin"
    tools.mkdir()
    for name in ("awk", "bash", "cat", "chmod", "dirname", "mkdir", "mktemp", "rm", "sed", "sh", "tail", "tar"):
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setenv("PATH", str(tools))
    result, _ = run(packed, "--levels=2")
    assert result.returncode == 0, result.stderr
    assert "NVIDIA Test" in result.stdout


def test_every_line_of_the_shapes_is_understood(packed):
    """By the tool's own parser: an error would come before that of the missing driver."""
    for line in (ROOT / "script" / "gpu-shapes").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        result = subprocess.run([tool(), "--bench=attention", "--device=cuda", *line.removeprefix("quick:").split()],
                                capture_output=True, encoding="utf-8", timeout=60,
                                env={**os.environ, "PMKVQ_CUDA_LIBRARY": "/nonexistent.so"})
        assert "no CUDA driver" in result.stderr, line
