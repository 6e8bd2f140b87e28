"""Elastic runs: whoever dies, hangs, joins or leaves, the run's files are those of one worker, to the bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from importlib.util import find_spec

import pytest
from elastic_runs import Fleet, slow_replay
from runs import PATIENCE_S, finish, make_place, wait_for

from zodist.journal import inspect
from zodist.report import crew, recorded

FILES = ("journal.jsonl", "metrics.jsonl", "snapshot-00000020.safetensors")
LONG = ("run.steps=60", "output.evaluate_every=0", "output.snapshot_every=10")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run of one worker, without any supervisor."""
    place = make_place(tmp_path_factory.mktemp("reference"))
    finish(place)
    return place


@pytest.fixture(scope="module")
def long_reference(reference, tmp_path_factory):
    """The journal of a run that is long enough for something to happen in its middle."""
    folder = tmp_path_factory.mktemp("long")
    finish(reference, 1, *LONG, f"run.folder={folder}")
    return (folder / "journal.jsonl").read_bytes(), (folder / "snapshot-00000060.safetensors").read_bytes()


@pytest.fixture
def fleet(reference, tmp_path):
    made = Fleet(reference, tmp_path)
    yield made
    made.close()


@pytest.fixture
def long(reference, tmp_path):
    made = Fleet(reference, tmp_path, *LONG)
    yield made
    made.close()


def slow(seconds: float, only: int = -1, mark: str = "") -> None:
    """Make this process take so long for each item, or for those of one step only; leave a mark there."""
    import time
    from pathlib import Path

    from zodist.run import Session

    measure = Session._measure

    def slowly(self, share):
        if only in (-1, share.places[0][0]):
            if mark:
                Path(mark).touch()
            time.sleep(seconds)
        return measure(self, share)

    Session._measure = slowly  # type: ignore[method-assign]


def assert_same(fleet, reference):
    """The run ends with the journal and the last snapshot of the reference."""
    fleet.finish()
    assert (fleet.run / "journal.jsonl").read_bytes() == reference[0]
    assert (fleet.run / "snapshot-00000060.safetensors").read_bytes() == reference[1]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_files_of_a_local_run(reference, fleet, workers):
    fleet.supervise()
    fleet.work(workers)
    fleet.finish()
    for name in FILES:
        assert (fleet.run / name).read_bytes() == reference.file(name), name
    assert all(fleet.ended(worker) == 0 for worker in range(workers)), fleet.words()
    found = inspect(fleet.run)  # a record may have been computed twice, never less than once
    assert found["record_bytes_sent"] >= 20 * 4 * 16 and found["bytes_sent"] > found["record_bytes_sent"]
    assert found["bytes_received"] >= workers * 20 * 4 * 8 and found["workers"] in range(1, workers + 1)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_the_supervisor_writes_the_scalars(reference, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fleet = Fleet(reference, tmp_path, "output.tensorboard=true")
    try:
        fleet.supervise()
        fleet.work()
        fleet.finish()
    finally:
        fleet.close()
    events = EventAccumulator(str(fleet.run / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (fleet.run / "metrics.jsonl").read_text().splitlines()]
    want = [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines if "slope" in line]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == want and len(want) == 20


def test_a_worker_killed_in_the_middle_of_a_probe_costs_one_deadline(long, long_reference):
    """It is killed in step 30 with an item that it has claimed: the other one computes the item."""
    long.supervise()
    mark = long.folder / "mark"
    long.work(prepare=slow, args=(1000.0, 30, str(mark)))
    wait_for(mark.exists)
    long.work()
    long.kill(0)
    assert_same(long, long_reference)
    told = [happening.text for happening in crew(recorded([long.run])[0]).happenings]
    order = [
        "worker 1 joins",
        "worker 2 joins",
        "offered again",
        "worker 1 has fallen silent",
        "worker 2 leaves",
    ]
    places = [next((n for n, text in enumerate(told) if words in text), None) for words in order]
    assert None not in places and places == sorted(places), told  # type: ignore[type-var]
    assert "staying" not in long.log("supervisor"), "a dead one's connection has ended"


@pytest.mark.slow
def test_workers_outlive_the_supervisor(long, long_reference):
    """It is killed twice; the journal is all that the next one knows."""
    long.supervise()
    long.work(2, prepare=slow, args=(0.005,))
    for rounds in (15, 35):
        long.until(rounds)
        long.kill_supervisor()
        long.supervise()
    assert_same(long, long_reference)
    assert long.ended(0) == 0 and long.ended(1) == 0, long.words()


@pytest.mark.slow
def test_workers_join_and_leave_in_the_middle(long, long_reference):
    """One starts; two join, of which one has nothing but the address; the first leaves; another comes."""
    long.supervise()
    long.hold(10)
    long.work()
    long.hold(10, workers=1)
    long.work()
    long.join(f"run.folder={long.folder / 'elsewhere'}")
    long.hold(10, workers=3)
    assert "joining after" in long.log("worker-1") and "joining after" in long.log("worker-2")
    long.signal(0, signal.SIGTERM)
    long.hold(40, workers=2)
    wait_for(lambda: not long.workers[0].is_alive())
    assert "Stopped: stopped after 11" in long.log("worker-0")
    long.work()
    long.hold(40, workers=3)
    long.release()
    assert_same(long, long_reference)
    assert not (long.folder / "elsewhere").exists()  # files lie where the journal is


@pytest.mark.slow
def test_sigterm_to_the_supervisor_stops_all_workers_and_the_run_goes_on_later(long, long_reference):
    long.supervise()
    long.hold(20)
    long.work(2)
    long.hold(20, workers=2)
    os.kill(long.supervisors[-1].pid, signal.SIGTERM)
    long.release()
    long.supervisors[-1].join(PATIENCE_S)
    assert "stopped after" in long.log("supervisor")
    assert long.ended(0) == 2 and "Stopped" in long.log("worker-0")  # status 75 is the command line's matter
    assert 20 <= long.rounds() < 60
    long.supervise()
    long.work()
    assert_same(long, long_reference)


@pytest.mark.slow
def test_a_supervisor_that_is_asked_to_stop_does_not_wait_for_the_dead(long, long_reference):
    """Its only worker dies in the middle of a round, which nobody will end; the next workers do."""
    long.supervise()
    mark = long.folder / "mark"
    long.work(prepare=slow, args=(1000.0, 30, str(mark)))
    wait_for(mark.exists)
    long.kill(0)
    os.kill(long.supervisors[-1].pid, signal.SIGTERM)
    long.supervisors[-1].join(PATIENCE_S)
    assert "stopped after 30 of 60 steps (SIGTERM)" in long.log("supervisor")
    long.supervise()
    long.work()
    assert_same(long, long_reference)


def test_a_worker_whose_supervisor_hangs_ends_itself(fleet):
    """Stopped, so that no connection is closed: the worker's own watchdog must notice."""
    fleet.supervise()
    fleet.work(1, "exchange.timeout_s=1.5", prepare=slow, args=(0.05,))
    fleet.until(3)
    os.kill(fleet.supervisors[-1].pid, signal.SIGSTOP)
    assert fleet.ended(0) == 69
    assert "cut off: the supervisor at 127.0.0.1" in fleet.log("worker-0")


def test_a_worker_whose_supervisor_is_gone_gives_up_in_the_end(fleet):
    fleet.supervise()
    fleet.work(1, "exchange.timeout_s=1.5", prepare=slow, args=(0.05,))
    fleet.until(3)
    fleet.kill_supervisor()
    assert fleet.ended(0) == 2
    assert "WorkerLost: no supervisor answers at 127.0.0.1" in fleet.log("worker-0")
    assert "start its `zodist supervise` command again there" in fleet.log("worker-0")


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_loses_nothing(long, long_reference):
    """The journal may not grow beyond a limit; with more room the run goes on with the same workers."""
    long.supervise(limit=4000)
    long.work(2, prepare=slow, args=(0.005,))
    long.supervisors[-1].join(PATIENCE_S)
    assert long.supervisors[-1].exitcode == 2, long.words()
    assert "zodist: cannot write to the journal" in long.log("supervisor").splitlines()[-1]
    assert "File too large" in long.log("supervisor")
    assert long_reference[0].startswith((long.run / "journal.jsonl").read_bytes())
    long.supervise()
    assert_same(long, long_reference)


def flip(step: int) -> None:
    """Make this process's memory fail once: a bit of one weight, after a step."""
    from zodist.step import Replica

    advance, failed = Replica.advance, []

    def failing(self, answer):
        outcome = advance(self, answer)
        if self.step == step and not failed:
            failed.append(step)
            self.params[0].words[5] ^= 1 << 12
        return outcome

    Replica.advance = failing


@pytest.mark.slow
@pytest.mark.parametrize("workers", [3, 2], ids=["majority", "no majority"])
def test_a_flipped_bit_is_found_and_its_worker_rebuilds_itself(long, long_reference, workers):
    """Digests at every step: no loss of the wrong weights reaches the journal."""
    every = "exchange.digest_every=1"
    long.supervise()
    long.hold(1)
    for worker in range(workers):  # the odd one is slower, so that others have their say in every round
        args = (0.2, 30) if worker == 0 else (0.02, -1)
        long.work(1, every, prepare=slow_and_flip, args=args)
    long.hold(28, workers)
    long.release()
    assert_same(long, long_reference)
    assert "the weights of this worker differ from those of the others after step 30" in long.log("worker-0")
    others = [long.log(f"worker-{n}").count("differ") for n in range(1, workers)]
    assert others == [0] * (workers - 1) if workers > 2 else others == [1], long.words()
    assert all(long.ended(worker) == 0 for worker in range(workers)), long.words()
    told = [happening.text for happening in crew(recorded([long.run])[0]).happenings]
    assert any("is told to rebuild: its weights differ after step 30" in text for text in told), told


def slow_and_flip(seconds: float, step: int) -> None:
    flip(step)
    slow(seconds)


@pytest.mark.slow
def test_a_joiner_with_a_snapshot_replays_only_what_came_after_it(long, long_reference):
    """The base is much slower to replay from than the snapshot is to load, or so the joiner finds."""
    long.supervise()
    long.hold(30)
    first = long.work()
    long.hold(30, workers=1)
    long.work(prepare=slow_replay, args=(0.05,))
    long.hold(30, workers=2)
    long.release()
    assert_same(long, long_reference)
    said = [line for line in long.log("worker-1").splitlines() if line.startswith("joining")]
    assert said and int(said[0].split("steps: ")[1].split()[0]) >= 10, long.words()
    assert long.ended(first) == 0


@pytest.mark.slow
def test_the_metrics_of_a_long_run_are_those_of_a_local_one(long, reference, tmp_path):
    """Also over a restart of the supervisor; digests and evaluations in their places."""
    local = tmp_path / "local"
    finish(reference, 1, *long.overrides, f"run.folder={local}")
    long.supervise()
    long.work(2)
    long.until(30)
    long.kill_supervisor()
    long.supervise()
    long.finish()
    assert (long.run / "metrics.jsonl").read_bytes() == (local / "metrics.jsonl").read_bytes()
    shutil.rmtree(local)
    timings = [json.loads(line) for line in (long.run / "timings.jsonl").read_text().splitlines()]
    assert {line["session"] for line in timings} == {1, 2}
    spent = [line for line in timings if "forward_s" in line][-1]
    assert spent["forward_s"] > 0 and spent["gather_s"] > 0 and spent["update_s"] > 0
