"""pmkvq-run --key-scales: the calibration's scales of key channels go into weights, and nothing else changes."""

import re

import numpy as np
import pytest

import random_models
from pmkvq import calibration_file
from pmkvq.checkpoint import Checkpoint
from pmkvq.divergence import read_logits
from pmkvq_run import fails, generate, ids, programs, run
from test_run_architectures import TOLERANCE

CASES = random_models.cases()
# Projections with and without biases, norms, projections in one tensor; all have two queries a kv head.
KINDS = ["llama-tied", "qwen2", "qwen3", "phi3"]
KV_HEADS, HEAD_DIM, LAYERS = 2, 64, 2


def calibration(folder, exponents):
    """A file with these exponents, [layers, kv_heads, head_dim]."""
    checkpoint = Checkpoint(folder)
    part = {"clip": 0.8, "sensitivity": [0, 0, 0]}
    document = {
        "format": "pmkvq-calibration", "version": 1,
        "model": {"hash": checkpoint.fingerprint(), "layers": len(exponents), "kv_heads": len(exponents[0]),
                  "head_dim": len(exponents[0][0])},
        "settings": {"measure": "sensitivity", "key_format": "<per_channel, hadamard>",
                     "value_format": "<per_token, hadamard>"},
        "layers": [{"key": part, "value": part, "key_scale": {"exponents": np.asarray(layer).tolist()}}
                   for layer in exponents],
    }
    path = folder / "calibration.json"
    calibration_file.write(path, document)
    return path


def drawn(kind, most=13, layers=LAYERS, kv_heads=KV_HEADS, head_dim=HEAD_DIM):
    """Exponents of up to `most`, tied over the pairs that RoPE turns, and over heads where a norm takes them."""
    half = np.random.RandomState(11).randint(-most, most + 1, (layers, kv_heads, head_dim // 2))
    half = half[:, :1].repeat(kv_heads, 1) if kind == "qwen3" else half
    return np.concatenate((half, half), -1)


@pytest.fixture(params=KINDS)
def model(request, tmp_path):
    random_models.write(tmp_path, **CASES[request.param])
    return request.param, tmp_path


def logits(folder, *options):
    file = folder / "logits"
    result = run(folder, f"--prompt-tokens={ids(random_models.tokens())}", "--max-tokens=1", f"--logits={file}",
                 *options)
    assert result.returncode == 0, result.stderr
    return read_logits(file)


def test_a_folded_model_gives_the_same_logits_bit_by_bit(model):
    kind, folder = model
    plain = logits(folder, "--key-format=per_channel+plain")
    folded = logits(folder, "--key-format=per_channel+plain", "--key-scales",
                    f"--calibration={calibration(folder, drawn(kind))}")
    # Powers of two round nothing.
    assert np.array_equal(plain, folded)


def test_rotated_keys_give_the_same_logits_within_the_noise_of_bf16(model):
    kind, folder = model
    plain = logits(folder)
    folded = logits(folder, f"--calibration={calibration(folder, drawn(kind, most=1))}", "--key-scales")
    # A rotation mixes channels, so that bf16 rounds other numbers. By how much that may move a logit,
    # test_run_architectures.py says.
    assert not np.array_equal(plain, folded)
    assert np.abs(plain - folded).max() <= TOLERANCE * plain.std()


def test_which_weights_take_the_scales(model):
    kind, folder = model
    exponents = drawn(kind)
    file = calibration(folder, exponents)
    text = run(folder, f"--calibration={file}", "--key-scales", "--emit=import").stdout
    found = {name: [int(x) for x in scales.split(",")] for name, scales in re.findall(
        r"pmkvq.weight @layers\.1\.(\S+) .*? scale_rows \[(.*?)\]", text)}
    keys = -exponents[1]
    queries = exponents[1].repeat(2, 0)
    if kind == "qwen3":
        wanted = {"self_attn.q_norm": exponents[1][0], "self_attn.k_norm": keys[0]}
    else:
        wanted = {"self_attn.q_proj": queries, "self_attn.k_proj": keys}
        if any(name.endswith("q_proj.bias") for name in CASES[kind]["shapes"]):
            wanted |= {"self_attn.q_proj.bias": queries, "self_attn.k_proj.bias": keys}
    assert found == {name: np.ravel(values).tolist() for name, values in wanted.items()}
    assert "scale_rows" not in run(folder, f"--calibration={file}", "--emit=import").stdout


def test_scales_that_a_norm_cannot_take_are_refused(tmp_path):
    random_models.write(tmp_path, **CASES["qwen3"])
    file = calibration(tmp_path, drawn("llama"))
    fails(tmp_path, "--prompt-tokens=1,2,3", "--max-tokens=1", f"--calibration={file}",
          words=["layers[0].key_scale.exponents: expected", "and in all lists"])


def test_attention_over_scaled_keys_is_right(reasoner, tmp_path):
    """With pages: what is read back is what was stored, and programs are still solved."""
    file = tmp_path / "model"
    file.mkdir()
    for path in reasoner.iterdir():
        (file / path.name).symlink_to(path)
    scaled = calibration(file, drawn("qwen2", 1, 6, 2, 128))
    prompt = programs(64)[0]["prompt"]
    result = run(file, f"--prompt-tokens={ids(prompt)}", "--max-tokens=8", f"--calibration={scaled}", "--key-scales",
                 "--schedule=none", "--floor=4", "--check")
    assert result.returncode == 0, result.stderr


def test_a_scale_repairs_keys_that_one_channel_spoils(reasoner, tmp_path):
    """A model whose key channels differ by 2 ** 6 is, scaled, the model that it was made from: in codes, too."""
    folder = tmp_path / "model"
    folder.mkdir()
    checkpoint = Checkpoint(reasoner)
    (folder / "config.json").write_text((reasoner / "config.json").read_text())
    exponents = np.zeros((6, 2, 128), np.int64)
    exponents[:, :, [3, 67]] = 6
    factor = {"k_proj": np.exp2(exponents[0]).reshape(-1), "q_proj": np.exp2(-exponents[0]).repeat(3, 0).reshape(-1)}

    def values(name):
        x = checkpoint.tensors[name].float32()
        scale = factor.get(name.split(".")[-2])
        return x if scale is None else (x.T * scale.astype(np.float32)).T

    from pmkvq.safetensors_file import write_bf16
    write_bf16(folder / "model.safetensors", {name: t.shape for name, t in checkpoint.tensors.items()}, values)
    options = (f"--prompt-tokens={ids(programs(64)[0]['prompt'])}", "--max-tokens=60", "--schedule=none", "--floor=2")
    wanted = generate(reasoner, *options).tokens
    file = calibration(folder, exponents)
    assert generate(folder, *options, f"--calibration={file}", "--key-scales").tokens == wanted
    assert generate(folder, *options).tokens != wanted
