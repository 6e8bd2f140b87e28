"""Digests of the weights that workers send along with their results: who differs from the others.

A result of a worker whose weights differ is not a result of this run.  A worker that has rebuilt its weights from the
journal since the milestone is right before any that has not; among equals the majority is.  Two workers that differ
have no majority: both rebuild.
"""

from __future__ import annotations

from zodist.elastic.frames import Vote
from zodist.elastic.keys import Verdict
from zodist.errors import ExchangeError


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

    def verdict(self) -> Verdict:
        """Which digest is right.  Raises ExchangeError if rebuilt weights differ: no further rebuilding will help."""
        fresh = [vote.digest for vote in self._by_worker.values() if vote.fresh]
        digests = fresh or [vote.digest for vote in self._by_worker.values()]
        if not digests:
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
        verdict = self.verdict()
        if not vote.milestone or vote.milestone != verdict.milestone or not verdict.word:
            return True
        return vote.fresh if verdict.word == "contested" else vote.digest == verdict.digest

    def odd(self) -> list[int]:
        """Workers whose weights differ."""
        return sorted(worker for worker, vote in self._by_worker.items() if not self.right(vote))
