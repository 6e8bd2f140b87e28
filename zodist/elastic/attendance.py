"""Who takes part in an elastic run: workers that join, leave, fall silent and come back, as the supervisor sees them."""

from __future__ import annotations

import os
import socket
import stat
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from zodist.elastic.frames import Refused, Seal

_HELLO_S = 5.0  # between being counted and saying who it is
_AWAY_S = 2.5  # a worker whose line broke has connected again by then
_RECENT = 16  # collections whose contributors count as present


class Attendance:
    """Workers by their numbers; a worker that connects anew has a new one.

    tell: told what happens, in sentences.  refuse: told (key, item, worker, why) of what cannot be read.
    """

    def __init__(
        self,
        store: TCPStore,
        seal: Seal,
        tell: Callable[[str], None],
        refuse: Callable[[str, int, int, str], None],
    ) -> None:
        self._store, self._seal, self._tell, self._refuse = store, seal, tell, refuse
        self._joined = self._gone = 0
        self._strangers: dict[int, float] = {}
        self._here: set[int] = set()
        self._recent: deque[set[int]] = deque(maxlen=_RECENT)
        self._last: dict[int, int] = {}  # the collection that a worker last contributed to
        self._count = self._offered = 0
        self._silent: set[int] = set()
        self._alone_since: float | None = None

    def look(self, now: float) -> None:
        """See who has come and who has gone.  now: seconds of this machine's own clock."""
        joined = self._store.add("joined", 0)
        for number in range(self._joined + 1, joined + 1):
            self._strangers[number] = now + _HELLO_S
            self._here.add(number)
        self._joined = joined
        for number, end in list(self._strangers.items()):
            key = f"join/{number}"
            if self._store.check([key]):
                try:
                    who = self._seal.open(self._store.get(key), key).payload.decode(errors="replace")
                    self._tell(f"worker {number} joins ({who[:100]})")
                except Refused as why:
                    self._refuse(key, 0, number, str(why))
            elif now < end:
                continue
            del self._strangers[number]
        gone = self._store.add("gone", 0)
        if gone != self._gone:
            self._gone = gone
            for number in sorted(self._here):
                if self._store.check([f"left/{number}"]):
                    self._here.discard(number)
                    self._last.pop(number, None)
                    self._tell(f"worker {number} leaves")

    def contributed(self, workers: set[int], offered_again: bool) -> None:
        """Take note of a collection that is done: who has contributed, and whether somebody kept it waiting."""
        self._count += 1
        self._offered = self._count if offered_again else self._offered
        self._recent.append(workers)
        for number in workers & self._here:
            self._last[number] = self._count
            if number in self._silent:
                self._silent.discard(number)
                self._tell(f"worker {number} is back")
        for number, last in self._last.items():
            if number not in self._silent and last < self._offered and last + _RECENT <= self._count:
                self._silent.add(number)
                self._tell(f"worker {number} has fallen silent: stopped, slow or dead")

    def present(self) -> set[int]:
        """Who has contributed lately and has not said goodbye."""
        return set().union(*self._recent) & self._here

    def others(self, than: Iterable[int]) -> set[int]:
        """Who has not said goodbye, besides some."""
        return self._here.difference(than)

    def may_go(self, now: float) -> bool:
        """Whether all who have joined have left or are gone: a dead worker's connection ends, a stopped one's does not."""
        if self._store.add("gone", 0) >= self._store.add("joined", 0):
            return True
        if _connections(self._store.port) > 1:  # one is the supervisor's own
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        return self._alone_since is not None and now - self._alone_since > _AWAY_S


def _connections(port: int) -> int:
    """How many connections there are to a port that this process listens on, the most possible where that is not told.

    The store does not tell, but the system lists what a process has open.
    """
    count = 0
    try:
        opened = os.listdir("/dev/fd")
    except OSError:
        return 1 << 30
    for descriptor in map(int, opened):
        with suppress(OSError):  # closed by now, or a socket without another end
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as one:
                    one.getpeername()
                    internet = one.family in (socket.AF_INET, socket.AF_INET6)
                    count += internet and one.getsockname()[1] == port
    return count
