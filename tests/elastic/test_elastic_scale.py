"""A thousand workers' records in one step: what travels grows with the records, and nothing with their square."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from runs import wait_for
from test_elastic_protocol import running

from zodist.elastic.keys import What, hexadecimal
from zodist.journal import read
from zodist.step import records

STEPS, THREADS = 3, 4


def play(run, items: int) -> tuple[int, int]:
    """Some rounds of so many items by a few workers; bytes that these have sent and received, per round."""
    seeds = np.arange(1, items + 1, dtype=np.uint64)

    def record(item: int) -> bytes:
        return records.encode(seeds[item : item + 1], np.array([[item + 0.5, item]]))

    workers = [run.ready() for _ in range(THREADS)]
    before = sum(worker.sent + worker.received for worker in workers)

    def work(worker) -> None:
        for step in range(STEPS):
            values = worker.round(What(items, 16, step, 0, 1.0, 2, hexadecimal(seeds)), record)
            assert values.shape == (items, 2)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(worker.sent + worker.received for worker in workers) - before
    for worker in workers:
        worker.close()
    return total // STEPS, run.supervisor.refused.total()


@pytest.mark.slow
def test_bytes_of_a_step_grow_with_its_records_and_not_faster(tmp_path, monkeypatch):
    monkeypatch.setattr("zodist.elastic.pace.Pace.limit", lambda self: 1e6)  # a busy machine is no reason
    figures = {}
    for items in (250, 1000):
        folder = tmp_path / str(items)
        folder.mkdir()
        with running(folder) as run:
            figures[items], refused = play(run, items)
            assert refused == 0
            entries = read(run.journal).entries
            assert [entry.values.shape for entry in entries] == [(items, 2)] * STEPS
    assert 3.5 < figures[1000] / figures[250] < 4.1, figures
    # A record is 16 bytes; its message, once sent and once confirmed, and its values for each of four workers.
    assert figures[1000] / 1000 < 300, figures


def test_what_a_finished_collection_leaves_in_the_store_is_its_result(tmp_path, monkeypatch):
    """Items, claims and turns are removed; otherwise a long run would fill the supervisor's memory."""
    monkeypatch.setattr("zodist.elastic.supervisor._KEPT_S", 0.0)
    with running(tmp_path) as run:
        worker, stranger = run.ready(), run.stranger()
        for n in range(40):
            assert (
                worker.collect(f"evaluation/{n}/test", 5, 8, lambda item: bytes([item] * 8))[3] == b"\3" * 8
            )
        wait_for(lambda: stranger.num_keys() < 40 + 15)
        worker.close()
