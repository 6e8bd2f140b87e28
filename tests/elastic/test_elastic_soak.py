"""Chaos: faults at seeded random moments, and the bits of a run that had none."""

from __future__ import annotations

import random
import signal
import statistics
import time

import pytest
from elastic_runs import Fleet
from runs import finish, make_place
from test_elastic import slow

STEPS, FAULTS, MOST = 300, 40, 6
SETTINGS = (f"run.steps={STEPS}", "output.evaluate_every=0", "output.snapshot_every=50", "method.probes=2")


class Chaos:
    """Faults one after the other; stopped workers go on after a while."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet, self.random = fleet, random.Random(seed)
        self.alive: list[int] = []
        self.stopped: dict[int, float] = {}
        self.counts: dict[str, int] = {}
        self.recovery: list[float] = []

    def join(self) -> None:
        self.alive.append(self.fleet.work(prepare=slow, args=(self.random.choice([0.0, 0.002, 0.01]),)))

    def fault(self) -> None:
        """One fault of a kind that is possible now."""
        running = [worker for worker in self.alive if worker not in self.stopped]
        kinds = ["join"] * (len(self.alive) < MOST) + ["kill", "stop", "leave"] * (len(running) > 1)
        kinds += ["kill supervisor"] * (self.counts.get("kill supervisor", 0) < FAULTS // 8)
        kind = self.random.choice(kinds)
        victim = self.random.choice(running) if running else -1
        if kind == "join":
            self.join()
        elif kind == "kill":
            self.alive.remove(victim)
            self.fleet.kill(victim)
            self._time()
        elif kind == "stop":
            self.fleet.signal(victim, signal.SIGSTOP)
            self.stopped[victim] = time.monotonic() + self.random.uniform(0.2, 2.0)
        elif kind == "leave":
            self.alive.remove(victim)
            self.fleet.signal(victim, signal.SIGTERM)
        else:
            self.fleet.kill_supervisor()
            self.fleet.supervise()
            self._time()
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def wake(self) -> None:
        """Let those go on whose time has come."""
        for worker, moment in list(self.stopped.items()):
            if time.monotonic() > moment:
                self.fleet.signal(worker, signal.SIGCONT)
                del self.stopped[worker]

    def _time(self) -> None:
        """How long until the next step is on disk."""
        began, rounds = time.monotonic(), self.fleet.rounds()
        while self.fleet.rounds() == rounds and self.fleet.supervisors[-1].is_alive():
            self.wake()
            if time.monotonic() - began > 30:
                pytest.fail(self.fleet.words())
            time.sleep(0.002)
        self.recovery.append(time.monotonic() - began)


@pytest.mark.slow
def test_no_sequence_of_faults_changes_a_bit(tmp_path, record_property):
    """300 steps, at least 40 faults, 1 to 6 workers, the supervisor killed five times."""
    place = make_place(tmp_path / "place")
    local = tmp_path / "local"
    finish(place, 1, *SETTINGS, f"run.folder={local}")
    fleet = Fleet(place, tmp_path, *SETTINGS)
    chaos = Chaos(fleet, 5)
    try:
        fleet.supervise()
        chaos.join()
        chaos.join()
        for n in range(FAULTS + 2):
            # Faults are spread over the run, whatever its speed.
            target = (n + 1) * (STEPS - 20) // (FAULTS + 2)
            end = time.monotonic() + 30
            while fleet.rounds() < target and time.monotonic() < end:
                chaos.wake()
                time.sleep(0.005)
            chaos.fault()
        for worker in list(chaos.stopped):
            fleet.signal(worker, signal.SIGCONT)
        fleet.finish()
    finally:
        fleet.close()
    figures = {**chaos.counts, "median_s": statistics.median(chaos.recovery), "most_s": max(chaos.recovery)}
    for name, figure in figures.items():
        record_property(name, figure)
    print(figures, [round(one, 2) for one in chaos.recovery])
    assert sum(chaos.counts.values()) >= FAULTS
    assert (fleet.run / "journal.jsonl").read_bytes() == (local / "journal.jsonl").read_bytes()
    name = f"snapshot-{STEPS:08d}.safetensors"
    assert (fleet.run / name).read_bytes() == (local / name).read_bytes()
    assert (fleet.run / "metrics.jsonl").read_bytes() == (local / "metrics.jsonl").read_bytes()
