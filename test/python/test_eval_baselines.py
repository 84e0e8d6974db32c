"""Baselines' quantizers on cases whose answer is known, and on what the paper's own code computes."""

import json
import math

import numpy as np
import pytest

from conftest import ROOT
from pmkvq.baselines import (KEY, VALUE, Kivi, Paper, RoundToNearest, TurboQuant, code_book, random_signs, rotate,
                             round_to_grid, to_bf16, to_half)

GOLDEN = ROOT / "test" / "data" / "golden" / "reference.safetensors"
ALL = [RoundToNearest(), Kivi(), Kivi(group=128), Paper(), TurboQuant(), TurboQuant(correct=True)]


def golden(name):
    """A tensor of the golden file; F32 and U16 only."""
    data = GOLDEN.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:start])[name]
    begin, end = entry["data_offsets"]
    kind = {"F32": np.float32, "U16": np.uint16}[entry["dtype"]]
    return np.frombuffer(data[start + begin:start + end], kind).reshape(entry["shape"])


def page(seed=0, tokens=128, head_dim=64):
    return to_bf16(np.random.default_rng(seed).normal(size=(2, tokens, head_dim)).astype(np.float32))


def test_roundings_to_bf16_and_fp16():
    assert to_bf16(np.array([1 + 2**-8, 1 + 3 * 2**-8, -1.0], np.float32)).tolist() == [1, 1 + 2**-6, -1]
    assert to_half(np.array([1 + 2**-11, 1 + 3 * 2**-11], np.float32)).tolist() == [1, 1 + 2**-9]


class TestGrid:
    def test_values_of_a_grid_are_kept(self):
        x = np.array([[0.0, 1.0, 2.0, 3.0], [-4.0, -2.0, 0.0, 2.0]], np.float32)
        assert np.array_equal(round_to_grid(x, 2, -1, 4), x)

    def test_the_nearest_is_taken_and_ends_are_exact(self):
        x = np.array([[0.0, 1.2, 1.8, 3.0]], np.float32)
        assert round_to_grid(x, 2, -1, 4).tolist() == [[0, 1, 2, 3]]

    def test_groups_are_apart(self):
        x = np.array([[0.0, 3.0, 100.0, 400.0]], np.float32)
        assert np.array_equal(round_to_grid(x, 2, -1, 2), x)
        assert round_to_grid(x, 1, -1, 4).tolist() == [[0, 0, 0, 400]]

    def test_channels_share_a_scale_on_the_other_axis(self):
        x = np.array([[0.0, 100.0], [3.0, 400.0]], np.float32)
        assert np.array_equal(round_to_grid(x, 2, -2, 2), x)

    def test_equal_values(self):
        x = np.full((4, 32), 0.75, np.float32)
        assert np.array_equal(round_to_grid(x, 2, -1, 32), x)


class TestPaper:
    """Against the public code's cache, group 128: 16 bits at first, lowered by shifts."""

    def test_quantization_at_16_bits_and_its_decoding(self):
        x = golden("quant.x")
        codes, scale, low = Paper.quantize(x)
        assert np.array_equal(codes, golden("quant.16.codes"))
        assert np.array_equal(scale, golden("quant.16.scale"))
        assert np.array_equal(-low, golden("quant.16.zero"))

    @pytest.mark.parametrize("case, part", [(case, part) for case in (1, 2) for part in "kv"])
    def test_a_stream_through_the_papers_cache(self, case, part):
        """Its body at the end: tokens after the sink, as far as there are codes of it."""
        cases = json.loads((GOLDEN.parent / "reference.json").read_text())
        sink = cases[case]["sink"]
        codes = golden(f"cache{case}.{part}_codes")
        body = slice(sink, sink + codes.shape[2])
        given, expected = golden(f"cache{case}.{part}_in"), golden(f"cache{case}.{part}_out")
        found = Paper().decode(to_bf16(given[:, :, body]), KEY, cases[case]["final_bits"])
        assert cases[case]["final_bits"] == 2
        assert np.array_equal(found, expected[:, :, body])

    def test_the_shift_takes_the_nearest_code(self):
        # A group from 0 to 65535 at scale 1, exact in bf16: a code is its value.
        x = np.array([[0, 65535, 21845, 10922, 10923]], np.float32)
        codes, scale, _ = Paper.quantize(x)
        assert scale.item() == 1 and codes.tolist() == [[0, 65535, 21845, 10922, 10923]]
        # At 2 bits a step is 21,845; bf16 makes 256 of 257, then 4,352 and 21,760.
        assert Paper().decode(x, KEY, 2).tolist() == [[0, 65280, 21760, 0, 21760]]


class TestKivi:
    def test_keys_per_channel_absorb_an_offset(self):
        x = page()
        far = x.copy()
        far[..., 3] += 300
        near, off = Kivi(group=128).decode(x, KEY, 4), Kivi(group=128).decode(to_bf16(far), KEY, 4)
        others = [c for c in range(64) if c != 3]
        assert np.array_equal(near[..., others], off[..., others])
        # A value's token shares its scale: there the offset takes all other channels' precision.
        spoiled = RoundToNearest().decode(to_bf16(far), VALUE, 4)
        assert np.abs(spoiled - far)[..., others].mean() > 5 * np.abs(near - x).mean()

    def test_bytes(self):
        # 128 tokens of 64: an fp16 scale and minimum for 32 elements, on either axis.
        assert Kivi().parameter_bytes(64, KEY) == Kivi().parameter_bytes(64, VALUE) == 128 * 64 // 32 * 4
        # A group of 128 is a page's channel, or all of a token's head.
        assert Kivi(group=128).parameter_bytes(64, KEY) == 64 * 4
        assert Kivi(group=128).parameter_bytes(64, VALUE) == 128 * 4


class TestTurboQuant:
    def test_the_code_book_is_lloyds_and_maxs(self):
        # Max (1960), table I: 2 and 4 levels of a normal distribution.
        assert code_book(1)[0].tolist() == pytest.approx([-0.7980, 0.7980], abs=2e-4)
        assert code_book(2)[0].tolist() == pytest.approx([-1.510, -0.4528, 0.4528, 1.510], abs=5e-4)
        assert code_book(2)[1].tolist() == pytest.approx([-0.9816, 0, 0.9816], abs=5e-4)
        assert code_book(3)[0][4:].tolist() == pytest.approx([0.2451, 0.7560, 1.344, 2.152], abs=5e-4)

    @pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
    def test_levels_rise_and_edges_lie_between(self, bits):
        levels, edges = code_book(bits)
        assert len(levels) == 2**bits and np.all(levels[:-1] < edges) and np.all(edges < levels[1:])

    def test_the_error_is_that_of_the_code_book(self):
        # Max: 0.1175 of the variance at 4 levels, 0.009497 at 16; of 200,000 values 1 % is 4 deviations.
        normal = np.random.default_rng(5).normal(size=200000).astype(np.float32)
        x = page()
        for bits, expected in ((2, 0.1175), (4, 0.009497)):
            levels, edges = code_book(bits)
            assert np.mean((levels[np.searchsorted(edges, normal)] - normal)**2) == pytest.approx(expected, rel=0.01)
            # A token of 64 elements and known length has lighter tails than a normal distribution.
            assert 0.9 * expected < np.mean((TurboQuant().decode(x, KEY, bits) - x)**2) / np.mean(x * x) < expected

    def test_an_outlier_is_spread(self):
        x = np.zeros((128, 64), np.float32)
        x[:, 5] = 8
        error = TurboQuant().decode(x, KEY, 4) - x
        assert np.linalg.norm(error, axis=-1).max() < 8 * 0.3

    def test_correction_keeps_lengths(self):
        x = page()
        length = np.linalg.norm(x, axis=-1)
        plain = np.linalg.norm(TurboQuant().decode(x, KEY, 2), axis=-1)
        right = np.linalg.norm(TurboQuant(correct=True).decode(x, KEY, 2), axis=-1)
        # fp16 rounds a norm by 2^-11 at most; f32 sums are far below.
        assert np.abs(right / length - 1).max() < 2**-11 + 1e-5
        assert np.abs(plain / length - 1).mean() > 0.01

    def test_a_zero_token(self):
        assert not TurboQuant().decode(np.zeros((128, 64), np.float32), KEY, 2).any()

    def test_keys_and_values_have_signs_of_their_own(self):
        assert not np.array_equal(random_signs(64, 0), random_signs(64, 1))
        assert set(random_signs(64, 0)) == {-1, 1}


@pytest.mark.parametrize("size", [1, 2, 64, 80, 96, 128])
def test_the_rotation_is_its_own_inverse_and_keeps_lengths(size):
    x = np.random.default_rng(1).normal(size=(5, size)).astype(np.float32)
    assert np.allclose(rotate(rotate(x)), x, atol=1e-5)
    assert np.allclose(np.linalg.norm(rotate(x), axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)


def test_the_rotation_of_a_unit_vector():
    x = np.zeros((1, 4), np.float32)
    x[0, 1] = 1
    assert rotate(x).tolist() == [[0.5, -0.5, 0.5, -0.5]]


@pytest.mark.parametrize("scheme", ALL, ids=str)
@pytest.mark.parametrize("part", [KEY, VALUE])
def test_fewer_bits_lose_more(scheme, part):
    x = page(2)
    errors = [float(np.abs(scheme.decode(x, part, bits) - x).mean()) for bits in (8, 4, 2)]
    assert errors[0] < errors[1] < errors[2] and errors[0] < 0.02
    # A page at 16 bits is bf16; the paper's is codes.
    assert isinstance(scheme, Paper) or np.array_equal(scheme.decode(x, part, 16), x)


@pytest.mark.parametrize("scheme", ALL, ids=str)
def test_torch_computes_the_same(scheme):
    torch = pytest.importorskip("torch", reason="torch is installed by script/eval only")
    x = page(3)
    for bits in (2, 4, 16):
        for part in (KEY, VALUE):
            found = scheme.decode(torch.from_numpy(x), part, bits).numpy()
            # A sum of squares in another order, 64 terms of f32.
            assert np.allclose(found, scheme.decode(x, part, bits), atol=1e-5)


def test_bits_an_element():
    """Codes and parameters of a page of 128 x 128 at 2 bits, as published."""
    for scheme, expected in ((RoundToNearest(), 2.25), (Kivi(), 3.0), (Kivi(group=128), 2.25), (Paper(), 2.25),
                             (TurboQuant(), 2.125)):
        parameters = sum(scheme.parameter_bytes(128, part) for part in (KEY, VALUE))
        assert math.isclose(2 + 8 * parameters / (2 * 128 * 128), expected)
