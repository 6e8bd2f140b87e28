"""A shard group's line to the store: its first process talks, and all hear what it hears.

So the processes of a group take the same decisions without another word, and the supervisor sees one worker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, final

from zodist.elastic.connection import Connection, Lost
from zodist.errors import ExchangeError, WorkerLost
from zodist.exchange import Exchange, share

_HEARD = {kind.__name__: kind for kind in (Lost, WorkerLost, ExchangeError)}


@final
class SharedLine:
    """The calls of zodist.elastic.connection.Connection; every process of the group makes each of them.

    exchange: among the processes of the group; it must have more patience than timeout_s.
    """

    def __init__(self, exchange: Exchange, address: str, timeout_s: float) -> None:
        self.address, self._exchange = address, exchange
        self._own: Connection | None = None
        self._hear(lambda: self._dial(timeout_s))

    def _dial(self, timeout_s: float) -> None:
        self._own = Connection(self.address, timeout_s)

    @property
    def own(self) -> Connection | None:
        """The line itself, where this process has it."""
        return self._own

    @property
    def sent(self) -> int:
        """Bytes of values sent; 0 where this process does not talk."""
        return self._own.sent if self._own else 0

    @property
    def received(self) -> int:
        """Bytes of values received; 0 where this process does not talk."""
        return self._own.received if self._own else 0

    @property
    def stopping(self) -> bool:
        """Whether a process of the group was asked to stop: the same answer on all."""
        return self._exchange.stopping

    def connect(self, advice: str) -> None:
        """Connect again; see Connection.connect."""
        self._ask(lambda own: own.connect(advice))

    def add(self, key: str, amount: int) -> int:
        """See Connection.add."""
        return self._ask(lambda own: own.add(key, amount))

    def has(self, key: str) -> bool:
        """See Connection.has."""
        return self._ask(lambda own: own.has(key))

    def put(self, key: str, value: bytes) -> None:
        """See Connection.put."""
        self._ask(lambda own: own.put(key, value))

    def offer(self, key: str, value: bytes) -> bytes:
        """See Connection.offer."""
        return bytes.fromhex(self._ask(lambda own: own.offer(key, value).hex()))

    def get(self, key: str) -> bytes:
        """See Connection.get."""
        return self.get_all([key])[0]

    def get_all(self, keys: Sequence[str]) -> list[bytes]:
        """See Connection.get_all."""
        found = self._ask(lambda own: [value.hex() for value in own.get_all(keys)])
        return [bytes.fromhex(value) for value in found]

    def wait(self, key: str, seconds: float) -> bool:
        """See Connection.wait."""
        return self._ask(lambda own: own.wait(key, seconds))

    def _ask(self, question: Callable[[Connection], Any]) -> Any:
        def ask() -> Any:
            assert self._own is not None  # it was made in the constructor, or that has raised
            return question(self._own)

        return self._hear(ask)

    def _hear(self, ask: Callable[[], Any]) -> Any:
        """The answer that the first process gets, or its error, on all of them."""
        said = None
        if self._exchange.worker == 0:
            try:
                reply = ["", ask()]
            except (Lost, ExchangeError) as error:
                reply = [type(error).__name__, str(error)]
            said = json.dumps(reply).encode()
        kind, answer = json.loads(share(self._exchange, said))
        if kind:
            raise _HEARD[kind](answer)
        return answer
