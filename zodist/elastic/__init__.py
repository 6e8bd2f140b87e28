"""Elastic runs: workers come, go, hang and die at any moment, and the run's bits do not depend on it.

Nobody counts the workers.  What has to be computed at one point of a run, the probes of a round or the blocks of an
evaluation, is a *collection* of numbered items.  Workers claim items from a key-value store, compute them and post the
results; the first result of an item stands.  A supervisor, which holds the store and the journal and no model, checks
every result, writes a complete round to disk and only then publishes it; workers fold what is published.  An item whose
worker is dead, stopped or slow is offered again after a deadline.  Who computed an item changes no bit of it.

    frames.py       bytes of a message: bounded, checked, sealed
    keys.py         what stands where in the store
    connection.py   one worker's line to the store: bounded in time, watched
    pace.py         when an item is overdue
    votes.py        digests of the weights: who differs
    attendance.py   who joins, leaves, falls silent
    traffic.py      bytes, added up over all workers
    collection.py   the supervisor's side of one collection
    supervisor.py   the process that holds store and journal
    worker.py       a worker's side
    team.py         the processes that are one worker: one, or a shard group
    shared_line.py  a shard group's line to the store
    catch_up.py     how a worker that joins gets to the present: snapshot or replay
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
