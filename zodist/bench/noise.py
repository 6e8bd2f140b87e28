"""``zodist bench noise``: random numbers, and weights perturbed into scratch, beside a copy and torch's own numbers.

A perturbation reads the weights and writes them changed, as ``copy_`` does with nothing in between: the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zodist import noise
from zodist.bench.line import Line, counted
from zodist.bench.rounds import Rounds, Seconds, timed
from zodist.directions import Combination, Dense, Param, address
from zodist.errors import ConfigError
from zodist.exchange import set_threads
from zodist.models import DTYPES

MEASURED = ("float32", "bfloat16")
EPS, SEED = 1e-3, 1 << 16  # the seed's low 16 bits are its Walsh code
PEERS = {"gaussian": "torch.randn", "rademacher": "torch.randint(0, 2)"}


def measure_noise(*, numbers: int, threads: int, repeats: int, limit_s: float = math.inf) -> list[Line]:
    """Rates of both laws in both dtypes on a tensor of ``numbers``, in 10^9 numbers a second.

    Raises ConfigError for a size that cannot be measured.
    """
    if numbers < noise.TILE:
        raise ConfigError(f"numbers = {numbers} must be >= {noise.TILE}, the numbers of one tile")
    set_threads(threads)
    lines = []
    for dtype in MEASURED:
        lines += _of_dtype(dtype, numbers, threads, repeats, limit_s / len(MEASURED))
    return lines


def _of_dtype(dtype: str, numbers: int, threads: int, repeats: int, limit_s: float) -> list[Line]:
    """All lines of one dtype, from the same rounds."""
    weights = torch.zeros(numbers, dtype=DTYPES[dtype])
    param = Param("noise", address("noise"), (numbers,), weights, weights)
    pair, stream = torch.empty(2, numbers, dtype=DTYPES[dtype]), torch.empty_like(weights)
    runs = [timed("copy", lambda: pair[0].copy_(weights)), timed("copies", lambda: _copies(pair, weights))]
    for law in noise.LAWS:
        runs += _runs(law, param, pair, stream)
    rounds = Rounds(runs, repeats, limit_s)
    setting = f"{numbers / 2**20:.3g} Mi numbers, {dtype}, {counted(threads, 'thread')}"
    lines = []
    for law, peer in PEERS.items():
        rows = (
            ("numbers", "copy", "peer", peer, numbers),
            ("perturbation", "copy", "peer perturbation", f"{peer}, then added to the weights", numbers),
            ("perturbation, two points", "copies", "", "", 2 * numbers),
        )
        for what, ceiling, other, other_is, count in rows:
            lines.append(
                rounds.line(
                    "noise",
                    f"{law} {what}",
                    f"{law} {what}",
                    setting=setting,
                    case=dtype,
                    ceiling=ceiling,
                    ceiling_is="torch copy_ of the same tensors",
                    peer=f"{law} {other}" if other else "",
                    peer_is=other_is,
                    amount=count / 1e9,
                    unit="G/s",
                )
            )
    return lines


def _runs(law: str, param: Param, pair: Tensor, stream: Tensor) -> list[Callable[[], Seconds]]:
    """Ours and the peer's, of one law."""
    dense, parallel = Dense(noise.LAWS[law], coded=True), torch.get_num_threads() > 1
    numbers, plus, minus = len(stream), Combination.of((SEED, EPS)), Combination.of((SEED, -EPS))
    unit = Combination.of((SEED, 1.0))

    def write(out: Tensor, *points: Combination, add: bool = True) -> None:
        dense.lay(param, points, {}).write_(param, 0, numbers, out, add=add, parallel=parallel)

    def draw() -> None:
        if law == "gaussian":
            torch.randn(numbers, dtype=stream.dtype, out=stream)
        else:
            torch.randint(0, 2, (numbers,), dtype=stream.dtype, out=stream)

    def draw_and_add() -> None:
        draw()
        torch.add(param.weights, stream, alpha=EPS, out=pair[0])

    return [
        timed(f"{law} numbers", lambda: write(pair[:1], unit, add=False)),
        timed(f"{law} perturbation", lambda: write(pair[:1], plus)),
        timed(f"{law} perturbation, two points", lambda: write(pair, plus, minus)),
        timed(f"{law} peer", draw),
        timed(f"{law} peer perturbation", draw_and_add),
    ]


def _copies(pair: Tensor, weights: Tensor) -> None:
    for out in pair:
        out.copy_(weights)
