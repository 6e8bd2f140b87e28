"""Dressed directions in the CPU kernels give the reference's bits: mean, curvature, bound and keep, on any range.

The reference is numpy float32 in the documented order of operations: direction + share * mean, then / sqrt(curvature), then
0 where the weight's magnitude is above the bound, then the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from exact import (
    KINDS,
    PARAM,
    ROLE,
    ROUND_KEY,
    as_floats,
    moves,
    random,
    setting,
    stepped,
    stochastic,
    to_words,
    weights,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from zodist import noise
from zodist.kernels import BFLOAT16, FLOAT32, Noise, cpu
from zodist.noise import GAUSSIAN, RADEMACHER, TILE

LAWS = [GAUSSIAN, RADEMACHER]
EMPTY = np.empty(0, np.float32)


@dataclass(frozen=True)
class Case:
    """Weights, tables and a dress of one shard that begins at ``origin``."""

    kind: int
    law: int
    origin: int
    words: np.ndarray
    keys: np.ndarray
    tables: np.ndarray
    shares: np.ndarray
    mean: np.ndarray
    curvature: np.ndarray
    below: np.float32
    keep: bool

    @property
    def dress(self) -> tuple:
        return self.shares, self.mean, self.curvature, self.below, self.keep

    def directions(self, start: int, stop: int) -> np.ndarray:
        """The reference, float32 [points, stop - start]."""
        here = slice(start - self.origin, stop - self.origin)
        x = as_floats(self.kind, self.words[here])
        made = []
        for share, table in zip(self.shares, self.tables, strict=True):
            total = moves(self.law, self.keys, table, start, stop)
            if self.mean.size:
                total = total + share * self.mean[here]
            if self.curvature.size:
                total = total / np.sqrt(self.curvature[here])
            made.append(np.where(np.abs(x) <= self.below, total, np.float32(0.0)))
        return np.stack(made)

    def at(self, out_kind: int, start: int, stop: int) -> np.ndarray:
        """The reference, words [points, stop - start]."""
        x = as_floats(self.kind, self.words[start - self.origin : stop - self.origin])
        numbers = self.directions(start, stop)
        return np.stack([to_words(out_kind, x + d if self.keep else d) for d in numbers])


def make(kind: int, law: int, origin: int, n: int, shape, dressed) -> Case:
    """A case of n numbers; shape: points, bases, table length; dressed: what it has of mean, curvature, bound, keep."""
    points, bases, length = shape
    mean, curvature, bound, keep = dressed
    g = random(n)
    return Case(
        kind,
        law,
        origin,
        weights(kind, n, seed=n),
        *setting(n, points, bases, length),
        g.standard_normal(points, np.float32),
        np.float32(1e-3) * g.standard_normal(n, np.float32) if mean else EMPTY,
        np.exp(np.float32(2.0) * g.standard_normal(n, np.float32)) if curvature else EMPTY,
        np.float32(0.03 if bound else np.inf),
        keep,
    )


def scratch(kind: int, points: int, rows: int, length: int) -> np.ndarray:
    dtype, filled = (np.uint32, 0xABABABAB) if kind == FLOAT32 else (np.uint16, 0xABAB)
    return np.full((points, rows, length), filled, dtype)


def perturb(kernel, case: Case, out_kind: int, start: int, stop: int) -> np.ndarray:
    outs = scratch(out_kind, len(case.tables), 1, stop - start)
    noises = Noise(case.law, case.keys, case.tables, PARAM, ROLE), case.dress
    kernel(case.kind, out_kind, case.words, case.origin, start, stop, outs, *noises)
    return outs[:, 0]


def update(kernel, case: Case, decay: float) -> np.ndarray:
    moved = case.words.copy()
    move = Noise(case.law, case.keys, case.tables[:1], PARAM, ROLE), case.dress, np.float32(decay), ROUND_KEY
    kernel(case.kind, moved, case.origin, *move)
    return moved


SHAPES = st.tuples(st.integers(1, 3), st.integers(0, 3), st.sampled_from([1024, 4096]))
DRESSES = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans())
ALL = (True, True, True, True)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("kind", "out_kind"), [(FLOAT32, BFLOAT16), *((kind, kind) for kind in KINDS)])
@settings(deadline=None, max_examples=25)
@given(origin=st.integers(0, 100_000), n=st.integers(1, 3000), shape=SHAPES, dressed=DRESSES, data=st.data())
def test_perturb_equals_the_reference_on_any_range_of_any_shard(
    kind, out_kind, law, origin, n, shape, dressed, data
):
    case = make(kind, law, origin, n, shape, dressed)
    before = case.words.copy(), case.mean.copy(), case.curvature.copy()
    start = origin + data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, origin + n))
    got = perturb(cpu.perturb_serial, case, out_kind, start, stop)
    assert (got == case.at(out_kind, start, stop)).all()
    after = case.words, case.mean, case.curvature
    assert all((a == b).all() for a, b in zip(before, after, strict=True)), "a perturbation only reads"


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(
    origin=st.integers(0, 100_000),
    starts=st.lists(st.integers(0, 3000), min_size=1, max_size=4),
    length=st.integers(1, 2100),
    shape=SHAPES,
    dressed=DRESSES,
)
def test_rows_equal_the_reference(kind, law, origin, starts, length, shape, dressed):
    case = make(kind, law, origin, 3000 + length, shape, dressed)
    first = np.array(starts, np.int64) + origin
    outs = scratch(kind, len(case.tables), len(first), length)
    noises = Noise(case.law, case.keys, case.tables, PARAM, ROLE), case.dress
    cpu.perturb_rows_serial(kind, kind, case.words, origin, first, length, outs, *noises)
    for r, start in enumerate(first.tolist()):
        assert (outs[:, r] == case.at(kind, start, start + length)).all()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(
    origin=st.integers(0, 100_000),
    n=st.integers(1, 3000),
    shape=SHAPES,
    dressed=DRESSES,
    decay=st.sampled_from([0.0, 0.001]),
)
def test_update_is_one_rounding_of_the_dressed_direction(kind, law, origin, n, shape, dressed, decay):
    case = make(kind, law, origin, n, (1, *shape[1:]), dressed)
    moved = stepped(as_floats(kind, case.words), decay, case.directions(origin, origin + n)[0])
    bits = noise.numbers(noise.BITS16, int(ROUND_KEY), int(PARAM), noise.ROUNDING, origin, origin + n)
    want = to_words(kind, moved) if kind == FLOAT32 else stochastic(kind, moved, bits)
    assert (update(cpu.update_serial, case, decay) == want).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=10)
@given(cuts=st.lists(st.integers(1, 4999), max_size=4), dressed=DRESSES)
def test_updated_shards_are_the_updated_whole(kind, cuts, dressed):
    """Each shard brings its own part of mean and curvature."""
    whole = make(kind, GAUSSIAN, 700, 5000, (1, 2, 2048), dressed)
    edges = [0, *sorted(cuts), 5000]
    pieces = []
    for a, b in zip(edges, edges[1:], strict=False):
        mean, curvature = whole.mean[a:b], whole.curvature[a:b]
        shard = replace(whole, origin=700 + a, words=whole.words[a:b].copy(), mean=mean, curvature=curvature)
        pieces.append(update(cpu.update_serial, shard, 0.01))
    assert (np.concatenate(pieces) == update(cpu.update_serial, whole, 0.01)).all()


@pytest.mark.parametrize("bases", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_parallel_kernels_give_the_bits_of_the_serial_ones(kind, bases):
    """Fifty tiles from an odd origin: several chunks, with a cut tile at both ends."""
    case = make(kind, GAUSSIAN, 777, 50 * TILE + 99, (2, bases, 4096), ALL)
    reach = kind, case.origin, case.origin + len(case.words)
    assert (perturb(cpu.perturb_serial, case, *reach) == perturb(cpu.perturb_parallel, case, *reach)).all()
    starts = np.arange(20, dtype=np.int64) * 2001 + case.origin
    rows = [scratch(kind, 2, 20, 2001) for _ in range(2)]
    noises = Noise(case.law, case.keys, case.tables, PARAM, ROLE), case.dress
    for kernel, outs in zip((cpu.perturb_rows_serial, cpu.perturb_rows_parallel), rows, strict=True):
        kernel(kind, kind, case.words, case.origin, starts, 2001, outs, *noises)
    assert (rows[0] == rows[1]).all()
    assert (update(cpu.update_serial, case, 0.999) == update(cpu.update_parallel, case, 0.999)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_on_the_bound_is_still_within_it(kind):
    """The bound is a quantile of the weights, so one weight lies on it."""
    case = make(kind, RADEMACHER, 0, 3000, (1, 1, 1024), (False, False, True, False))
    magnitudes = np.abs(as_floats(kind, case.words))
    case = replace(case, below=np.sort(magnitudes)[999])
    got = as_floats(kind, perturb(cpu.perturb_serial, case, kind, 0, 3000)[0])
    assert ((got != 0) == (magnitudes <= case.below)).all() and np.count_nonzero(got) >= 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_mean_without_noise_is_added_by_its_share(kind):
    case = make(kind, GAUSSIAN, 5, 2000, (1, 0, 1024), (True, False, False, False))
    case = replace(case, shares=np.array([2.0], np.float32), mean=np.full(2000, 0.25, np.float32))
    assert (as_floats(kind, perturb(cpu.perturb_serial, case, kind, 5, 2005)[0]) == 0.5).all()
