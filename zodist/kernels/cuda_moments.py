"""CUDA kernel (Triton) of moments rebuilt from seeds; the bits of zodist.kernels.moments, which has the formula."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from zodist.kernels.cuda import NUMBERS, base, places
from zodist.kernels.cuda_range import EXACT, WARPS, even, offset, parts_of, share_of
from zodist.kernels.tile import Noise


@triton.jit(do_not_specialize=[*NUMBERS, "steps"])
def _ratio(
    out,
    start: tl.int64,
    length: tl.int64,
    keys,
    tables,
    period: tl.int64,
    begins,
    shares,
    squares,
    steps: tl.int32,
    epsilon: tl.float32,
    factor: tl.float32,
    param: tl.uint32,
    role: tl.uint32,
    law: tl.constexpr,
    aligned: tl.constexpr,
):
    """One tile of factor * m / (sqrt(v) + epsilon); begins: where each step's bases begin, and where the last ones end."""
    _, _, tile, j, inside = share_of(None, start, length, tl.num_programs(0), aligned, 1)
    at = places(tile, period, 1)
    m, v = tl.zeros([1024], tl.float32), tl.zeros([1024], tl.float32)
    for step in range(steps):
        g = tl.zeros([1024], tl.float32)  # a sum from 0 differs from one without in the sign of 0 alone
        for s in range(tl.load(begins + step), tl.load(begins + step + 1)):
            g = g + base(law, keys, s, param, role, tile, 1) * tl.load(tables + s * period + at)
        m = m + tl.load(shares + step) * g
        v = v + tl.load(squares + step) * (g * g)
    result = factor * tl.div_rn(m, tl.sqrt_rn(v) + epsilon)
    tl.store(out + offset(tile * 1024 - start, aligned) + j, result, inside)


def ratio(
    start: int,
    stop: int,
    out: torch.Tensor,
    noise: Noise,
    first: torch.Tensor,
    shares: torch.Tensor,
    squares: torch.Tensor,
    epsilon: Any,
    factor: Any,
) -> None:
    """out[i] = factor * m_i / (sqrt(v_i) + epsilon) on numbers start .. stop - 1 of a parameter, float32."""
    length = stop - start
    if length:
        tables = noise.tables[0]
        moments = noise.keys, tables, tables.shape[1], first, shares, squares, len(shares)
        numbers = float(epsilon), float(factor), int(noise.param), int(noise.role)
        fixed: Any = {"law": noise.law, "aligned": even(start, length), "num_warps": WARPS}
        _ratio[(parts_of(length, 1),)](out, start, length, *moments, *numbers, **fixed, **EXACT)
