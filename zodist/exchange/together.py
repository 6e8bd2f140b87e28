"""A crew of fixed size: every worker takes the items or groups w, w + W, ... and an all-gather brings them together.

Worker 0 writes the files.  Nothing is lost when a worker dies, but all must be started again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from zodist.config import Config
from zodist.errors import ExchangeError, JournalError
from zodist.exchange.crew import Begun, Make, Measure
from zodist.exchange.gather import AllGather, Exchange, collect, share
from zodist.journal import (
    CONFIG,
    JOURNAL,
    METRICS,
    TIMINGS,
    Journal,
    Metrics,
    Scalars,
    Timings,
    make_folder,
    require,
    snapshot,
    write_whole,
)
from zodist.journal import format as journal_format
from zodist.report import plot as draw
from zodist.step import Asked, Entry, Replayed, Replica, records


class Parted(Protocol):
    """A model that several workers hold between them, as those who write and read snapshots see it (zodist.shard)."""

    each: int

    def save(
        self,
        folder: Path,
        step: int,
        state: Callable[[], Mapping[str, torch.Tensor]],
        run: str,
        keep: int,
        rounds: int,
    ) -> Path | None:
        """A snapshot in parts; the path of this worker's, if it has written one."""
        ...

    def own(self, tensors: snapshot.Tensors) -> Mapping[str, torch.Tensor]:
        """Of a snapshot's tensors, what is held here."""
        ...


def level(among: AllGather, replica: Replica, entries: Sequence[Entry]) -> int:
    """Bring every worker to the step that the most advanced one is at, by replay, and return that step."""
    everybody = among.all_gather(replica.step.to_bytes(8, "little"))
    start = max(int.from_bytes(b, "little") for b in everybody)
    silent = Replayed([e for e in entries if e.step >= replica.step], replica.data_lanes)
    while replica.step < start:
        replica.advance(silent)
    return start


class Rounds:
    """Rounds of a fixed number of workers; worker 0 has the journal.

    each: workers that evaluate every group between them: consecutive ones, which all have its losses then.  sent: bytes of
    records alone.  forward_s, gather_s: seconds of this worker so far in forward passes, and in waiting for the others and
    the exchange.
    """

    def __init__(self, exchange: Exchange, journal: Journal | None, each: int = 1) -> None:
        self.exchange, self.journal, self.each, self.sent = exchange, journal, each, 0
        self.forward_s = self.gather_s = 0.0

    def round(self, asked: Asked, measure: Measure) -> np.ndarray:
        """Evaluate this worker's share, gather everybody's, write it down."""
        points, groups = asked.losses, asked.groups
        worker, workers = self.exchange.worker // self.each, self.exchange.workers // self.each
        items = [groups.share(w, workers) for w in range(workers)]
        losses = np.empty((len(items[worker]), points), np.float64)
        began, at = time.perf_counter(), 0
        for group in range(worker, groups.count, workers):
            found = measure(group)
            losses[at : at + len(found)] = found
            at += len(found)
        slots = max(map(len, items))  # messages of equal size: short shares are filled up
        before, evaluated = self.exchange.sent, time.perf_counter()
        mine = records.encode(asked.seeds[items[worker]], losses, slots)
        shares = self.exchange.all_gather(mine)[:: self.each]
        self.sent += self.exchange.sent - before
        self.forward_s += evaluated - began
        self.gather_s += time.perf_counter() - evaluated
        values = np.empty((len(asked.seeds), points), np.float32)
        for w, (theirs, numbers) in enumerate(zip(shares, items, strict=True)):
            values[numbers] = records.decode(
                theirs, asked.seeds[numbers], points, worker=w, step=asked.step, probes=numbers
            )
        if self.journal is not None:
            self.journal.append(Entry(asked.step, asked.round, asked.lr, values))
        return values


class Together:
    """The workers of an exchange; see zodist.exchange.crew.Crew.

    given: evaluations that need not be made again.  say: told what a person should know.  files: whether there is a run
    folder; without one the run cannot be resumed or replayed.
    """

    def __init__(
        self,
        config: Config,
        exchange: Exchange,
        given: Sequence[dict[str, Any]],
        say: Callable[[str], None],
        shards: Parted | None = None,
        *,
        files: bool = True,
    ) -> None:
        self.config, self.exchange, self.given, self.say = config, exchange, given, say
        self.shards = shards
        self.folder, self.speaks = Path(config.run.folder), exchange.worker == 0
        self.files, self.writes = files, files and self.speaks
        self._journal: Journal | None = None
        self._metrics: Metrics | None = None
        self._timings: Timings | None = None
        self._scalars: Scalars | None = None
        self._rounds = Rounds(exchange, None)
        self._found: journal_format.Contents | None = None
        if self.writes:
            require(config.output)  # before anything that takes long

    @property
    def workers(self) -> int:
        return self.exchange.workers

    @property
    def sent(self) -> int:
        return self.exchange.sent

    @property
    def stopping(self) -> bool:
        return self.exchange.stopping

    def meet(self, threads: int, versions: dict[str, str]) -> Begun:
        """The journal as worker 0 finds it."""
        path = self.folder / JOURNAL
        raw = b""
        if self.writes and path.exists():
            try:
                raw = path.read_bytes()
            except OSError as error:
                raise JournalError(f"cannot read the journal {path}: {error.strerror}") from error
        raw = share(self.exchange, raw if self.speaks else None)
        self._found = None if journal_format.is_torn_header(raw) else journal_format.parse(raw, path)
        head = self._found.header if self._found is not None else None
        if head is not None:
            threads = self.config.run.threads or head.get("threads", threads)
            versions = head.get("versions", versions)
        everyone = share(self.exchange, json.dumps([threads, versions]).encode() if self.speaks else None)
        threads, versions = json.loads(everyone)
        return Begun(head, threads, versions)

    def agree(self, head: dict[str, Any]) -> list[Entry]:
        """Open the journal; all workers must be about to do the same run."""
        path, found = self.folder / JOURNAL, self._found
        theirs = json.loads(share(self.exchange, json.dumps(head).encode() if self.speaks else None))
        different = journal_format.difference(theirs, head)
        flags = self.exchange.all_gather(b"\1" if different else b"\0")
        if different:
            raise ExchangeError(
                f"worker {self.exchange.worker} is set up for another run than worker 0: {different}; give all "
                "workers the same configuration, model and data"
            )
        odd = [worker for worker, flag in enumerate(flags) if flag != b"\0"]
        if odd:
            raise ExchangeError(
                f"worker {odd[0]} is set up for another run than worker 0; its output says in what"
            )
        if self.writes:
            self._journal = Journal.create(path, head) if found is None else Journal.open(path, head)
        self._rounds = Rounds(self.exchange, self._journal, 1 if self.shards is None else self.shards.each)
        self._run = journal_format.run_id(head)
        return [] if found is None else found.entries

    def restore(self, replica: Replica, entries: list[Entry]) -> int:
        """Take up the newest snapshot; bring every worker to the step that the most advanced one starts from."""
        done = entries[-1].step + 1 if entries else 0
        # The last step may lack its later rounds: it is then done again, with the rounds that the journal has.
        rounds = entries[-1].round + 1 if entries else 0
        found = snapshot.newest(self.folder, self._run, done, rounds) if self.files else None
        if found is not None:
            replica.load(found.step, found.tensors if self.shards is None else self.shards.own(found.tensors))
        start = level(self.exchange, replica, entries)
        if done:
            self.say(f"resuming after {done} steps ({start} from a snapshot, the rest from the journal)")
        return start

    def open(self, start: int) -> list[dict[str, Any]]:
        known: list[dict[str, Any]] = list(self.given)
        if self.writes:
            make_folder(self.folder)
            write_whole(self.folder / CONFIG, self.config.to_toml())
            self._scalars = Scalars(self.config, self._run, start, self._traffic)
            self._metrics = Metrics(self.folder / METRICS, start, self._scalars.write)
            self._timings = Timings(self.folder / TIMINGS, self.exchange.workers, start)
            known += self._metrics.evaluations
        return json.loads(share(self.exchange, json.dumps(known).encode() if self.speaks else None))

    def round(self, asked: Asked, measure: Measure) -> np.ndarray:
        return self._rounds.round(asked, measure)

    def collect(self, name: str, count: int, size: int, make: Make) -> list[bytes]:
        return collect(self.exchange, count, size, make)

    def compare(self, t: int, digest: int) -> None:
        """All-gather the digests; a difference ends the run, and starting it again rebuilds all workers."""
        everybody = self.exchange.all_gather(digest.to_bytes(8, "little"))
        if len(set(everybody)) == 1:
            return
        right = max(everybody, key=everybody.count)
        odd = [str(worker) for worker, theirs in enumerate(everybody) if theirs != right]
        majority = everybody.count(right) * 2 > len(everybody)
        who = f"the weights of worker {', '.join(odd)}" if majority else "the workers' weights"
        listed = ", ".join(f"{int.from_bytes(theirs, 'little'):016x}" for theirs in everybody)
        raise ExchangeError(
            f"after step {t} {who} differ (digests {listed}): memory or software is at fault there; start the run "
            "again to rebuild all workers from the journal"
        )

    def save(self, t: int, state: Callable[[], Mapping[str, torch.Tensor]], rounds: int) -> None:
        if self.shards is not None:
            self.shards.save(self.folder, t, state, self._run, self.config.output.keep, rounds)
        elif self.writes:
            snapshot.save(self.folder, t, state(), self._run, self.config.output.keep, rounds)

    def write(self, line: dict[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write(line)

    def time(self, t: int, **figures: Any) -> None:
        if self._timings is not None:
            rounds = self._rounds
            spent = {"forward_s": round(rounds.forward_s, 4), "gather_s": round(rounds.gather_s, 4)}
            self._timings.write(t, **figures, **spent, **self._traffic(), records_sent=rounds.sent)

    def _traffic(self) -> dict[str, int]:
        return {"sent": self.exchange.sent, "received": self.exchange.received}

    def leave(self) -> None:
        self.exchange.all_gather(b"")  # a launcher may end the other workers as soon as one has left

    def finish(self, plot: bool) -> None:
        if self.writes and plot:
            self.say("drawing the plot")
            draw(self.folder)

    def close(self) -> None:
        for opened in (self._journal, self._metrics, self._timings, self._scalars):
            if opened is not None:
                opened.close()
