"""Shard groups as workers of an elastic run: whoever of a group dies, the run's files are those of one whole worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from elastic_runs import Fleet
from runs import PATIENCE_S, Place, finish, make_place
from shard_groups import Launched, group
from test_elastic import slow_and_flip
from test_elastic_protocol import running

from zodist.elastic.shared_line import SharedLine
from zodist.errors import ExchangeError, WorkerLost
from zodist.journal import inspect

SHORT = ("run.steps=24", "output.evaluate_every=12", "output.snapshot_every=6")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run of one worker with the whole model, in its folder ``run``."""
    made = make_place(tmp_path_factory.mktemp("shard-elastic"))
    finish(made, 1, *SHORT)
    return made


@pytest.fixture
def fleet(place: Place, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(place, tmp_path, *SHORT)
    yield made
    made.close()


def assert_same(fleet: Fleet, place: Place) -> None:
    """The run ends with the journal, the figures and the weights of the whole worker's."""
    fleet.finish()
    for name in ("journal.jsonl", "metrics.jsonl"):
        assert (fleet.run / name).read_bytes() == place.file(name), name
    found, wanted = inspect(fleet.run), inspect(place.run)
    assert found["snapshot_step"] == 24 and found["digest"] == wanted["digest"]


@pytest.mark.slow
def test_a_group_that_loses_a_process_is_started_again_while_the_other_goes_on(
    fleet: Fleet, place: Place
) -> None:
    """torchrun starts it again when the other has made six steps alone; it takes up its parts of a snapshot."""
    fleet.supervise()
    fleet.hold(12)
    other = group(fleet, 2, "shard.kind=fsdp")
    launched = Launched(fleet, 2, "shard.kind=fsdp")
    try:
        fleet.hold(12, workers=4)
        launched.process(1).kill()
        fleet.hold(18, workers=2)
        assert fleet.rounds() == 18
        (fleet.folder / "again").touch()
        fleet.hold(18, workers=4)
        fleet.release()
        assert_same(fleet, place)
        assert launched.agent.wait(PATIENCE_S) == 0
    except AssertionError as error:
        said = [path.read_text()[-3000:] for path in (launched.log, *fleet.folder.glob("member-*"))]
        raise AssertionError("\n".join([str(error), *said])) from error
    finally:
        launched.close()
    assert [fleet.ended(worker) for worker in other] == [0, 0], fleet.words()
    assert "WorkerLost" in fleet.log("member-0-start-0"), "its fellow notices and ends"
    joined = [
        line for line in fleet.log("member-0-start-1").splitlines() if line.startswith("joining after 18")
    ]
    assert joined and int(joined[0].split("steps: ")[1].split()[0]) == 12, joined
    assert "joining" not in fleet.log("member-1-start-1"), "one of a group speaks for it"
    assert fleet.log("supervisor").count("joins") == 3, "a group is one worker"


@pytest.mark.slow
def test_a_group_and_a_whole_worker_do_one_run(fleet: Fleet, place: Place) -> None:
    fleet.supervise()
    fleet.hold(1)
    members = group(fleet, 2, "shard.kind=zero")
    alone = fleet.work()
    fleet.hold(1, workers=3)
    fleet.release()
    assert_same(fleet, place)
    assert [fleet.ended(worker) for worker in (*members, alone)] == [0, 0, 0], fleet.words()


@pytest.mark.slow
def test_a_flipped_bit_in_a_part_is_found_and_its_group_rebuilds_itself(fleet: Fleet, place: Place) -> None:
    """The whole weights' digest is the group's vote; two other workers outvote it."""
    every = "exchange.digest_every=1"
    fleet.supervise()
    fleet.hold(1)
    members = group(fleet, 2, "shard.kind=fsdp", every, prepare=flip_in_the_second, args=(14,))
    others = [fleet.work(1, every, prepare=slow_and_flip, args=(0.02, -1)) for _ in range(2)]
    fleet.hold(1, workers=4)
    fleet.release()
    fleet.finish()
    assert (fleet.run / "journal.jsonl").read_bytes() == place.file("journal.jsonl")
    assert inspect(fleet.run)["digest"] == inspect(place.run)["digest"]
    assert "the weights of this worker differ from those of the others after step 14" in fleet.log("worker-0")
    assert not any("differ" in fleet.log(f"worker-{worker}") for worker in others), fleet.words()
    assert [fleet.ended(worker) for worker in (*members, *others)] == [0] * 4, fleet.words()


def flip_in_the_second(step: int) -> None:
    """A bit flips in the part of the group's second process."""
    import os

    slow_and_flip(0.02, step if os.environ["RANK"] == "1" else -1)


@pytest.mark.slow
def test_several_groups_under_one_launcher_are_refused(fleet: Fleet) -> None:
    """It would end them all if one process died."""
    fleet.supervise()
    members = group(fleet, 2, "shard.kind=fsdp", "shard.size=1")
    assert [fleet.ended(worker) for worker in members] == [2, 2]
    assert "ConfigError: 2 processes were started together and shard.size is 1" in fleet.log("worker-1")


class Thread:
    """One of several threads that hand each other bytes; the first has the store."""

    sent = received = 0
    stopping = False

    def __init__(self, worker: int, meeting: threading.Barrier, slots: list[bytes]) -> None:
        self.worker, self.workers = worker, len(slots)
        self._meeting, self._slots = meeting, slots

    def all_gather(self, payload: bytes) -> list[bytes]:
        self._slots[self.worker] = payload
        self._meeting.wait(60)
        found = list(self._slots)
        self._meeting.wait(60)
        return found

    def close(self) -> None:
        pass


def everywhere(address: str, act) -> list[object]:
    """What ``act`` gives on the shared line of each of three threads: a value, or the error it raises."""
    meeting, slots, found = threading.Barrier(3), [b""] * 3, [None] * 3

    def run(worker: int) -> None:
        try:
            found[worker] = act(SharedLine(Thread(worker, meeting, slots), address, 0.5))
        except ExchangeError as error:
            found[worker] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return list(found)


def test_all_of_a_group_hear_what_the_first_is_answered(tmp_path: Path) -> None:
    """Each question is put once: the counter and the first offer show it."""

    def act(line: SharedLine) -> object:
        counts = [line.add("counted", 2), line.add("counted", 0)]
        offers = [line.offer("key", bytes(range(200))), line.offer("key", b"too late")]
        line.put("other", b"\xff")
        told = [
            line.has("key"),
            line.has("nothing"),
            line.wait("nothing", 0.01),
            line.get_all(["other", "key"]),
        ]
        line.connect("")
        return [counts, offers, told, line.get("other"), line.own is not None]

    with running(tmp_path) as run:
        first, *others = everywhere(run.supervisor.address, act)
    data = bytes(range(200))
    wanted = [[2, 2], [data, data], [True, False, False, [b"\xff", data]], b"\xff"]
    assert first == [*wanted, True] and others == [[*wanted, False]] * 2


def test_all_of_a_group_hear_that_nobody_answers() -> None:
    from elastic_runs import free_port

    found = everywhere(f"127.0.0.1:{free_port()}", lambda line: line)
    assert [type(one) for one in found] == [WorkerLost] * 3 and len({str(one) for one in found}) == 1
    assert "no supervisor answers" in str(found[2])
