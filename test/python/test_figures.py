"""What script/figures measures with, on logits whose answer is known."""

import math
import subprocess
import sys

import numpy as np
import pytest

from pmkvq import figures_llamacpp, figures_smollm2
from pmkvq.divergence import Divergence, diverge, read_logits
from pmkvq.errors import FileError
from pmkvq_run import generate, ids


def test_equal_logits_do_not_diverge():
    logits = np.random.default_rng(0).normal(size=(120, 30)).astype(np.float32)
    # A shift of all logits of a position is no other distribution; sums of 30
    # doubles stay within 2^-40.
    found = diverge(logits, logits + np.float32(8))
    assert found.positions == 120 and found.same_top == 1
    assert abs(found.kl) < 1e-5
    assert diverge(logits, logits).kl == 0


def test_divergence_of_known_distributions():
    # p = (1/2, 1/2), q = (1/4, 3/4): KL(p || q) = ln(2) - ln(3)/2, in this direction only.
    p, q = np.log([[0.5, 0.5]] * 60), np.log([[0.25, 0.75]] * 60)
    assert diverge(p, q).kl == pytest.approx(math.log(2) - math.log(3) / 2)
    assert diverge(q, p).kl == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_top_tokens_are_counted_by_position():
    expected = np.eye(4, dtype=np.float32)
    actual = expected.copy()
    actual[2] = [0, 0, 0, 9]
    assert diverge(expected, actual).same_top == 0.75


def test_logits_of_pmkvq_run_are_read_as_written(reasoner, tmp_path):
    prompt, file = [0, 319, 650, 20], tmp_path / "l.safetensors"
    (tokens,) = generate(reasoner, f"--prompt-tokens={ids(prompt)}", "--max-tokens=1", f"--logits={file}").tokens
    logits = read_logits(file)
    assert logits.shape == (4, 1056) and logits.dtype == np.float32
    assert tokens == [logits[-1].argmax()]
    with pytest.raises(FileError, match="logits.1"):
        read_logits(file, prompt=1)


@pytest.mark.parametrize("data", [b"", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 8])
def test_a_file_that_holds_no_logits(tmp_path, data):
    (tmp_path / "l").write_bytes(data)
    with pytest.raises(FileError, match="not a file of pmkvq-run"):
        read_logits(tmp_path / "l")


class TestTargets:
    SUMMARY = {"kv_bytes_peak": 1000, "kv_budget_bytes": 1000}
    MET = (Divergence(2e-4, 0.99, 2000), Divergence(0.015, 0.95, 2000))

    def test_met_at_the_limit(self, capsys):
        assert figures_smollm2.report(*self.MET, self.SUMMARY)
        assert "MISSED" not in capsys.readouterr().out

    @pytest.mark.parametrize("which, found", [
        (0, Divergence(2.01e-4, 1, 2000)), (0, Divergence(0, 0.9899, 2000)), (0, Divergence(math.nan, 1, 2000)),
        (1, Divergence(0.01501, 1, 2000)), (1, Divergence(0, 0.9499, 2000))])
    def test_each_can_be_missed(self, which, found, capsys):
        both = list(self.MET)
        both[which] = found
        assert not figures_smollm2.report(*both, self.SUMMARY)
        assert capsys.readouterr().out.count("MISSED") == 1

    def test_a_byte_over_the_budget(self, capsys):
        assert not figures_smollm2.report(*self.MET, {**self.SUMMARY, "kv_bytes_peak": 1001})


class TestBesideLlamaCpp:
    OURS = {bits: figures_llamacpp.Timing(2, 1) for bits in (16, 8, 4, 2)}
    THEIRS = {"f16": figures_llamacpp.Timing(12, 1), "q4_0": figures_llamacpp.Timing(40, 3)}

    def test_met_at_the_limit(self, capsys):
        assert figures_llamacpp.report(self.OURS, self.THEIRS)
        assert "MISSED" not in capsys.readouterr().out

    @pytest.mark.parametrize("cache, timing, missed", [
        ("f16", (11.9, 1), 2), ("f16", (12, 0.9), 1), ("q4_0", (39.9, 3), 1), ("q4_0", (40, 2.9), 1)])
    def test_each_can_be_missed(self, cache, timing, missed, capsys):
        assert not figures_llamacpp.report(self.OURS, {**self.THEIRS, cache: figures_llamacpp.Timing(*timing)})
        assert capsys.readouterr().out.count("MISSED") == missed


def test_an_unknown_figure_is_refused(python_environment):
    result = subprocess.run([sys.executable, "-m", "pmkvq.figures", "weather"], capture_output=True, text=True,
                            env=python_environment)
    assert result.returncode == 2 and "smollm2" in result.stderr


def test_torch_is_only_loaded_for_its_figure(python_environment):
    code = "import sys, pmkvq.figures, pmkvq.demo; sys.exit(bool({'torch', 'transformers', 'llama_cpp'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=python_environment).returncode == 0
