"""A worker's line to the store: every call is bounded in time and watched, and a lost line says so.

torch's TCPStore client can hang for longer than its own timeout when packets vanish.  So a thread watches each call; if
one takes longer than exchange.timeout_s the worker is cut off: it writes one sentence and ends its process with status 69
(EX_UNAVAILABLE).  Nothing is lost by that: what it had computed is offered to others.  The thread counts its own short
sleeps instead of reading a clock, so that a process which was stopped and goes on is not taken for one that was cut off.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from torch.distributed import DistStoreError, TCPStore  # type: ignore[attr-defined]

from zodist.errors import ExchangeError, WorkerLost
from zodist.exchange import stopping

STATUS = 69  # EX_UNAVAILABLE of sysexits.h
_BEGIN = "start `zodist supervise` with the run's config, or correct exchange.address"
OVER = (  # for a worker that has been in the run
    "the run may be over, which `zodist inspect FOLDER` tells on the supervisor's host; if it is not, start its "
    "`zodist supervise` command again there"
)
_TICK_S = 0.25
_CONNECT_S = 2.0
_ANSWER_S = 10.0
_RETRY_S = 0.05
T = TypeVar("T")


class Lost(Exception):
    """The store is gone; it may come back."""


class Watchdog:
    """Ends the process if one call takes longer than limit_s seconds of running time."""

    def __init__(self, limit_s: float, what: str) -> None:
        self._limit = limit_s
        self._what = what
        self._call = 0  # odd while a call is under way
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def __enter__(self) -> None:
        self._call += 1

    def __exit__(self, *_: object) -> None:
        self._call += 1

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()

    def _watch(self) -> None:
        seen, ticks = 0, 0
        while not self._over.wait(_TICK_S):
            call = self._call
            ticks = ticks + 1 if call == seen and call % 2 else 0
            seen = call
            if ticks * _TICK_S >= self._limit:
                text = f"zodist: cut off: {self._what} has not answered for {self._limit:g} s; start this worker again\n"
                os.write(2, text.encode())
                os._exit(STATUS)


def split(address: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[host]:port".  Raises ExchangeError."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ExchangeError(
            f"exchange.address = {address!r} must read host:port, as `zodist supervise` prints it"
        )
    return host, int(port)


class Connection:
    """The store as one worker uses it.  sent, received: payload bytes of values."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self.address, self.sent, self.received = address, 0, 0
        self._host, self._port = split(address)
        self._timeout_s = timeout_s
        self._watchdog = Watchdog(timeout_s, f"the supervisor at {address}")
        self._store: TCPStore | None = None
        self.connect()

    @property
    def own(self) -> Connection:
        """The line itself; see SharedLine."""
        return self

    @property
    def stopping(self) -> bool:
        """Whether this process was asked to stop."""
        return bool(stopping.asked())

    def connect(self, advice: str = _BEGIN) -> None:
        """Connect, again if need be.  Raises WorkerLost with the advice when exchange.timeout_s is over."""
        self._store = None
        end = time.monotonic() + self._timeout_s
        while True:
            try:
                self._knock()
                with self._watchdog:
                    store = TCPStore(
                        self._host,
                        self._port,
                        is_master=False,
                        timeout=timedelta(seconds=_CONNECT_S),
                        wait_for_workers=False,
                    )
                    store.set_timeout(timedelta(seconds=_ANSWER_S))
                self._store = store
                return
            except (OSError, RuntimeError) as error:
                if time.monotonic() > end:
                    raise WorkerLost(
                        f"no supervisor answers at {self.address} ({error}); {advice}"
                    ) from error
                time.sleep(_RETRY_S)

    def _knock(self) -> None:
        """See whether somebody is there; torch's client would wait longer and longer between its attempts.

        The system answers for a process that is just dying, and hangs up when it is dead.
        """
        with socket.create_connection((self._host, self._port), timeout=_CONNECT_S) as knock:
            knock.settimeout(_RETRY_S)
            try:
                if not knock.recv(1):
                    raise ConnectionResetError("it hangs up")
            except TimeoutError:
                pass  # a store says nothing before it is asked

    def close(self) -> None:
        """Hang up."""
        self._watchdog.stop()
        self._store = None

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return the sum."""
        return self._call(lambda store: store.add(key, amount))

    def has(self, key: str) -> bool:
        """Whether a key is there."""
        return self._call(lambda store: store.check([key]))

    def put(self, key: str, value: bytes) -> None:
        """Set a key."""
        self.sent += len(value)
        self._call(lambda store: store.set(key, value))  # type: ignore[arg-type]

    def offer(self, key: str, value: bytes) -> bytes:
        """Set a key unless it is there; returns what is there then."""
        self.sent += len(value)
        found = self._call(lambda store: store.compare_set(key, "", value))  # type: ignore[arg-type]
        self.received += len(found)
        return found

    def get(self, key: str) -> bytes:
        """The value of a key that is there."""
        return self.get_all([key])[0]

    def get_all(self, keys: Sequence[str]) -> list[bytes]:
        """The values of keys that are there."""
        found = self._call(lambda store: store.multi_get(list(keys)))
        self.received += sum(len(value) for value in found)
        return found

    def wait(self, key: str, seconds: float) -> bool:
        """Wait until a key is there; False if it is not after some seconds."""
        return self._call(lambda store: arrived(store, [key], seconds))

    def _call(self, operation: Callable[[TCPStore], T]) -> T:
        if self._store is None:
            raise Lost
        try:
            with self._watchdog:
                return operation(self._store)
        except RuntimeError as error:  # torch's network and store errors are
            self._store = None
            raise Lost from error


def arrived(store: TCPStore, keys: list[str], seconds: float) -> bool:
    """Wait for all of some keys; False if the time is up.  Raises RuntimeError if the store is gone."""
    try:
        store.wait(keys, timedelta(seconds=seconds))
    except DistStoreError as error:
        if "timeout" in str(error):
            return False
        raise
    return True
