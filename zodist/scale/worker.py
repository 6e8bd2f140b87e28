"""One worker process of a sweep: ``python -m zodist.scale.worker``, told what to do by lines of JSON on standard input.

    {"do": "host", "address": A}                               worker 0 alone: make a store; answers {"port": P}
    {"do": "meet", "address": A, "port": P, "interface": I}    find the others over an interface
    {"do": "link", "mbit": M}                                  measure the link
    {"do": "cell", "cell": {...}, ...}                         measure a cell

Each is answered with one line of JSON, {"error": ...} if it went wrong; the end of the input ends the worker.  What torch
and others print goes to standard error.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from zodist.exchange import prepare_environment

MEET_S = 600.0  # a step over a slow link takes long


class Worker:
    """What stays between commands: the model as it was loaded, the exchange with the others."""

    def __init__(self) -> None:
        self.exchange: Any = None
        self._store: Any = None
        self._models: dict[tuple[str, str], Any] = {}
        self.interface = ""

    def host(self, address: str) -> dict[str, Any]:
        """A store for one meeting, at a port that the system chooses."""
        from torch.distributed import TCPStore  # pyright: ignore

        self._leave()
        self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
        return {"port": self._store.port}

    def meet(self, address: str, port: int, interface: str) -> dict[str, Any]:
        """Connect to the others: zodist's exchange, and torch's default group for the other systems."""
        import torch.distributed as dist

        from zodist.exchange import open_exchange

        if int(os.environ["RANK"]) != 0:
            self._leave()
        os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": interface}
        self.interface = interface
        self.exchange = open_exchange("torch" if os.environ["WORLD_SIZE"] != "1" else "local", MEET_S)
        dist.init_process_group("gloo", timeout=timedelta(seconds=MEET_S))
        return {}

    def link(self, mbit: float | None) -> dict[str, Any]:
        """Latency and rate."""
        from zodist.scale.measure import measure_link

        return measure_link(self.exchange, mbit)

    def cell(self, cell: dict[str, Any], steps: int, warmup: int, limit_s: float) -> dict[str, Any]:
        """A cell's figures, with the shape of its model."""
        from zodist.exchange import set_threads
        from zodist.plan import shape_of
        from zodist.scale.cell import Cell
        from zodist.scale.measure import measure
        from zodist.scale.systems import load

        asked = Cell.of(cell)
        set_threads(asked.threads)
        key = (asked.model, asked.dtype)
        if key not in self._models:
            self._models = {key: load(*key)}
        model = copy.deepcopy(self._models[key])
        shape = asdict(shape_of(model, asked.model))
        options: dict[str, Any] = {"steps": steps, "warmup": warmup, "limit_s": limit_s}
        found = measure(asked, model, self.exchange, self.interface, **options)
        return {**found, "parameters": shape["parameters"], "shape": shape}

    def _leave(self) -> None:
        """Give up the last meeting, all workers at about the same time."""
        if self.exchange is None:
            return
        import torch.distributed as dist

        self.exchange.close()
        dist.destroy_process_group()
        self.exchange = self._store = None


def main() -> None:
    """Answer commands until there are no more."""
    prepare_environment()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            command: Callable[..., dict[str, Any]] = getattr(worker, asked.pop("do"))
            answer = command(**asked)
        except Exception as error:  # the sweep decides what becomes of the cell
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
