"""``zodist bench step --points``: several probes' points in one forward beside a forward for each probe.

Every probe has a batch of its own, as in a run.  All share one base noise, so a forward of many points draws a layer's noise
once, and dispatches its operations once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zodist.bench.bare import Bare
from zodist.bench.line import Line, counted
from zodist.bench.rounds import Rounds, timed
from zodist.bench.variants import EPS, SEED, RandomBatch, Settings, load
from zodist.directions import Combination
from zodist.errors import ConfigError
from zodist.evaluator import Evaluator
from zodist.exchange import set_threads
from zodist.methods import MeZO, MeZOSettings, StepSeeds
from zodist.models import collect


def measure_population(
    settings: Settings, points: Sequence[int], *, repeats: int, limit_s: float = math.inf
) -> list[Line]:
    """Times of evaluating all probes: a forward for each, and forwards of so many points.

    points: points of a forward, even numbers up to two for every probe.
    """
    for count in points:
        if count < 2 or count % 2 or count > 2 * settings.probes:
            raise ConfigError(
                f"--points {count} must be an even number from 2 to two for each of the {settings.probes} probes"
            )
    set_threads(settings.threads)
    model = load(settings)
    words = model.get_input_embeddings().weight.shape[0]
    batches = [[RandomBatch.of(settings, words, number)] for number in range(settings.probes)]
    bare, params = Bare(model, batches[0][0]), collect(model)
    method = MeZO(MeZOSettings.model_validate({"noise": settings.noise, "probes": settings.probes}))
    evaluator = Evaluator(
        model, params, method.direction, parallel=settings.threads > 1, packed=settings.sentences
    )
    every = [
        tuple(Combination.of((int(seed), sign * EPS)) for sign in (1.0, -1.0))
        for seed in StepSeeds(SEED, 0).coded(settings.probes)
    ]

    def evaluate(count: int) -> None:
        for at in range(0, len(every), count // 2):
            part = slice(at, at + count // 2)
            evaluator.group_losses(every[part], batches[part])

    def forwards() -> None:
        for (bare.batch,) in batches:
            bare.few_logits()
            bare.few_logits()

    runs = [timed("bare", forwards), timed("single", lambda: evaluate(2))]
    runs += [timed(f"{count}", lambda count=count: evaluate(count)) for count in points]
    try:
        rounds = Rounds(runs, repeats, limit_s)
    finally:
        evaluator.close()
    probes = counted(settings.probes, "probe")
    shared: dict[str, Any] = {
        "setting": str(settings),
        "case": settings.case,
        "ceiling": "bare",
        "ceiling_is": f"{2 * len(every)} bare forwards, one after the other",
    }
    single: dict[str, Any] = {"peer": "single", "peer_is": "a forward for each probe"}
    lines = [rounds.line("population", f"{probes}, one a forward", "single", **shared)]
    for count in points:
        what = f"{probes}, {count} points a forward"
        lines.append(rounds.line("population", what, f"{count}", **shared, **single))
    return lines
