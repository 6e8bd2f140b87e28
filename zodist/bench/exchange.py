"""``zodist bench exchange``: one round of records between real processes on this machine, over gloo and loopback.

The ceiling is one way of a ping-pong of the same bytes over a plain TCP socket: nobody can know another's record sooner.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from zodist.bench.line import Line
from zodist.bench.wire import TIMEOUT_S
from zodist.errors import ConfigError, ExchangeError

PEER = "the two collectives of torch's all_gather_object, without its pickling"
CEILING = "one way of a ping-pong of the same bytes over plain TCP"


def measure_exchange(workers: Sequence[int], *, blocks: int, rounds: int) -> list[Line]:
    """Median and 90 % time of a round, and bytes, for each number of workers.

    blocks: of ``rounds`` rounds of each, in turn with peer and ping-pong.  Raises ExchangeError if a worker fails.
    """
    for count in workers:
        if count < 2:
            raise ConfigError(f"--workers {count} must be >= 2: one worker exchanges nothing")
    lines = []
    for count in workers:
        lines += _lines(count, _measure(count, {"blocks": blocks, "rounds": rounds}))
    return lines


def _measure(workers: int, question: dict[str, int]) -> dict[str, Any]:
    """What worker 0 of so many says."""
    from torch.distributed import TCPStore  # pyright: ignore

    # Hosted here, as torchrun does it: the system chooses the port, so nobody can have taken it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    command = [sys.executable, "-m", "zodist.bench.wire", json.dumps(question)]
    started = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(worker)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for worker in range(workers)
    ]
    try:
        said = [process.communicate(timeout=4 * TIMEOUT_S) for process in started]
    except subprocess.TimeoutExpired as error:
        raise ExchangeError(
            f"{workers} workers on this machine did not finish within {4 * TIMEOUT_S:g} s; lower --rounds"
        ) from error
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
    for worker, (process, (_, errors)) in enumerate(zip(started, said, strict=True)):
        if process.returncode:
            last = (errors.strip().splitlines() or ["no message"])[-1]
            raise ExchangeError(
                f"worker {worker} of the exchange benchmark ended with {process.returncode}: {last}"
            )
    return json.loads(said[0][0].strip().splitlines()[-1])


def _lines(workers: int, found: dict[str, Any]) -> list[Line]:
    times: dict[str, list[float]] = found["times"]
    setting = f"{workers} processes on this machine, records of {found['payload']} bytes"

    def late(values: Sequence[float]) -> float:
        return quantiles(values, n=10, method="inclusive")[-1]

    lines = [
        Line(
            "exchange",
            f"{name} of a round",
            figure(times["exchange"]),
            "s",
            setting=setting,
            case=f"{workers} workers",
            low=min(times["exchange"]),
            high=max(times["exchange"]),
            rounds=len(times["exchange"]),
            ceiling=figure(times["ping-pong"]) / 2,
            ceiling_is=CEILING,
            peer=figure(times["peer"]),
            peer_is=PEER,
        )
        for name, figure in (("median", median), ("90 %", late))
    ]
    bytes_line = Line(
        "exchange",
        "bytes a worker sends in a round",
        found["sent"],
        "bytes",
        setting=setting,
        case=f"{workers} workers",
        ceiling=float(found["payload"] * (workers - 1)),
        ceiling_is="one record to each of the others",
        note="payload; gloo's frames and TCP's headers come on top",
    )
    return [*lines, bytes_line]
