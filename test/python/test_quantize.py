"""The vectorized formats against the reference's own numbers, and what errors they make."""

import numpy as np
import pytest

from pmkvq import quantize, sensitivity

# Of test/unit/ReferencePythonTest.cpp, which finds them with lib/Reference.
HASHES = {
    ("per_channel", 64): 0x2fe85dd1989c5c16,
    ("per_token", 64): 0x23bfe1bdfc2f0f98,
    ("per_token_symmetric", 64): 0x4a5221b2c0f22f6b,
    ("per_channel", 128): 0x66941a6643c27046,
    ("per_token", 128): 0x936d4b28bd36d58f,
    ("per_token_symmetric", 128): 0x7ec77e8b88b177dd,
}


KEYS = quantize.Format(quantize.PER_CHANNEL)
FORMATS = [quantize.Format(axis, hadamard) for axis in (quantize.PER_CHANNEL, quantize.PER_TOKEN)
           for hadamard in (True, False)]
FORMATS.append(quantize.Format(quantize.PER_TOKEN, symmetric=True))


def generated(dim):
    """As the C++ test makes them."""
    state, values = 1, np.empty(128 * dim, np.float32)
    for i in range(len(values)):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values[i] = ((state >> 24) - 128) / 32 * (1 << (i % dim % 5))
    return values.reshape(128, dim)


def fnv(data):
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 & 0xFFFFFFFFFFFFFFFF
    return value


@pytest.mark.parametrize("name, dim", HASHES)
def test_codes_and_parameters_are_the_references(name, dim):
    x = generated(dim)
    assert (quantize.round_bf16(x) == x).all()
    minimum, extent = quantize.Format.parse(name).parameters(x)
    codes = quantize.encode(x, minimum, extent)
    data = b"".join(quantize.lower(codes, bits).tobytes() for bits in (8, 4, 2))
    data += minimum.astype("<f2").tobytes() + extent.astype("<f2").tobytes()
    assert fnv(data) == HASHES[name, dim]


def test_the_worked_example_of_the_specification():
    # include/pmkvq/Reference/Quantize.h: minimum -1, range 3, the value 0.5.
    x = np.full((128, 64), 0.5, np.float32)
    x[0], x[1] = -1, 2
    minimum, extent = quantize.parameters(x, quantize.PER_CHANNEL)
    codes = quantize.encode(x, minimum, extent)
    seen = [quantize.decode(quantize.lower(codes, bits), minimum, extent, bits)[2, 0] for bits in (8, 4, 2)]
    assert (codes[2, 0], quantize.lower(codes, 4)[2, 0], quantize.lower(codes, 2)[2, 0]) == (128, 8, 2)
    assert np.allclose(seen, [-1 + 3 * 128 / 255, 0.6, 0.9], rtol=1e-6)


def test_rotation_is_its_own_inverse():
    x = np.random.default_rng(0).standard_normal((7, 96), np.float32)
    # A rounding a product, 32 of them in a sum: far below 1e-5.
    assert np.allclose(quantize.rotate(quantize.rotate(x)), x, atol=1e-5)
    assert not np.allclose(quantize.rotate(x), x, atol=0.1)


def test_pages_are_what_the_runtime_makes():
    # pagesForTokens: a sink of 1, a window of up to 128.
    assert [quantize.count_pages(n) for n in (0, 129, 130, 257, 258)] == [0, 0, 1, 1, 2]
    x = np.arange(300, dtype=np.float32)[None, :, None]
    assert quantize.split_pages(x)[0, :, :, 0].tolist() == [list(range(1, 129)), list(range(129, 257))]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_what_fp16_cannot_hold_is_refused(bad):
    x = np.zeros((128, 64), np.float32)
    x[3, 4] = bad
    for form in FORMATS:
        with pytest.raises(quantize.NotRepresentable):
            form.parameters(x)


def test_sensitivity_is_the_mean_of_gradient_times_error():
    random = np.random.default_rng(1)
    x, gradient = random.standard_normal((2, 2, 300, 64), np.float32)
    for form in FORMATS:
        for clip in (0.8, 0.74):
            found = sensitivity.measure(x, gradient, form, clip)
            pages, weight = quantize.split_pages(x), quantize.split_pages(gradient)
            for bits, mean in zip(quantize.LEVELS, found):
                wanted = np.abs(weight * (pages - quantize.quantized(pages, form, bits, clip))).mean(dtype=np.float64)
                # Sums of float32 in pairs.
                assert mean == pytest.approx(wanted, rel=1e-4)
            assert found[0] < found[1] < found[2]


def test_alpha_finds_the_channel_that_is_too_large():
    random = np.random.default_rng(2)
    q, k, v = (random.standard_normal(shape, np.float32) for shape in ((1, 2, 8, 64), (1, 300, 64), (1, 300, 64)))
    k[..., 5] *= 60
    q[..., 5] /= 60
    q[..., 37] /= 8
    errors = sensitivity.alpha_errors(q, k, v, np.abs(k).max(1), KEYS, 0.8)
    assert len(errors) == len(sensitivity.ALPHAS) + 1
    # The rotation spreads the large channel over all others; a scale takes it away.
    assert errors[:-1].min() < errors[-1] / 2


def test_scales_are_powers_of_two_tied_over_rope_pairs():
    maxima = np.array([[1, 0.1, 300, 8, 5, 0.02, 70, 0]], np.float32)
    # log2 of 5, 0.1, 300 and 8 is 2.3, -3.3, 8.2 and 3.
    assert sensitivity.exponents(maxima, 1)[0].tolist() == [2, -3, 8, 3, 2, -3, 8, 3]
    assert sensitivity.exponents(maxima, 0.5)[0].tolist() == [1, -2, 4, 2, 1, -2, 4, 2]
    assert sensitivity.scales(np.array([2, -3, 0])).tolist() == [4, 0.125, 1]


@pytest.mark.parametrize("largest, exponent", [(0, -13), (1e-9, -13), (1e9, 13)])
def test_scales_are_bounded(largest, exponent):
    assert sensitivity.exponents(np.full((1, 2), largest, np.float32), 1).tolist() == [[exponent] * 2]


def test_formats_are_read_as_the_tool_takes_and_prints_them():
    assert quantize.Format.parse("per_token") == quantize.Format(quantize.PER_TOKEN, True)
    assert quantize.Format.parse("per_channel+plain") == quantize.Format(quantize.PER_CHANNEL, False)
    for form in FORMATS:
        assert quantize.Format.parse(str(form)) == form
    assert str(FORMATS[0]) == "<per_channel, hadamard>"


@pytest.mark.parametrize("text", ["paper", "per_page", "per_token+clip=0.8", "per_token+plain+hadamard", ""])
def test_formats_that_calibration_does_not_know_are_refused(text):
    with pytest.raises(ValueError, match="expected per_channel, per_token or per_token_symmetric"):
        quantize.Format.parse(text)


def test_offsets_of_single_channels_cost_keys_per_token_most():
    # As Qwen2.5 has them: 300 in a pair of channels that RoPE hardly turns.
    k = np.random.default_rng(3).standard_normal((1, 300, 64), np.float32)
    moved = k.copy()
    moved[..., [31, 63]] += 300

    def error(x, form):
        return float(((quantize.cached(x, form, 2) - x) ** 2).mean())

    token = quantize.Format(quantize.PER_TOKEN)
    assert error(moved, token) > 100 * error(k, token)
    assert error(moved, KEYS) < 1.5 * error(k, KEYS)
