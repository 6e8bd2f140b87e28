"""How a run went, from timings.jsonl: what the seconds were spent on, and which workers took part when."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zodist.report.recorded import Run


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of a run.

    steps: int64 [S], the last steps of stretches between lines of timings.jsonl.  each: float64 [S, 3], seconds of a step in
    the stretch: forward, exchange, update.  total: by phase, over all sessions.  together: whether the seconds are those of
    all workers added up, as in elastic runs, or those of worker 0; only of one worker there is a rest.
    """

    steps: np.ndarray
    each: np.ndarray
    total: dict[str, float]
    together: bool


FORWARD, EXCHANGE, UPDATE, REST = "forward", "exchange", "update", "rest"
SECONDS = {FORWARD: "forward_s", EXCHANGE: "gather_s", UPDATE: "update_s"}
MEANING = {
    FORWARD: "forward passes of a worker's own share",
    EXCHANGE: "waiting for slower workers, and the exchange of records",
    UPDATE: "the method's arithmetic and the move of the weights",
    REST: "journal, replay after a start, evaluations, digests, snapshots",
}


def phases(run: Run) -> Phases | None:
    """The phases of a run; None where they were not written."""
    steps: list[int] = []
    each: list[np.ndarray] = []
    whole = np.zeros(len(SECONDS))
    together = False
    for session in run.sessions:
        done = 0
        last = before = np.zeros(len(SECONDS))
        for line in session:
            if not all(name in line for name in SECONDS.values()):
                continue
            now = np.array([line[name] for name in SECONDS.values()], float)
            # An elastic run's supervisor takes no steps, so none of them is a replayed one.
            count = line.get("trained", line["step"] - session[0]["step"])
            together = together or "trained" not in line
            if count > done:
                steps.append(line["step"])
                each.append((now - before) / (count - done))
                done, before = count, now
            last = now
        whole += last
    if not steps:
        return None
    total = dict(zip(SECONDS, whole.tolist(), strict=True))
    if not together:
        total[REST] = max(0.0, (run.seconds or 0.0) - math.fsum(total.values()))
    return Phases(np.array(steps, np.int64), np.stack(each), total, together)


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
