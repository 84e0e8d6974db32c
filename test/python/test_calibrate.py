"""python -m pmkvq calibrate: samples and bad inputs everywhere, whole runs where torch is installed."""

import dataclasses
import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pmkvq import calibrate, calibration_file, quantize, samples, sensitivity
from pmkvq.checkpoint import Checkpoint
from pmkvq.errors import FileError
from pmkvq.safetensors_file import write_bf16
from reference_model import logits

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None,
                                 reason="torch is installed on demand, by script/calibrate")
SIZES = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 64, "hidden": 96, "inner": 64, "vocab": 50}
CONFIG = {
    "model_type": "qwen2", "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 50,
    "max_position_embeddings": 400, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": True,
    "bos_token_id": 0,
}


def shapes():
    s = SIZES
    result = {"model.embed_tokens.weight": (s["vocab"], s["hidden"]), "model.norm.weight": (s["hidden"],)}
    for layer in range(s["layers"]):
        here = f"model.layers.{layer}."
        for name, heads in (("q", s["heads"]), ("k", s["kv_heads"]), ("v", s["kv_heads"])):
            result[f"{here}self_attn.{name}_proj.weight"] = (heads * 64, s["hidden"])
            result[f"{here}self_attn.{name}_proj.bias"] = (heads * 64,)
        result[here + "self_attn.o_proj.weight"] = (s["hidden"], s["heads"] * 64)
        for name in ("input_layernorm", "post_attention_layernorm"):
            result[f"{here}{name}.weight"] = (s["hidden"],)
        for name in ("gate", "up"):
            result[f"{here}mlp.{name}_proj.weight"] = (s["inner"], s["hidden"])
        result[here + "mlp.down_proj.weight"] = (s["hidden"], s["inner"])
    return result


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    random = np.random.RandomState(3)

    def weight(name):
        shape = shapes()[name]
        scale = 1 / np.sqrt(shape[-1]) if len(shape) == 2 else 0.2
        return (scale * random.standard_normal(shape) + (1 if "norm" in name else 0)).astype(np.float32)

    write_bf16(folder / "model.safetensors", shapes(), weight)
    return folder


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    random = np.random.RandomState(4)
    path.write_text("".join(json.dumps({"tokens": random.randint(0, 50, 300).tolist()}) + "\n" for _ in range(3)))
    return path


def run(model, data, output, *options):
    return calibrate.main([str(model), f"--data={data}", "-o", str(output), "--samples=3", *options])


# -- samples -------------------------------------------------------------------


def test_windows_of_a_text_do_not_overlap_while_there_are_enough():
    ids = list(range(1000))
    windows = samples.cut_text(ids, 10, 100, seed=1)
    assert sorted(x for window in windows for x in window) == ids
    assert windows == samples.cut_text(ids, 10, 100, seed=1) != samples.cut_text(ids, 10, 100, seed=2)
    more = samples.cut_text(ids, 12, 100, seed=1)
    assert more[:10] == windows and all(w == list(range(w[0], w[0] + 100)) for w in more)


def test_lines_of_token_ids_in_three_forms(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"tokens": [1, 2, 3]}\n{"prompt": [4], "answer": [5, 6]}\n\n[7, 8]\n')
    assert sorted(samples.read_tokens(path, 3, 2, 0).tokens) == [[1, 2], [4, 5], [7, 8]]


@pytest.mark.parametrize("text, message", [
    ("", "at least 3 samples, one a line, got 0 lines"),
    ("[1]\n[2]\n", "at least 3 samples, one a line, got 2 lines"),
    ("[1]\n{\n[3]\n", "line 2: not JSON"),
    ('[1]\n{"text": 3}\n[3]\n', "line 2: expected token ids"),
    ("[1]\n[true]\n[3]\n", "line 2: expected token ids"),
])
def test_bad_lines_are_named(text, message, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(FileError, match=message):
        samples.read_tokens(path, 3, 100, 0)


@pytest.mark.parametrize("tokens, message", [
    ([0] * 401, r"sample 0: expected at most 400 tokens \(max_position_embeddings\), got 401"),
    ([0] * 129, "at least 130 tokens"), ([0] * 199 + [50], "token ids below 50, got 50"),
])
def test_samples_that_the_model_does_not_take(tokens, message):
    with pytest.raises(FileError, match=message):
        samples.check(samples.Samples([tokens], "tokens", "x"), vocab=50, positions=400)


def test_no_samples():
    with pytest.raises(FileError, match="at least 1, got 0"):
        samples.check(samples.Samples([], "tokens", "x"), vocab=50, positions=400)


# -- the model's folder ---------------------------------------------------------


def test_a_fingerprint_tells_weights_apart(model):
    before = Checkpoint(model).fingerprint()
    assert before.startswith("sha256:") and before == Checkpoint(model).fingerprint()
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert Checkpoint(model).fingerprint() != before


def test_a_damaged_checkpoint_is_named(model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(FileError, match="tensor .*: expected offsets within"):
        Checkpoint(model)


# -- the command line -----------------------------------------------------------


def test_the_papers_options_mean_the_same():
    ours = calibrate.parse(["m", "--data=d", "--samples=512", "--tokens=2048", "--interpolation=4", "-o", "f"])
    theirs = calibrate.parse(["--model_path", "m", "--dataset_path", "d", "--n_samples", "512", "--seq_len", "2048",
                              "--effective_len", "8192", "--save_path", "f"])
    for name in ("model", "data", "samples", "tokens", "interpolation", "output"):
        assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize("arguments", [
    ["m", "-o", "f"], ["m", "--data=d", "--self=3", "-o", "f"], ["--data=d", "-o", "f"],
    ["m", "--data=d", "--samples=0", "-o", "f"], ["m", "--data=d", "--samples=\u00b2", "-o", "f"], ["m", "--data=d", "--interpolation=0", "-o", "f"],
])
def test_bad_command_lines_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        calibrate.parse(arguments)
    assert stop.value.code == 2 and "expected" in capsys.readouterr().err


# -- whole runs -----------------------------------------------------------------


@needs_torch
def test_a_run_writes_what_its_readers_take(model, data, tmp_path):
    out = tmp_path / "c.json"
    assert run(model, data, out) == 0
    document = calibration_file.read(out).document
    assert document["model"]["hash"] == Checkpoint(model).fingerprint()
    assert document["data"]["samples"] == 3
    for layer in document["layers"]:
        assert layer["key"]["sensitivity"] == sorted(layer["key"]["sensitivity"])
        assert len(layer["key_scale"]["maxima"]) == 2 and len(layer["key_scale"]["maxima"][0]) == 64
    assert calibration_file.read(out).query_squares().shape == (len(document["layers"]), 2, 64)
    assert calibration_file.read(out).page_shares().shape == (len(document["layers"]), 2, 2)
    assert not (tmp_path / "c.json.partial").exists()


@needs_torch
def test_squares_of_attention_by_the_age_of_pages(model):
    """Against a loop over queries and pages."""
    from pmkvq.torch_model import Model

    found, tokens = Model(Checkpoint(model)), np.random.RandomState(7).randint(0, 50, 420).tolist()
    _, layers = found.gradients(tokens)
    squares, counts = found.page_squares(layers[0], 16)
    q, k = layers[0].q.detach().double(), layers[0].k.detach().double()
    p = q @ k.repeat_interleave(found.heads // 2, 0).mT / found.head_dim**0.5
    expected, rows = np.zeros((2, 3)), np.zeros(3)
    for row in range(129, 420, 16):
        weights = p[:, row, :row + 1].softmax(-1).square().view(2, -1, row + 1).sum(1)
        pages = quantize.count_pages(row + 1)
        for page in range(pages):
            expected[:, pages - page - 1] += weights[:, 1 + 128 * page:129 + 128 * page].sum(-1).numpy()
            rows[pages - page - 1] += 1
    assert counts.tolist() == rows.tolist() == [19, 11, 3]
    np.testing.assert_allclose(squares.numpy(), expected, rtol=1e-4)
    short = found.page_squares(found.gradients(tokens[:100])[1][0], 16)
    assert short[0].shape == (2, 0) and short[1].shape == (0,)


def test_shares_of_pages_are_powers_of_their_age():
    queries = np.array([100, 80, 50, 20, 0])
    ages = np.arange(1, 6)
    # One head that looks back alike, one that falls as 1 / age squared, one that seems to look at old pages more.
    squares = queries * np.array([0.3 * ages**0.0, 0.2 * ages**-2.0, 0.1 * ages**1.0])
    shares = sensitivity.page_shares(squares, queries, 2)
    assert shares.shape == (3, 4)
    np.testing.assert_allclose(shares[0], shares[0, 0], rtol=1e-5)
    np.testing.assert_allclose(shares[1], shares[1, 0] * ages[:4]**-2.0, rtol=1e-5)
    np.testing.assert_allclose(shares[2], shares[2, 0], rtol=1e-5)
    np.testing.assert_allclose(shares[0, 0] / shares[1, 0], 1.5, rtol=1e-5)
    # A text with no, one and two pages, a third of the tokens each.
    assert shares[:, 0].sum() * 2 / 3 + shares[:, 1].sum() / 3 == pytest.approx(1)
    assert sensitivity.page_shares(np.zeros((2, 5)), np.zeros(5), 0).tolist() == [[1], [1]]
    assert sensitivity.page_shares(np.ones((2, 1)), np.ones(1), 0).sum() == pytest.approx(1)


@needs_torch
def test_squares_of_queries_are_means_over_heads_and_tokens(model):
    from pmkvq.torch_model import Model

    found, tokens = Model(Checkpoint(model)), np.random.RandomState(6).randint(0, 50, 300).tolist()
    sums = calibrate.Sums.empty("", found.layers, 2, 64)
    options = SimpleNamespace(key_format=quantize.Format(quantize.PER_CHANNEL),
                              value_format=quantize.Format(quantize.PER_TOKEN))
    calibrate.add_gradients(found, tokens, options, sums)
    before, _ = found.inputs(tokens)
    for layer, hidden in enumerate(before):
        queries = found.project(layer, hidden, found.rotary(len(tokens))).q.detach().numpy().astype(np.float64)
        # Heads 0 and 1 share the first kv head.
        wanted = [(queries[2 * head:2 * head + 2]**2).mean((0, 1)) for head in range(2)]
        assert np.allclose(sums.squares[layer], wanted, rtol=1e-3)


@needs_torch
def test_divergence_chooses_clips_of_keys_when_asked(model, data, tmp_path):
    plain, found = tmp_path / "plain.json", tmp_path / "found.json"
    assert run(model, data, plain) == 0
    assert run(model, data, found, "--clips", "--clip-samples=1", "--kl-tokens=300") == 0
    parts = [[(layer[part]["clip"], layer[part]["sensitivity"][2])
              for layer in calibration_file.read(path).document["layers"] for part in calibration_file.PARTS]
             for path in (plain, found)]
    assert {clip for clip, _ in parts[0] + parts[1][1::2]} == {0.8}
    for (_, at_default), (clip, sensitivity) in zip(*parts):
        assert clip in calibrate.CLIPS and (clip == 0.8) == (sensitivity == at_default)


@needs_torch
def test_divergences_are_of_keys_that_fall_with_feedback_unless_asked(model, data, tmp_path):
    def measured(name, *options):
        assert run(model, data, tmp_path / name, "--kl-samples=1", "--kl-tokens=300", *options) == 0
        found = calibration_file.read(tmp_path / name)
        return found.document["settings"]["rounding"], found.divergences()

    (rounding, fed_back), (other, nearest) = measured("a.json"), measured("b.json", "--rounding=nearest")
    assert (rounding, other) == ("feedback", "nearest")
    # Values, and keys at 8 bits, are the same.
    assert np.array_equal(fed_back[:, 1], nearest[:, 1]) and np.array_equal(fed_back[:, 0, :2], nearest[:, 0, :2])
    assert not np.array_equal(fed_back[:, 0, 2:], nearest[:, 0, 2:])
    assert measured("c.json", "--key-format=per_channel+plain")[0] == "nearest"
    # Of keys that are scaled, by squares of queries that are, too.
    assert not np.array_equal(measured("d.json", "--key-scales")[1][:, 0, 2:], fed_back[:, 0, 2:])


@needs_torch
def test_the_same_seed_gives_the_same_file_also_after_a_stop(model, data, tmp_path, monkeypatch):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert run(model, data, one, "--measure=kl", "--kl-tokens=200") == 0
    add, calls = calibrate.add_gradients, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(*arguments)

    monkeypatch.setattr(calibrate, "add_gradients", stopping)
    assert run(model, data, two, "--measure=kl", "--kl-tokens=200") == 130
    assert not two.exists() and (tmp_path / "two.json.partial").exists()
    assert run(model, data, two, "--measure=kl", "--kl-tokens=200") == 0
    # Two before the stop, the third twice: nothing was done again.
    assert len(calls) == 4
    assert one.read_bytes() == two.read_bytes()


@needs_torch
def test_sums_of_other_settings_are_not_gone_on_with(model, data, tmp_path):
    out = tmp_path / "c.json"
    empty = calibrate.Sums.empty("other", 2, 2, 64)
    empty.save(tmp_path / "c.json.partial")
    assert calibrate.Sums.load(tmp_path / "c.json.partial", empty) is not None
    # Of a build that measured other levels.
    assert calibrate.Sums.load(tmp_path / "c.json.partial",
                               dataclasses.replace(empty, kl=np.zeros((2, 2, 3)))) is None
    assert run(model, data, out) == 0
    assert calibration_file.read(out).document["loss"] > 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x03\x04 and no more of it", b"sums"])
def test_sums_that_are_damaged_are_not_gone_on_with(content, tmp_path):
    path = tmp_path / "c.json.partial"
    path.write_bytes(content)
    assert calibrate.Sums.load(path, calibrate.Sums.empty("settings", 2, 2, 64)) is None


def test_sums_that_are_cut_off_are_not_gone_on_with(tmp_path):
    path = tmp_path / "c.json.partial"
    empty = calibrate.Sums.empty("settings", 2, 2, 64)
    empty.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    assert calibrate.Sums.load(path, empty) is None


@needs_torch
def test_the_torch_model_is_the_reference_model(model):
    import torch

    from pmkvq.torch_model import Model

    checkpoint = Checkpoint(model)
    tokens = np.random.RandomState(5).randint(0, 50, 40)
    found = Model(checkpoint)
    _, last = found.inputs(tokens.tolist())
    with torch.inference_mode():
        actual = found.logits(last).numpy()
    weights = {name: tensor.float32() for name, tensor in checkpoint.tensors.items()}
    wanted = logits(weights, tokens, 4, 2, 64, 1e4, 1e-6, 2)
    # float32 against double precision over two layers.
    assert np.abs(actual - wanted).max() < 1e-4 * np.abs(wanted).max()


@needs_torch
def test_gradients_are_differences_of_the_loss(model):
    import torch
    import torch.nn.functional as F

    from pmkvq.torch_model import Model

    found, tokens = Model(Checkpoint(model)), np.random.RandomState(6).randint(0, 50, 60).tolist()
    _, layers = found.gradients(tokens)
    before, _ = found.inputs(tokens)
    direction = torch.from_numpy(np.random.RandomState(7).standard_normal((2, 60, 64)).astype(np.float32))
    with torch.inference_mode():
        a = found.project(0, before[0], found.rotary(60))

        def loss(step):
            a.k.add_(step * direction)
            last = found.run_from(0, before[0], found.attend(a))
            a.k.sub_(step * direction)
            return F.cross_entropy(found.logits(last[:-1]), torch.tensor(tokens[1:])).item()

        difference = (loss(1e-2) - loss(-1e-2)) / 2e-2
    # A difference of float32 losses over 2e-2: 1e-5 of error.
    assert float((layers[0].k.grad * direction).sum()) == pytest.approx(difference, abs=1e-4)


@needs_torch
def test_queries_see_pages_where_there_are_some_and_else_their_own(model):
    import torch

    from pmkvq.torch_model import Model

    found, tokens = Model(Checkpoint(model)), np.random.RandomState(8).randint(0, 50, 300).tolist()
    before, _ = found.inputs(tokens)
    a = found.project(0, before[0], found.rotary(300))
    k, v = 2 * a.k, 3 * a.v
    actual = found.attend_cached(a, k, v)
    # Token by token: after 130 tokens 1 to 128 are a page, after 258 also 129 to 256.
    for t, paged in ((0, 0), (128, 0), (129, 128), (256, 128), (257, 256), (299, 256)):
        for head in range(4):
            here = torch.arange(t + 1)
            in_page = ((here >= 1) & (here <= paged))[:, None]
            keys = torch.where(in_page, k[head // 2, :t + 1], a.k[head // 2, :t + 1])
            values = torch.where(in_page, v[head // 2, :t + 1], a.v[head // 2, :t + 1])
            wanted = (a.q[head, t] @ keys.T / 8).softmax(-1) @ values
            # float32, sums of 300 in another order.
            assert torch.allclose(actual[head, t], wanted, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found.attend_cached(a, a.k, a.v), found.attend(a), rtol=1e-4, atol=1e-5)


@needs_torch
def test_nothing_is_written_when_the_model_is_not_supported(model, data, tmp_path, capsys):
    (model / "config.json").write_text(json.dumps({**CONFIG, "model_type": "mamba"}))
    assert run(model, data, tmp_path / "c.json") == 1
    assert "model_type: expected llama or mistral or qwen2 or qwen3, got mamba" in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


def test_an_output_that_is_no_file_is_refused_first(model, data, tmp_path, capsys):
    assert run(model, data, tmp_path) == 1
    assert "is no regular file" in capsys.readouterr().err


def test_without_torch_it_says_how_to_get_it(model, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(model, data, tmp_path / "c.json") == 1
    err = capsys.readouterr().err
    assert "needs torch" in err and "requirements-calibrate.txt" in err and err.count("\n") == 1


def test_its_own_text_needs_the_tool(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibrate, "TOOL", tmp_path / "pmkvq-run")
    assert calibrate.main([str(model), "--self=1", "-o", str(tmp_path / "c.json")]) == 1
    assert "is not built: script/build pmkvq-run" in capsys.readouterr().err


def test_an_output_in_no_folder_is_refused_first(model, data, tmp_path, capsys):
    assert run(model, data, tmp_path / "no" / "c.json") == 1
    assert "its folder does not exist" in capsys.readouterr().err
