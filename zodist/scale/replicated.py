"""zodist as it trains: its method, evaluator, records, exchange, journal and rule, on random tokens."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zodist.bench import LR, SEED
from zodist.config import Method, Rule
from zodist.evaluator import Evaluator
from zodist.exchange import Exchange, Rounds
from zodist.journal import Journal
from zodist.methods import METHODS, Probe
from zodist.models import collect
from zodist.scale.cell import Cell
from zodist.scale.systems import Spent, batch_of
from zodist.step import RULES, Division, Replica


def method_of(cell: Cell) -> Method:
    """The method of a cell: its defaults, with the cell's probes and noise where it has such keys."""
    kind = METHODS[cell.method].settings
    given = {"probes": cell.probes, "noise": cell.noise, "examples": cell.batch}
    own = {key: value for key, value in given.items() if key in kind.model_fields}
    return Method(name=cell.method, settings=kind.model_validate(own))


class ZerothOrder:
    """One worker of it."""

    def __init__(self, cell: Cell, model: Any, exchange: Exchange) -> None:
        self.batch, params = batch_of(cell, model), collect(model)
        method = METHODS[cell.method].build(method_of(cell).settings)
        rule = RULES["sgd"](Rule(lr=LR), params, parallel=cell.threads > 1)
        self.replica = Replica(params, method, rule, seed=SEED, steps=1, data_lanes=1)
        self.evaluator = Evaluator(model, params, self.replica.directions, parallel=cell.threads > 1)
        self._folder = tempfile.TemporaryDirectory(prefix="zodist-scale-")
        journal = None
        if exchange.worker == 0:
            journal = Journal.create(Path(self._folder.name) / "journal.jsonl", {"scale": cell.plain()})
        self.journal, self.rounds = journal, Rounds(exchange, journal)
        self.division = Division(SEED, data_lanes=1, batch=cell.batch, examples=cell.batch)
        self.expected = 0.0  # too few to be a reason against a cell

    @property
    def payload(self) -> float:
        return self.rounds.sent

    def step(self) -> Spent:
        forward, gather = self.rounds.forward_s, self.rounds.gather_s
        start = time.perf_counter()
        self.replica.advance(self._answer)
        whole = time.perf_counter() - start
        forward, gather = self.rounds.forward_s - forward, self.rounds.gather_s - gather
        return Spent(forward, gather, whole - forward - gather)

    def close(self) -> None:
        self.evaluator.close()
        if self.journal is not None:
            self.journal.close()
        self._folder.cleanup()

    def _answer(self, step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
        asked = self.division.asked(step, round, lr, probes, lanes)
        return self.rounds.round(asked, lambda group: self._losses(asked.share(group).probes))

    def _losses(self, probes: Sequence[Probe]) -> np.ndarray:
        if probes[0].examples:
            return np.stack([self.evaluator.single_losses(probe, [self.batch]) for probe in probes])
        return self.evaluator.group_losses([probe.points for probe in probes], [[self.batch]] * len(probes))
