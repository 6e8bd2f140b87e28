"""CPU kernel (numba) of the update rules: one gradient, given as float32 numbers, moves weights and buffers.

It works on numbers ``start`` .. of one parameter: words and buffers are those of the range alone.  float32 throughout,
one rounding of the weights at the end (zodist.kernels.tile.round_and_store).  Serial and parallel forms give the same bits.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from zodist.kernels.cpu import CHUNK, compile_forms
from zodist.kernels.tile import (
    TILE,
    ZERO,
    chunk_of,
    chunks,
    compile_tile,
    decode,
    edges,
    f32,
    round_and_store,
    stepped,
    tiles_to,
    u32,
)

SGD, SIGN, MOMENTUM, ADAM = 0, 1, 2, 3


@compile_tile
def _sgd(x, g, decay, rate):
    """Weights <- weights - (decay * weights + rate * gradient)."""
    for j in range(g.size):
        x[j] = stepped(x[j], decay, rate * g[j])


@compile_tile
def _sign(x, g, decay, rate):
    """Weights <- weights - (decay * weights + rate * sign(gradient))."""
    for j in range(g.size):
        step = rate if g[j] > ZERO else (-rate if g[j] < ZERO else ZERO)
        x[j] = stepped(x[j], decay, step)


@compile_tile
def _momentum(x, g, kept, decay, rate, beta):
    """Buffer <- beta * buffer + gradient; weights <- weights - (decay * weights + rate * buffer)."""
    for j in range(g.size):
        m = beta * kept[j] + g[j]
        kept[j] = m
        x[j] = stepped(x[j], decay, rate * m)


@compile_tile
def _adam(x, g, m, v, decay, rate, beta1, beta2, root, epsilon):
    """Adam: rate = lr / (1 - beta1^t), root = 1 / (1 - beta2^t); the moments m and v are updated in place."""
    one = f32(1.0)
    for j in range(g.size):
        m[j] = beta1 * m[j] + (one - beta1) * g[j]
        v[j] = beta2 * v[j] + (one - beta2) * (g[j] * g[j])
        x[j] = stepped(x[j], decay, rate * m[j] / (np.sqrt(v[j] * root) + epsilon))


@compile_tile
def _move_range(rule, kind, words, start, gradient, first, second, factors, param, round_key, lo, hi, room):
    """_move on numbers lo .. hi - 1."""
    buffer, w, bits = room
    decay, rate = factors[0], factors[1]
    for tile in range(lo // TILE, tiles_to(hi)):
        a, b = edges(tile, lo, hi)
        at = tile * TILE + a - start
        last = at + b - a
        x, g, piece = buffer[0 : b - a], gradient[at:last], words[at:last]
        decode(kind, piece, x)
        if rule == SGD:
            _sgd(x, g, decay, rate)
        elif rule == SIGN:
            _sign(x, g, decay, rate)
        elif rule == MOMENTUM:
            _momentum(x, g, first[at:last], decay, rate, factors[2])
        else:
            m, v = first[at:last], second[at:last]
            _adam(x, g, m, v, decay, rate, factors[2], factors[3], factors[4], factors[5])
        round_and_store(kind, x, piece, round_key, param, tile, a, b, bits, w)


def _move(rule, kind, words, start, gradient, first, second, factors, param, round_key):
    """Move weights and buffers by one rule, SGD to ADAM.

    first, second: the rule's buffers, float32 like the gradient, or empty; factors: float32, in the order of the rule's
    own formula above.
    """
    stop = start + words.size
    for chunk in prange(chunks(start, stop, CHUNK)):
        room = np.empty(TILE, f32), np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        lo, hi = chunk_of(chunk, start, stop, CHUNK)
        place = rule, kind, words, start, gradient, first, second, factors, param, round_key
        _move_range(*place, lo, hi, room)


move_serial, move_parallel = compile_forms(_move)
