"""The worker processes of a sweep, each on its host: started once for a number of workers, told one command at a time."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from typing import IO, Any

from zodist.errors import ExchangeError
from zodist.scale.cell import Cell, Link
from zodist.scale.network import Network, environment

SLACK_S = 180.0  # beyond what a command should take: imports on a busy machine
END_S = 5.0


class Crew:
    """Workers that wait for commands."""

    def __init__(self, network: Network, workers: int) -> None:
        self.network, self.workers = network, workers
        self._errors = tempfile.TemporaryFile("a+", encoding="utf-8")  # all append to it
        own = {"WORLD_SIZE": str(workers), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        self._processes = [
            subprocess.Popen(
                [*network.inside(worker), sys.executable, "-m", "zodist.scale.worker"],
                env=environment() | own | threads | {"RANK": str(worker)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                start_new_session=True,  # an interrupt is for the sweep, which then ends them
            )
            for worker in range(workers)
        ]

    def meet(self, link: Link) -> dict[str, Any]:
        """Connect over a link of this shape and measure it: {"link": {"round_s", "rate"}, "not_shaped"}."""
        lacks = self.network.shape(link)
        where = {"address": self.network.address}
        port = self._ask([{"do": "host", **where}], SLACK_S)[0]["port"]
        self._all({"do": "meet", **where, "port": port, "interface": self.network.interface}, SLACK_S)
        found = self._all({"do": "link", "mbit": link.mbit}, SLACK_S)
        return {"link": found, "not_shaped": lacks}

    def measure(self, cell: Cell, *, steps: int, warmup: int, limit_s: float) -> dict[str, Any]:
        """A cell's figures."""
        asked = {"do": "cell", "cell": cell.plain(), "steps": steps, "warmup": warmup, "limit_s": limit_s}
        return self._all(asked, 4 * limit_s + SLACK_S)

    def close(self) -> None:
        """End the workers."""
        for process in self._processes:
            if process.stdin is not None:
                try:
                    process.stdin.close()
                except OSError:
                    pass  # it has gone already
        end = time.monotonic() + END_S
        for process in self._processes:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._errors.close()

    def _all(self, command: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """Worker 0's answer to what all are told."""
        return self._ask([command] * self.workers, limit_s)[0]

    def _ask(self, commands: list[dict[str, Any]], limit_s: float) -> list[dict[str, Any]]:
        """The answers of the first workers.  Raises ExchangeError if one dies, complains, or takes too long."""
        for process, command in zip(self._processes, commands, strict=False):
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(command) + "\n")
                process.stdin.flush()
            except OSError:
                pass  # it has died, which reading its answer tells
        answers: dict[int, dict[str, Any]] = {}
        end, waiting = (
            time.monotonic() + limit_s,
            {self._out(worker): worker for worker in range(len(commands))},
        )
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], max(0.0, end - time.monotonic()))
            if not ready:
                late = min(waiting.values())
                raise ExchangeError(f"worker {late} of {self.workers} did not answer in {limit_s:.0f} s")
            for out in ready:
                worker, line = waiting.pop(out), out.readline()
                answers[worker] = json.loads(line) if line else {"error": f"it has ended{self._last_words()}"}
                if "error" in answers[worker]:  # the others may wait for it in vain
                    raise ExchangeError(f"worker {worker} of {self.workers}: {answers[worker]['error']}")
        return [answers[worker] for worker in range(len(commands))]

    def _out(self, worker: int) -> IO[str]:
        out = self._processes[worker].stdout
        assert out is not None
        return out

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        return f"; the last that was said: {lines[-1].strip()}" if lines else ""
