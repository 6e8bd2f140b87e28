"""More cases of zodist's Triton kernels against numba's: rows less their projection, moments rebuilt, outer products."""

from __future__ import annotations

import numpy as np
import torch
from exact import KINDS, PARAM, ROLE, ROUND_KEY, setting, weights
from triton_cases import CASES, LAWS, both, case, floats, parameters, points_at, room, sent

from zodist.directions import Dense, Projected
from zodist.kernels import BFLOAT16, FLOAT32, HOST, Noise, on_cuda
from zodist.noise import GAUSSIAN, RADEMACHER

__all__ = ["CASES"]


@case
def project(device: torch.device) -> None:
    """Rows in one piece and by name, shorter than the sixteen sums and longer than a tile, with and without weights."""
    along = np.float32(0.7)
    for number, (law, n) in enumerate([(GAUSSIAN, 7), (RADEMACHER, 160), (GAUSSIAN, 1100), (GAUSSIAN, 403)]):
        kind, (keys, tables) = KINDS[number % 3], setting(number, 1 + number % 2, number % 3, 1024)
        words = weights(kind, 5 * n) if number != 1 else np.empty(0, np.uint32)
        given = Noise(law, keys, tables, PARAM, ROLE), floats(number, n), along
        for rows in (range(1, 4), np.array([3, 0, 4, 3])):
            host = np.arange(1, 4) if isinstance(rows, range) else rows
            want, kernels = room(FLOAT32, len(tables), len(host), n), on_cuda(device)
            got = kernels.send(want.copy())
            HOST.project.serial(kind, FLOAT32, words, 0, host, n, want, *given)
            place = kind, FLOAT32, words, 0, kernels.send(rows) if rows is host else rows, n, got, *given
            kernels.project.serial(*(sent(kernels, a) for a in place))
            assert got.cpu().numpy().tobytes() == want.tobytes(), (law, n, rows)


@case
def projections_in_parts(device: torch.device) -> None:
    """Rows that do not fit the scratch go one part after the other."""
    from zodist.kernels import cuda_project  # triton may be absent where the cases are only named

    held, cuda_project.SCRATCH = cuda_project.SCRATCH, 3 * 48
    try:
        ours, theirs = parameters(device, BFLOAT16)
        law = Projected(Dense(GAUSSIAN, True), floats(6, 48), np.array([0.02], np.float32))
        for rows in (False, True):
            assert points_at(law, ours[0], rows).tobytes() == points_at(law, theirs[0], rows).tobytes()
    finally:
        cuda_project.SCRATCH = held


@case
def ratio(device: torch.device) -> None:
    """Steps of several base seeds, of one and of none; ranges cut at both ends."""
    first = np.array([0, 2, 3, 3], np.int64)
    for number, law in enumerate(LAWS):
        keys, tables = setting(number, 1, 3, 1024 << number)
        shares, squares = np.array([0.5, 0.3, 0.2], np.float32), np.array([0.1, 0.2, 0.7], np.float32)
        start, n = 1000 + 24 * number, 700
        given = first, shares, squares, np.float32(1e-8), np.float32(0.3)
        out = np.zeros(n, np.float32)
        both("ratio", device, start, start + n, out, Noise(law, keys, tables, PARAM, ROLE), *given, wrote=[2])


@case
def descend_outer(device: torch.device) -> None:
    """Cut inside a row; weights of both zeros, for the sign of a difference of zeros counts too."""
    for number, kind in enumerate(KINDS):
        n, origin = (7, 160, 1100)[number], 995
        words = weights(kind, 700)
        words[:8] = np.tile(np.array([0, 1 << (31 if kind == FLOAT32 else 15)], words.dtype), 4)
        m = (origin + 700) // n + 1
        table = floats(2, 4, 16)
        table[0, ::3] = 0.0
        place = kind, words, origin, np.sign(floats(number, m)), np.sign(floats(7, n)), table
        both("descend_outer", device, *place, PARAM, np.float32(0.01 * (number % 2)), ROUND_KEY, wrote=[1])
