"""How a run went, from timings.jsonl: what the seconds were spent on, and which workers took part when."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zodist.report.recorded import Run


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of a run.

    steps, answer, update: the steps whose phases were written, and their seconds.  total: by phase, over all sessions;
    answer and update share the seconds of all steps as they do in the written ones; rest is None where it was not counted.
    """

    steps: np.ndarray
    answer: np.ndarray
    update: np.ndarray
    total: dict[str, float]


ANSWER, UPDATE, REST = "answer", "update", "rest"
MEANING = {
    ANSWER: "forward passes of one's own share, waiting for the others, exchange, journal",
    UPDATE: "the method's arithmetic and the move of the weights",
    REST: "replay after a start, evaluations, digests, snapshots",
}


def phases(run: Run) -> Phases | None:
    """The phases of a run; None where no step's were written."""
    lines = [line for line in run.timings if "answer_s" in line]
    if not lines:
        return None
    step = np.array([line["step"] for line in lines])
    answer, update = (np.array([line[f"{name}_s"] for line in lines], float) for name in (ANSWER, UPDATE))
    last = [[line for line in session if "trained_s" in line][-1:] for session in run.sessions]
    total: dict[str, float] = {}
    if any(last) and answer.sum() + update.sum() > 0:
        stepping = math.fsum(found[0]["trained_s"] for found in last if found)
        share = float(answer.sum() / (answer.sum() + update.sum()))
        total = {ANSWER: stepping * share, UPDATE: stepping * (1 - share)}
        total[REST] = max(0.0, (run.seconds or 0.0) - stepping)
    return Phases(step, answer, update, total)


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that befell a run.  seconds: since its first step, without breaks; text: a sentence."""

    step: int
    seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class Crew:
    """Workers over time: how many there were from each second on, and what happened."""

    seconds: list[float]
    workers: list[int]
    happenings: list[Happening]
    sessions: int

    @property
    def steady(self) -> bool:
        """Whether nothing happened."""
        return not self.happenings


def crew(run: Run) -> Crew:
    """The workers of a run.

    Of a fixed crew each session has a number.  The supervisor of an elastic run writes now and then how many contributed,
    and how many items were offered again and refused so far; a line with "event" is taken as it stands, and where there are
    such lines they say who came and went.
    """
    seconds: list[float] = []
    workers: list[int] = []
    found: list[Happening] = []
    before = 0.0
    for number, session in enumerate(run.sessions):
        again = refused = 0  # counted anew by each session
        named = any("event" in line for line in session)
        for position, line in enumerate(session):
            at, step = before + line["seconds"], line["step"]

            def tell(text: str, step: int = step, at: float = at) -> None:
                found.append(Happening(step, at, text))

            if number and not position:
                tell(f"started again, {_started(line)}")
            now = line.get("workers", 0)
            if now and (not workers or workers[-1] != now):
                if named:
                    pass
                elif workers and now > workers[-1]:
                    tell(f"{now} workers, {now - workers[-1]} more: joined")
                elif workers:
                    tell(f"{now} workers, {workers[-1] - now} fewer: left, stopped or dead")
                seconds.append(at)
                workers.append(now)
            if line.get("offered_again", again) > again:
                tell(f"{_items(line['offered_again'] - again)} offered again to other workers")
                again = line["offered_again"]
            if line.get("refused", refused) > refused:
                tell(f"{_items(line['refused'] - refused)} refused")
                refused = line["refused"]
            if isinstance(line.get("event"), str):
                tell(line["event"])
        before += session[-1]["seconds"]
    if workers:
        seconds.append(before)
        workers.append(workers[-1])
    return Crew(seconds, workers, found, len(run.sessions))


def _started(line: dict) -> str:
    return f"{line['started'].replace('T', ' ').removesuffix('Z')} UTC" if "started" in line else "later"


def _items(count: int) -> str:
    return f"{count} item was" if count == 1 else f"{count} items were"
