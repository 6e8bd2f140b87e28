"""CUDA kernel (Triton) of the update rules; the bits of zodist.kernels.rules, which has the formulas."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from zodist.kernels import rules
from zodist.kernels.cuda_range import EXACT, SCALARS, WARPS, even, offset, parts_of, share_of
from zodist.kernels.cuda_tile import decode, settle, stepped

SGD, SIGN, MOMENTUM = (tl.constexpr(code) for code in (rules.SGD, rules.SIGN, rules.MOMENTUM))


@triton.jit
def moved(rule: tl.constexpr, x, g, first, second, at, inside, decay, rate, f0, f1, f2, f3):
    """The weights x after a step; buffers are stored.  f0 .. f3: factors after the rate."""
    if rule == SGD:
        return stepped(x, decay, rate * g)
    elif rule == SIGN:
        return stepped(x, decay, tl.where(g > 0.0, rate, tl.where(g < 0.0, -rate, 0.0)))
    elif rule == MOMENTUM:
        m = f0 * tl.load(first + at, inside, 0.0) + g
        tl.store(first + at, m, inside)
        return stepped(x, decay, rate * m)
    else:
        m = f0 * tl.load(first + at, inside, 0.0) + (1.0 - f0) * g
        v = f1 * tl.load(second + at, inside, 0.0) + (1.0 - f1) * (g * g)
        tl.store(first + at, m, inside)
        tl.store(second + at, v, inside)
        return stepped(x, decay, tl.div_rn(rate * m, tl.sqrt_rn(v * f2) + f3))


@triton.jit(do_not_specialize=SCALARS)
def _move(
    words,
    start: tl.int64,
    length: tl.int64,
    gradient,
    first,
    second,
    decay: tl.float32,
    rate: tl.float32,
    f0: tl.float32,
    f1: tl.float32,
    f2: tl.float32,
    f3: tl.float32,
    param: tl.uint32,
    round_key: tl.uint64,
    rule: tl.constexpr,
    kind: tl.constexpr,
    aligned: tl.constexpr,
):
    """One tile of weights and buffers."""
    _, _, tile, j, inside = share_of(None, start, length, tl.num_programs(0), aligned, 1)
    held = offset(tile * 1024 - start, aligned) + j
    x, g = decode(kind, tl.load(words + held, inside, 0)), tl.load(gradient + held, inside, 0.0)
    x = moved(rule, x, g, first, second, held, inside, decay, rate, f0, f1, f2, f3)
    tl.store(words + held, settle(kind, x, round_key, param, tile, 1), inside)


def move(
    rule: int,
    kind: int,
    words: torch.Tensor,
    start: int,
    gradient: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    factors: Any,
    param: Any,
    round_key: Any,
) -> None:
    """Move weights and buffers by one rule; factors: on the CPU, float32 as there."""
    length = len(words)
    if length == 0:
        return
    _move[(parts_of(length, 1),)](
        words,
        start,
        length,
        gradient,
        first if len(first) else None,
        second if len(second) else None,
        *(float(factor) for factor in factors),
        *(0.0 for _ in range(6 - len(factors))),
        int(param),
        int(round_key),
        rule=rule,
        kind=kind,
        aligned=even(start, length),
        num_warps=WARPS,
        **EXACT,
    )
