"""One worker's part of a cell: steps by phases, bytes by the interface; worker 0 puts everybody's together.

The wait for slower workers is told from the exchange without a common clock: all begin a step within a message's flight of
each other, so a worker waits as long as the slowest worker's forward is longer than its own, and the rest of the time until
it has all records is the exchange.
"""

from __future__ import annotations

import gc
import os
import time
from typing import Any

import numpy as np

from zodist import __version__
from zodist.exchange import Exchange, cores, share
from zodist.plan import asked_of, rounds_s
from zodist.scale.cell import Cell
from zodist.scale.counters import LOOPBACK, counted
from zodist.scale.replicated import method_of
from zodist.scale.systems import Nested, Spent, System, build

ROUNDS = 20  # records' rounds with nothing else going on, for the latency of a link
PROBE_S, LEAST_BYTES, MOST_BYTES = (
    0.3,
    2_000,
    4 << 20,
)  # about the time and the size of a round that finds its rate
STREAMS = 2  # such rounds, after one each that makes room for them
BYTES = (
    "wire_sent_bytes",
    "wire_received_bytes",
    "wire_sent_packets",
    "payload_bytes",
)  # of a step, mean over workers
OUTER = 3  # outer steps of a system that has them


def measure_link(exchange: Exchange, mbit: float | None) -> dict[str, Any]:
    """Latency of a round of 16 bytes, and the rate at which a worker sends long ones; seconds, bytes a second."""
    if exchange.workers == 1:
        return {"round_s": 0.0, "rate": 0.0}
    round_s = rounds_s(exchange, b"\0" * 16, ROUNDS)
    peers = exchange.workers - 1
    fitting = MOST_BYTES if mbit is None else mbit * 1e6 / 8 * PROBE_S
    size = max(LEAST_BYTES, int(min(fitting, MOST_BYTES) / peers))
    fastest = min(rounds_s(exchange, b"\0" * size, 1) for _ in range(STREAMS))  # what else runs only slows
    spent = max(fastest - round_s, 1e-6)
    return {"round_s": round_s, "rate": size * peers / spent}


def measure(
    cell: Cell, model: Any, exchange: Exchange, interface: str, *, steps: int, warmup: int, limit_s: float
) -> dict[str, Any]:
    """A cell's figures, on worker 0; on the others the same call takes part and returns figures of its own alone.

    Fewer steps than ``steps`` are made where they would take longer than limit_s seconds; none where sending a step's
    bytes alone would.
    """
    system = build(cell, model, exchange)
    try:
        bound_s = _bound_s(cell, system)
        if not isinstance(system, Nested) and bound_s > limit_s:
            return {"skipped": f"a step sends {system.expected:.3g} bytes", "bound_s": bound_s}
        made, count = 0, steps
        while made < warmup:
            began = time.monotonic()
            system.step()
            made += 1
            if made <= 2:  # the first step loads and compiles, the second tells what one takes
                spent_s = _agreed(exchange, time.monotonic() - began)
                count = int(max(1, min(steps, limit_s / spent_s)))
                if count == 1 or (made == 2 and count < steps):
                    break  # such long steps need no more warming
        found = _figures(exchange, interface, system, [system.step] * count)
        if isinstance(system, Nested):
            outer = _outer(cell, exchange, interface, system, limit_s)
            found = {**_together(found, outer, system.every), "outer": outer}
    finally:
        system.close()
        del system
        gc.collect()
    shared = LOOPBACK == interface and exchange.workers > 1
    return {
        **found,
        **_asked(cell),
        "steps": count,
        "warmup": made,
        "wire_is": "interface counters, a worker's share of loopback"
        if shared
        else "interface counters of each host",
        "cores": cores(),
        "load": os.getloadavg()[0],
        "version": __version__,
    }


def _asked(cell: Cell) -> dict[str, Any]:
    """Forward passes of a probe, rounds of a step and coupling of zodist's own method."""
    if cell.system != "zodist":
        return {}
    points, rounds = asked_of(cell.method)
    return {
        "points": points,
        "rounds": rounds,
        "coupling": getattr(method_of(cell).settings, "coupling", "walsh"),
    }


def _bound_s(cell: Cell, system: System) -> float:
    """Seconds that sending the bytes alone takes, at the link's rate."""
    return system.expected * 8e-6 / cell.link.mbit if cell.link.mbit else 0.0


def _outer(cell: Cell, exchange: Exchange, interface: str, system: Nested, limit_s: float) -> dict[str, Any]:
    """Figures of outer steps; only how long they would take at least, where that is too long."""
    bound_s = _bound_s(cell, system)
    if bound_s > limit_s:
        return {"bound_s": bound_s, "payload_bytes": system.expected}
    return _figures(exchange, interface, system, [system.outer] * OUTER)


def _figures(exchange: Exchange, interface: str, system: System, calls: list[Any]) -> dict[str, Any]:
    """Medians and quartiles of phases, over calls, of what is the mean over workers."""
    exchange.all_gather(b"")  # what came before has arrived everywhere
    payload, before = system.payload, counted(interface)
    spent: list[Spent] = [call() for call in calls]
    after = counted(interface)
    own = np.array([[s.forward, s.gather, s.update] for s in spent])
    wire = [late - early for late, early in zip(after, before, strict=True)]
    traffic = np.array([*wire, system.payload - payload]) / len(calls)
    everybody = exchange.all_gather(own.tobytes() + traffic.tobytes())
    numbers = np.stack([np.frombuffer(data) for data in everybody])
    times = numbers[:, : own.size].reshape(len(everybody), *own.shape)
    bytes_ = numbers[:, own.size :].mean(axis=0)
    if interface == LOOPBACK:  # it has the traffic of all workers, once sent and once received
        bytes_[:-1] /= len(everybody)
    forward, gather, update = (times[..., k] for k in range(3))
    wait = np.minimum(gather, forward.max(axis=0) - forward)
    phases = {"forward_s": forward, "wait_s": wait, "exchange_s": gather - wait, "update_s": update}
    found: dict[str, Any] = {name: _spread(values.mean(axis=0)) for name, values in phases.items()}
    whole = times.sum(axis=2).mean(axis=0)
    return {
        **found,
        "step_s": _spread(whole),
        "steps_per_s": float(1.0 / np.median(whole)),
        **dict(zip(BYTES, bytes_.tolist(), strict=True)),
    }


def _together(inner: dict[str, Any], outer: dict[str, Any], every: int) -> dict[str, Any]:
    """A step with its share of an outer one."""
    found = dict(inner)
    for name in ("wait_s", "exchange_s", "update_s", "step_s"):
        more = outer.get(name, {"median": 0.0, "low": 0.0, "high": 0.0})
        found[name] = {key: inner[name][key] + more[key] / every for key in more}
    bound_s = outer.get("bound_s", 0.0) / every
    if bound_s:  # what was not measured is at least this
        found["bound_s"] = found["step_s"]["median"] + bound_s
    for name in BYTES:
        found[name] = inner[name] + outer.get(name, 0.0) / every
    found["steps_per_s"] = 1.0 / found["step_s"]["median"]
    return found


def _spread(values: np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(middle), "low": float(low), "high": float(high)}


def _agreed(exchange: Exchange, seconds: float) -> float:
    """Worker 0's figure, on all."""
    data = share(exchange, np.float64(seconds).tobytes() if exchange.worker == 0 else None)
    return float(np.frombuffer(data)[0])
