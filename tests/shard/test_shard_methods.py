"""Methods where each worker holds ranges of the weights: exact, or refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from zodist.config import Rule
from zodist.directions import Param
from zodist.errors import ModelError
from zodist.methods import METHODS, Probe
from zodist.models import digest
from zodist.shard.exact import check
from zodist.shard.held import chunk
from zodist.step import RULES, Answer, Replica
from zodist.testing import LANES, RUN, STEPS, Recorded, subject, weights

OWN = sorted(name for name, entry in METHODS.items() if entry.origin == "zodist")
REFUSED = {"hizoo", "ldsd", "loren_released", "sparse_mezo"}
PARTS = 3


def machine(name: str, params: list[Param], rule: str) -> Replica:
    settings = Rule.model_validate({"name": rule, "lr": 1e-3, "weight_decay": 0.01})
    rules = RULES[rule](settings, params)
    return Replica(params, subject(name).build(), rules, seed=RUN, steps=STEPS, data_lanes=LANES)


def cut(params: list[Param], place: int, *, rows: bool) -> list[Param]:
    """One worker's ranges of copies: of rows as FSDP2 cuts, or of numbers as ZeRO-3 does."""
    own = []
    for p in params:
        row = int(np.prod(p.shape[1:])) if rows else 1
        first, stop = (edge * row for edge in chunk(p.weights.numel() // row, PARTS, place))
        held = p.weights[first:stop].clone()
        own.append(replace(p, weights=held, model=held, origin=first))
    return own


class Watched:
    """Made-up losses, and what the probes' directions are on the whole weights when they are asked for."""

    def __init__(self, replica: Replica, whole: list[list[torch.Tensor]] | None = None) -> None:
        """whole: the whole weights of each round, if the replica has not got them."""
        self.replica, self.record = replica, Recorded()
        self.rounds: list[list[torch.Tensor]] = []
        self.points: list[np.ndarray] = []
        self.whole = iter(whole or [])

    def __call__(self, step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
        held = next(self.whole, None) or [p.weights.clone() for p in self.replica.params]
        self.rounds.append(held)
        for p, numbers in zip(self.replica.params, held, strict=True):
            law, points = self.replica.directions[p.id], probes[0].points
            if law is not None:
                out = torch.empty(len(points), numbers.numel())
                every = replace(p, weights=numbers, model=numbers, origin=0)
                law.lay(every, points, {}).write_(every, 0, numbers.numel(), out)
                self.points.append(out.numpy())
        return self.record(step, round, lr, probes, lanes)


def run(replica: Replica, answer: Answer) -> None:
    while replica.step < STEPS:
        replica.advance(answer)


@pytest.mark.parametrize("rows", [True, False], ids=["rows", "flat"])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("name", OWN)
def test_a_method_is_exact_on_ranges_or_refused(name: str, rule: str, rows: bool) -> None:
    whole = machine(name, weights(torch.bfloat16), rule)
    if name in REFUSED:
        with pytest.raises(ModelError, match=name):
            check(name, machine(name, cut(weights(torch.bfloat16), 0, rows=rows), rule).directions)
        return
    parts = [machine(name, cut(weights(torch.bfloat16), n, rows=rows), rule) for n in range(PARTS)]
    check(name, parts[0].directions)
    want = Watched(whole)
    run(whole, want)
    for part in parts:
        got = Watched(part, want.rounds)
        run(part, got)
        assert all((a == b).all() for a, b in zip(got.points, want.points, strict=True))
    for n, p in enumerate(whole.params):
        assert torch.equal(torch.cat([part.params[n].weights for part in parts]), p.weights), p.name
    sums = sum(digest(part.params) for part in parts) % 2**64
    assert sums == digest(whole.params)
