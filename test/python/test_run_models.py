"""pmkvq-run on small random Llama and Qwen2 models, against numpy; and on GGUF files."""

import re

import numpy as np
import pytest

import reference_model
import tiny_gguf
from pmkvq import smollm2
from pmkvq.gguf_import import convert
from pmkvq.runner import RunError
from pmkvq_run import generate, ids, run

# In units of the spread of the logits. Rounding K and V to bf16 in the numpy
# model moves no logit of these models by more than 0.021, so the token that
# pmkvq takes lies at most twice that below numpy's best. A wrong permutation
# puts it 0.2 to 5.6 below.
LOGIT_TOLERANCE = 2 * 0.021


@pytest.fixture(scope="session")
def smollm():
    """The GGUF file of the demo, fetched if it is not there (93 MB)."""
    try:
        return smollm2.fetch()
    except RunError as error:
        pytest.skip(f"no SmolLM2: {error}")


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_tokens_are_numpys(tmp_path, architecture, tied):
    weights = tiny_gguf.write(tmp_path / "m.gguf", architecture, tied)
    convert(tmp_path / "m.gguf", tmp_path / "model")
    prompt = [int(t) for t in np.random.default_rng(3).integers(2, len(tiny_gguf.TOKENS), 200)]
    (found,) = generate(tmp_path / "model", f"--prompt-tokens={ids(prompt)}", "--max-tokens=100").tokens
    logits = reference_model.logits(
        weights, prompt + found, tiny_gguf.HEADS, tiny_gguf.KV_HEADS, tiny_gguf.HEAD_DIM,
        tiny_gguf.ROPE_THETA, tiny_gguf.RMS_NORM_EPS, tiny_gguf.LAYERS)[len(prompt) - 1 : -1]
    short = logits.max(-1) - logits[np.arange(len(found)), found]
    assert short.max() <= LOGIT_TOLERANCE * logits.std()
    assert len(found) == 100 or found[-1] == 0


class TestGGUF:
    def test_same_tokens_as_the_folder_and_converted_once(self, tmp_path):
        tiny_gguf.write(tmp_path / "m.gguf")
        convert(tmp_path / "m.gguf", tmp_path / "model")
        arguments = ("--prompt=hello w", "--max-tokens=8")
        cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        first = generate(tmp_path / "m.gguf", *arguments, **cache)
        assert first.tokens == generate(tmp_path / "model", *arguments).tokens
        converted = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "pmkvq").rglob("*.safetensors")}
        assert len(converted) == 1
        # The second run converts nothing, and so needs no Python for token ids.
        again = generate(tmp_path / "m.gguf", "--prompt-tokens=5,6", "--max-tokens=8",
                         PMKVQ_PYTHON="/nonexistent/python", **cache)
        assert len(again.tokens[0]) > 0
        assert all(path.stat().st_mtime_ns == time for path, time in converted.items())

    def test_changed_file_is_converted_again(self, tmp_path):
        cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        tiny_gguf.write(tmp_path / "m.gguf", tied=True)
        first = generate(tmp_path / "m.gguf", "--prompt-tokens=5,6", "--max-tokens=8", **cache)
        tiny_gguf.write(tmp_path / "m.gguf", tied=False)
        second = generate(tmp_path / "m.gguf", "--prompt-tokens=5,6", "--max-tokens=8", **cache)
        assert first.tokens != second.tokens

    def test_text_of_random_tokens_is_never_broken(self, tmp_path):
        tiny_gguf.write(tmp_path / "m.gguf")
        result = run(tmp_path / "m.gguf", "--prompt=hello", "--max-tokens=40", "--output=text",
                     XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert result.returncode == 0, result.stderr


@pytest.mark.slow
class TestSmolLM2:
    def test_capital_of_france(self, smollm):
        result = run(smollm, "--prompt=What is the capital of France?", "--max-tokens=24", "--output=text")
        assert result.returncode == 0, result.stderr
        assert re.search(r"\bParis\b", result.stdout)

    def test_under_a_budget(self, smollm):
        output = generate(smollm, "--prompt=Write a long story about a lighthouse.", "--max-tokens=400",
                          "--kv-bits=4")
        assert output.summary["kv_bytes_peak"] <= output.summary["kv_budget_bytes"]
