"""CPU kernel (numba) of a method's state: a curvature per weight, moved by the noise of a step.

One pass over the held numbers, regenerating the noise tile by tile as the probes had it; float32 in the order written
here.  Serial and parallel forms give the same bits.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from zodist.kernels.cpu import CHUNK, compile_forms
from zodist.kernels.tile import TILE, ZERO, chunk_of, chunks, compile_tile, edges, f32, fill, tiles_to, u32


@compile_tile
def _bend_range(curvature, start, noise, gains, subtract, fade, low, high, lo, hi, room):
    """_bend on numbers lo .. hi - 1."""
    z, total, w = room
    for tile in range(lo // TILE, tiles_to(hi)):
        a, b = edges(tile, lo, hi)
        at, n = tile * TILE + a - start, b - a
        held = curvature[at : at + n]
        total[0:n] = ZERO
        for s in range(noise.keys.size):
            fill(noise.law, noise.keys[s], noise.param, noise.role, tile, z, w)
            base, gain = z[a:b], gains[s]
            for j in range(n):
                total[j] = total[j] + gain * (base[j] * base[j] - subtract)
        for j in range(n):
            h = held[j] + held[j] * (total[j] - fade)
            held[j] = min(max(h, low), high)


def _bend(curvature, start, noise, gains, subtract, fade, low, high):
    """Curvature h <- h + h * (sum_s gains[s] * (base_s^2 - subtract) - fade), kept within low .. high.

    curvature: float32, numbers start .. of the parameter; gains: float32 [S]; the noise's tables are not looked at.  The
    change is formed before it is added, because 1 - fade would be 1 in float32 for a small fade.
    """
    stop = start + curvature.size
    for chunk in prange(chunks(start, stop, CHUNK)):
        room = np.empty(TILE, f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        lo, hi = chunk_of(chunk, start, stop, CHUNK)
        _bend_range(curvature, start, noise, gains, subtract, fade, low, high, lo, hi, room)


bend_serial, bend_parallel = compile_forms(_bend)
