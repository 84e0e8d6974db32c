"""pmkvq-run --emit, --dump-stages' index, --help and --completion."""

import platform
import re
import subprocess

import pytest

from pmkvq_run import fails, run

STAGES = ("plan", "tile", "fold", "vector", "buffers", "host", "llvm")
TOKENS = ("--prompt-tokens=0,319,650", "--max-tokens=2")


def emit(model, form, *options):
    result = run(model, f"--emit={form}", *options)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


class TestEmit:
    def test_import_and_stages(self, reasoner):
        assert "pmkvq.attend " in emit(reasoner, "import")
        assert "schedule <page, key_floor = 4, value_floor = 2>" in emit(
            reasoner, "mlir:plan", "--schedule=page", "--key-floor=4")
        assert "pmkvq.softmax_update " in emit(reasoner, "mlir:tile", "--floor=2")
        last = emit(reasoner, "mlir")
        assert "pmkvq.launch" not in last and "llvm.func @pmkvq_step" in last

    def test_last_stage_is_the_default(self, reasoner):
        assert emit(reasoner, "mlir") == emit(reasoner, "mlir:llvm")

    def test_llvm_and_assembly(self, reasoner):
        ir = emit(reasoner, "llvm", "--floor=4")
        assert re.search(r"^define .*@pmkvq_step\(", ir, re.MULTILINE)
        assert "target-cpu" in ir
        assembly = emit(reasoner, "asm", "--floor=4")
        assert re.search(r"^pmkvq_step:", assembly, re.MULTILINE)
        # Kernels for the levels that can occur, and no others.
        for text in (ir, assembly):
            assert "pmkvq_requantize_key_8_4" in text and "pmkvq_requantize_key_4_2" not in text

    @pytest.mark.skipif(platform.machine() != "x86_64", reason="names instructions of x86")
    @pytest.mark.parametrize("cpu, product, absent", [
        ("generic", "pmaddwd", "vpmaddwd"), ("avx2", "vpmaddwd", "vpdpwssd"), ("avx512", "vpdpwssd", "vpmovzxbd")])
    def test_pairs_of_codes_are_one_instruction(self, reasoner, cpu, product, absent):
        """Also for a CPU that is not here."""
        assembly = emit(reasoner, "asm", "--floor=4", f"--cpu={cpu}")
        attend = assembly[assembly.index("\nattend_0:"):assembly.index("\nmerge_0:")]
        words = set(attend.split())
        assert product in words and absent not in words
        # One shift of a vector gives the high bytes of all its fields; nothing converts codes.
        assert "vpmovzxbd" not in words and "prefetcht1" in words

    def test_a_budget_may_follow_from_prompts(self, reasoner):
        # Too short for pages, so bits an element cost nothing.
        text = emit(reasoner, "mlir:plan", *TOKENS, "--kv-bits=4")
        assert "budget" in text

    def test_file(self, reasoner, tmp_path):
        file = tmp_path / "step.mlir"
        assert emit(reasoner, "import", "-o", file) == ""
        assert file.read_text() == emit(reasoner, "import")

    @pytest.mark.parametrize("form", ["", "mlir:", "mlir:no", "import:tile", "llvm:tile", "MLIR", "ptx"])
    def test_unknown_form(self, reasoner, tmp_path, form):
        fails(reasoner, f"--emit={form}", "-o", tmp_path / "x", words=["--emit", "mlir:tile"])
        assert list(tmp_path.iterdir()) == []

    def test_file_that_cannot_be(self, reasoner, tmp_path):
        (tmp_path / "file").touch()
        fails(reasoner, "--emit=import", "-o", tmp_path / "file" / "x", words=[tmp_path / "file"])
        fails(reasoner, "--emit=import", "-o", tmp_path, words=[tmp_path])
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_a_failure_leaves_the_old_file(self, tmp_path):
        file = tmp_path / "old"
        file.write_text("old")
        fails(tmp_path / "no-model", "--emit=asm", "-o", file)
        assert file.read_text() == "old"

    @pytest.mark.parametrize("options, words", [
        (("-o", "x", *TOKENS), ["--emit", "-o"]), (("--emit=asm", "-o", ""), ["-o"]),
        (("--emit=asm", "--kv-bits=3"), ["--kv-bits"]), (("--emit=asm", "--floor=5"), ["--floor"]),
        (("--emit=asm", "--key-format=nothing"), ["--key-format"]),
        (("--emit=asm", "--prompt-tokens=1"), ["--max-tokens"]), (("--emit=asm", "--max-tokens=1"), ["--prompt"]),
        (("--emit=asm", *TOKENS, "--kv-budget=1000"), ["bytes are missing"]),
        (("--emit=import", "--dump-stages=x"), ["--dump-stages"])])
    def test_refused(self, reasoner, tmp_path, monkeypatch, options, words):
        monkeypatch.chdir(tmp_path)
        fails(reasoner, *options, words=words)
        assert list(tmp_path.iterdir()) == []


def test_index_of_dumped_stages(reasoner, tmp_path):
    folder = tmp_path / "stages"
    emit(reasoner, "mlir", f"--dump-stages={folder}")
    index = (folder / "index.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in index.splitlines() if line.startswith("| [")]
    names = [re.match(r"\[(.*)\]\(\1\)$", row[0])[1] for row in rows]
    assert names == [f"{i:02}-{name}.mlir" for i, name in enumerate(("import", *STAGES))]
    assert sorted(names) == sorted(path.name for path in folder.glob("*.mlir"))
    for name, (_, summary, lines, ops, dialects) in zip(names, rows, strict=True):
        text = (folder / name).read_text()
        assert summary and int(lines) == text.count("\n")
        for entry in ops.split(", "):
            assert f"pmkvq.{entry.split()[0]}" in text
        assert "builtin " in dialects
    assert "attend 6" in rows[0][3] and "softmax_update" in rows[2][3] and "vector" in rows[4][4]
    # Emitting an earlier stage stops there.
    emit(reasoner, "mlir:tile", f"--dump-stages={tmp_path / 'few'}")
    assert sorted(path.name for path in (tmp_path / "few").iterdir()) == [*names[:3], "index.md"]


class TestHelp:
    def options(self):
        return re.findall(r"^  (--?[a-z-]+)", run("--help").stdout, re.MULTILINE)

    def test_help_fits_a_terminal_and_shows_examples(self):
        result = run("--help")
        assert result.returncode == 0 and result.stderr == ""
        assert max(map(len, result.stdout.splitlines())) <= 80
        assert result.stdout.count("Example:") >= 4
        assert len(set(self.options())) == len(self.options()) >= 20
        assert run("-h").stdout == result.stdout

    def test_every_option_of_an_example_exists(self):
        text = run("--help").stdout
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*(?=[\s=.)])", text):
            assert option in self.options()

    def test_no_options_of_libraries(self):
        fails("--help-hidden", words=["--help-hidden"])
        fails("--version", words=["--version"])

    def complete(self, *words):
        """What bash offers for the last of the words, in the way it splits them."""
        quoted = " ".join(f"'{word}'" for word in words)
        script = f"""
{run("--completion=bash").stdout}
COMP_WORDS=(pmkvq-run {quoted}) COMP_CWORD={len(words)}
_pmkvq_run
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert result.stderr == ""
        return result.stdout.split()

    def test_completion_lists_all_options(self):
        assert [option.rstrip("=") for option in self.complete("model", "-")] == self.options()
        assert "--kv-budget=" in self.complete("--kv") and "--explain" in self.complete("--exp")

    def test_completion_lists_values(self):
        assert self.complete("--schedule", "=", "n") == ["none"]
        assert self.complete("--key-floor", "=") == ["2", "4", "8", "16"]
        assert self.complete("model", "--emit", "=", "ll") == ["llvm"]
        assert self.complete("--emit", "=", "mlir", ":", "v") == ["vector"]
        assert self.complete("--emit", "=", "mlir", ":") == list(STAGES)

    def test_completion_leaves_files_to_bash(self):
        assert self.complete("mod") == [] == self.complete("--prompts", "=", "b")

    @pytest.mark.parametrize("shell", ["", "fish", "bash "])
    def test_unknown_shell(self, shell):
        fails(f"--completion={shell}", words=["--completion", "bash"])
