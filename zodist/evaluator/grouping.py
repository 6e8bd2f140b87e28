"""How many probes fit into one forward: the size of the groups that a run's probes are cut into.

The last bits of a loss depend on what shares its forward, so the size belongs to the run (zodist.run.assemble).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zodist.evaluator.packing import pack_of
from zodist.evaluator.rows import bytes_of_token
from zodist.methods import Probe
from zodist.tasks import Batch


def fitting(
    model: Any, probes: Sequence[Probe], batch: Batch, *, packed: bool, room: float, workers: int
) -> int:
    """The largest power of two of probes whose points fit into a forward, and that leaves every worker some.

    probes: those of a step.  batch: that of one of them.  room: bytes for activations (zodist.evaluator.rows).
    """
    pack = pack_of(batch) if packed else None
    tokens = batch.input_ids.numel() if pack is None else len(pack.ids)
    points = tokens * len(probes[0].points)
    most = min(len(probes) // workers, int(room / bytes_of_token(model) / points))
    return 1 << max(0, most.bit_length() - 1)
