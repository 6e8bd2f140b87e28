"""What a run from Python gives back: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zodist.run import Taken
from zodist.tasks import Score


@dataclass(frozen=True, slots=True)
class Tuned:
    """A run that has ended.

    steps: taken in all, earlier sessions included; history: those of this session.  before, after: held-out scores, None
    without held-out examples, and ``before`` also if it was written by an earlier session whose metrics are lost.  digest:
    16 hexadecimal digits of the trained weights.  folder: where the journal is, if it is kept.  sent: payload bytes of this
    worker.
    """

    steps: int
    forwards: int
    before: Score | None
    after: Score | None
    digest: str
    folder: Path | None
    sent: int
    workers: int
    history: tuple[Taken, ...]

    @property
    def losses(self) -> list[float]:
        """Mean training loss of each step of this session."""
        return [taken.loss for taken in self.history]
