"""Shard groups in an elastic run: each is several processes, and one worker of the run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from elastic_runs import Fleet, free_port, slow_replay, work


def member(place: int, size: int, port: int, prepare: Callable[..., None] | None, args: tuple) -> None:
    """Make this process one that a launcher has started."""
    names = {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    if prepare is not None:
        prepare(*args)


def group(
    fleet: Fleet, size: int, *overrides: str, prepare: Callable[..., None] | None = None, args: tuple = ()
) -> list[int]:
    """Start the processes of a group; returns their places in ``fleet.workers``.  prepare: called first in each."""
    port, settings = free_port(), (f"shard.size={size}", *overrides)
    return [
        fleet.work(1, *settings, prepare=member, args=(place, size, port, prepare, args))
        for place in range(size)
    ]


class Launched:
    """A group under torchrun, which starts it again if one of its processes dies: once the file ``again`` is there."""

    def __init__(self, fleet: Fleet, size: int, *overrides: str) -> None:
        self.log = fleet.folder / "torchrun.log"
        agent = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={size}", "--max-restarts=1"]
        store = ("exchange.kind=store", f"exchange.address={fleet.host}:{fleet.port}")
        settings = (*fleet.overrides, *store, f"shard.size={size}", *overrides)
        command = [sys.executable, "-m", "torch.distributed.run", *agent, __file__]
        own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:
            self.agent = psutil.Popen(
                [*command, str(fleet.place.config), str(fleet.folder), *settings],
                env={**os.environ, **own},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def process(self, place: int) -> psutil.Process:
        """A process of the group as it is now."""
        found = {int(one.environ()["RANK"]): one for one in self.agent.children() if "RANK" in one.environ()}
        return found[place]

    def close(self) -> None:
        """End what still runs."""
        if self.agent.is_running():
            for one in [*self.agent.children(recursive=True), self.agent]:
                one.kill()
        self.agent.wait()


if __name__ == "__main__":
    slow_replay(0.05)
    config, folder, *settings = sys.argv[1:]
    start = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    while start and not (Path(folder) / "again").exists():
        time.sleep(0.05)
    log = Path(folder) / f"member-{os.environ['RANK']}-start-{start}.log"
    work(Path(config), tuple(settings), log, None, ())
