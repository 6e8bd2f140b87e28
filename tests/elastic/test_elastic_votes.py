"""Whose weights are right: digests are compared with at least one other before anything is written down."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from runs import wait_for
from test_elastic_protocol import SEEDS, record, running

from zodist.elastic.frames import Vote
from zodist.elastic.keys import Verdict, What, hexadecimal
from zodist.elastic.votes import Votes
from zodist.elastic.worker import Worker
from zodist.errors import ExchangeError
from zodist.exchange import Rebuild
from zodist.journal import read


def test_a_majority_of_digests_is_right_and_two_workers_have_none():
    votes = Votes()
    for worker, digest in enumerate([5, 5, 6]):
        votes.add(worker, Vote(10, digest))
    assert votes.verdict() == Verdict(10, "agreed", 5)
    assert votes.odd() == [2]
    two = Votes()
    two.add(1, Vote(10, 5))
    two.add(2, Vote(10, 6))
    assert two.verdict() == Verdict(10, "contested")
    assert not two.right(Vote(10, 5)) and not two.right(Vote(10, 6))
    two.add(2, Vote(10, 5, fresh=True))  # rebuilt from the journal: that is what the run is
    assert two.verdict() == Verdict(10, "agreed", 5)
    two.add(1, Vote(10, 7, fresh=True))
    with pytest.raises(ExchangeError, match="compute differently"):
        two.verdict()


def test_one_digest_alone_decides_nothing():
    """Else whoever came second would be told to rebuild, though the first may be the one that is wrong."""
    votes = Votes()
    votes.add(1, Vote(10, 5))
    assert votes.verdict() == Verdict(10)
    assert votes.right(Vote(10, 6))


def round_(step: int) -> What:
    return What(4, 16, step, 0, 1.0, 2, hexadecimal(SEEDS))


def at_step_two(run) -> tuple[Worker, Worker]:
    """Two workers that have folded two rounds, and have agreed on their weights after the first."""
    first, second = run.ready(), run.ready()
    for step in range(2):
        for worker in (first, second):
            worker.round(round_(step), record)
        if step == 0:
            first.vote(1, 5)
            second.vote(1, 5)
    return first, second


def test_what_one_worker_alone_has_computed_waits_for_a_second_digest(tmp_path, monkeypatch):
    """They differ: nothing of the first one's is written, both rebuild, and the round is computed anew."""
    monkeypatch.setattr("zodist.elastic.votes._LEAST_S", 1e9)
    with running(tmp_path) as run:
        first, second = at_step_two(run)
        first.vote(2, 6)
        caught: list[Any] = []

        def alone() -> None:
            try:
                caught.append(first.round(round_(2), lambda item: record(item)[:8] + bytes(8)))
            except Rebuild as found:
                caught.append(found)

        thread = threading.Thread(target=alone)
        thread.start()
        stranger = run.stranger()
        wait_for(lambda: stranger.check([f"round/2/item/{item}" for item in range(4)]))
        second.vote(2, 5)
        thread.join(60)
        assert isinstance(caught[0], Rebuild), caught
        assert len(read(run.journal).entries) == 2
        with pytest.raises(Rebuild):
            second.round(round_(2), record)
        for worker in (first, second):
            assert worker.rebuild() == 2
            worker.vote(2, 5)
        for worker in (first, second):
            np.testing.assert_array_equal(worker.round(round_(2), record)[3], [0.5, 3.25])
            worker.close()


@pytest.mark.parametrize("why", ["it left", "it does not answer"])
def test_a_worker_whose_only_fellow_is_gone_goes_on_alone(tmp_path, monkeypatch, why):
    monkeypatch.setattr("zodist.elastic.votes._LEAST_S", 1e9 if why == "it left" else 0.0)
    monkeypatch.setattr("zodist.elastic.pace.Pace.limit", lambda self: 0.5)
    with running(tmp_path) as run:
        first, second = at_step_two(run)
        if why == "it left":
            second.close()
        first.vote(2, 6)
        assert len(first.round(round_(2), record)) == 4
        assert len(read(run.journal).entries) == 3
        first.close()
        second.close()  # the supervisor would stay for it
