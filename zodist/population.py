"""How many probes a worker evaluates in one forward: the size of the groups that a run's probes are cut into.

The last bits of a loss depend on what shares its forward, so the size belongs to the run.  "auto" is decided by the first
session, from its number of workers, and is in the journal's header from then on, unless it is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zodist.assemble import Parts
from zodist.lanes import examples
from zodist.methods import METHODS
from zodist.methods.steps import StepSeeds
from zodist.packing import pack_of
from zodist.rows import bytes_of_token


def probes_per_forward(parts: Parts, begun: Mapping[str, Any] | None, workers: int) -> int:
    """As the settings say, else as the run was begun, else what fits and gives every worker a group.

    begun: the header of the run's journal, if any.  workers: 0 if nobody counts them; then 1, since any number may come.
    """
    wanted = parts.config.batch.probes_per_forward
    if wanted != "auto":
        return wanted
    if begun is not None:
        return begun.get("probes_per_forward", 1)
    return _fitting(parts, workers) if workers else 1


def _fitting(parts: Parts, workers: int) -> int:
    """The largest power of two of probes whose points fit batch.activation_mib on the first step's first batch.

    1 where every example has points of its own, which go through forwards probe by probe, and for objectives other than
    the loss.
    """
    c = parts.config
    method = METHODS[c.method.name].build(c.method.settings)  # another one: asking must not change the run's
    method.begin(parts.params)
    probes = next(method.step(StepSeeds(c.run.seed, 0, c.run.steps)))
    if probes[0].examples or parts.objective is not None:
        return 1
    lanes = len(probes) * c.batch.data_lanes
    batch = parts.batches(examples(c.run.seed, 0, 0, lanes, c.batch.size, len(parts.task.train)))[0]
    pack = None if parts.padding else pack_of(batch)
    tokens = batch.input_ids.numel() if pack is None else len(pack.ids)
    room = c.batch.activation_mib * 2**20 / bytes_of_token(parts.model)
    most = min(len(probes) // workers, int(room / (tokens * len(probes[0].points))))
    return 1 << max(0, most.bit_length() - 1)
