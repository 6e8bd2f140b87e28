"""What the supervisor believes and what it refuses, with workers that have no model."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import wait_for
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from zodist.config import load
from zodist.elastic.frames import MAX_BYTES, Frame, Refused, Seal, Vote
from zodist.elastic.keys import What, hexadecimal
from zodist.elastic.pace import Pace
from zodist.elastic.secret import read_secret
from zodist.elastic.supervisor import Supervisor
from zodist.elastic.worker import Worker
from zodist.errors import ConfigError, ExchangeError
from zodist.journal import read
from zodist.step import records

CONFIG = """
[run]
folder = "{folder}"
steps = 4
[model]
name = "none"
[task]
name = "none"
[rule]
lr = 1.0
"""
SEEDS = np.array([11, 22, 33, 44], np.uint64)
ROUND = What(4, 16, 0, 0, 1.0, 2, hexadecimal(SEEDS))


def record(item: int) -> bytes:
    """Item n has losses n + 1/2 and n."""
    return records.encode(SEEDS[item : item + 1], np.array([[item + 0.5, item]]))


class Running:
    """A supervisor in a thread, and the means to talk to it as anybody can who reaches its port."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        path = folder / "config.toml"
        path.write_text(CONFIG.format(folder=folder / "run"))
        self.config, self.said = load(path), []
        self.head = {**self.config.identity(), "threads": 1, "versions": {}}
        self.supervisor = Supervisor(self.config, "127.0.0.1", 0, secret, self.said.append)
        self.journal = folder / "run" / "journal.jsonl"
        self.thread = threading.Thread(target=self.supervisor.serve, daemon=True)
        self.thread.start()

    def worker(self, secret: bytes = b"") -> Worker:
        return Worker(self.supervisor.address, 20.0, secret)

    def ready(self) -> Worker:
        """A worker that has agreed on the run."""
        worker = self.worker()
        worker.agree(self.head)
        return worker

    def stranger(self) -> TCPStore:
        host, port = self.supervisor.address.split(":")
        return TCPStore(
            host, int(port), is_master=False, timeout=timedelta(seconds=5), wait_for_workers=False
        )

    def seal(self) -> Seal:
        return Seal(b"", read(self.journal).header["run"])


@contextmanager
def running(folder: Path, secret: bytes = b""):
    """Runs until the block ends; the last step counts as done then."""
    made = Running(folder, secret)
    try:
        yield made
    finally:
        made.stranger().set("finished", "1")
        made.thread.join(20)
        made.supervisor.close()
        assert not made.thread.is_alive()


def test_a_round_is_what_the_workers_measured_and_is_in_the_journal(tmp_path):
    with running(tmp_path) as run:
        worker = run.ready()
        values = worker.round(ROUND, record)
        np.testing.assert_array_equal(values, [[0.5, n + 0.25] for n in range(4)])
        np.testing.assert_array_equal(read(run.journal).entries[0].values, values)
        worker.close()


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (lambda seal: b"", "malformed"),
        (lambda seal: b"zod1" + bytes(200), "seal does not match"),
        (lambda seal: b"\xff" * 5000, "malformed"),
        (lambda seal: seal.close(Frame("round/0", 2, record(2)))[:-1] + b"?", "seal does not match"),
        (lambda seal: Seal(b"", "ab" * 8).close(Frame("round/0", 2, record(2))), "another run"),
        (lambda seal: seal.close(Frame("round/7", 2, record(2))), "belongs elsewhere"),
        (lambda seal: seal.close(Frame("round/0", 1, record(1))), "belongs elsewhere"),
        (lambda seal: seal.close(Frame("round/0", 2, record(2) * 2)), "32 bytes, not 16"),
        (lambda seal: seal.close(Frame("round/0", 2, record(1))), "expected 0000000000000021"),
    ],
    ids="empty garbage long flipped foreign stale misplaced size seed".split(),
)
def test_what_is_no_record_of_this_item_is_refused_named_and_computed_again(tmp_path, forge, why):
    with running(tmp_path) as run:
        worker = run.ready()
        forged = forge(run.seal())
        # A stranger comes first with item 2: an empty value cannot come first, compare_set takes it for nothing.
        run.stranger().compare_set("round/0/item/2", "", forged)
        values = worker.round(ROUND, record)
        np.testing.assert_array_equal(values, [[0.5, n + 0.25] for n in range(4)])
        if forged:
            assert run.supervisor.refused.total() == 1
            assert any(why in line and "round/0 item 2" in line for line in run.said), run.said
        worker.close()


def test_a_second_result_of_an_item_changes_nothing(tmp_path):
    """The first stands, even if the second were another."""
    with running(tmp_path) as run:
        worker = run.ready()
        first: Any = run.seal().close(Frame("round/0", 2, record(2)))
        run.stranger().compare_set("round/0/item/2", "", first)  # type: ignore[arg-type]

        def other(item: int) -> bytes:
            return (
                records.encode(SEEDS[item : item + 1], np.array([[9.0, 9.0]])) if item == 2 else record(item)
            )

        np.testing.assert_array_equal(worker.round(ROUND, other)[2], [0.5, 2.25])
        worker.close()


def test_forged_announcements_are_refused(tmp_path):
    """No collection opens, whatever is said of it, and the run goes on."""
    with running(tmp_path) as run:
        worker = run.ready()
        stranger, seal = run.stranger(), run.seal()
        names = ["round/5", "../journal", "evaluation/1", "round/0"]
        whats = [ROUND, ROUND, None, What(4, 999, 0, 0, 1.0, 2, hexadecimal(SEEDS))]
        for n, (name, what) in enumerate(zip(names, whats, strict=True), 1):
            if what is not None:
                key = f"{name}/what"
                stranger.set(key, seal.close(Frame(key, 0, what.to_bytes())))  # type: ignore[arg-type]
            stranger.set(f"announce/{n}", seal.close(Frame(f"announce/{n}", 0, name.encode())))  # type: ignore[arg-type]
        stranger.set("announced", "4")
        wait_for(lambda: run.supervisor.refused.total() == 4)
        assert len(worker.round(ROUND, record)) == 4
        worker.close()


def test_a_worker_with_another_secret_is_refused_on_both_sides(tmp_path):
    with running(tmp_path, b"0123456789abcdef") as run:
        for secret in (b"fedcba9876543210", b""):
            with pytest.raises(ExchangeError, match="the same exchange.key_file"):
                run.worker(secret)
        assert run.worker(b"0123456789abcdef").number == 3
    refused = [line for line in run.said if "refused" in line]
    assert len(refused) == 2 and "worker 1" in refused[0] and "worker 2" in refused[1], run.said
    assert any("worker 3 joins" in line for line in run.said)


def test_a_worker_of_another_run_is_told_the_difference(tmp_path):
    with running(tmp_path) as run:
        run.ready().close()
        other = run.worker()
        with pytest.raises(ExchangeError, match="another run .* threads is 1 there, 2 here"):
            other.agree({**run.head, "threads": 2})
        other.close()


def test_workers_that_mean_different_things_by_a_round_are_told(tmp_path):
    with running(tmp_path) as run:
        first, second = run.ready(), run.ready()

        def meanwhile(item: int) -> bytes:
            with pytest.raises(ExchangeError, match="do not mean the same by round/0"):
                second.round(What(4, 16, 0, 0, 2.0, 2, hexadecimal(SEEDS)), record)
            return record(item)

        assert len(first.round(ROUND, meanwhile)) == 4
        first.close()
        second.close()


@pytest.mark.parametrize("secret", [b"", b"0123456789abcdef"], ids=["checksum", "secret"])
def test_no_flipped_bit_of_a_message_goes_unseen(secret):
    seal = Seal(secret, "0123456789abcdef")
    frame = Frame("round/3", 5, record(1), 7, 0.5, Vote(20, 99, True))
    data = seal.close(frame)
    assert seal.open(data, "round/3", 5, 16) == frame
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Refused):
            seal.open(bytes(flipped), "round/3", 5, 16)
    for length in range(len(data)):
        with pytest.raises(Refused):
            seal.open(data[:length], "round/3", 5, 16)
    with pytest.raises(Refused):
        seal.open(bytes(MAX_BYTES + 1), "round/3", 5, 16)


def test_a_secret_is_read_from_a_file_or_the_environment_and_a_short_one_refused(tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef\n")
    assert read_secret(str(path)) == b"0123456789abcdef"
    monkeypatch.setenv("ZODIST_KEY", "fedcba9876543210")
    assert read_secret("") == b"fedcba9876543210"
    monkeypatch.delenv("ZODIST_KEY")
    assert read_secret("") == b""
    path.write_text("short")
    with pytest.raises(ConfigError, match="holds 5 bytes"):
        read_secret(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        read_secret(str(tmp_path / "absent"))


def test_an_item_is_overdue_when_it_takes_longer_than_others_by_their_own_spread():
    pace = Pace()
    assert pace.limit() == 10.0
    pace.add([1.0, 1.1, 0.9, 1.0, 1.2, 30.0])
    assert 2.0 <= pace.limit() < 2.5
    steady = Pace()
    steady.add([0.001] * 5)
    assert steady.limit() == 0.25


def test_a_worker_that_dies_before_it_says_what_it_opened_holds_nobody_up(tmp_path):
    """A gap in the announcements is stepped over, and what was to be opened is announced by whoever waits for it."""
    with running(tmp_path) as run:
        worker = run.ready()
        run.stranger().add("announced", 1)
        mine = ROUND.hash() + bytes(4)
        run.stranger().compare_set("round/0/opened", "", mine)  # type: ignore[arg-type]
        assert len(worker.round(ROUND, record)) == 4
        worker.close()
