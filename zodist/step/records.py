"""The bytes that workers exchange, one (seed, losses) record per probe, and the values for the journal.

A probe has k losses, l_0 .. l_{k-1}.  On the wire and in the journal they are k float32 values:

    k == 1    [mean]                                       the loss itself
    k >= 2    [l_0 - l_{k-1}, ..., l_{k-2} - l_{k-1}, mean]

because a method needs the differences, which are much smaller than the losses: float32 keeps 24 bits of
each difference, whereas the difference of two float32 losses would lose most of them.  The record of a
probe is its seed (8 bytes, little endian) and the k values (float32, little endian): 16 bytes for a
two-sided probe.

Every worker, the one that measured included, goes on with what `from_values` makes of the values, never
with its own losses: so all workers, and every replay of the journal, compute with the same bits.

Losses that are not finite: if a loss of the probe, or a value made from it, is not a finite float32, the
differences become NaN and the mean tells why (inf, -inf or NaN); `from_values` then returns that mean for
each of the k losses. NaN always has the bits 0x7fc00000: processors disagree on the sign of a NaN, and a
record must not. All sums are float64, in index order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zodist.errors import ExchangeError

SEED_BYTES = 8
VALUE_BYTES = 4


@dataclass(frozen=True, eq=False)
class Entry:
    """One round: step, round within the step, learning rate, and values float32 [probes, k]."""

    step: int
    round: int
    lr: float
    values: np.ndarray

    def __eq__(self, other: object) -> bool:
        """True if all fields have the same bits (NaN equals the same NaN)."""
        return (
            isinstance(other, Entry)
            and (self.step, self.round, self.values.shape) == (other.step, other.round, other.values.shape)
            and (repr(self.lr), self.values.tobytes()) == (repr(other.lr), other.values.tobytes())
        )

    def __hash__(self) -> int:
        """The hash of the step and round."""
        return hash((self.step, self.round))


def record_bytes(k: int) -> int:
    """Bytes of one probe's record with k losses."""
    return SEED_BYTES + VALUE_BYTES * k


def to_values(losses: np.ndarray) -> np.ndarray:
    """The values that stand for the losses on the wire and in the journal.

    losses: float64 [n, k], mean loss per example of each point; k >= 1.
    Returns float32 [n, k]: k - 1 differences to the last loss, then the mean; see the module header.
    """
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 2 or losses.shape[1] < 1:
        raise ValueError(f"losses have shape {losses.shape}; expected [probes, losses per probe]")
    k = losses.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):  # the values say so: see the module header
        wide = np.empty_like(losses)
        wide[:, : k - 1] = losses[:, : k - 1] - losses[:, k - 1 :]
        wide[:, k - 1] = _mean(losses)
        values = wide.astype(np.float32)
    bad = ~(np.isfinite(values).all(axis=1) & np.isfinite(losses).all(axis=1))
    if bad.any():
        means = values[bad, k - 1]
        values[bad] = np.float32(np.nan)
        values[bad, k - 1] = np.where(np.isinf(means), means, np.float32(np.nan))
    return values


def from_values(values: np.ndarray) -> np.ndarray:
    """The losses that every worker goes on with.

    values: float32 [n, k], as made by `to_values`.
    Returns float64 [n, k]: l_j = mean + (d_j - mean(d)), with d_{k-1} = 0: they have that mean and
    those differences.  A row whose mean is not finite is that mean k times.
    """
    values = np.asarray(values)
    if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] < 1:
        raise ValueError(
            f"values are {values.dtype} {values.shape}; expected float32 [probes, losses per probe]"
        )
    differences = values.astype(np.float64)
    means = differences[:, -1:].copy()
    differences[:, -1] = 0.0
    with np.errstate(invalid="ignore"):
        losses = means + (differences - _mean(differences)[:, None])
    return np.where(np.isfinite(means), losses, means)


def encode(seeds: np.ndarray, losses: np.ndarray, slots: int | None = None) -> bytes:
    """The records of a worker's probes, in order, as bytes.

    seeds: uint64 [n]; losses: float64 [n, k].
    slots: number of records to send, >= n; the rest is zero bytes.  An exchange carries the same number of
    bytes for every worker, so a worker with fewer probes than the others fills up.
    """
    values = to_values(losses)
    n, k = values.shape
    count = n if slots is None else slots
    if np.shape(seeds) != (n,) or np.asarray(seeds).dtype != np.uint64 or count < n:
        raise ValueError(f"{np.shape(seeds)} seeds for {n} probes in {count} slots")
    records = np.zeros(count, dtype=_layout(k))
    records["seed"][:n] = seeds
    records["values"][:n] = values
    return records.tobytes()


def decode(
    payload: bytes, seeds: np.ndarray, k: int, *, worker: int, step: int, probes: np.ndarray
) -> np.ndarray:
    """The values that a worker sent for its probes.

    payload: what `encode` made on that worker, possibly with empty slots at the end.
    seeds: uint64 [n], the seeds that this worker computes for those probes; probes: int [n], their numbers.
    Returns float32 [n, k]: for the journal, and for `from_values`.
    Raises ExchangeError if the worker evaluated another probe than the one expected of it.
    """
    n = len(seeds)
    layout = _layout(k)
    if len(payload) % layout.itemsize or len(payload) < n * layout.itemsize:
        raise ExchangeError(
            f"worker {worker} sent {len(payload)} bytes at step {step}, expected {n} records of"
            f" {layout.itemsize} bytes: its run or config differs; start all workers with the same config"
        )
    records = np.frombuffer(payload, dtype=layout)
    wrong = np.flatnonzero(records["seed"][:n] != seeds)
    if wrong.size:
        first = int(wrong[0])
        sent, expected = int(records["seed"][first]), int(seeds[first])
        raise ExchangeError(
            f"worker {worker} sent seed {sent:016x} for step {step} probe {int(probes[first])}, expected"
            f" {expected:016x}: its run, config or step differs; start all workers with the same config"
        )
    if any(payload[n * layout.itemsize :]):
        raise ExchangeError(
            f"worker {worker} sent more than {n} records at step {step}: its number of workers or of probes"
            " differs; start all workers with the same config"
        )
    return records["values"][:n].astype(np.float32)


def _layout(k: int) -> np.dtype:
    return np.dtype([("seed", "<u8"), ("values", "<f4", (k,))])  # packed, itemsize = record_bytes(k)


def _mean(rows: np.ndarray) -> np.ndarray:
    """Mean of each row, added in index order; the order of numpy's own sum depends on the row length."""
    total = rows[:, 0].copy()
    for j in range(1, rows.shape[1]):
        total += rows[:, j]
    return total / rows.shape[1]
