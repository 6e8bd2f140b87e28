"""All cells of a sweep, in turn: one line of OUT/cells.jsonl for each, so that the same command goes on after an end.

Workers are started once for each number of them, and connected anew for each link.  A cell that fails is a line as well,
with its error; it is tried again by the next call.  Lines are only ever added, so that several jobs may share a folder; of
a cell's lines the last counts.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from zodist.errors import ExchangeError
from zodist.journal import make_folder, read_lines
from zodist.scale.cell import Cell, Link
from zodist.scale.crew import Crew
from zodist.scale.network import Loopback, Namespaces, Network

CELLS = "cells.jsonl"


class Results:
    """The lines of a folder: the last of each cell, without those that failed or that a higher limit_s allows now."""

    def __init__(self, out: Path, limit_s: float = 0.0) -> None:
        make_folder(out)
        self.path = out / CELLS
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self._append("\n")  # behind a torn line
        last = {Cell.of(line).key: line for line in read_lines(self.path)}
        kept = {
            key: line
            for key, line in last.items()
            if "error" not in line and ("skipped" not in line or line["bound_s"] > limit_s)
        }
        self.lines, self._done = list(kept.values()), set(kept)

    def left(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that have no line yet."""
        return [cell for cell in cells if cell.key not in self._done]

    def add(self, cell: Cell, figures: dict[str, Any]) -> None:
        """Write a cell's line."""
        measured = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {**cell.plain(), **figures, "measured": measured}
        self._append(json.dumps(line) + "\n")
        self.lines.append(line)
        self._done.add(cell.key)

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="ascii") as file:
            file.write(text)


def sweep(
    cells: Sequence[Cell],
    out: Path,
    *,
    steps: int,
    warmup: int,
    limit_s: float,
    loopback: bool,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measure the cells that have no line yet; all lines of the folder.

    limit_s: seconds that a cell's steps may take; see zodist.scale.measure.  loopback: no namespaces, nothing is shaped.
    """
    results = Results(out, limit_s)
    left = results.left(cells)
    say(f"{len(left)} of {len(cells)} cells to measure")
    done = 0
    options = {"steps": steps, "warmup": warmup, "limit_s": limit_s}
    with _terminated():
        for workers, group in groupby(left, key=lambda cell: cell.workers):
            with closing(Stage(Loopback() if loopback else Namespaces(workers), workers, options)) as stage:
                for cell in group:
                    figures = stage.measure(cell)
                    results.add(cell, figures)
                    done += 1
                    say(f"{done}/{len(left)} {cell}: {_words(figures)}")
    return results.lines


class Stage:
    """So many workers on a network; started when they are needed, and again after something went wrong."""

    def __init__(self, network: Network, workers: int, options: dict[str, Any]) -> None:
        self.network, self.workers, self.options = network, workers, options
        self._crew: Crew | None = None
        self._link: Link | None = None
        self._found: dict[str, Any] = {}

    def measure(self, cell: Cell) -> dict[str, Any]:
        """A cell's figures, or {"error"}."""
        try:
            if self._crew is None:
                self._crew = Crew(self.network, self.workers)
            if self._link != cell.link:
                self._found = self._crew.meet(cell.link)
                self._link = cell.link
            figures = self._crew.measure(cell, **self.options)
        except ExchangeError as error:
            self._end()
            return {"error": str(error)}
        return {**figures, **self._found, "hosts": self.network.said, "beside": self.workers}

    def close(self) -> None:
        """End the workers, then remove the hosts."""
        self._end()
        self.network.close()

    def _end(self) -> None:
        if self._crew is not None:
            self._crew.close()
        self._crew = self._link = None


@contextmanager
def _terminated() -> Iterator[None]:
    """Let SIGTERM end the sweep as an interrupt from the keyboard does, so that its hosts are removed."""

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would leave the removal half done
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _words(figures: dict[str, Any]) -> str:
    """A cell's figures for people."""
    if "error" in figures:
        return f"failed: {figures['error']}"
    if "step_s" not in figures:
        return f"left out: {figures['skipped']}, at least {figures['bound_s']:,.0f} s"
    phases = ", ".join(
        f"{name} {1e3 * figures[f'{name}_s']['median']:.3g}"
        for name in ("forward", "wait", "exchange", "update")
    )
    bound = f"; in truth at least {figures['bound_s']:.3g} s" if "bound_s" in figures else ""
    return f"{1e3 * figures['step_s']['median']:.3g} ms ({phases}), {figures['wire_sent_bytes']:,.0f} bytes sent{bound}"
