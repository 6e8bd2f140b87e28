"""How a worker that joins gets to the present: from a snapshot, or from the base model by replay alone.

A snapshot's tensors are read twice (checksum, then load); a replayed step is one pass over the weights per probe coded
together.  Which is less depends on the disk, the model and the method, so both are measured: two steps are replayed, they
count in any case, and a piece of the newest snapshot is read.
"""

from __future__ import annotations

import time
from pathlib import Path

from zodist.elastic.team import Team
from zodist.errors import JournalEnd
from zodist.journal import snapshot
from zodist.step import Entry, Replayed, Replica

_MEASURED_STEPS = 2
_PIECE = 16 << 20
_PASSES = 2


def catch_up(replica: Replica, entries: list[Entry], folder: Path, run: str, at_most: int, team: Team) -> int:
    """Bring a replica at the base weights to a step from which the entries lead on, and return that step.

    at_most: the last step whose snapshot may be used.  team: the processes that call this together, each with its own part
    of the weights.
    """
    if not team.decided(_newest(folder, at_most) is not None):
        return replica.step
    replay = Replayed(entries, replica.data_lanes)
    began = time.monotonic()
    try:
        while replica.step < _MEASURED_STEPS:
            replica.advance(replay)
    except JournalEnd:
        return replica.step
    step_s = (time.monotonic() - began) / _MEASURED_STEPS
    newest = _newest(folder, at_most)
    if not team.decided(newest is not None and (newest[0] - replica.step) * step_s > _load_s(newest[1])):
        return replica.step
    done = entries[-1].step + 1
    rounds = entries[-1].round + 1 if done <= at_most else None
    found = snapshot.newest(folder, run, min(done, at_most), rounds)
    if found is not None and found.step > replica.step:
        replica.load(found.step, team.own(found.tensors))
    return team.level(replica, entries)


def _newest(folder: Path, at_most: int) -> tuple[int, list[Path]] | None:
    listed = snapshot.listed(folder) if folder.is_dir() else []
    return next((found for found in listed if found[0] <= at_most), None)


def _load_s(paths: list[Path]) -> float:
    """What taking up a snapshot will take.  paths: of its parts."""
    began = time.monotonic()
    try:
        with paths[0].open("rb") as file:
            read = len(file.read(_PIECE))
        size = sum(path.stat().st_size for path in paths)
    except OSError:
        return float("inf")
    return _PASSES * size / max(1, read) * (time.monotonic() - began)
