"""metrics.jsonl and timings.jsonl of an elastic run: workers post the lines of a step, the supervisor writes them in order.

The lines are a function of the fold, the same on every worker, so the first to post them is as good as any.  Those of a
step are taken once the next one has begun: by then the digests have been compared.  They go to TensorBoard from here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from zodist.config import Config
from zodist.elastic.frames import Refused, Seal
from zodist.elastic.votes import Votes
from zodist.journal import METRICS, TIMINGS, Metrics, Scalars, Timings, read_lines, require

_EVERY = 10  # steps between lines of timings.jsonl


class LineWriter:
    """Both files of a run folder.  known: the evaluations that need not be made again."""

    def __init__(self, config: Config, folder: Path, steps: int) -> None:
        self._config, self._folder = config, folder
        found = list(read_lines(folder / METRICS))
        # The last step's lines may be incomplete: they are asked for again, and what is there is not written twice.
        self.written = min(max((line.get("step", 0) for line in found), default=0), steps) - 1
        self.known: list[dict[str, Any]] = [line for line in found if "split" in line]
        self._steps = steps
        self._metrics: Metrics | None = None
        self._timings: Timings | None = None
        self._scalars: Scalars | None = None
        self._events: list[tuple[int, str]] = []  # from before the run is known
        self._last = steps
        require(config.output)

    def begin(self, run: str, traffic: Callable[[], dict[str, int]]) -> None:
        """The run has a journal: open the files.  run: its name.  traffic: bytes so far, by name."""
        self._scalars = Scalars(self._config, run, self.written + 1, traffic)
        self._metrics = Metrics(self._folder / METRICS, self._steps, self._scalars.write)
        self._timings = Timings(self._folder / TIMINGS, 0, self._steps)
        for step, text in self._events:
            self.event(step, text)

    def take(self, store: TCPStore, seal: Seal, votes: Votes, last: int) -> None:
        """Write what has been posted for steps up to ``last``."""
        before, metrics = self.written, self._metrics
        while (
            metrics is not None and self.written < last and store.check([key := f"lines/{self.written + 1}"])
        ):
            try:
                lines = json.loads(seal.open(store.get(key), key).payload)
                checked = [self._checked(line, votes) for line in lines]
            except (Refused, ValueError, TypeError, KeyError):
                store.delete_key(key)  # another worker will post them
                break
            for line in checked:
                metrics.write(line)
            self.written += 1
        if self.written != before or not store.check(["written"]):
            store.set("written", str(self.written))

    def _checked(self, line: dict[str, Any], votes: Votes) -> dict[str, Any]:
        if line["step"] != self.written + 1:
            raise ValueError("another step's line")
        verdict = votes.verdict()
        if "digest" in line and verdict.word == "agreed" and verdict.milestone == line["step"]:
            line["digest"] = (
                f"{verdict.digest:016x}"  # not that of a worker which has since been found to differ
            )
        return line

    def is_due(self, steps: int) -> bool:
        """Whether it is time for a line of timings.jsonl after so many steps."""
        return steps != self._last and (steps >= self._last + _EVERY or steps == self._config.run.steps)

    def progress(self, steps: int, **figures: float) -> None:
        """How it goes after so many steps."""
        if self._timings is not None:
            self._timings.write(steps, **figures)
            self._last = steps

    def event(self, steps: int, text: str) -> None:
        """Something that befell the run."""
        if self._timings is None:
            self._events.append((steps, text))
        else:
            self._timings.write(steps, event=text)

    def close(self) -> None:
        """Close the files."""
        for opened in (self._metrics, self._timings, self._scalars):
            if opened is not None:
                opened.close()
