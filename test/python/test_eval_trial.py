"""What could come below 2 bits: formats, parameters that take less, and which pages fall first."""

import numpy as np
import pytest

from pmkvq import quantize
from pmkvq.baselines import KEY, VALUE, rotate, to_bf16
from pmkvq.cache_plan import BudgetError, TERNARY, Geometry, Limits, Plan, by_importance
from pmkvq.trial import FEEDBACK, PARAMETERS, Trial, feedback_factor


def page(seed=0, heads=2, head_dim=64, offset=0.0):
    x = np.random.default_rng(seed).normal(size=(heads, 128, head_dim)).astype(np.float32)
    x[..., 3] += offset
    return to_bf16(x)


def spread(scheme, x, part, bits):
    """Stored values decoded: in the rotated basis."""
    return rotate(scheme.decode(x, part, bits))


class TestFormats:
    @pytest.mark.parametrize("bits", [8, 4, 2])
    @pytest.mark.parametrize("part, axis", [(KEY, quantize.PER_CHANNEL), (VALUE, quantize.PER_TOKEN)])
    @pytest.mark.parametrize("head_dim, offset", [(64, 0), (128, 300)])
    def test_down_to_2_bits_they_are_the_products(self, bits, part, axis, head_dim, offset):
        x = page(1, head_dim=head_dim, offset=offset)
        # A rotation in another order of sums: now and then another last place of bf16, and so another code.
        difference = np.abs(Trial().decode(x, part, bits) - quantize.quantized(x, quantize.Format(axis), bits))
        assert np.median(difference) < 1e-4 * (1 + offset) and difference.mean() < 1e-3 * (1 + offset)

    def test_1_bit_is_the_upper_bit_of_2(self):
        x = page(2)
        two, one = (spread(Trial(), x, VALUE, bits) for bits in (2, 1))
        stored = to_bf16(rotate(x))
        middle = (stored.max(-1, keepdims=True) + stored.min(-1, keepdims=True)) / 2
        # The middle is that of parameters in fp16, and codes were rounded at 8 and 4 bits first.
        clear = np.abs(stored - middle) > 0.2
        assert np.array_equal((two > middle)[clear], (one > middle)[clear])
        low, high = one.min(-1, keepdims=True), one.max(-1, keepdims=True)
        assert np.minimum(one - low, high - one).max() < 1e-5

    @pytest.mark.parametrize("bits, expected", [(1, 0.3634), (TERNARY, 0.1902)])
    def test_errors_are_near_those_of_the_best_quantizers(self, bits, expected):
        # Max (1960), table I, of the variance. A group's range tells the variance to a tenth, its middle is not the mean.
        x = page(3, head_dim=128)
        error = np.mean((Trial().decode(x, VALUE, bits) - x)**2) / np.mean(x * x)
        assert expected < error < 1.15 * expected
        if bits == 1:
            # It knows each token's own mean and size.
            assert 0.95 * expected < np.mean((Trial(exact=True).decode(x, VALUE, 1) - x)**2) / np.mean(x * x) < error

    def test_a_page_gets_its_mean_back(self):
        x = page(5, offset=4)
        for bits in (2, 1):
            off = np.abs((Trial().decode(x, VALUE, bits) - x).mean(-2)).max()
            mended = np.abs((Trial(mean=True).decode(x, VALUE, bits) - x).mean(-2)).max()
            # fp16 of what is below 1, and sums of the rotation.
            assert mended < 5e-3 < 0.05 < off
        assert np.array_equal(Trial(mean=True).decode(x, KEY, 2), Trial().decode(x, KEY, 2))


class TestFeedback:
    @staticmethod
    def queries(heads=2, head_dim=64):
        """[heads, 256, head_dim], of which two channels in three are small."""
        random = np.random.default_rng(20)
        return random.normal(size=(heads, 256, head_dim)) * np.where(np.arange(head_dim) % 3, 0.1, 2.0)

    @staticmethod
    def moments(kind, queries):
        return np.swapaxes(queries, -1, -2) @ queries if kind == "full" else (queries * queries).sum(-2)

    @pytest.mark.parametrize("kind", FEEDBACK)
    @pytest.mark.parametrize("bits", [4, 2])
    def test_scores_are_nearer_than_with_the_nearest_codes(self, kind, bits):
        x, seen, new = page(21), self.queries(), self.queries()[:, ::-1]
        found = Trial(feedback=kind).decode(x, KEY, bits, moments=self.moments(kind, seen))
        wrong, nearest = (np.mean((new @ np.swapaxes(keys - x, -1, -2))**2)
                          for keys in (found, Trial().decode(x, KEY, bits)))
        # What it can reach is the geometric by the arithmetic mean of channels' squares, damped: 0.3.
        assert wrong < 0.4 * nearest
        # Elements themselves are further off.
        assert np.mean((found - x)**2) > np.mean((Trial().decode(x, KEY, bits) - x)**2)

    @pytest.mark.parametrize("moments", [np.ones((2, 64)), np.zeros((2, 64)), np.eye(64) * np.ones((2, 1, 1))])
    def test_queries_that_are_the_same_in_all_channels_change_nothing(self, moments):
        assert np.abs(np.triu(feedback_factor(moments), 1)).max() < 1e-7 * np.abs(feedback_factor(moments)).max()
        for bits in (8, 4, 2):
            found = Trial(feedback="channels").decode(page(22), KEY, bits, moments=moments)
            # A code that lies in the middle between two may fall on the other side.
            assert np.median(np.abs(found - Trial().decode(page(22), KEY, bits))) < 1e-5

    def test_a_channel_of_one_value_stays(self):
        x = page(23)
        x[..., :, :] = x[..., :1, :]
        found = Trial(feedback="channels").decode(x, KEY, 2, moments=self.moments("channels", self.queries()))
        assert np.allclose(found, x, atol=0.02)

    def test_8_bits_and_values_are_as_they_were(self):
        x, moments = page(24), self.moments("channels", self.queries())
        scheme = Trial(feedback="channels")
        assert np.allclose(scheme.decode(x, KEY, 8, moments=moments), Trial().decode(x, KEY, 8), atol=1e-6)
        assert np.array_equal(scheme.decode(x, VALUE, 2), Trial().decode(x, VALUE, 2))
        for bits in (TERNARY, 1):
            assert np.array_equal(scheme.decode(x, KEY, bits, moments=moments), Trial().decode(x, KEY, bits))


class TestParameters:
    @pytest.mark.parametrize("parameters", PARAMETERS)
    @pytest.mark.parametrize("part", [KEY, VALUE])
    def test_they_cover_their_group(self, parameters, part):
        stored = to_bf16(rotate(page(6, offset=5)))
        minimum, extent = Trial(parameters=parameters)._parameters(stored, part)
        axis = (-2, -1)[part]
        low, high = stored.min(axis, keepdims=True), stored.max(axis, keepdims=True)
        # A minimum in a byte is rounded down by up to a step of 8 bits.
        assert np.all(minimum <= low + 1e-6) and np.all(minimum + extent >= high - extent / 255)
        most = np.maximum(high - low, 2 * np.maximum(abs(low), abs(high)) if "scale" in parameters else 0)
        if part == KEY or "scale" not in parameters:
            most = high - np.minimum(low, 0) if part == VALUE and parameters == "byte" else high - low
        # A sixteenth of an octave, and fp16.
        assert np.all(extent <= most * (2**(1 / 16) if "byte" in parameters else 1) * (1 + 2**-9) + 1e-6)

    def test_heads_share_the_range_of_both(self):
        x = page(7)
        x[1] *= 4
        shared = Trial(heads=2)
        minimum, extent = shared._parameters(to_bf16(rotate(x)), VALUE)
        assert np.array_equal(minimum[0], minimum[1]) and np.array_equal(extent[0], extent[1])
        error = [np.abs(scheme.decode(x, VALUE, 4) - x)[0].mean() for scheme in (Trial(), shared)]
        assert error[1] > 2 * error[0]
        assert np.array_equal(shared.decode(x, KEY, 4), Trial().decode(x, KEY, 4))

    def test_a_second_page_takes_the_firsts_parameters(self):
        first, second = page(8), page(9)
        scheme = Trial(pages=2)
        assert np.array_equal(scheme.decode(second, KEY, 4), Trial().decode(second, KEY, 4))
        found = rotate(scheme.decode(second, KEY, 4, first))
        stored = to_bf16(rotate(first))
        assert np.all(found <= stored.max(-2, keepdims=True) + 0.01)
        assert np.all(found >= stored.min(-2, keepdims=True) - 0.01)
        assert np.array_equal(scheme.decode(second, VALUE, 4, first), Trial().decode(second, VALUE, 4))

    @pytest.mark.parametrize("scheme, head_dim, bits", [
        (Trial(), 128, 2.25), (Trial(), 64, 2.375), (Trial(parameters="byte"), 128, 2.15625),
        (Trial(parameters="scale"), 64, 2.25), (Trial(parameters="scale_byte"), 64, 2.15625),
        (Trial(heads=2), 128, 2.1875), (Trial(pages=2), 128, 2.1875), (Trial(mean=True), 64, 2.4375),
    ])
    def test_bits_an_element_at_2_bits(self, scheme, head_dim, bits):
        slot = sum(scheme.parameter_bytes(head_dim, part) for part in (KEY, VALUE))
        assert 2 + 8 * slot / (2 * 128 * head_dim) == bits


class TestOrder:
    GEOMETRY = Geometry(layers=2, kv_heads=2, head_dim=64)

    def plan(self, pages, bytes_below, **limits):
        """So many pages, and so many bytes less than all at 2 bits take."""
        slot = 768
        budget = self.GEOMETRY.fixed_bytes(129 + 128 * pages) + pages * 4 * (slot + 128 * 64 * 4 // 8) - bytes_below
        plan = Plan(self.GEOMETRY, Limits(budget=budget, slot_bytes=slot, **limits), 1, 129 + 128 * pages)
        history = []
        for _ in range(pages):
            plan.add_page()
            history.append(plan.levels)
            assert plan.bytes <= budget
        return history

    def test_values_fall_to_1_bit_when_all_is_at_2(self):
        # A page-head's values take 1 KiB less at 1 bit, and two share a block.
        levels = self.plan(4, 5 * 1024, schedule="keys_last", floor=(2, 1))[-1]
        assert levels.reshape(-1).tolist() == [1] * 6 + [2] * 10
        # The newest page stays, whatever is missing.
        levels = self.plan(4, 12 * 1024, schedule="keys_last", floor=(2, 1))[-1]
        assert levels.reshape(-1).tolist() == [1] * 12 + [2] * 4
        with pytest.raises(BudgetError, match="^1024 bytes are missing"):
            self.plan(4, 13 * 1024, schedule="keys_last", floor=(2, 1))

    def test_pages_are_dropped_whole(self):
        levels = self.plan(4, 5 * (768 + 4096), schedule="page", floor=(2, 2), drop=True)[-1]
        assert levels.reshape(-1).tolist() == [0] * 5 + [2] * 11

    def test_as_many_fall_but_the_least_important(self):
        random, before = np.random.default_rng(1), np.empty((0, 3, 2, 2))
        for planned in self.plan(6, 7 * 5 * 1024, schedule="keys_last", floor=(2, 1), drop=True):
            importance = random.random((len(planned), 3, 2, 2))
            levels = by_importance(before, planned, importance)
            for sequence in range(3):
                own = levels[:, sequence]
                assert sorted(own.reshape(-1)) == sorted(planned.reshape(-1))
                for level in (1, 0):
                    fell = (before[:, sequence] > level) & (own[:len(before)] <= level)
                    if fell.any() and (own > level).any():
                        assert importance[:len(before), sequence][fell].max() <= importance[:, sequence][own > level].min()
            assert np.all(levels[:len(before)] <= before)
            before = levels
        assert {*before.reshape(-1)} == {0, 1}
