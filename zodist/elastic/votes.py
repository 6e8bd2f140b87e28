"""Digests of the weights that workers send along with their results: who differs from the others.

A result of a worker whose weights differ is not a result of this run.  A worker that has rebuilt its weights from the
journal since the milestone is right before any that has not; among equals the majority is.  Two workers that differ
have no majority: both rebuild.  One digest alone says nothing, for there is nothing to compare it with: so workers also
post theirs on their own, and the supervisor asks for a second one before it writes down what one worker alone has
computed (Hearing).  A worker that is alone, or whose only fellow does not answer in time, is taken at its word.
"""

from __future__ import annotations

import time

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from zodist.elastic.attendance import Attendance
from zodist.elastic.frames import Refused, Seal, Vote
from zodist.elastic.keys import Verdict
from zodist.errors import ExchangeError

_LEAST_S = 3.0  # to fold a step and take the digest of it
_LOOK_S = 0.01


def differs(own: Vote, verdict: Verdict) -> bool:
    """Whether a verdict finds the weights of who has voted so wrong."""
    if not verdict.word or verdict.milestone != own.milestone:
        return False
    return not own.fresh if verdict.word == "contested" else own.digest != verdict.digest


class Votes:
    """The digests after the newest milestone, by worker."""

    def __init__(self) -> None:
        self.milestone = 0
        self._by_worker: dict[int, Vote] = {}

    def add(self, worker: int, vote: Vote) -> None:
        """Take a worker's digest; those of earlier milestones no longer matter."""
        if vote.milestone > self.milestone:
            self.milestone, self._by_worker = vote.milestone, {}
        if vote.milestone and vote.milestone == self.milestone:
            self._by_worker[worker] = vote

    def workers(self) -> set[int]:
        """Whose digests are known."""
        return set(self._by_worker)

    def verdict(self) -> Verdict:
        """Which digest is right.  Raises ExchangeError if rebuilt weights differ: no further rebuilding will help."""
        fresh = [vote.digest for vote in self._by_worker.values() if vote.fresh]
        digests = fresh or [vote.digest for vote in self._by_worker.values()]
        if not fresh and len(digests) < 2:
            return Verdict(self.milestone)
        right = max(digests, key=digests.count)
        if digests.count(right) * 2 > len(digests):
            return Verdict(self.milestone, "agreed", right)
        if fresh:
            raise ExchangeError(
                f"workers rebuilt from the journal differ after step {self.milestone}: their machines or libraries "
                "compute differently; use machines of one kind, with the same versions"
            )
        return Verdict(self.milestone, "contested")

    def right(self, vote: Vote) -> bool:
        """Whether results that came with this vote may count."""
        return not differs(vote, self.verdict())

    def odd(self) -> list[int]:
        """Workers whose weights differ."""
        return sorted(worker for worker, vote in self._by_worker.items() if not self.right(vote))


class Hearing:
    """Asks for a second digest where only one worker has given its own."""

    def __init__(self, store: TCPStore, seal: Seal, votes: Votes, attendance: Attendance) -> None:
        self._store, self._seal, self._votes, self._attendance = store, seal, votes, attendance
        self._heard: set[int] = set()  # who has given a digest before
        self._mute: set[int] = set()  # who was waited for in vain since
        self._milestone, self._since, self._settled = 0, 0.0, 0

    def over(self, patience_s: float) -> bool:
        """Whether what has been computed may be written down; looks for other digests first.

        False: a digest has come since the results were judged, or one is still to come.  patience_s: what an item may take.
        """
        votes, now = self._votes, time.monotonic()
        voters = votes.workers()
        self._heard |= voters
        self._mute -= voters
        if votes.milestone == self._settled or len(voters) > 1:
            return True
        if votes.milestone != self._milestone:
            self._milestone, self._since = votes.milestone, now
        self._attendance.look(now)
        others = self._attendance.others(voters)
        if self._take(others):
            return False
        awaited = others & (self._heard | self._attendance.present()) - self._mute
        if awaited and now - self._since < max(_LEAST_S, 2 * patience_s):
            time.sleep(_LOOK_S)
            return False
        self._mute |= awaited
        self._settled = votes.milestone
        return True

    def _take(self, workers: set[int]) -> bool:
        """The digests that these have posted by themselves; whether there was one that matters now."""
        found = False
        for worker in sorted(workers):
            key = f"vote/{worker}"
            if self._store.check([key]):
                try:
                    vote = self._seal.open(self._store.get(key), key).vote
                except Refused:
                    continue  # its next results say it again
                found = found or vote.milestone >= self._votes.milestone
                self._votes.add(worker, vote)
        return found
