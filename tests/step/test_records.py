"""Wire records: what is sent is what every worker goes on with, and foreign records are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zodist.errors import ExchangeError
from zodist.step.records import decode, encode, from_values, record_bytes, to_values

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
ANY_LOSSES = hnp.arrays(np.float64, SHAPES, elements=st.floats(allow_nan=True, allow_infinity=True, width=64))
USUAL_LOSSES = hnp.arrays(np.float64, SHAPES, elements=st.floats(1e-3, 30.0))
NAN_BITS = 0x7FC00000


def seeds_for(losses: np.ndarray) -> np.ndarray:
    return np.arange(len(losses), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


@given(ANY_LOSSES)
def test_decode_returns_the_values_of_any_losses_bit_for_bit(losses):
    seeds, k = seeds_for(losses), losses.shape[1]
    payload = encode(seeds, losses)
    assert len(payload) == len(losses) * record_bytes(k)
    values = decode(payload, seeds, k, worker=0, step=0, probes=np.arange(len(losses)))
    assert values.dtype == np.float32
    assert values.tobytes() == to_values(losses).tobytes()


@given(ANY_LOSSES)
def test_a_probe_is_finite_after_the_wire_only_if_all_its_losses_were(losses):
    seen = from_values(to_values(losses))
    assert seen.dtype == np.float64
    finite: np.ndarray = np.all(np.isfinite(seen), axis=1)
    assert (np.any(np.isfinite(seen), axis=1) == finite).all()  # all losses of a probe or none
    assert not finite[~np.isfinite(losses).all(axis=1)].any()
    usual: np.ndarray = np.all(np.abs(losses) < 1e38, axis=1)  # NaN compares false
    assert finite[usual].all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_kind_of_a_loss_that_is_not_finite_survives(bad, k):
    losses = np.ones((3, k))
    losses[1, 0] = bad
    seen = from_values(to_values(losses))
    np.testing.assert_array_equal(seen[1], np.full(k, bad))
    np.testing.assert_array_equal(seen[[0, 2]], np.ones((2, k)))


def test_every_nan_has_the_same_bits():
    """The sign of inf - inf differs between processors; the record's must not."""
    negative_nan = np.array([0xFFF8000000000123], dtype=np.uint64).view(np.float64)[0]
    values = to_values(np.array([[negative_nan, 1.0, 2.0], [np.inf, -np.inf, np.inf]]))
    assert (values.view(np.uint32)[np.isnan(values)] == NAN_BITS).all()
    assert to_values(np.array([[negative_nan]])).view(np.uint32)[0, 0] == NAN_BITS


@given(USUAL_LOSSES)
def test_differences_keep_the_precision_of_float32(losses):
    """2**-24 is the rounding of the difference; 1e-14 the float64 rounding of losses up to 30."""
    seen = from_values(to_values(losses))
    exact = losses - losses[:, -1:]
    np.testing.assert_allclose(seen - seen[:, -1:], exact, rtol=2**-24, atol=1e-14)
    np.testing.assert_allclose(seen.mean(axis=1), losses.mean(axis=1), rtol=2**-23)


def test_a_small_difference_of_large_losses_is_not_lost():
    """Two float32 losses near 11.5 are 9.5e-7 apart at least; the wire keeps a difference of 1e-9."""
    seen = from_values(to_values(np.array([[11.5 + 1e-9, 11.5]])))
    assert seen[0, 0] - seen[0, 1] == pytest.approx(1e-9, rel=1e-5)  # float64 near 11.5: steps of 1.8e-15


def test_the_bytes_of_a_record_are_these():
    payload = encode(np.array([0x0123456789ABCDEF], dtype=np.uint64), np.array([[1.5, 1.0]]))
    assert payload.hex() == "efcdab8967452301" + "0000003f" + "0000a03f"  # 0.5, 1.25 in little endian


def test_empty_slots_are_accepted_and_anything_in_them_is_not():
    losses, seeds = np.ones((2, 2)), np.array([7, 8], dtype=np.uint64)
    payload = encode(seeds, losses, slots=3)
    assert len(payload) == 3 * record_bytes(2)
    values = decode(payload, seeds, 2, worker=1, step=0, probes=np.arange(2))
    assert values.shape == (2, 2)
    with pytest.raises(ExchangeError, match="worker 1 sent more than 1 records at step 0"):
        decode(payload, seeds[:1], 2, worker=1, step=0, probes=np.arange(1))


def test_a_foreign_seed_names_worker_step_and_probe():
    payload = encode(np.array([7, 8], dtype=np.uint64), np.ones((2, 2)))
    with pytest.raises(ExchangeError) as error:
        decode(payload, np.array([7, 9], dtype=np.uint64), 2, worker=2, step=41, probes=np.array([4, 6]))
    assert str(error.value).startswith(
        "worker 2 sent seed 0000000000000008 for step 41 probe 6, expected 0000000000000009: its run, config"
    )


@pytest.mark.parametrize("size", [0, 15, 17, 31])
def test_a_payload_of_the_wrong_size_is_refused(size):
    with pytest.raises(ExchangeError, match=f"sent {size} bytes"):
        decode(bytes(size), np.array([0, 0], dtype=np.uint64), 2, worker=0, step=0, probes=np.arange(2))
