"""The exchange: every worker sees the same bytes in worker order; a lost worker is an error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch.distributed as dist

from zodist.errors import ExchangeError
from zodist.exchange import stopping
from zodist.exchange.gather import Exchange, LocalExchange, open_exchange, share
from zodist.exchange.gloo import TorchExchange

TIMEOUT_S = 20.0
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "zodist.exchange.gloo"])
Task = Callable[[Exchange], Any]


def worker_main(
    task: Task, worker: int, workers: int, port: int, timeout_s: float, answer: Connection
) -> None:
    os.environ.update(
        RANK=str(worker), WORLD_SIZE=str(workers), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    start = time.monotonic()
    try:
        exchange = open_exchange("auto", timeout_s)
        result = task(exchange)
        exchange.close()
        answer.send((result, exchange.sent, exchange.received))
    except ExchangeError as error:
        answer.send((error, time.monotonic() - start, 0))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(task: Task, workers: int, timeout_s: float = TIMEOUT_S) -> list[tuple[Any, Any, Any] | None]:
    """What each worker's process answers: (result, sent, received), (error, seconds, 0), None if it died."""
    port = free_port()
    pipes = [PROCESSES.Pipe(duplex=False) for _ in range(workers)]
    processes = [
        PROCESSES.Process(target=worker_main, args=(task, worker, workers, port, timeout_s, pipes[worker][1]))
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    answers = []
    for (receiver, sender), process in zip(pipes, processes, strict=True):
        sender.close()
        try:
            answers.append(receiver.recv() if receiver.poll(60) else None)
        except EOFError:
            answers.append(None)
        process.join(60)
    return answers


def several_sizes(exchange: Exchange) -> list[list[bytes]]:
    sizes = [16, 16, 3, 0, 64, 65, 16, 100_000, 5, 5]
    return [exchange.all_gather(bytes([exchange.worker + 1 + n] * size)) for n, size in enumerate(sizes)]


@pytest.mark.parametrize("workers", [2, 3])
def test_payloads_of_every_size_arrive_in_worker_order(workers):
    answers = run(several_sizes, workers)
    sizes = [16, 16, 3, 0, 64, 65, 16, 100_000, 5, 5]
    expected = [[bytes([worker + 1 + n] * size) for worker in range(workers)] for n, size in enumerate(sizes)]
    for answer in answers:
        assert answer is not None
        result, sent, received = answer
        assert result == expected
        assert sent == received == (workers - 1) * sum(sizes)


def share_three(exchange: Exchange) -> list[bytes]:
    own = [b"", b"config", bytes(range(256)) * 300]
    return [share(exchange, data if exchange.worker == 0 else None) for data in own]


def test_share_gives_everyone_the_bytes_of_worker_0():
    for answer in run(share_three, 3):
        assert answer is not None and answer[0] == [b"", b"config", bytes(range(256)) * 300]


def unequal(exchange: Exchange) -> list[Any]:
    seen: list[Any] = [exchange.all_gather(b"x" * 32)]
    for size in (32 + 8 * (exchange.worker == 1), 1000 + 1000 * exchange.worker):
        with pytest.raises(ExchangeError) as error:
            exchange.all_gather(bytes(size))
        seen.append(str(error.value))
    return [*seen, exchange.all_gather(b"still")]


def test_unequal_sizes_are_an_error_on_every_worker_and_the_exchange_lives_on():
    answers = run(unequal, 2)
    for worker, answer in enumerate(answers):
        assert answer is not None
        first, small, large, last = answer[0]
        assert first == [b"x" * 32] * 2 and last == [b"still"] * 2
        other = 1 - worker
        sizes = (32, 40)
        assert small.startswith(
            f"worker {other} sent {sizes[other]} bytes where worker {worker} sent {sizes[worker]}"
        )
        assert f"worker {other} sent {1000 + 1000 * other} bytes" in large


def one_dies(exchange: Exchange) -> None:
    exchange.all_gather(b"ready")
    if exchange.worker == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(ExchangeError, match="lost its connection"):
        exchange.all_gather(b"record")
    exchange.all_gather(b"again")


@pytest.mark.parametrize("workers", [2, 3])
def test_a_killed_worker_is_an_error_in_the_others_at_once(workers):
    """Far below the timeout of 20 s: the connection tells, not the clock."""
    dead, *others = run(one_dies, workers)
    assert dead is None
    for worker, answer in enumerate(others, start=1):
        assert answer is not None
        error, seconds, _ = answer
        assert isinstance(error, ExchangeError)
        assert str(error).startswith(
            f"worker {worker} lost its connection to another of the {workers} workers"
        )
        assert seconds < TIMEOUT_S / 2


def one_hangs(exchange: Exchange) -> None:
    exchange.all_gather(b"ready")
    if exchange.worker == 1:
        time.sleep(4)
    exchange.all_gather(b"record")


def test_a_worker_that_hangs_is_an_error_after_the_timeout():
    waiting, hanging = run(one_hangs, 2, timeout_s=2.0)
    assert hanging is not None and isinstance(hanging[0], ExchangeError)
    assert waiting is not None
    error, seconds, _ = waiting
    assert str(error).startswith("worker 0 had no answer from the others for 2 s; one of the 2 is stopped")
    assert 2 <= seconds < 12


def one_leaves(exchange: Exchange) -> str:
    exchange.all_gather(b"ready")
    if exchange.worker == 1:
        return "left"
    exchange.all_gather(b"record")
    return "not reached"


def test_a_worker_that_leaves_is_named_by_the_others():
    stayed, left = run(one_leaves, 2)
    assert left is not None and left[0] == "left"
    assert stayed is not None
    assert str(stayed[0]).startswith("worker 1 has left the run while worker 0 goes on")


def twice(exchange: Exchange) -> list[bytes]:
    """A second exchange beside the first, as after a change of workers, and torch's own group beside both."""
    second = TorchExchange(TIMEOUT_S)
    dist.init_process_group("gloo")
    third = TorchExchange(TIMEOUT_S)
    name = bytes([exchange.worker])
    seen = third.all_gather(name) + second.all_gather(name) + exchange.all_gather(name)
    for other in (third, second):
        other.close()
    dist.barrier()
    dist.destroy_process_group()
    return seen


def test_exchanges_and_the_default_group_do_not_meet():
    for answer in run(twice, 2):
        assert answer is not None and answer[0] == [b"\0", b"\1"] * 3


def one_is_asked_to_stop(exchange: Exchange) -> list[bool]:
    stopping.listen()
    seen = [exchange.stopping]
    for moment in range(3):
        if moment == 1 and exchange.worker == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        exchange.all_gather(bytes(100 * moment))
        seen.append(exchange.stopping)
    return seen


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_signal_to_one_worker_is_known_to_all_after_the_same_all_gather(workers):
    answers = run(one_is_asked_to_stop, workers)
    for answer in answers:
        assert answer is not None and answer[0] == [False, False, workers > 1, workers > 1]


def test_one_worker_alone_stops_after_its_next_all_gather(monkeypatch):
    monkeypatch.setattr(stopping, "_received", ["SIGTERM"])
    exchange = LocalExchange()
    assert not exchange.stopping and exchange.all_gather(b"") == [b""] and exchange.stopping


def closed_then_used(exchange: Exchange) -> str:
    exchange.close()
    exchange.close()
    with pytest.raises(ExchangeError) as error:
        exchange.all_gather(b"late")
    return str(error.value)


def test_closing_twice_is_harmless_and_using_it_afterwards_is_an_error():
    for answer in run(closed_then_used, 2):
        assert answer is not None and answer[0] == "this worker has closed its exchange"


def test_workers_that_never_come_are_an_error_after_the_timeout(monkeypatch):
    port = free_port()
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(
        ExchangeError, match=f"worker 1 did not find all 2 workers at 127.0.0.1:{port} within 1 s"
    ):
        open_exchange("torch", 1.0)


def test_one_process_is_local_and_sends_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for kind in ("auto", "local"):
        exchange = open_exchange(kind, 1.0)
        assert isinstance(exchange, LocalExchange)
        assert (exchange.worker, exchange.workers) == (0, 1)
        assert exchange.all_gather(b"record") == [b"record"]
        assert share(exchange, b"config") == b"config"
        assert (exchange.sent, exchange.received) == (0, 0)
        exchange.close()


def test_a_kind_that_does_not_fit_the_start_is_refused(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        ExchangeError, match="needs RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the environment"
    ):
        open_exchange("torch", 1.0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ExchangeError, match="is for one worker, but WORLD_SIZE is 4"):
        open_exchange("local", 1.0)
    for name, value in {"RANK": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ExchangeError, match="RANK = '4' of WORLD_SIZE = '4'"):
        open_exchange("torch", 1.0)
