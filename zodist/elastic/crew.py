"""A crew whose workers come and go: Crew's questions, put to the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zodist.config import Config
from zodist.elastic.catch_up import catch_up
from zodist.elastic.keys import What, hexadecimal
from zodist.elastic.secret import read_secret
from zodist.elastic.team import Team
from zodist.elastic.worker import Worker
from zodist.errors import SnapshotError
from zodist.exchange import Begun, Make, Measure, Rebuild
from zodist.journal import JOURNAL, snapshot
from zodist.journal import format as journal_format
from zodist.step import Asked, Entry, Replica, records


class Elastic:
    """One worker of an elastic run; see zodist.exchange.crew.Crew.

    say: told what a person should know.  team: the processes of this worker, all of which have a crew.
    """

    workers = 0

    def __init__(self, config: Config, say: Callable[[str], None], team: Team) -> None:
        self.config, self.folder, self._team = config, Path(config.run.folder), team
        self.shards, self.speaks = team.shards, team.speaks
        self.say = say if team.speaks else lambda text: None
        exchange = config.exchange
        self._worker = Worker(exchange.address, exchange.timeout_s, read_secret(exchange.key_file), team)
        self._lines: list[dict[str, Any]] = []
        self._written = -1
        self._saved: list[tuple[int, Path]] = []  # since the last milestone but one
        self._trusted = 1 << 62  # the last step whose snapshots may be taken up
        self.say(f"worker {self._worker.number} of the run at {exchange.address}")

    @property
    def sent(self) -> int:
        return self._worker.sent

    @property
    def stopping(self) -> bool:
        return self._worker.stopping

    def meet(self, threads: int, versions: dict[str, str]) -> Begun:
        began, versions = self._worker.begin(threads, versions)
        return Begun(self._worker.header(), self.config.run.threads or began, versions)

    def agree(self, head: dict[str, Any]) -> list[Entry]:
        self._run = journal_format.run_id(head)
        return self._worker.agree(head)

    def restore(self, replica: Replica, entries: list[Entry]) -> int:
        """From a snapshot in the run folder, if there is one and replay from the base would take longer."""
        self._written = self._worker.written()
        # Snapshots ahead of the metrics are of no use: the lines in between would be lost.
        at_most = min(self._written, self._trusted)
        start = catch_up(replica, entries, self.folder, self._run, at_most, self._team)
        if entries:
            self.say(
                f"joining after {entries[-1].step + 1} steps: {start} by snapshot and replay, the rest by replay"
            )
        return start

    def open(self, start: int) -> list[dict[str, Any]]:
        self._lines = []
        return self._worker.known()

    def round(self, asked: Asked, measure: Measure) -> np.ndarray:
        groups, place = asked.groups, (asked.step, asked.round, asked.lr, asked.losses)
        size = groups.size * records.record_bytes(asked.losses)
        what = What(groups.count, size, *place, hexadecimal(asked.seeds), groups.lanes, groups.size)

        def make(group: int) -> bytes:
            return records.encode(asked.seeds[groups.members(group)], measure(group), groups.size)

        return self._noticing(lambda: self._worker.round(what, make))

    def collect(self, name: str, count: int, size: int, make: Make) -> list[bytes]:
        return self._noticing(lambda: self._worker.collect(name, count, size, make))

    def compare(self, t: int, digest: int) -> None:
        """The digest goes along with the next results; the supervisor's answer to those may be Rebuild."""
        self._worker.vote(t, digest)

    def save(self, t: int, state: Callable[[], Mapping[str, torch.Tensor]], rounds: int) -> None:
        """By whoever comes first of those that see the run folder; if that fails, only this snapshot is missing."""
        seen = self._team.decided((self.folder / JOURNAL).exists())
        if not seen or not self._worker.claim(f"snapshot/{t}"):
            return
        keep = self.config.output.keep
        try:
            if self.shards is None:
                path = snapshot.save(self.folder, t, state(), self._run, keep, rounds)
            else:
                path = self.shards.save(self.folder, t, state, self._run, keep, rounds)
        except SnapshotError as error:
            self.say(f"warning: {error}")
            return
        if path is not None:
            self._saved = [*self._saved[-8:], (t, path)]

    def write(self, line: dict[str, Any]) -> None:
        if self._lines and self._lines[0]["step"] != line["step"]:
            self._post()
        self._lines.append(line)

    def time(self, t: int, **figures: Any) -> None:
        self._worker.count(figures["update_s"])  # the supervisor writes the sums over all workers

    def leave(self) -> None:
        self._post()

    def finish(self, plot: bool) -> None:
        self._post()
        self._worker.finish()

    def close(self) -> None:
        self._worker.close()

    def _post(self) -> None:
        """The lines of a step, which is over."""
        if self._lines and self._lines[0]["step"] > self._written:
            self._worker.post_lines(self._lines[0]["step"], self._lines)
        self._lines = []

    def _noticing(self, action: Callable[[], Any]) -> Any:
        """An action that may tell this worker that its weights are wrong."""
        try:
            return action()
        except Rebuild:
            milestone = self._worker.rebuild()
            every = self.config.exchange.digest_every
            self._trusted = max(0, milestone - max(1, every))
            for step, path in self._saved:
                if step > self._trusted:
                    path.unlink(missing_ok=True)
            self.say(
                f"warning: the weights of this worker differ from those of the others after step {milestone} (digest); "
                "making them again from the base model and the journal"
            )
            raise
