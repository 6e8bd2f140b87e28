"""Elastic runs with a worker that is stopped for a while: nobody waits for it, and it learns how the run went on."""

from __future__ import annotations

import signal

import pytest
from elastic_runs import Fleet
from runs import wait_for
from test_elastic import assert_same, slow

pytestmark = pytest.mark.slow


def stop_one_of_two(fleet: Fleet, at_most: int) -> None:
    """One worker is stopped wherever it is after 20 steps or more, the other goes on; neither beyond a step."""
    fleet.supervise()
    fleet.hold(at_most)
    fleet.work(2, prepare=slow, args=(0.01,))
    fleet.until(20)
    fleet.signal(0, signal.SIGSTOP)
    fleet.hold(at_most, workers=1)


def test_a_stopped_worker_is_not_waited_for_and_goes_on_where_the_run_is(fleet, reference):
    stop_one_of_two(fleet, 40)
    fleet.signal(0, signal.SIGCONT)
    fleet.hold(40, workers=2)
    fleet.release()
    assert_same(fleet, reference)
    assert fleet.ended(0) == 0 and fleet.ended(1) == 0, fleet.words()


def test_a_worker_that_is_stopped_until_the_others_have_finished_finishes_too(fleet, reference):
    """The supervisor stays for it; for a dead one it would not."""
    stop_one_of_two(fleet, 30)
    fleet.release()
    assert fleet.ended(1) == 0, fleet.words()
    wait_for(lambda: "staying at most 60 s" in fleet.log("supervisor") or not fleet.supervisors[0].is_alive())
    fleet.signal(0, signal.SIGCONT)
    assert_same(fleet, reference)
    assert fleet.ended(0) == 0, fleet.words()
    digests = {fleet.log(f"worker-{n}").splitlines()[-1] for n in (0, 1)}
    assert len(digests) == 1 and "digest " in digests.pop(), fleet.words()


def test_a_worker_that_wakes_when_nobody_is_left_is_told_that_the_run_may_be_over(fleet, reference):
    fleet.overrides += ("exchange.timeout_s=3",)
    stop_one_of_two(fleet, 30)
    fleet.release()
    assert_same(fleet, reference)
    assert "staying at most 3 s for workers that have not left: " in fleet.log("supervisor")
    fleet.signal(0, signal.SIGCONT)
    assert fleet.ended(0) == 2 and fleet.ended(1) == 0, fleet.words()
    assert "; the run may be over, which `zodist inspect FOLDER` tells" in fleet.log("worker-0")
