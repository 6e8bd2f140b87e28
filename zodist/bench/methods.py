"""``zodist bench methods``: what a step of every method costs beside a MeZO step with as many forward passes.

Each method's steps run in turn with MeZO's in one process, on one model and one batch, so that what else the machine does
hits both.  A method whose step has F forwards is held against F / 2 antithetic pairs and one update of MeZO: its own
measured evaluation, scaled, plus its update, whose cost does not depend on the number of probes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from rich.table import Table

from zodist import records
from zodist.bench.variants import LR, SEED, RandomBatch, Settings, load
from zodist.config import Rule
from zodist.config_errors import nearest
from zodist.errors import ConfigError
from zodist.forward import Evaluator
from zodist.methods import METHODS, Probe
from zodist.params import collect
from zodist.rules import RULES
from zodist.step import Replica
from zodist.threads import set_threads

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
    *,
    model: str,
    noise: str,
    batch: int,
    tokens: int,
    dtype: str,
    threads: int,
    repeats: int,
    given: dict[str, dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """A line for every method: seconds of a step, of MeZO with as many forwards, and their ratio (medians).

    names: methods, all of the registry for none.  given: settings of some methods, in place of their defaults.
    Raises ConfigError for an unknown method or setting.
    """
    settings = Settings(model, noise, batch, tokens, dtype, 1, threads, 2, 1)
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"{name!r} is not a method{nearest(name, METHODS)}")
    set_threads(threads)
    loaded = load(settings)
    rows = RandomBatch.of(settings, loaded.get_input_embeddings().weight.shape[0])
    lines = []
    for name in names or list(METHODS):
        lines.append(_compare(name, (given or {}).get(name, {}), loaded, rows, settings, repeats))
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


def _compare(
    name: str, given: dict[str, Any], model: Any, batch: RandomBatch, settings: Settings, repeats: int
) -> dict[str, Any]:
    """Steps of a method and of MeZO in turn."""
    twin = copy.deepcopy(
        model, {id(tensor): tensor for tensor in model.parameters()}
    )  # other modules, the same weights
    other = Steps(name, given, model, batch, settings)
    law = {"noise": getattr(other.method.settings, "noise", settings.noise)}  # type: ignore[attr-defined]
    reference = Steps("mezo", law, twin, batch, settings)
    try:
        rounds = [(reference.run(), other.run()) for _ in range(WARM + repeats)][WARM:]
        state = other.state_bytes()
    finally:
        reference.close()
        other.close()
    pairs, ratios = [], []
    for (forwards, evaluate, update), (own, own_evaluate, own_update) in rounds:
        pairs.append((evaluate * own / forwards + update, own_evaluate + own_update))
        ratios.append(pairs[-1][1] / pairs[-1][0])
    return {
        "what": "method step",
        "method": name,
        "forwards": round(sum(own for _, (own, _, _) in rounds) / len(rounds), 2),
        "step_s": median(step for _, step in pairs),
        "evaluate_s": median(evaluate for _, (_, evaluate, _) in rounds),
        "update_s": median(update for _, (_, _, update) in rounds),
        "mezo_s": median(mezo for mezo, _ in pairs),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "state_bytes": state,
        **settings.plain(),
        "repeats": repeats,
        "torch": torch.__version__,
    }


def table(lines: Sequence[dict[str, Any]]) -> Table:
    """The lines for a person."""
    r = lines[0]
    title = f"{r['model']}, {r['dtype']}, {r['noise']}, {r['batch']} x {r['tokens']} tokens, {r['threads']} threads"
    caption = f"medians of {r['repeats']} steps, in turn with MeZO's; torch {r['torch']}"
    out = Table("method", title=title, caption=caption)
    for column in (
        "forwards",
        "step s",
        "evaluation s",
        "update s",
        "x MeZO",
        "smallest - largest",
        "state MiB",
    ):
        out.add_column(column, justify="right")
    for line in lines:
        seconds = (f"{line[key]:.3f}" for key in ("step_s", "evaluate_s", "update_s"))
        spread = f"{line['ratio_min']:.2f} - {line['ratio_max']:.2f}"
        state = f"{line['state_bytes'] / 2**20:,.1f}"
        out.add_row(line["method"], f"{line['forwards']:g}", *seconds, f"{line['ratio']:.2f}", spread, state)
    return out
