"""``zodist bench methods``: what a step of every method costs beside a MeZO step with as many forward passes.

Each method's steps run in turn with MeZO's and with bare forwards in one process, on one model and one batch, so that what
else the machine does hits all.  A method whose step has F forwards is held against F bare ones, and against F / 2 antithetic
pairs and one update of MeZO: its own measured evaluation, scaled, plus its update, whose cost does not depend on the number
of probes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from pydantic import ValidationError

from zodist.bench.bare import Bare
from zodist.bench.line import Line
from zodist.bench.rounds import LEAST, seconds
from zodist.bench.variants import LR, SEED, RandomBatch, Settings, load
from zodist.config import Rule, nearest
from zodist.errors import ConfigError
from zodist.evaluator import Evaluator
from zodist.exchange import set_threads
from zodist.methods import METHODS, Probe
from zodist.models import collect
from zodist.step import RULES, Replica, records

WARM = 2  # steps that compile kernels, size buffers and make the first bases


class Steps:
    """One method on a model: runs steps, and times evaluation and the rest."""

    def __init__(
        self, name: str, given: dict[str, Any], model: Any, batch: RandomBatch, settings: Settings
    ) -> None:
        self.method = METHODS[name].build(_settings(name, given, batch, settings))
        params, parallel = collect(model), settings.threads > 1
        rule = RULES["sgd"](Rule(lr=LR), params, parallel=parallel)
        self.replica = Replica(params, self.method, rule, seed=SEED, steps=1 << 30, data_lanes=1)
        self.evaluator = Evaluator(model, params, self.replica.directions, parallel=parallel)
        self.batch, self.name = batch, name

    def close(self) -> None:
        """Give the model back."""
        self.evaluator.close()

    def state_bytes(self) -> int:
        """Bytes of the method's state."""
        return sum(array.nbytes for array in self.method.state().values())

    def run(self) -> tuple[int, float, float]:
        """One step: forward passes, seconds of evaluation, seconds of everything else."""
        forwards, spent = 0, 0.0

        def answer(step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
            nonlocal forwards, spent
            start = perf_counter()
            losses = np.stack([self._losses(probe) for probe in probes])
            spent += perf_counter() - start
            forwards += sum(probe.forwards for probe in probes)
            return records.to_values(losses)

        start = perf_counter()
        self.replica.advance(answer)
        return forwards, spent, perf_counter() - start - spent

    def _losses(self, probe: Probe) -> np.ndarray:
        if probe.examples:
            return self.evaluator.single_losses(probe, [self.batch])
        return self.evaluator.losses(probe.points, [self.batch])


def measure_methods(
    names: Sequence[str],
    settings: Settings,
    *,
    repeats: int,
    given: dict[str, dict[str, Any]] | None = None,
    limit_s: float = math.inf,
) -> list[Line]:
    """A line for every method: seconds of a step, of bare forwards and of MeZO with as many forwards (medians).

    names: methods, all of the registry for none.  given: settings of some methods, in place of their defaults.
    limit_s: seconds for all of them; a method stops after two steps if it has had its share.
    Raises ConfigError for an unknown method or setting.
    """
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"{name!r} is not a method{nearest(name, METHODS)}")
    set_threads(settings.threads)
    loaded = load(settings)
    rows = RandomBatch.of(settings, loaded.get_input_embeddings().weight.shape[0])
    bare, chosen = Bare(loaded, rows), names or list(METHODS)
    lines = []
    for name in chosen:
        pair = _pair(name, (given or {}).get(name, {}), loaded, rows, settings)
        lines.append(_compare(*pair, bare, settings, repeats, limit_s / len(chosen)))
    return lines


def _settings(name: str, given: dict[str, Any], batch: RandomBatch, settings: Settings) -> Any:
    """The method's settings: the noise asked for, where the method allows it, and the examples of the batch."""
    kind = METHODS[name].settings
    shared = {"eps": 1e-3, "examples": batch.examples}
    values = {key: value for key, value in shared.items() if key in kind.model_fields} | given
    for noise in ({"noise": settings.noise}, {}):
        if noise and ("noise" in given or "noise" not in kind.model_fields):
            continue
        try:
            return kind.model_validate(values | noise)
        except ValidationError as error:
            first = error.errors()[0]
            if not noise or first["loc"] != ("noise",):
                place = ".".join(str(part) for part in first["loc"])
                raise ConfigError(f"method {name!r}: {place}: {first['msg']}") from error
    raise AssertionError("the last attempt returns or raises")


def _pair(
    name: str, given: dict[str, Any], model: Any, batch: RandomBatch, settings: Settings
) -> tuple[Steps, Steps]:
    """A method, and MeZO with the same noise on other modules over the same weights."""
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in model.parameters()})
    other = Steps(name, given, model, batch, settings)
    law = {"noise": getattr(other.method.settings, "noise", settings.noise)}  # type: ignore[attr-defined]
    return other, Steps("mezo", law, twin, batch, settings)


def _compare(
    other: Steps, reference: Steps, bare: Bare, settings: Settings, repeats: int, limit_s: float
) -> Line:
    """Steps of a method, of MeZO and bare forwards in turn."""
    start = perf_counter()
    counts: list[int] = []
    steps: list[float] = []
    peers: list[float] = []
    ceilings: list[float] = []
    try:
        for number in range(WARM + repeats):
            if number >= WARM + LEAST and perf_counter() - start > limit_s:
                break
            pair, evaluate, update = reference.run()
            forwards, *own = other.run()
            if number >= WARM:
                counts.append(forwards)
                steps.append(sum(own))
                peers.append(evaluate * forwards / pair + update)
                ceilings.append(forwards * seconds(bare.few_logits))
        state = other.state_bytes()
    finally:
        reference.close()
        other.close()
    return Line(
        "methods",
        other.name,
        median(steps),
        "s",
        setting=str(settings),
        low=min(steps),
        high=max(steps),
        rounds=len(steps),
        ceiling=median(ceilings),
        ceiling_is="as many bare forwards",
        peer=median(peers),
        peer_is="MeZO with as many forwards",
        note=f"{sum(counts) / len(counts):.3g} forwards a step, {state / 2**20:,.1f} MiB of state",
    )
