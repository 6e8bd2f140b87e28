"""How the processes of one start find each other in a store that may still hold what earlier processes wrote.

torchrun keeps its store when it restarts the workers, and a worker must not read the address of a dead one; the number
of restarts that it passes on cannot tell them apart, since with several hosts each counts its own.  So every process
says hello under a number of its own, worker 0 calls the roll of the newest hellos, and who finds itself there answers.
When all have answered the same roll, all of it are alive, and its hash names their meeting.
"""

from __future__ import annotations

import hashlib
import os
import time
from datetime import timedelta
from typing import Any

_SHORTEST_S, _LONGEST_S = 0.002, 0.1  # between two looks into the store


def meet(store: Any, worker: int, workers: int, timeout_s: float) -> str:
    """The name of this meeting: the same on all workers, another one for each start and each call.

    store: torch's, shared by the workers.  Raises RuntimeError or TimeoutError if not all come within timeout_s seconds.
    """
    end = time.monotonic() + timeout_s
    own, pause, answered, called = os.urandom(8).hex(), _SHORTEST_S, "", ""
    store.set(f"hello/{worker}", own)
    hellos = [f"hello/{w}" for w in range(workers)]
    if worker == 0:
        store.wait(hellos, timedelta(seconds=timeout_s))
    while True:
        if worker == 0:
            roll = ",".join(hello.decode() for hello in store.multi_get(hellos))
            if roll != called:  # one of them has died since and come again
                store.set("roll", roll)
                called = roll
        names = store.get("roll").decode().split(",")  # waits until there is one
        if answered and store.add(f"present/{answered}", 0) == workers:  # before a newer roll is looked at
            return answered
        name = hashlib.sha256(",".join(names).encode()).hexdigest()[:16]
        if name != answered and len(names) == workers and names[worker] == own:
            answered = name
            store.add(f"present/{name}", 1)
            continue
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_S)
