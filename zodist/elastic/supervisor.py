"""The supervisor: holds the store and the journal, checks what workers post, publishes what is on disk.

It loads no model and computes nothing, so it starts in the time that importing torch takes, and it may be killed: the
journal is all that it knows.  Started again, it publishes the journal's rounds, and the workers, who have kept what they
computed for the open round, post it again.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from zodist.config import Config
from zodist.elastic.attendance import Attendance
from zodist.elastic.collection import DIFFERS, Collection
from zodist.elastic.connection import arrived
from zodist.elastic.frames import Frame, Refused, Seal
from zodist.elastic.keys import ROUND, Done, Turn, What
from zodist.elastic.lines import LineWriter
from zodist.elastic.pace import Pace
from zodist.elastic.secret import read_secret
from zodist.elastic.traffic import BYTES, SECONDS, Ledger
from zodist.elastic.votes import Hearing, Votes
from zodist.errors import ExchangeError, JournalError, Stopped
from zodist.exchange import stopping
from zodist.journal import CONFIG, JOURNAL, Journal, is_torn_header, make_folder, write_whole
from zodist.step import Entry, records

_NAME = re.compile(r"[a-z]+(/[a-z0-9]+){1,3}")
_IDLE_S = 0.2
_GAP_S = 1.0
_STUCK_S = 5.0
_STAY_S = 60.0  # after the last step, for workers that are connected and have not left; no longer than they would wait
_LINGER_S = 10.0  # the same for a supervisor that was asked to stop
_SAID_S = 2.5  # before it says whom it stays for
_KEPT_S = 5.0  # results stay in the store so long after their collection is done, for workers on their way


class Supervisor:
    """Serves one run; see the module header.

    say: told, in sentences, who comes, what is refused and offered again.
    """

    def __init__(
        self, config: Config, bind: str, port: int, secret: bytes, say: Callable[[str], None]
    ) -> None:
        self.config, self.say = config, say
        self.folder = Path(config.run.folder)
        self.refused: Counter[str] = Counter()
        self.offered_again = 0
        self._outer, self._seal = Seal(secret), Seal(secret)
        self._open: dict[str, Collection] = {}
        self._done: set[str] = set()
        self._paces = {True: Pace(), False: Pace()}
        self._votes = Votes()
        self._waste: deque[tuple[float, list[str]]] = deque()
        self._announced = 0
        self._differing: set[tuple[int, str]] = set()
        self._next_look = self._gap_since = self._moved = 0.0
        self._journal = self._open_journal()
        self._lines = LineWriter(config, self.folder, self._steps())
        try:
            self._listen(bind, port)
        except BaseException:
            self.close()
            raise
        self._attendance = Attendance(self._store, self._outer, self._tell, self._refuse)
        self._hearing = Hearing(self._store, self._seal, self._votes, self._attendance)
        self._ledger = Ledger(self._store, self._outer)

    def close(self) -> None:
        """Release the files."""
        if self._journal is not None:
            self._journal.close()
        self._lines.close()

    def serve(self) -> int:
        """Until the last step is done; returns the number of steps.

        Raises JournalError if the disk refuses (nothing of that round was published), Stopped after SIGTERM or SIGUSR1.
        """
        self._publish()
        over, told = 0.0, False
        while not self._in_vain():
            self._news()
            if not over and (self._store.check(["finished"]) or (stopping.asked() and not self._open)):
                over = time.monotonic()
            if over:
                now = time.monotonic()
                stay_s = min(self.config.exchange.timeout_s, _LINGER_S if stopping.asked() else _STAY_S)
                if now - over > stay_s or self._attendance.may_go(now):
                    break
                if not told and now - over > _SAID_S:
                    told = True
                    numbers = ", ".join(map(str, sorted(self._attendance.others(()))))
                    self.say(f"staying at most {stay_s:g} s for workers that have not left: {numbers}")
            if not self._open:
                arrived(self._store, [f"announce/{self._announced + 1}"], _IDLE_S)
                continue
            for collection in list(self._open.values()):
                done = collection.advance(_IDLE_S / len(self._open))
                if done and self._hearing.over(self._pace(collection.name).limit()):
                    self._commit(collection)
        self._lines.take(self._store, self._seal, self._votes, self._steps())
        self._progress({})  # nobody is here any more
        if not self._store.check(["finished"]):
            raise Stopped(
                f"stopped after {self._steps()} of {self.config.run.steps} steps ({stopping.asked()}); the same "
                "commands go on there"
            )
        return self._steps()

    def _in_vain(self) -> bool:
        """Whether it was asked to stop, and waits for results that nobody seems to compute."""
        if not stopping.asked() or not self._open:
            self._moved = time.monotonic()
        patience_s = max([_STUCK_S, *(2 * self._pace(name).limit() for name in self._open)])
        return time.monotonic() - self._moved > patience_s

    def _open_journal(self) -> Journal | None:
        path = self.folder / JOURNAL
        try:
            raw = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise JournalError(f"cannot read the journal {path}: {error.strerror}") from error
        if is_torn_header(raw):
            return None
        journal = Journal.open(path)
        for section, settings in self.config.identity().items():
            if settings != journal.header[section]:
                journal.close()
                raise JournalError(
                    f"{path} belongs to a run with other settings in [{section}]; restore them, or choose another run.folder"
                )
        return journal

    def _steps(self) -> int:
        """Steps that have begun in the journal."""
        return self._journal.entries[-1].step + 1 if self._journal and self._journal.entries else 0

    def _listen(self, bind: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((bind, port))
            listening.listen(1024)
        except OSError as error:
            listening.close()
            raise ExchangeError(
                f"cannot listen on {bind}:{port}: {error.strerror or error}; choose another --bind or --port"
            ) from error
        port = listening.getsockname()[1]
        self.address = f"[{bind}]:{port}" if ":" in bind else f"{bind}:{port}"
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)
        # torch alone would listen on all interfaces.
        self._store = TCPStore(
            local,
            port,
            is_master=True,
            timeout=timedelta(seconds=10),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )

    def _put(self, seal: Seal, key: str, payload: bytes) -> None:
        self._store.set(key, seal.close(Frame(key, 0, payload)))  # type: ignore[arg-type]

    def _publish(self) -> None:
        """Everything that is known; `present` last, for which workers wait."""
        make_folder(self.folder)
        write_whole(self.folder / CONFIG, self.config.to_toml())
        self._put(self._outer, "config", self.config.to_toml().encode())
        if self._journal is not None:
            self._adopt(self._journal)
        self._put(self._outer, "present", json.dumps(self._lines.known).encode())
        self.say(f"listening on {self.address} with {self._steps()} of {self.config.run.steps} steps done")

    def _adopt(self, journal: Journal) -> None:
        header = journal.header
        self._seal.run = header["run"]
        self._lines.begin(header["run"], self._traffic)
        begun = [header.get("threads", 0), header.get("versions", {})]
        self._put(self._outer, "begun", json.dumps(begun).encode())
        for i, entry in enumerate(journal.entries):
            self._publish_round(i, Done.round(entry, False, self._votes.verdict()))
        self._put(self._outer, "header", json.dumps(header).encode())

    def _publish_round(self, i: int, done: Done) -> None:
        key = f"{ROUND}{i}/done"
        self._put(self._seal, key, done.to_bytes())

    def _news(self) -> None:
        """Opened collections; now and then also who has come, lines for the metrics, and cleaning up."""
        while self._store.check([f"announce/{self._announced + 1}"]):
            self._announced += 1
            self._announcement(f"announce/{self._announced}")
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _IDLE_S
        # A worker that died between counting and saying leaves a gap; what it wanted to open, others will announce.
        if self._store.add("announced", 0) <= self._announced:
            self._gap_since = now
        elif now - self._gap_since > _GAP_S:
            self._announced, self._gap_since = self._announced + 1, now
        if self._journal is None and self._store.check(["proposal"]):
            self._begin()
        self._attendance.look(now)
        self._lines.take(self._store, self._seal, self._votes, self._steps() - 1)
        while self._waste and self._waste[0][0] < now:
            for key in self._waste.popleft()[1]:
                self._store.delete_key(key)

    def _begin(self) -> None:
        """A new run: the first worker has said what its journal's header is."""
        try:
            header = json.loads(self._outer.open(self._store.get("proposal"), "proposal").payload)
            for section, settings in self.config.identity().items():
                if header.get(section) != settings:
                    raise Refused(f"its settings differ in [{section}]")
        except (Refused, ValueError, AttributeError) as why:
            self._store.delete_key("proposal")
            self._refuse("proposal", 0, 0, str(why))
            return
        self._journal = Journal.create(self.folder / JOURNAL, header)
        self._adopt(self._journal)

    def _announcement(self, key: str) -> None:
        try:
            name = self._seal.open(self._store.get(key), key).payload.decode(errors="replace")
            if not _NAME.fullmatch(name):
                raise Refused("it names no collection")
            if name in self._open or self._is_done(name):
                return
            if not self._store.check([f"{name}/what"]):
                raise Refused("it describes no collection")
            what = What.of(self._seal.open(self._store.get(f"{name}/what"), f"{name}/what").payload)
            self._check_round(name, what)
        except (Refused, RuntimeError) as why:
            self._refuse(key, 0, 0, str(why))
            return
        finally:
            self._store.delete_key(key)
        pace = self._pace(name)
        self._open[name] = Collection(self._store, self._seal, name, what, pace, self._votes, self._refuse)

    def _pace(self, name: str) -> Pace:
        return self._paces[name.startswith(ROUND)]

    def _is_done(self, name: str) -> bool:
        rounds = len(self._journal.entries) if self._journal else 0
        if name.startswith(ROUND):
            return int(name.removeprefix(ROUND)) < rounds
        return name in self._done

    def _check_round(self, name: str, what: What) -> None:
        """A round must be the next one, with records of the right size."""
        if not name.startswith(ROUND):
            if what.losses:
                raise Refused("it has losses but is no round")
            return
        rounds = len(self._journal.entries) if self._journal else 0
        if int(name.removeprefix(ROUND)) != rounds:
            raise Refused(f"round {rounds} comes next, not {name}")
        if not what.losses or what.size != what.group * records.record_bytes(what.losses):
            raise Refused("its records have another size")

    def _commit(self, collection: Collection) -> None:
        """To disk, then to everybody."""
        name, what, self._moved = collection.name, collection.what, time.monotonic()
        verdict, stop = self._votes.verdict(), bool(stopping.asked())
        if what.losses:
            assert self._journal is not None
            entry = Entry(what.step, what.round, what.lr, collection.values())
            self._journal.append(entry)
            self._publish_round(len(self._journal.entries) - 1, Done.round(entry, stop, verdict))
        else:
            self._put(self._seal, f"{name}/done", Done(collection.payload(), stop, verdict).to_bytes())
        self._put(self._seal, f"{name}/turn/{collection.turn + 1}", Turn((), verdict).to_bytes())
        del self._open[name]
        if not what.losses:
            self._done.add(name)
        self._pace(name).add(frame.seconds for frame in collection.results.values())
        self._attendance.contributed(collection.workers(), bool(collection.offered_again))
        self._waste.append((time.monotonic() + _KEPT_S, collection.keys()))
        if collection.offered_again:
            self.offered_again += collection.offered_again
            self.say(f"{name}: {collection.offered_again} items were offered again")
        if collection.offered_again or self._lines.is_due(self._steps()):
            self._progress({"workers": len(self._attendance.present())})

    def _progress(self, figures: dict[str, int]) -> None:
        """A line of timings.jsonl."""
        counts = {"offered_again": self.offered_again, "refused": self.refused.total()}
        told = self._ledger.total(self._attendance.others(()))
        spent = {name: round(getattr(told, name), 4) for name in SECONDS}
        traffic = {name: getattr(told, name) for name in BYTES}
        self._lines.progress(self._steps(), **figures, **counts, **spent, **traffic)

    def _traffic(self) -> dict[str, int]:
        told = self._ledger.total(self._attendance.others(()))
        return {name: getattr(told, name) for name in BYTES}

    def _tell(self, text: str) -> None:
        """Something that befell the run."""
        self.say(text)
        self._lines.event(self._steps(), text)

    def _refuse(self, name: str, item: int, worker: int, why: str) -> None:
        kind = why.split("(")[0].split(",")[0].strip()
        self.refused[kind] += 1
        if self.refused[kind] <= 20:
            who = f"worker {worker}" if worker else "somebody"
            self.say(f"refused what {who} posted as {name} item {item}: {why}")
        if (worker, why) not in self._differing and why.endswith(DIFFERS):
            self._differing.add((worker, why))
            self._lines.event(self._steps(), f"worker {worker} is told to rebuild: {why}")


def serve(
    config: Config,
    bind: str,
    port: int,
    say: Callable[[str], None],
    ready: Callable[[str], None] = lambda address: None,
) -> int:
    """Supervise a run until its last step is done; returns the number of steps.

    port: 0 for a free one.  ready: told the address that workers need.  Raises ZodistError where the user has to act.
    """
    supervisor = Supervisor(config, bind, port, read_secret(config.exchange.key_file), say)
    with closing(supervisor):
        ready(supervisor.address)
        return supervisor.serve()
