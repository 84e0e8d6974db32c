"""The vectorized formats against the reference's own numbers, and what errors they make."""

from fractions import Fraction

import numpy as np
import pytest

from pmkvq import quantize, sensitivity

# Of test/unit/ReferencePythonTest.cpp, which finds them with lib/Reference.
HASHES = {
    ("per_channel", 64): 0x086c294eab8ad3fe,
    ("per_token", 64): 0x7e17ab1803d8ff99,
    ("per_token_symmetric", 64): 0x19fe5ad53b055522,
    ("per_channel", 128): 0xe7f6d523e3788d40,
    ("per_token", 128): 0xc4dbf39793fdb97d,
    ("per_token_symmetric", 128): 0x06cc9a3947aeb653,
}
# With feedback, of the same test.
FEEDBACK_HASHES = {
    ("per_channel", 64): 0x07e011fc65fa7d83,
    ("per_channel", 80): 0xb32f8b061b067d30,
    ("per_token", 64): 0xcc1710024edf834f,
    ("per_channel", 128): 0x188e386ecf692de0,
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
    data = b"".join(quantize.lower(codes, bits).tobytes() for bits in (8, 4, 2, 1))
    data += minimum.astype("<f2").tobytes() + extent.astype("<f2").tobytes()
    assert fnv(data) == HASHES[name, dim]


@pytest.mark.parametrize("name, dim", FEEDBACK_HASHES)
def test_feedback_is_the_references(name, dim):
    x = generated(dim)
    minimum, extent = quantize.Format.parse(name).parameters(x)
    codes = quantize.encode(x, minimum, extent)
    factor = quantize.feedback_factor((np.arange(dim) * 37 % 101).astype(np.float32) ** 2 / 64)
    data = factor.tobytes()
    data += b"".join(quantize.lower_with_feedback(codes, extent, bits, factor, 0.77).tobytes() for bits in (4, 2))
    assert fnv(data) == FEEDBACK_HASHES[name, dim], hex(fnv(data))


def nearest_float32(exact):
    """A fraction as float32, ties to even."""
    near = np.float32(float(exact))
    around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(around, key=lambda x: (abs(Fraction(float(x)) - exact), x.view(np.uint32) & 1))


def test_fma_rounds_once():
    random = np.random.default_rng(4)
    size = 4000
    a, b = random.standard_normal((2, size)).astype(np.float32)
    c = (-a * b * (1 + random.choice([0, 1e-7, 1e-3, 1, 1e7], size) * random.standard_normal(size))).astype(np.float32)
    # Just below a tie: (1 + u)(1 - u) is 1 - u^2, which float64 rounds to a tie above an odd last bit.
    u = np.float32(2.0**-23)
    a[0], b[0], c[0] = (1 + u) / 4096, (1 - u) / 4096, 1 + u
    c[1] = 0
    found = quantize.fma(a, b, c)
    assert found.dtype == np.float32
    wanted = [nearest_float32(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))) for x, y, z in zip(a, b, c)]
    assert (found == np.array(wanted)).all()
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert found[0] != twice[0]


def test_feedback_of_equal_queries_gives_the_nearest_codes():
    x = generated(64)
    minimum, extent = quantize.parameters(x, quantize.PER_CHANNEL)
    codes = quantize.encode(x, minimum, extent)
    for square in (0, 2.5):
        factor = quantize.feedback_factor(np.full(64, square, np.float32))
        assert np.allclose(factor, np.eye(64), rtol=0, atol=1e-12)
        for bits in (8, 4, 2):
            found = quantize.lower_with_feedback(codes, extent, bits, factor)
            assert (found == quantize.lower(codes, bits)).all()


def test_feedback_puts_errors_where_queries_are_small():
    random = np.random.default_rng(5)
    mean, x = 3 * random.standard_normal((1, 64)), random.standard_normal((128, 64))
    x = quantize.round_bf16((mean + x).astype(np.float32))
    squares = np.exp(2 * random.standard_normal(64)).astype(np.float32)
    minimum, extent = quantize.parameters(x, quantize.PER_CHANNEL)
    codes = quantize.encode(x, minimum, extent)

    def seen(lower, bits):
        error = quantize.rotate(quantize.decode(lower, minimum, extent, bits) - x)
        return float((error**2 * squares).sum())

    for bits in (4, 2):
        fed_back = quantize.lower_with_feedback(codes, extent, bits, quantize.feedback_factor(squares))
        assert seen(fed_back, bits) < 0.6 * seen(quantize.lower(codes, bits), bits)


def test_the_worked_example_of_the_specification():
    # include/pmkvq/Reference/Quantize.h: minimum -1, range 3, the value 0.5.
    x = np.full((128, 64), 0.5, np.float32)
    x[0], x[1] = -1, 2
    minimum, extent = quantize.parameters(x, quantize.PER_CHANNEL)
    codes = quantize.encode(x, minimum, extent)
    seen = [quantize.decode(quantize.lower(codes, bits), minimum, extent, bits)[2, 0] for bits in (8, 4, 2, 1)]
    assert (codes[2, 0], quantize.lower(codes, 4)[2, 0], quantize.lower(codes, 2)[2, 0]) == (128, 8, 2)
    assert np.allclose(seen, [-1 + 3 * 128 / 255, 0.6, 0.9, 0.98], rtol=1e-6)


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
            found = sensitivity.measure(x, gradient, form, clip, quantize.PART_LEVELS[1])
            pages, weight = quantize.split_pages(x), quantize.split_pages(gradient)
            for bits, mean in zip(quantize.PART_LEVELS[1], found):
                wanted = np.abs(weight * (pages - quantize.quantized(pages, form, bits, clip))).mean(dtype=np.float64)
                # Sums of float32 in pairs.
                assert mean == pytest.approx(wanted, rel=1e-4)
            assert found[0] < found[1] < found[2] < found[3]


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
