"""One worker of ``zodist bench exchange``, a process of its own: ``python -m zodist.bench.wire '{...}'``.

In every block it runs so many rounds of each: our exchange of one record; the peer, which is what torch's
all_gather_object does (a gather of lengths, then one of padded bytes) without the pickling; and, between workers 0 and 1, a
ping-pong of the same bytes over a plain TCP socket.  Worker 0 writes the seconds of all rounds to standard output.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from time import perf_counter
from typing import Any

TIMEOUT_S = 60.0


def _ping_pong(store: Any, worker: int, payload: bytes) -> Callable[[], None]:
    """A round trip of the payload between workers 0 and 1; nothing on the others."""
    if worker > 1:
        return lambda: None
    if worker == 0:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(TIMEOUT_S)
            store.set("ping", str(server.getsockname()[1]))
            link, _ = server.accept()
    else:
        link = socket.create_connection(("127.0.0.1", int(store.get("ping"))), timeout=TIMEOUT_S)
    link.settimeout(TIMEOUT_S)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive() -> None:
        missing = len(payload)
        while missing:
            missing -= len(link.recv(missing)) or missing

    def trip() -> None:
        if worker == 0:
            link.sendall(payload)
            receive()
        else:
            receive()
            link.sendall(payload)

    return trip


def _two_gathers(store: Any, worker: int, workers: int, payload: bytes) -> Callable[[], None]:
    """The collectives of all_gather_object: everybody's length, then everybody's bytes, padded to the longest."""
    import torch
    from torch.distributed import PrefixStore  # pyright: ignore
    from torch.distributed.distributed_c10d import ProcessGroupGloo  # pyright: ignore

    group: Any = ProcessGroupGloo(PrefixStore("peer", store), worker, workers, timedelta(seconds=TIMEOUT_S))

    def gather() -> None:
        data = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        length = torch.tensor([data.numel()])
        lengths = [torch.zeros_like(length) for _ in range(workers)]
        group.allgather([lengths], [length]).wait()
        longest = max(int(found) for found in lengths)
        data.resize_(longest)
        received = torch.empty(longest * workers, dtype=torch.uint8)
        parts = [received[longest * w : longest * (w + 1)] for w in range(workers)]
        group.allgather([parts], [data]).wait()
        for part, found in zip(parts, lengths, strict=True):
            part.numpy().tobytes()[: int(found)]

    return gather


def main() -> None:
    """Run the blocks of a question given as JSON: payload (bytes), blocks, rounds."""
    import numpy as np
    from torch.distributed import TCPStore  # pyright: ignore

    from zodist.exchange import open_exchange
    from zodist.step import records

    question = json.loads(sys.argv[1])
    worker, workers = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    payload = records.encode(np.array([1 << 40], np.uint64), np.array([[0.7, 0.6]]))
    exchange = open_exchange("torch", TIMEOUT_S)
    store = TCPStore(address, port, is_master=False, wait_for_workers=False)
    runs = {
        "exchange": lambda: exchange.all_gather(payload),
        "peer": _two_gathers(store, worker, workers, payload),
        "ping-pong": _ping_pong(store, worker, payload),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    sent = 0
    for block in range(question["blocks"] + 1):
        for name, run in runs.items():
            exchange.all_gather(b"")  # all begin together: the ping-pong leaves the other workers idle
            before = exchange.sent
            for _ in range(question["rounds"]):
                start = perf_counter()
                run()
                if block:
                    times[name].append(perf_counter() - start)
            if name == "exchange":
                sent = exchange.sent - before
    exchange.close()
    if worker == 0:
        found = {"times": times, "sent": sent / question["rounds"], "payload": len(payload)}
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
