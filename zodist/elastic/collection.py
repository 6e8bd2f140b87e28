"""The supervisor's side of one collection: which items are there, which are overdue, which results may count."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from zodist.elastic.connection import arrived
from zodist.elastic.frames import Frame, Refused, Seal
from zodist.elastic.keys import Turn, What
from zodist.elastic.pace import Pace
from zodist.elastic.votes import Votes
from zodist.errors import ExchangeError
from zodist.step import records

DIFFERS = "(digest)"  # how the reason ends where a worker's weights differ
_GROUP = 64  # values fetched at a time: a stranger could have put 8 MB into each
_SLICE_S = 0.1
_MOST_S = 60.0  # between two offers of the same item


class Collection:
    """One open collection.

    refuse: told (item, worker or 0, why) of every result that is not accepted.
    """

    def __init__(
        self,
        store: TCPStore,
        seal: Seal,
        name: str,
        what: What,
        pace: Pace,
        votes: Votes,
        refuse: Callable[[str, int, int, str], None],
    ) -> None:
        self.name, self.what, self.results = name, what, dict[int, Frame]()
        self.turn = self.offered_again = 0
        self._store, self._seal, self._pace, self._votes, self._refuse = store, seal, pace, votes, refuse
        self._seeds = what.numbers() if what.losses else None
        self._needed = list(range(what.count))  # of this turn
        self._claimed, self._changed, self._patience = 0, time.monotonic(), 1.0

    def advance(self, seconds: float) -> bool:
        """Wait at most so long for results; True if all are there and accepted, which a digest may yet undo."""
        missing = [item for item in self._needed if item not in self.results]
        slice_s = min(seconds, max(0.005, self._limit() / 4), _SLICE_S)
        if not missing:
            pass
        elif arrived(self._store, [self._key(item) for item in missing], slice_s):
            self._take(missing)
        elif self._overdue():
            self._take([item for item in missing if self._store.check([self._key(item)])])
        else:
            return False
        self._judge()
        if len(self.results) == self.what.count:
            return True
        self._offer_again()
        return False

    def payload(self) -> bytes:
        """All payloads, in item order."""
        return b"".join(self.results[item].payload for item in range(self.what.count))

    def values(self) -> np.ndarray:
        """The values of a round for the journal, float32 [records, losses]."""
        assert self._seeds is not None
        numbers = self.what.groups.table(0, self.what.count).reshape(-1)
        seeds = np.where(
            numbers < 0, np.uint64(0), self._seeds[numbers]
        )  # of records that a short group lacks
        found = records.decode(
            self.payload(), seeds, self.what.losses, worker=0, step=self.what.step, probes=numbers
        )
        values = np.empty((len(self._seeds), self.what.losses), np.float32)
        values[numbers[numbers >= 0]] = found[numbers >= 0]
        return values

    def workers(self) -> set[int]:
        """Who has contributed."""
        return {frame.worker for frame in self.results.values()}

    def keys(self) -> list[str]:
        """What is in the store for this collection, but for its results as a whole."""
        turns = range(self.turn + 2)
        one_each = [self._key(item) for item in range(self.what.count)]
        by_turn = [f"{self.name}/{kind}/{turn}" for turn in turns for kind in ("claims", "turn")]
        return [f"{self.name}/opened", f"{self.name}/what", *one_each, *by_turn]

    def _key(self, item: int) -> str:
        return f"{self.name}/item/{item}"

    def _limit(self) -> float:
        return min(self._pace.limit() * self._patience, max(_MOST_S, self._pace.limit()))

    def _overdue(self) -> bool:
        """Everything is claimed, and nothing has happened for longer than an item takes."""
        claimed = self._store.add(f"{self.name}/claims/{self.turn}", 0)
        now = time.monotonic()
        if claimed != self._claimed:
            self._claimed, self._changed = claimed, now
        if claimed < len(self._needed) or now - self._changed < self._limit():
            return False
        return True

    def _take(self, items: list[int]) -> None:
        """Fetch and check results."""
        for start in range(0, len(items), _GROUP):
            group = items[start : start + _GROUP]
            for item, data in zip(
                group, self._store.multi_get([self._key(item) for item in group]), strict=True
            ):
                try:
                    frame = self._seal.open(data, self.name, item, self.what.size)
                except Refused as why:
                    self._drop(item, 0, str(why))
                    continue
                try:
                    self._check_seed(frame)
                except (ExchangeError, ValueError) as why:
                    self._drop(item, frame.worker, str(why))
                    continue
                self._votes.add(frame.worker, frame.vote)
                self.results[item] = frame

    def _check_seed(self, frame: Frame) -> None:
        if self._seeds is not None:
            numbers = self.what.groups.members(frame.item)
            records.decode(
                frame.payload,
                self._seeds[numbers],
                self.what.losses,
                worker=frame.worker,
                step=self.what.step,
                probes=numbers,
            )

    def _judge(self) -> None:
        """Give up the results of workers whose weights differ."""
        for item, frame in list(self.results.items()):
            if not self._votes.right(frame.vote):
                del self.results[item]
                self._drop(
                    item, frame.worker, f"its weights differ after step {frame.vote.milestone} {DIFFERS}"
                )

    def _drop(self, item: int, worker: int, why: str) -> None:
        self._store.delete_key(self._key(item))
        self._refuse(self.name, item, worker, why)

    def _offer_again(self) -> None:
        self._needed = [item for item in range(self.what.count) if item not in self.results]
        self.offered_again += len(self._needed)
        self.turn += 1
        self._claimed, self._changed, self._patience = 0, time.monotonic(), 2 * self._patience
        turn = Turn(tuple(self._needed), self._votes.verdict())
        key = f"{self.name}/turn/{self.turn}"
        self._store.set(key, self._seal.close(Frame(key, 0, turn.to_bytes())))  # type: ignore[arg-type]
