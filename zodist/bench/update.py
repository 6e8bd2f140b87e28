"""``zodist bench update``: all weights moved by a sum of N directions, coded or independent, beside a copy of the weights.

Coded directions share one base noise, so the sum is one pass for any N.  Independent ones are drawn seed by seed: here in
one fused pass, and, as the peer, by a pass of torch.normal for each seed, which is how a log of seeds is replayed elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zodist import noise
from zodist.bench import inplace
from zodist.bench.line import Line, counted
from zodist.bench.rounds import Rounds, timed
from zodist.bench.variants import LR, SEED, Settings, load
from zodist.config import Rule
from zodist.directions import Cache, Combination, Dense, Law, LowRank, Param, RankOne, factor, matrix_shape
from zodist.exchange import set_threads
from zodist.methods import StepSeeds
from zodist.models import collect
from zodist.step import RULES

CODED, INDEPENDENT, MANY = (1, 16, 256, 1024, 65536), (1, 4, 16), 1024
RANK = 4  # of the low-rank law
MATRIX = (
    1 << 20
)  # numbers of the matrix on which MANY independent seeds are measured, as nearly as the model has one

Laws = Mapping[int, Law | None]


def measure_update(settings: Settings, *, repeats: int, limit_s: float = math.inf) -> list[Line]:
    """Seconds of an update by N probes, for each law of directions; only what is noted as calculated is not measured."""
    set_threads(settings.threads)
    model = load(settings)
    params = collect(model)
    setting = f"{Path(settings.model).name}, {settings.dtype}, {settings.noise}, {counted(settings.threads, 'thread')}"
    dense = {coded: Dense(noise.LAWS[settings.noise], coded) for coded in (True, False)}
    copies = [torch.empty_like(p.weights) for p in params]
    weights = [p.model for p in params]

    def copy() -> None:
        for out, p in zip(copies, params, strict=True):
            out.copy_(p.weights)

    def fold(chosen: Sequence[Param], laws: Laws, count: int, coupling: str) -> Callable[[], None]:
        """One update of some parameters by ``count`` probes."""
        rule = RULES["sgd"](Rule(lr=LR), chosen, parallel=settings.threads > 1)
        gradient = _gradient(count, coupling)
        return lambda: rule.apply_(gradient, laws, LR, SEED)

    everywhere = {coded: {p.id: law for p in params} for coded, law in dense.items()}
    runs = {"copy": copy, "torch": partial(inplace.update_, weights, LR, 1e-4, SEED)}
    runs |= {f"coded {n}": fold(params, everywhere[True], n, "walsh") for n in CODED}
    runs |= {f"seeds {n}": fold(params, everywhere[False], n, "independent") for n in INDEPENDENT}
    for name, laws in _thin_laws(params, dense[True]).items():
        runs |= {f"{name} {n}": fold(params, laws, n, "walsh") for n in (1, MANY)}
    one = [min(params, key=lambda p: abs(math.log(p.weights.numel() / MATRIX)))]
    runs["matrix copy"] = partial(torch.empty_like(one[0].weights).copy_, one[0].weights)
    for coded, coupling in ((True, "walsh"), (False, "independent")):
        runs[f"matrix {coupling}"] = fold(one, everywhere[coded], MANY, coupling)
    with torch.inference_mode():
        rounds = Rounds([timed(name, run) for name, run in runs.items()], repeats, limit_s)
    return [*_whole(rounds, setting), *_matrix(rounds, setting, one[0])]


def _gradient(count: int, coupling: str) -> Combination:
    """Probes of one step with unequal weights that nobody measured."""
    seeds = StepSeeds(SEED, 0).names(count, coupling)
    return Combination(seeds, (np.arange(count) % 7 - 2.5) * 1e-4)


def _thin_laws(params: Sequence[Param], dense: Dense) -> dict[str, Laws]:
    """Rank-one and low-rank directions for matrices, dense ones for the rest."""
    plain = Dense(dense.law, coded=False)

    def low_rank(param: Param) -> Law:
        rows, columns = matrix_shape(param.shape)
        drawn = factor(plain, [Combination.of((SEED, 1.0))], {}, param.id, noise.V, RANK, columns)

        def factors(combinations: Sequence[Combination], cache: Cache) -> tuple[np.ndarray, np.ndarray]:
            return factor(dense, combinations, cache, param.id, noise.U, rows, RANK), drawn

        return LowRank(factors)

    def laws(of_matrix: Callable[[Param], Law]) -> Laws:
        return {p.id: of_matrix(p) if len(p.shape) > 1 else dense for p in params}

    return {"rank one": laws(lambda param: RankOne()), f"rank {RANK}": laws(low_rank)}


def _whole(rounds: Rounds, setting: str) -> list[Line]:
    """The lines of all weights."""
    shared: dict[str, Any] = {
        "setting": setting,
        "ceiling": "copy",
        "ceiling_is": "torch copy_ of the same weights",
    }
    replayed = rounds.median("torch")
    lines = [
        replace(
            rounds.line("update", f"{n:,} coded", f"coded {n}", **shared),
            peer=n * replayed,
            peer_is="N independent seeds replayed one by one with torch.normal: N times the measured pass of one",
        )
        for n in CODED
    ]
    for n in INDEPENDENT:
        line = rounds.line("update", f"{n:,} independent", f"seeds {n}", **shared)
        lines.append(replace(line, peer=n * replayed, peer_is=lines[0].peer_is))
    first, last = INDEPENDENT[0], INDEPENDENT[-1]
    slope = (rounds.median(f"seeds {last}") - rounds.median(f"seeds {first}")) / (last - first)
    lines.append(
        replace(
            lines[-1],
            what=f"{MANY:,} independent, extrapolated",
            value=rounds.median(f"seeds {first}") + slope * (MANY - first),
            low=None,
            high=None,
            peer=MANY * replayed,
            note=f"not measured: a straight line through the medians at N = {first} and N = {last}",
        )
    )
    for name in ("rank one", f"rank {RANK}"):
        for n in (1, MANY):
            lines.append(rounds.line("update", f"{n:,} coded, {name}", f"{name} {n}", **shared))
    return lines


def _matrix(rounds: Rounds, setting: str, param: Param) -> list[Line]:
    """The lines of one matrix, where many independent seeds can be measured."""
    where = " x ".join(str(n) for n in param.shape)
    shared: dict[str, Any] = {
        "setting": setting,
        "ceiling": "matrix copy",
        "ceiling_is": "torch copy_ of the same matrix",
        "note": f"one matrix alone, {where}, everything measured",
    }
    independent: dict[str, Any] = {
        "peer": "matrix independent",
        "peer_is": f"{MANY:,} independent seeds in one fused pass",
    }
    return [
        rounds.line("update", f"one matrix, {MANY:,} coded", "matrix walsh", **shared, **independent),
        rounds.line("update", f"one matrix, {MANY:,} independent", "matrix independent", **shared),
    ]
