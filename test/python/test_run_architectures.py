"""pmkvq-run on small random models of every architecture, against transformers."""

import numpy as np
import pytest

import random_models
from pmkvq.divergence import read_logits
from pmkvq_run import generate, ids, run

# In units of the spread of the logits. Rounding K and V to bf16 in transformers
# moves no logit of these models by more than 0.036 (record_random_models.py
# prints it); the other half is for another order of sums, which rounds some
# elements the other way.
TOLERANCE = 2 * 0.036

CASES = random_models.cases()


def distance(logits, name):
    """The largest difference from what transformers gives the case, in spreads."""
    expected = random_models.logits(name)
    return np.abs(logits - expected).max() / expected.std()


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(tmp_path, name):
    random_models.write(tmp_path, **CASES[name])
    result = run(tmp_path, f"--prompt-tokens={ids(random_models.tokens())}", "--max-tokens=1",
                 f"--logits={tmp_path / 'logits'}")
    assert result.returncode == 0, result.stderr
    assert distance(read_logits(tmp_path / "logits"), name) <= TOLERANCE


@pytest.mark.parametrize("name", ["phi3", "llama-head-dim-80", "phi3-head-dim-96", "qwen3-head-dim-256"])
def test_attention_over_pages_at_every_head_dim(tmp_path, name):
    case = CASES[name]
    random_models.write(tmp_path, {**case["config"], "max_position_embeddings": 1024}, case["shapes"])
    prompt = [i * 7 % random_models.VOCAB for i in range(700)]
    output = generate(tmp_path, f"--prompt-tokens={ids(prompt)}", "--max-tokens=8", "--kv-bits=6", "--check")
    assert len([count for count in output.summary["levels"]["key"].values() if count]) > 1


def test_kinds_of_rope_differ():
    # Else the test above would not tell one from another: their weights are equal.
    kinds = ["llama-tied", "llama-linear", "llama-llama3", "llama-yarn"]
    for one in kinds:
        for other in kinds:
            assert one == other or distance(random_models.logits(one), other) >= 8 * TOLERANCE
