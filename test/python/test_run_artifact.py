"""pmkvq-run --emit=artifact and --load; the tool without the compiler.

test/unit/RuntimeArtifactTest.cpp damages artifacts in every way.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pmkvq import calibration_file
from pmkvq.artifact import read_sections
from pmkvq.checkpoint import Checkpoint
from pmkvq_run import BUILD, ROOT, fails, generate, ids, programs, run, write_prompts

# script/test builds it and sets the variable: a tool that is missing then fails the tests.
LOADER_BUILD = os.environ.get("PMKVQ_LOADER_BUILD")
LOADER = Path(LOADER_BUILD or ROOT / "build-loader") / "bin" / "pmkvq-run"
TOKENS = ("--prompt-tokens=0,319,650", "--max-tokens=2")


def emit(model, file, *options):
    result = run(model, "--emit=artifact", "-o", file, *options)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return file


@pytest.fixture(scope="module")
def artifact(reasoner, tmp_path_factory):
    """The reasoner with the defaults of a budget."""
    return emit(reasoner, tmp_path_factory.mktemp("artifact") / "reasoner.pmkvq", "--schedule=page")


@pytest.fixture(scope="module")
def cpu(artifact):
    """The CPU that it was made for."""
    return description(artifact)["target"]["cpu"]


def header(file):
    with open(file, "rb") as stream:
        return json.loads(stream.read(int.from_bytes(stream.read(8), "little")))


def description(file):
    return json.loads(header(file)["__metadata__"]["pmkvq"])


def logits(file):
    """The bytes of the tensors of a file of --logits."""
    return file.read_bytes()


def write_calibration(reasoner, folder, measure, layers):
    """A calibration of the reasoner that says this of its six layers."""
    calibration_file.write(folder / "c.json", {
        "format": "pmkvq-calibration", "version": 1,
        "model": {"hash": Checkpoint(reasoner).fingerprint(), "layers": 6, "kv_heads": 2, "head_dim": 128},
        "settings": {"measure": measure, "key_format": "<per_channel, hadamard>",
                     "value_format": "<per_token, hadamard>"},
        "layers": layers})
    return folder / "c.json"


class TestSameResults:
    """What a loaded artifact computes is what the compiled model does, bit for bit."""

    def test_16_programs(self, reasoner, artifact, tmp_path):
        chosen = programs(16)
        options = (f"--prompts={write_prompts(tmp_path / 'p.jsonl', [p['prompt'] for p in chosen])}",
                   f"--max-tokens={len(chosen[0]['answer'])}", "--kv-bits=3")
        loaded = generate(f"--load={artifact}", *options)
        compiled = generate(reasoner, *options, "--schedule=page")
        assert loaded.tokens == compiled.tokens == [p["answer"] for p in chosen]
        for key in ("kv_bytes_peak", "kv_budget_bytes", "levels"):
            assert loaded.summary[key] == compiled.summary[key]

    @pytest.mark.parametrize("options", [
        ("--schedule=page",), (), ("--schedule=layer", "--floor=8", "--key-format=paper", "--value-format=paper"),
        ("--schedule=none", "--key-floor=4", "--value-floor=2", "--key-format=per_channel+plain+clip=0.85"),
        ("--schedule=keys_last", "--layer-floors=0-1:8,5:4+2")])
    def test_logits(self, reasoner, cpu, tmp_path, options):
        file = emit(reasoner, tmp_path / "m.pmkvq", *options)
        prompt = (f"--prompt-tokens={ids(programs(64)[0]['prompt'])}", "--max-tokens=2")
        budget = () if "--schedule=none" in options or not options else ("--kv-bits=9",)
        generate(f"--load={file}", *prompt, *budget, f"--logits={tmp_path / 'loaded'}")
        generate(reasoner, *prompt, *budget, *options, f"--cpu={cpu}", f"--logits={tmp_path / 'compiled'}")
        assert logits(tmp_path / "loaded") == logits(tmp_path / "compiled")

    def test_keys_that_fall_with_feedback(self, reasoner, cpu, tmp_path):
        part = {"clip": 0.8, "sensitivity": [0, 0, 1]}
        layer = {"key": part, "value": part, "query_squares": [[1.0, 16.0] * 64, [4.0, 1.0, 1.0, 1.0] * 32]}
        calibration = write_calibration(reasoner, tmp_path, "sensitivity", [layer] * 6)
        options = (f"--calibration={calibration}", "--schedule=none", "--floor=2")
        file = emit(reasoner, tmp_path / "m.pmkvq", *options)
        assert description(file)["plan"]["key_format"] == "per_channel+hadamard+feedback"
        prompt = (f"--prompt-tokens={ids(programs(64)[0]['prompt'])}", "--max-tokens=2")
        generate(f"--load={file}", *prompt, "--key-format=per_channel", f"--logits={tmp_path / 'loaded'}")
        for rounding, same in (("feedback", True), ("nearest", False)):
            generate(reasoner, *prompt, *options, f"--rounding={rounding}", f"--cpu={cpu}",
                     f"--logits={tmp_path / rounding}")
            assert (logits(tmp_path / "loaded") == logits(tmp_path / rounding)) == same

    def test_pages_that_fall_by_losses(self, reasoner, cpu, tmp_path):
        """The losses are in the artifact: the same pages fall as in a compiled run, and others than without."""
        part = {"clip": 0.8, "kl": [0, 1e-4, 1e-3]}
        layers = [{"key": {**part, "kl": [0, 1e-4, 1e-3 * 10**(i % 3)]}, "value": part,
                   "page_shares": [[1.0, 0.1], [0.2, 0.2]]} for i in range(6)]
        calibration = write_calibration(reasoner, tmp_path, "kl", layers)
        file = emit(reasoner, tmp_path / "m.pmkvq", f"--calibration={calibration}", "--floor=2")
        assert description(file)["plan"]["schedule"] == "least_loss"
        prompt = (f"--prompt-tokens={ids(programs(64)[0]['prompt'])}", "--max-tokens=2", "--kv-bits=4")
        loaded = generate(f"--load={file}", *prompt, f"--logits={tmp_path / 'loaded'}")
        compiled = generate(reasoner, *prompt, f"--calibration={calibration}", f"--cpu={cpu}",
                            f"--logits={tmp_path / 'compiled'}")
        assert logits(tmp_path / "loaded") == logits(tmp_path / "compiled")
        assert loaded.summary["levels"] == compiled.summary["levels"]
        other = generate(reasoner, *prompt, f"--calibration={calibration}", "--schedule=keys_last", f"--cpu={cpu}")
        assert other.summary["levels"] != compiled.summary["levels"]

    def test_any_cpu(self, reasoner, tmp_path):
        """Halves are converted by functions of the loader's."""
        file = emit(reasoner, tmp_path / "m.pmkvq", "--cpu=generic", "--floor=2")
        prompt = (f"--prompt-tokens={ids(programs(64)[0]['prompt'])}", "--max-tokens=2", "--kv-bits=2.5")
        generate(f"--load={file}", *prompt, f"--logits={tmp_path / 'loaded'}")
        generate(reasoner, *prompt, "--cpu=generic", f"--logits={tmp_path / 'compiled'}")
        assert logits(tmp_path / "loaded") == logits(tmp_path / "compiled")

    def test_text(self, artifact, reasoner):
        options = ("--prompt=a=3", "--max-tokens=4", "--output=text")
        loaded, compiled = run(f"--load={artifact}", *options), run(reasoner, *options)
        assert loaded.returncode == 0, loaded.stderr
        assert loaded.stdout == compiled.stdout != ""


class TestBudget:
    def test_an_artifacts_own_holds_unless_another_is_given(self, reasoner, tmp_path):
        prompt = (f"--prompt-tokens={ids(programs(64)[0]['prompt'])}", "--max-tokens=20")
        file = emit(reasoner, tmp_path / "bytes.pmkvq", "--kv-budget=2MiB")
        assert generate(f"--load={file}", *prompt).summary["kv_budget_bytes"] == 2 << 20
        assert generate(f"--load={file}", *prompt, "--kv-budget=3MiB").summary["kv_budget_bytes"] == 3 << 20
        file = emit(reasoner, tmp_path / "bits.pmkvq", "--kv-bits=4")
        bits = generate(f"--load={file}", *prompt).summary["kv_budget_bytes"]
        assert bits == generate(reasoner, *prompt, "--kv-bits=4").summary["kv_budget_bytes"]

    def test_too_small(self, artifact):
        assert "bytes are missing" in fails(f"--load={artifact}", *TOKENS, "--kv-budget=1000")


class TestRefused:
    @pytest.mark.parametrize("option, words", [
        ("--schedule=layer", ["--schedule", "'page'", "'layer'"]),
        ("--floor=4", ["--floor", "'2'", "'4'"]),
        ("--value-floor=8", ["--value-floor", "'2'", "'8'"]),
        ("--key-format=per_token", ["--key-format", "per_channel+hadamard", "'per_token'"]),
        ("--value-format=per_token+plain", ["--value-format", "per_token+hadamard", "plain"]),
        ("--value-format=per_token+clip=0.5", ["--value-format", "0.5"]),
        ("--schedule=never", ["--schedule", "page or", "'never'"]),
        ("--emit=asm", ["--emit", "--load"]), ("--check", ["--check", "--load"]),
        ("--bench=decode", ["--bench", "--load"]), ("--explain", ["--explain"]),
        ("--calibration=x", ["--calibration"]), ("--cache-device=cuda", ["--cache-device"]),
        ("--prompt-tokens=5000", ["--prompt-tokens", "twice"]), ("model", ["MODEL", "'model'"])])
    def test_options(self, artifact, option, words):
        fails(f"--load={artifact}", *TOKENS, option, words=words)

    def test_another_cpu(self, artifact, cpu):
        other = "generic" if cpu != "generic" else "avx2"
        fails(f"--load={artifact}", *TOKENS, f"--cpu={other}", words=["--cpu", cpu, other])

    def test_the_artifacts_own_decisions_are_taken(self, artifact, cpu):
        generate(f"--load={artifact}", *TOKENS, "--schedule=page", "--floor=2", f"--cpu={cpu}",
                 "--key-format=per_channel", "--value-format=per_token+hadamard")

    def test_prompts(self, artifact):
        fails(f"--load={artifact}", "--prompt-tokens=5000", "--max-tokens=1", words=["token ids from 0 to", "5000"])
        fails(f"--load={artifact}", "--prompt-tokens=1", words=["--max-tokens"])

    def test_files(self, artifact, tmp_path, reasoner):
        fails("--load=", *TOKENS, words=["--load"])
        fails(f"--load={tmp_path / 'none'}", *TOKENS, words=[tmp_path / "none", "No such file"])
        fails(f"--load={reasoner}", *TOKENS, words=["not a regular file"])
        fails(f"--load={reasoner / 'model-00001-of-00002.safetensors'}", *TOKENS, words=["__metadata__.format"])
        data = bytearray(artifact.read_bytes())
        data[-100] ^= 1
        (tmp_path / "damaged").write_bytes(data)
        fails(f"--load={tmp_path / 'damaged'}", *TOKENS, words=[tmp_path / "damaged", "section ", "hash"])


class TestEmit:
    def test_it_is_a_safetensors_file(self, artifact):
        """By the rules of that format: strings of metadata, tensors that cover the data."""
        entries = header(artifact)
        assert all(type(value) is str for value in entries.pop("__metadata__").values())
        about = description(artifact)
        assert {f"weight/{name}" for name in about["weights"]} <= entries.keys()
        assert {"program.mlir", "tokenizer/tokenizer.json", f"code/{about['target']['cpu']}"} <= entries.keys()
        assert about["hashes"].keys() == entries.keys()
        end, width = 0, {"BF16": 2, "U8": 1}
        for entry in sorted(entries.values(), key=lambda entry: entry["data_offsets"]):
            assert entry["data_offsets"] == [end, end + math.prod(entry["shape"]) * width[entry["dtype"]]]
            end = entry["data_offsets"][1]
        with open(artifact, "rb") as stream:
            begin = 8 + int.from_bytes(stream.read(8), "little")
        assert artifact.stat().st_size == begin + end
        # Weights are used where they lie.
        assert begin % 4096 == 0
        for name, entry in entries.items():
            assert name.startswith("padding/") or entry["data_offsets"][0] % 64 == 0

    def test_program_and_tokenizer_are_text(self, artifact, reasoner):
        assert b"pmkvq.attend" in read_sections(artifact, "program")[".mlir"]
        assert read_sections(artifact, "tokenizer/")["tokenizer.json"] == (reasoner / "tokenizer.json").read_bytes()

    def test_the_program_compiles_again(self, artifact, tmp_path):
        file = tmp_path / "program.mlir"
        file.write_bytes(read_sections(artifact, "program")[".mlir"])
        result = subprocess.run([BUILD / "bin" / "pmkvq-opt", file, "--pmkvq-stage-tile"], capture_output=True)
        assert result.returncode == 0, result.stderr

    def test_the_same_twice(self, artifact, reasoner, tmp_path):
        again = emit(reasoner, tmp_path / "again.pmkvq", "--schedule=page")
        assert again.read_bytes() == artifact.read_bytes()

    def test_places_that_cannot_be_written_are_refused_early(self, tmp_path):
        (tmp_path / "file").touch()
        # Before the model is looked for.
        for place in (tmp_path / "none" / "m.pmkvq", tmp_path, tmp_path / "file" / "m", "/dev/null"):
            message = fails(tmp_path / "no-model", "--emit=artifact", "-o", place, words=["-o", place])
            assert "no-model" not in message
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_a_failure_leaves_the_old_file(self, reasoner, tmp_path):
        file = tmp_path / "old"
        file.write_text("old")
        fails(tmp_path / "no-model", "--emit=artifact", "-o", file, words=["no-model"])
        fails(reasoner, "--emit=artifact", "-o", file, "--key-format=nothing", words=["--key-format"])
        assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]

    def test_refused(self, reasoner, tmp_path):
        fails(reasoner, "--emit=artifact", words=["-o", "--emit=artifact"])
        fails(reasoner, "--emit=artifact", "-o", tmp_path / "m", "--cpu=native", words=["--cpu", "avx2", "'native'"])
        assert list(tmp_path.iterdir()) == []

    def test_without_a_linker(self, reasoner, tmp_path):
        fails(reasoner, "--emit=artifact", "-o", tmp_path / "m", PATH=str(tmp_path), words=["linker", "ld.lld", "lld-22"])
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not LOADER_BUILD and not LOADER.exists(), reason=f"{LOADER} is not built: script/build --preset=loader")
class TestLoader:
    """pmkvq-run built without LLVM."""

    def run(self, *arguments):
        return subprocess.run([LOADER, *map(str, arguments)], capture_output=True, encoding="utf-8",
                              env={**os.environ, "PMKVQ_PYTHON": sys.executable}, timeout=600)

    def refused(self, *arguments):
        result = self.run(*arguments)
        assert result.returncode == 1 and result.stdout == "" and result.stderr.count("\n") == 1
        return result.stderr

    def test_it_needs_no_llvm(self):
        needed = subprocess.run(["readelf", "-d", LOADER], capture_output=True, text=True, check=True).stdout
        libraries = re.findall(r"NEEDED.*\[(.*)\]", needed)
        assert libraries and all(re.match(r"lib(c|m|dl|pthread|gcc_s)\.so|ld-linux", name) for name in libraries)
        assert LOADER.stat().st_size < 4 << 20

    def test_it_generates_what_the_other_does(self, artifact, reasoner, tmp_path):
        chosen = programs(16)[:4]
        options = (f"--prompts={write_prompts(tmp_path / 'p.jsonl', [p['prompt'] for p in chosen])}",
                   f"--max-tokens={len(chosen[0]['answer'])}", "--kv-bits=3", "--output=jsonl")
        result = self.run(f"--load={artifact}", *options)
        assert result.returncode == 0, result.stderr
        tokens = [json.loads(line)["tokens"] for line in result.stdout.splitlines()[:-1]]
        assert tokens == [p["answer"] for p in chosen]

    def test_text(self, artifact, reasoner):
        options = ("--prompt=a=3", "--max-tokens=4")
        assert self.run(f"--load={artifact}", *options).stdout == run(reasoner, *options).stdout != ""

    def test_refused(self, artifact, reasoner):
        assert "built without the compiler" in self.refused(reasoner, *TOKENS)
        assert "--load" in self.refused()
        assert "--emit" in self.refused(f"--load={artifact}", *TOKENS, "--emit=asm")
        assert "'layer'" in self.refused(f"--load={artifact}", *TOKENS, "--schedule=layer")
        assert "--nothing" in self.refused("--nothing")

    def test_help(self):
        text = self.run("--help").stdout
        assert "--load=FILE" in text and "--prompt=" in text
        for absent in ("--emit=import", "--bench=", "--schedule=", "--cpu="):
            assert absent not in text
        assert "--kv-bits=" in self.run("--completion=bash").stdout

    def test_it_starts_at_once(self, artifact):
        begin = time.monotonic()
        assert self.run(f"--load={artifact}", *TOKENS).returncode == 0
        assert time.monotonic() - begin < 2
