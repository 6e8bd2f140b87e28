"""Moving weights along a product of thin matrices or of two vectors: documented order of sums, any cut, any threads."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
import torch
from exact import DTYPES, KINDS, PARAM, as_floats, random, stepped, stochastic, to_words, weights

from zodist import noise
from zodist.directions import Combination, LowRank, Param, RankOne, address
from zodist.kernels import low_rank, outer
from zodist.kernels.tile import BFLOAT16, FLOAT32
from zodist.step import Sgd

DECAY, ROUNDING = np.float32(0.03), np.uint64(0xFEEDFACECAFEBEEF)
SHAPES = [(1100, 1), (311, 7), (65, 64), (9, 1500), (70, 576)]


def thin(m: int, n: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors whose product is of the size of the weights, so that every bit of it counts."""
    g = random(rank)
    return g.standard_normal((m, rank), np.float32), g.standard_normal((rank, n), np.float32)


def reference(kind: int, words: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float32 in the order of the terms, one product and one sum at a time, and one rounding of the weights."""
    total = np.zeros((len(left), right.shape[1]), np.float32)
    for k in range(left.shape[1]):
        total = total + left[:, k : k + 1] * right[k]
    x = stepped(as_floats(kind, words), DECAY, total.reshape(-1))
    if kind == FLOAT32:
        return to_words(kind, x)
    bits = noise.numbers(noise.BITS16, int(ROUNDING), int(PARAM), noise.ROUNDING, 0, len(x))
    return stochastic(kind, x, bits)


@pytest.mark.parametrize("rank", [0, 1, 7, 24])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_has_the_bits_of_the_documented_order(kind, shape, rank):
    left, right = thin(shape[0], shape[1], rank)
    words = weights(kind, shape[0] * shape[1])
    want = reference(kind, words, left, right)
    low_rank.descend_serial(kind, words, 0, left, right, PARAM, DECAY, ROUNDING)
    assert (words == want).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shard_has_the_bits_of_the_whole(shape):
    """Cut anywhere: within a tile, a row, or a group of rows."""
    left, right = thin(shape[0], shape[1], 5)
    words = weights(BFLOAT16, shape[0] * shape[1])
    whole, cuts = words.copy(), sorted({0, 1, 777, len(words) // 2, len(words) - 3, len(words)})
    low_rank.descend_serial(BFLOAT16, whole, 0, left, right, PARAM, DECAY, ROUNDING)
    for start, stop in zip(cuts, cuts[1:], strict=False):
        low_rank.descend_serial(BFLOAT16, words[start:stop], start, left, right, PARAM, DECAY, ROUNDING)
    assert (words == whole).all()


def test_threads_do_not_show():
    left, right = thin(1100, 130, 9)
    words = weights(BFLOAT16, 1100 * 130)
    want, most = words.copy(), numba.get_num_threads()
    low_rank.descend_serial(BFLOAT16, want, 0, left, right, PARAM, DECAY, ROUNDING)
    try:
        for threads in range(1, most + 1):
            numba.set_num_threads(threads)
            got = words.copy()
            low_rank.descend_parallel(BFLOAT16, got, 0, left, right, PARAM, DECAY, ROUNDING)
            assert (got == want).all()
    finally:
        numba.set_num_threads(most)


@pytest.mark.parametrize("kind", KINDS)
def test_sgd_moves_as_along_a_written_gradient(kind):
    """The pass that other rules take, which writes the gradient first, ends at the same bits."""
    shape, unit = (70, 96), Combination.of((7, 1.0))
    left, right = thin(*shape, 6)
    law = LowRank(
        lambda combinations, cache: (left[None] * np.float32(combinations[0].weights[0]), right[None])
    )
    ends = []
    for whole in (True, False):
        tensor = torch.from_numpy(weights(kind, shape[0] * shape[1])).view(DTYPES[kind])
        param = Param("w", address("w"), shape, tensor, tensor)
        rule = Sgd(_Settings(), [param])
        if whole:
            rule.apply_(unit, {param.id: law}, 0.25, 3)
        else:
            laid = law.lay(param, [unit * 0.25], {})
            rule.sweep_(param, laid, np.float32(0.25 * _Settings.weight_decay), 1.0, np.uint64(3))
        ends.append(param.words.tobytes())
    assert ends[0] == ends[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(70, 96), (9, 1501), (130, 7), (301,)])
def test_sgd_moves_along_outer_products_as_along_a_written_gradient(shape, kind):
    """Zeros of both signs among the weights, and codes whose sum is 0 in places."""
    n, law = math.prod(shape), RankOne()
    gradient = Combination.of((7 << 16, 1.0), ((7 << 16) + 3, -1.0), ((7 << 16) + 4, 0.125))
    words = weights(kind, n)
    words[::5] = np.resize(np.array([0, 1 << (8 * words.itemsize - 1)], words.dtype), len(words[::5]))
    whole, swept = (
        Param("w", address("w"), shape, w, w)
        for w in (torch.from_numpy(words.copy()).view(DTYPES[kind]) for _ in range(2))
    )
    rule = Sgd(_Settings(), [whole])
    rule.apply_(gradient, {whole.id: law}, 0.25, 3)
    laid, decay = law.lay(swept, [gradient * 0.25], {}), np.float32(0.25 * _Settings.weight_decay)
    Sgd(_Settings(), [swept]).sweep_(swept, laid, decay, 1.0, np.uint64(3))
    assert whole.words.tobytes() == swept.words.tobytes() != words.tobytes()
    pieces = torch.from_numpy(words.copy()).view(DTYPES[kind])
    for start, stop in ((0, 1), (1, n // 3), (n // 3, n - 2), (n - 2, n)):
        held = pieces[start:stop]
        part = Param("w", address("w"), shape, held, held, origin=start)
        law.lay(part, [gradient * 0.25], {}).update_(part, decay, np.uint64(3))
    assert whole.words.tobytes() == pieces.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("parallel", [False, True])
def test_outer_products_are_taken_off_in_the_documented_order(parallel):
    m, n, g = 70, 1000, random(1)
    left, right = g.standard_normal(m, np.float32), g.standard_normal(n, np.float32)
    table, words = g.standard_normal((4, 8), np.float32), weights(FLOAT32, m * n)
    spread = np.tile(table, (-(-m // 4), n // 8))[:m]
    want = stepped(as_floats(FLOAT32, words), DECAY, ((left[:, None] * right) * spread).reshape(-1))
    run = outer.descend_outer_parallel if parallel else outer.descend_outer_serial
    run(FLOAT32, words, 0, left, right, table, PARAM, DECAY, ROUNDING)
    assert words.tobytes() == to_words(FLOAT32, want).tobytes()


class _Settings:
    lr, momentum, beta2, epsilon, weight_decay, schedule, warmup = 0.25, 0.9, 0.999, 1e-8, 0.1, "constant", 0
