"""Elastic runs on networks that fail and machines whose clocks are wrong: the bits of an undisturbed run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from elastic_runs import Fleet
from network_lab import Network, enter, missing, network
from runs import wait_for
from test_elastic import assert_same

pytestmark = pytest.mark.slow
WORKERS = 3


@pytest.fixture
def lan() -> Iterator[Network]:
    """The supervisor's host and one for each worker."""
    if why := missing():
        pytest.skip(why)
    with network(1 + WORKERS) as made:
        yield made


def begin(fleet: Fleet, lan: Network) -> None:
    """The supervisor on host 0 and a worker on each of the others, all of them before step 20."""
    fleet.host = "10.0.0.1"
    fleet.supervise(prepare=enter, args=(lan.names[0],))
    fleet.hold(20)
    for name in lan.names[1:]:
        fleet.work(1, prepare=enter, args=(name,))
    fleet.hold(20, WORKERS)


def test_a_worker_that_is_cut_off_ends_itself_and_is_not_missed(fleet, lan, reference):
    """No packet tells it, or the supervisor, that anything has happened."""
    fleet.overrides += ("exchange.timeout_s=5",)  # the supervisor's too: for so long it stays at the end
    begin(fleet, lan)
    lan.link(1, "down")
    fleet.release()
    status = fleet.ended(0)
    # The watchdog ends it in the middle of a call; where the system says that no host answers, it gives up by itself.
    assert status == 69 or "WorkerLost: no supervisor answers" in fleet.log("worker-0"), fleet.words()
    assert_same(fleet, reference)
    assert fleet.ended(1) == 0 and fleet.ended(2) == 0, fleet.words()


def test_links_that_flap_and_a_network_that_falls_apart_change_no_bit(fleet, lan, reference):
    """One worker is away for some steps, twice; then all but one are; every time they come back."""
    begin(fleet, lan)
    for step, away in ((25, [1]), (30, [1]), (40, [1, 2])):
        for host in away:
            lan.link(host, "down")
        fleet.hold(step, WORKERS - len(away))  # the others go on to there
        for host in away:
            lan.link(host, "up")
        fleet.hold(step, WORKERS)
    fleet.release()
    assert_same(fleet, reference)
    assert all(fleet.ended(worker) == 0 for worker in range(WORKERS)), fleet.words()


def shift(hours: float) -> None:
    """Set this process's clocks wrong: the time of day, and the one that counts from some start."""
    import time

    day, since = time.time, time.monotonic
    time.time = lambda: day() + 3600 * hours
    time.monotonic = lambda: since() + 1800 * hours


def test_clocks_of_different_machines_are_never_compared(fleet, reference):
    """The supervisor's is right, those of the workers are days apart: nothing is early, late, newer or older by them."""
    fleet.supervise()
    fleet.hold(20)
    for hours in (-50.0, 0.0, 70.0):
        fleet.work(prepare=shift, args=(hours,))
    fleet.hold(20, WORKERS)
    fleet.kill(1)
    fleet.work(prepare=shift, args=(-7.0,))
    fleet.hold(20, WORKERS + 1)  # the dead one's note stays
    fleet.release()
    assert_same(fleet, reference)
    assert all(fleet.ended(worker) == 0 for worker in (0, 2, 3)), fleet.words()
    wait_for(lambda: "worker 4 leaves" in fleet.log("supervisor"))
