"""Predictions beside measured cells of ``zodist scale``, with the error of each.

The rates of the machine come from the calibration, which knows nothing of the cells; the latency and the rate of a link from
rounds that each cell makes before its steps, with nothing else going on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from zodist.errors import ConfigError
from zodist.journal import read_lines
from zodist.plan.calibration import Calibration, Link
from zodist.plan.cost import Job, cost
from zodist.plan.first_order import step_s, ways
from zodist.plan.shapes import Shape, read_shape

CELLS = "cells.jsonl"
PHASES = ("forward_s", "wait_s", "exchange_s", "update_s")


@dataclass(frozen=True, slots=True)
class Compared:
    """A cell beside its prediction, in seconds; phases of both in the order of PHASES, of other systems none."""

    cell: dict[str, Any]
    predicted_s: float
    measured_s: float
    predicted: tuple[float, ...]
    measured: tuple[float, ...]

    @property
    def error(self) -> float:
        """Predicted over measured step, less one."""
        return self.predicted_s / self.measured_s - 1.0


def measured_cells(path: Path) -> list[dict[str, Any]]:
    """The measured cells of a file, or of a folder of ``zodist scale``.  Raises ConfigError if there are none."""
    file = path / CELLS if path.is_dir() else path
    cells = [line for line in read_lines(file) if "step_s" in line]
    if not cells:
        raise ConfigError(f"{file} has no measured cell; name the folder of a zodist scale that has run")
    return cells


def compare(cells: Sequence[dict[str, Any]], machine: Calibration) -> list[Compared]:
    """Predictions for the cells of zodist and of first-order training, in their order; the naive way has no model."""
    shapes: dict[str, Shape] = {}
    found = []
    for cell in cells:
        shape = shapes.get(cell["model"]) or shapes.setdefault(cell["model"], _shape(cell))
        way = next((way for way in ways(shape) if way.name == cell["system"]), None)
        link = Link(workers=cell["workers"], round_s=cell["link"]["round_s"], rate=cell["link"]["rate"])
        job = _job(cell)
        if cell["system"] == "zodist":
            spent = cost(shape, job, machine, link)
            phases = tuple(getattr(spent, name) for name in PHASES)
            measured = tuple(cell[name]["median"] for name in PHASES)
            found.append(Compared(cell, spent.step_s, cell["step_s"]["median"], phases, measured))
        elif way is not None and "bound_s" not in cell:
            seconds = step_s(way, shape, job, machine, link)
            found.append(Compared(cell, seconds, cell["step_s"]["median"], (), ()))
    return found


def _job(cell: dict[str, Any]) -> Job:
    names = ("workers", "batch", "tokens", "dtype", "beside", "points", "rounds", "coupling")
    given = {name: cell[name] for name in names if name in cell}  # the last three are zodist's alone
    return Job(probes=max(1, cell["probes"]), law=cell["noise"], **given)


def _shape(cell: dict[str, Any]) -> Shape:
    return Shape(**cell["shape"]) if "shape" in cell else read_shape(cell["model"])


def summary(found: Sequence[Compared], within: float = 0.2) -> str:
    """How good the predictions are, in words: of zodist, and of the others."""
    ours = [item for item in found if item.cell["system"] == "zodist"]
    theirs = [item for item in found if item.cell["system"] != "zodist"]
    return f"zodist: {_errors(ours, within)}" + (f"; the others: {_errors(theirs, within)}" if theirs else "")


def _errors(found: Sequence[Compared], within: float) -> str:
    if not found:
        return "no cell was measured"
    errors = sorted(abs(item.error) for item in found)
    good = sum(error <= within for error in errors)
    return f"{good} of {len(found)} cells within {within:.0%}; median error {median(errors):.0%}, largest {errors[-1]:.0%}"
