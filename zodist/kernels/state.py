"""CPU kernel (numba) of a method's state: a curvature per weight, moved by the noise of a step.

One pass over the held numbers, regenerating the noise tile by tile as the probes had it; float32 in the order written
here.  Serial and parallel forms give the same bits.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from zodist.kernels.cpu import CHUNK, compile_forms
from zodist.kernels.tile import TILE, ZERO, compile_tile, f32, fill, u32


@compile_tile
def _bend_tiles(curvature, start, law, keys, gains, subtract, fade, low, high, param, role, begin, end, room):
    """_bend on tiles begin .. end - 1."""
    z, total, w = room
    for tile in range(begin, end):
        lo, hi = max(tile * TILE, start), min(tile * TILE + TILE, start + curvature.size)
        held, n, at = curvature[lo - start : hi - start], hi - lo, lo - tile * TILE
        total[0:n] = ZERO
        for s in range(keys.size):
            fill(law, keys[s], param, role, tile, z, w)
            base, gain = z[at : at + n], gains[s]
            for j in range(n):
                total[j] = total[j] + gain * (base[j] * base[j] - subtract)
        for j in range(n):
            h = held[j] + held[j] * (total[j] - fade)
            held[j] = min(max(h, low), high)


def _bend(curvature, start, law, keys, gains, subtract, fade, low, high, param, role):
    """Curvature h <- h + h * (sum_s gains[s] * (base_s^2 - subtract) - fade), kept within low .. high.

    curvature: float32, numbers start .. of the parameter; keys: base seeds [S]; gains: float32 [S].  The change is formed
    before it is added, because 1 - fade would be 1 in float32 for a small fade.
    """
    stop = start + curvature.size
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        room = np.empty(TILE, f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        begin, end = first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)
        noises = law, keys, gains, subtract, fade, low, high, param, role
        _bend_tiles(curvature, start, *noises, begin, end, room)


bend_serial, bend_parallel = compile_forms(_bend)
