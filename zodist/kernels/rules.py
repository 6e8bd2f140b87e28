"""CPU kernels (numba) of the update rules: one gradient, given as float32 numbers, moves weights and buffers.

All work on numbers ``start`` .. of one parameter: words and buffers are those of the range alone.  float32 throughout,
one rounding of the weights at the end (zodist.kernels.tile.settle).  Serial and parallel forms give the same bits.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from zodist.kernels.cpu import CHUNK, compile_forms
from zodist.kernels.tile import TILE, ZERO, decode, f32, settle, u32


def _sgd(kind, words, start, gradient, param, decay, lr, round_key):
    """Weights <- weights * decay - lr * gradient."""
    stop = start + words.size
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        x, w, bits = np.empty(TILE, f32), np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        for tile in range(first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)):
            lo, hi = max(tile * TILE, start), min(tile * TILE + TILE, stop)
            piece, g = words[lo - start : hi - start], gradient[lo - start : hi - start]
            decode(kind, piece, x)
            for j in range(hi - lo):
                x[j] = x[j] * decay - lr * g[j]
            settle(kind, x, piece, round_key, param, tile, lo - tile * TILE, hi - tile * TILE, bits, w)


def _sign(kind, words, start, gradient, param, decay, lr, round_key):
    """Weights <- weights * decay - lr * sign(gradient)."""
    stop = start + words.size
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        x, w, bits = np.empty(TILE, f32), np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        for tile in range(first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)):
            lo, hi = max(tile * TILE, start), min(tile * TILE + TILE, stop)
            piece, g = words[lo - start : hi - start], gradient[lo - start : hi - start]
            decode(kind, piece, x)
            for j in range(hi - lo):
                step = lr if g[j] > ZERO else (-lr if g[j] < ZERO else ZERO)
                x[j] = x[j] * decay - step
            settle(kind, x, piece, round_key, param, tile, lo - tile * TILE, hi - tile * TILE, bits, w)


def _momentum(kind, words, start, gradient, buffer, param, decay, momentum, lr, round_key):
    """Buffer <- momentum * buffer + gradient; weights <- weights * decay - lr * buffer."""
    stop = start + words.size
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        x, w, bits = np.empty(TILE, f32), np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        for tile in range(first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)):
            lo, hi = max(tile * TILE, start), min(tile * TILE + TILE, stop)
            piece, g = words[lo - start : hi - start], gradient[lo - start : hi - start]
            kept = buffer[lo - start : hi - start]
            decode(kind, piece, x)
            for j in range(hi - lo):
                m = momentum * kept[j] + g[j]
                kept[j] = m
                x[j] = x[j] * decay - lr * m
            settle(kind, x, piece, round_key, param, tile, lo - tile * TILE, hi - tile * TILE, bits, w)


def _adam(
    kind, words, start, gradient, first, second, param, decay, beta1, beta2, rate, root, epsilon, round_key
):
    """Adam: rate = lr / (1 - beta1^t), root = 1 / (1 - beta2^t); moments are updated in place."""
    stop = start + words.size
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    one = f32(1.0)
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        x, w, bits = np.empty(TILE, f32), np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        for tile in range(first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)):
            lo, hi = max(tile * TILE, start), min(tile * TILE + TILE, stop)
            piece, g = words[lo - start : hi - start], gradient[lo - start : hi - start]
            m, v = first[lo - start : hi - start], second[lo - start : hi - start]
            decode(kind, piece, x)
            for j in range(hi - lo):
                m[j] = beta1 * m[j] + (one - beta1) * g[j]
                v[j] = beta2 * v[j] + (one - beta2) * (g[j] * g[j])
                x[j] = x[j] * decay - rate * m[j] / (np.sqrt(v[j] * root) + epsilon)
            settle(kind, x, piece, round_key, param, tile, lo - tile * TILE, hi - tile * TILE, bits, w)


sgd_serial, sgd_parallel = compile_forms(_sgd)
sign_serial, sign_parallel = compile_forms(_sign)
momentum_serial, momentum_parallel = compile_forms(_momentum)
adam_serial, adam_parallel = compile_forms(_adam)
