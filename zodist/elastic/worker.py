"""A worker's side of an elastic run: join, claim items, post results, go on with what is published.

Every call that the store does not answer ends in one of three ways: it is made again after the supervisor has come back,
with what was computed kept; the worker gives up after exchange.timeout_s (WorkerLost); or the watchdog ends the process.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from zodist.elastic.connection import OVER, Lost
from zodist.elastic.frames import Frame, Refused, Seal, Vote
from zodist.elastic.keys import ROUND, Done, Turn, Verdict, What
from zodist.elastic.team import Alone, Make, Team
from zodist.elastic.traffic import Traffic
from zodist.elastic.votes import differs
from zodist.errors import ExchangeError, JournalError, WorkerLost
from zodist.exchange import Rebuild
from zodist.journal import format as journal_format
from zodist.step import Entry

_SLICE_S = 2.0
_BATCH_S = 0.05  # seconds of work that are claimed at once
_GROUP = 64
_ALONE = Alone()
T = TypeVar("T")


class Worker:
    """A connection to the supervisor; see the module header.  number: of this connection.  team: its processes."""

    def __init__(self, address: str, timeout_s: float, secret: bytes = b"", team: Team = _ALONE) -> None:
        self.number = 0
        self.position = 0  # rounds that this worker has folded, or is about to
        self._outer, self._seal, self._timeout_s = Seal(secret), Seal(secret), timeout_s
        self._vote, self._rebuilt = Vote(), 0
        self._lines: dict[int, bytes] = {}
        self._forward_s = self._gather_s = self._update_s = 0.0
        self._before = Traffic()  # of earlier connections
        self._records, self._stop, self._item_s = 0, False, 1.0
        self._team, self._connection = team, team.line(address, timeout_s)
        self._lasting(lambda: None if self.number else self._join())

    @property
    def stopping(self) -> bool:
        """Whether to leave after this step."""
        return self._stop or self._connection.stopping

    @property
    def sent(self) -> int:
        """Bytes of values sent."""
        return self._connection.sent

    @property
    def received(self) -> int:
        """Bytes of values received."""
        return self._connection.received

    def begin(self, threads: int, versions: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Threads and versions that the run was begun with; of a new run, those of the first worker."""
        own = self._outer.close(Frame("begun", 0, json.dumps([threads, versions]).encode()))
        found = self._lasting(lambda: self._connection.offer("begun", own))
        began, made_by = json.loads(self._opened(self._outer, found, "begun"))
        return began or threads, made_by

    def header(self) -> dict[str, Any] | None:
        """The journal's header, if there is a journal."""
        found = self._lasting(
            lambda: self._read(self._outer, "header") if self._connection.has("header") else None
        )
        return json.loads(found) if found else None

    def agree(self, head: dict[str, Any]) -> list[Entry]:
        """Make sure that this worker does the supervisor's run; returns the rounds so far."""
        proposal = self._outer.close(Frame("proposal", 0, json.dumps(head).encode()))

        def propose() -> bytes:
            self._connection.offer("proposal", proposal)
            self._await("header")
            return self._read(self._outer, "header")

        theirs = json.loads(self._lasting(propose))
        different = journal_format.difference(theirs, head)
        if different:
            raise ExchangeError(
                f"this worker is set up for another run than {self._connection.address} supervises: {different}; give "
                "it the same configuration, model and data"
            )
        self._seal.run = theirs["run"]
        return self.entries()

    def entries(self) -> list[Entry]:
        """All published rounds; the next one to be collected is that after them."""
        found: list[Entry] = []

        def more() -> None:
            keys = [f"{ROUND}{i}/done" for i in range(len(found), len(found) + _GROUP)]
            while keys and not self._connection.has(keys[-1]):
                keys = keys[: len(keys) // 2]
            for key, data in zip(keys, self._connection.get_all(keys) if keys else (), strict=True):
                found.append(Done.of(self._opened(self._seal, data, key)).entry())

        count = -1
        while count != len(found):
            count = len(found)
            self._lasting(more)
        self.position = len(found)
        return found

    def known(self) -> list[dict[str, Any]]:
        """Evaluations that were made before this supervisor started."""
        return json.loads(self._lasting(lambda: self._read(self._outer, "present")))

    def written(self) -> int:
        """The last step whose metrics are on disk."""

        def read() -> int:
            self._await("written")
            return int(self._connection.get("written"))

        return self._lasting(read)

    def post_lines(self, t: int, lines: list[dict[str, Any]]) -> None:
        """The lines of metrics.jsonl that step t makes."""
        key = f"lines/{t}"
        value = self._seal.close(Frame(key, 0, json.dumps(lines).encode(), self.number))
        self._lines[t] = value  # until they are on disk: the supervisor may die before
        self._lasting(lambda: self._connection.offer(key, value))
        if len(self._lines) >= _GROUP:
            written = self.written()
            self._lines = {t: value for t, value in self._lines.items() if t > written}

    def vote(self, t: int, digest: int) -> None:
        """The digest of this worker's weights after step t: by itself, and along with its results from now on."""
        self._vote = Vote(t, digest, t == self._rebuilt)
        # The supervisor may want it before this worker has a result.
        self._lasting(lambda: self._put(self._seal, "vote"))

    def rebuild(self) -> int:
        """This worker goes back to make its weights anew; returns the milestone after which they differed."""
        self._rebuilt = self._vote.milestone
        self._vote = Vote()
        return self._rebuilt

    def round(self, what: What, make: Make) -> np.ndarray:
        """The next round: float32 [items, losses] as published."""
        began = time.monotonic() - self._forward_s
        done = self._collect(f"{ROUND}{self.position}", what, make)
        self._gather_s += time.monotonic() - self._forward_s - began
        entry = done.entry()
        if (
            done.place != (what.step, what.round, what.lr, what.losses)
            or len(entry.values) != what.groups.items
        ):
            raise JournalError(
                f"step {what.step} round {what.round} at lr {what.lr!r} comes next here, the journal has step "
                f"{entry.step} round {entry.round} at lr {entry.lr!r}: was the configuration changed?"
            )
        self.position += 1
        return entry.values

    def collect(self, name: str, count: int, size: int, make: Make) -> list[bytes]:
        """The payloads of all items, each of ``size`` bytes, in order; make: computes one."""
        payload = self._collect(name, What(count, size), make).payload
        return [payload[i * size : (i + 1) * size] for i in range(count)]

    def claim(self, name: str) -> bool:
        """Whether this worker is the first to ask for something that one should do."""
        return self._lasting(lambda: self._connection.add(name, 1)) == 1

    def finish(self) -> None:
        """The last step is done."""
        self._lasting(lambda: self._connection.put("finished", b"1"))

    def count(self, update_s: float) -> None:
        """Say how many bytes this worker has sent and received, and what it spent its time on.  update_s: see Traffic."""
        self._update_s = update_s
        self._lasting(lambda: self._put(self._outer, "traffic", self._traffic().since(self._before)))

    def close(self) -> None:
        """Say goodbye and hang up."""
        line = self._connection.own
        if line is None:
            return
        self._connection = line  # the others of a group may not be there any more
        try:
            self._put(self._outer, "traffic", self._traffic().since(self._before))
            line.put(f"left/{self.number}", b"1")
            line.add("gone", 1)
        except Lost:
            pass  # nobody there to say it to
        line.close()

    def _put(self, seal: Seal, kind: str, payload: bytes = b"") -> None:
        """What this worker says of itself."""
        key = f"{kind}/{self.number}"
        self._connection.put(key, seal.close(Frame(key, 0, payload, self.number, vote=self._vote)))

    def _traffic(self) -> Traffic:
        spent = self._forward_s, self._gather_s, self._update_s
        return Traffic(self.sent, self.received, self._records, *spent)

    def _join(self) -> None:
        connection = self._connection
        self._before = self._traffic()
        self.number = connection.add("joined", 1)
        self._put(self._outer, "join", f"{socket.gethostname()}, process {os.getpid()}".encode())
        self._await("present")
        self._read(self._outer, "present")

    def _again(self) -> None:
        """The supervisor was away: connect and join anew."""
        self._connection.connect(OVER)
        self._join()
        if self._seal.run != self._outer.run:
            self._await("header")
            run = json.loads(self._read(self._outer, "header"))["run"]
            if run != self._seal.run:
                raise ExchangeError(
                    f"the supervisor at {self._connection.address} now has run {run}, this worker is in {self._seal.run}; "
                    "start this worker again"
                )
            for t, value in self._lines.items():
                self._connection.offer(f"lines/{t}", value)

    def _lasting(self, action: Callable[[], T]) -> T:
        """The result of an action, made again as often as the supervisor goes away and comes back."""
        away = False
        while True:
            try:
                if away:
                    self._again()
                away = False
                return action()
            except Lost:
                away = True

    def _await(self, key: str) -> None:
        waited_s = 0.0  # no clock is read: the processes of a team must all give up, or none
        while not self._connection.wait(key, _SLICE_S):
            waited_s += _SLICE_S
            if waited_s > self._timeout_s:
                raise WorkerLost(
                    f"the supervisor at {self._connection.address} has not said {key!r} for {self._timeout_s:g} s; see "
                    "its output"
                )

    def _read(self, seal: Seal, key: str) -> bytes:
        return self._opened(seal, self._connection.get(key), key)

    def _opened(self, seal: Seal, data: bytes, name: str) -> bytes:
        try:
            return seal.open(data, name).payload
        except Refused as why:
            raise ExchangeError(
                f"cannot use what {self._connection.address} says ({name}: {why}); give the supervisor and all workers "
                "the same exchange.key_file and version of zodist"
            ) from why

    def _collect(self, name: str, what: What, make: Make) -> Done:
        kept: dict[int, bytes] = {}  # results, ready to be posted again
        done = self._lasting(lambda: self._take_part(name, what, make, kept))
        self._heed(done.verdict)
        self._stop = self._stop or done.stop
        return done

    def _take_part(self, name: str, what: What, make: Make, kept: dict[int, bytes]) -> Done:
        connection, finished = self._connection, f"{name}/done"
        if connection.has(finished):
            return self._done(finished)
        self._open(name, what)
        for item, frame in kept.items():
            connection.offer(f"{name}/item/{item}", frame)
        needed, turn, width = range(what.count), 0, self._team.width(name)
        while True:
            batch = max(width, min(int(_BATCH_S / self._item_s), what.count // 16))
            first = connection.add(f"{name}/claims/{turn}", batch) - batch
            claimed = needed[first : first + batch]
            for items in (claimed[at : at + width] for at in range(0, len(claimed), width)):
                if connection.has(finished):
                    return self._done(finished)
                if missing := [item for item in items if item not in kept]:
                    kept |= self._computed(name, missing, width, what.size, make)
                if not connection.has(finished):  # it may have taken long
                    for item in items:
                        connection.offer(f"{name}/item/{item}", kept[item])
            if first + batch < len(needed):
                continue
            turn += 1
            while not connection.wait(f"{name}/turn/{turn}", _SLICE_S):
                if connection.has(finished):
                    return self._done(finished)
                self._announce(name, what)  # whoever opened it may have died before saying so
            said = Turn.of(self._read(self._seal, f"{name}/turn/{turn}"))
            self._heed(said.verdict)
            if not said.needed:
                return self._done(finished)
            needed = said.needed

    def _computed(self, name: str, items: list[int], width: int, size: int, make: Make) -> dict[int, bytes]:
        payloads, seconds = self._team.compute(items, width, size, make)
        self._item_s = max(seconds, 1e-6)
        if name.startswith(ROUND):
            self._records += sum(map(len, payloads))
            self._forward_s += self._item_s
        who = (self.number, self._item_s, self._vote)
        made = (Frame(name, *each, *who) for each in zip(items, payloads, strict=True))
        return {frame.item: self._seal.close(frame) for frame in made}

    def _open(self, name: str, what: What) -> None:
        """Make sure that the collection is open, and that all mean the same by it."""
        own = what.hash() + self.number.to_bytes(4, "little")
        found = self._connection.offer(f"{name}/opened", own)
        if found == own:
            self._announce(name, what)
        elif found[: len(own) - 4] != own[:-4]:
            raise ExchangeError(
                f"this worker and another one do not mean the same by {name}; start all workers with the same "
                "configuration, data and version of zodist"
            )

    def _announce(self, name: str, what: What) -> None:
        connection, key = self._connection, f"{name}/what"
        connection.put(key, self._seal.close(Frame(key, 0, what.to_bytes(), self.number)))
        key = f"announce/{connection.add('announced', 1)}"
        connection.put(key, self._seal.close(Frame(key, 0, name.encode(), self.number)))

    def _done(self, key: str) -> Done:
        return Done.of(self._read(self._seal, key))

    def _heed(self, verdict: Verdict) -> None:
        """What the digests say about this worker's weights."""
        own = self._vote
        if not differs(own, verdict):
            return
        if own.fresh:
            raise ExchangeError(
                f"the weights of worker {self.number} differ from those of the others after step {own.milestone} even "
                "after it rebuilt them; its memory, processor or libraries are at fault: leave this machine out"
            )
        raise Rebuild
