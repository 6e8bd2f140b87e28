"""Workers find each other in a store that still holds what the dead have written: by threads, and under torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from runs import wait_for
from torch.distributed import TCPStore  # pyright: ignore

from zodist.exchange.meeting import meet


@pytest.fixture
def connect() -> Callable[[], TCPStore]:
    """A store in this process, and connections to it: one for each thread, because a waiting one is busy."""
    served = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    limit = timedelta(seconds=60)
    return lambda: TCPStore("127.0.0.1", served.port, is_master=False, timeout=limit)


def test_a_meeting_waits_for_the_living_and_leaves_out_the_dead(connect: Callable[[], TCPStore]):
    """Worker 1 died long ago, then again between its hello and its answer; the third is alive."""
    store = connect()
    for key, value in {"hello/0": "dead", "hello/1": "dead", "roll": "dead,dead,dead"}.items():
        store.set(key, value)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, connect(), 0, 2, 60.0)
        wait_for(lambda: store.get("roll").endswith(b",dead") and not store.get("roll").startswith(b"dead"))
        store.set("hello/1", "died again")
        wait_for(lambda: store.get("roll").endswith(b",died again"))
        assert not first.done()
        second = pool.submit(meet, connect(), 1, 2, 60.0)
        assert first.result(60) == second.result(60)
        again = [pool.submit(meet, connect(), worker, 2, 60.0) for worker in (1, 0)]
        assert again[0].result(60) == again[1].result(60) != first.result()


def test_who_does_not_come_is_waited_for_as_long_as_was_said(connect: Callable[[], TCPStore]):
    with pytest.raises((RuntimeError, TimeoutError)):
        meet(connect(), 0, 2, 0.5)
    connect().set("hello/1", "dead")
    with pytest.raises(TimeoutError):
        meet(connect(), 0, 2, 0.5)


RESTARTED = """
import os, signal, time
from zodist.exchange.gather import open_exchange
if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0" and os.environ["RANK"] == "0":
    time.sleep(2)  # the other worker looks for this one's address while the store has only the dead one's
exchange = open_exchange("auto", 15.0)
for step in range(3):
    if step == 1 and exchange.worker == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    seen = exchange.all_gather(bytes([step, exchange.worker]))
exchange.close()
with open(os.path.join(os.environ["OUT"], os.environ["RANK"]), "w") as file:  # two prints into one pipe can mix
    print("done", seen, os.environ["TORCHELASTIC_RESTART_COUNT"], file=file)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", ["dynamic", "static"])
def test_torchrun_restarts_the_workers_after_one_is_killed(tmp_path, rendezvous):
    """torchrun keeps the addresses of dead workers in its store; a restart must not read them."""
    script = tmp_path / "restarted.py"
    script.write_text(RESTARTED)
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    if rendezvous == "dynamic":
        start.append("--standalone")
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        start += ["--node-rank=0", "--master-addr=127.0.0.1", f"--master-port={port}"]
    result = subprocess.run(
        [*start, "--max-restarts=1", str(script)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "OUT": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert (
        (tmp_path / "0").read_text()
        == (tmp_path / "1").read_text()
        == "done [b'\\x02\\x00', b'\\x02\\x01'] 1\n"
    )
